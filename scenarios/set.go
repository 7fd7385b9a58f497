package scenarios

import (
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"
)

// override is path=value, of one --set or of an arm.
type override struct {
	root *yaml.Node
	// made are the nodes that overrides put in, each with the override it came
	// from: that is where mistakes in them are.
	made map[*yaml.Node]origin
	from origin
}

// origin is where an override was written: on the command line, or in the list
// of an arm.
type origin struct {
	file      string // or the override as it was written on the command line
	line, col int    // 0 on the command line
	path      string // of the override itself; empty on the command line
}

// place puts a mistake there.
func (f origin) place(e *Error) *Error {
	e.File, e.Line, e.Col = f.file, f.line, f.col
	switch {
	case f.path == "":
	case e.Path == "", strings.HasSuffix(f.path, "."+e.Path):
		e.Path = f.path
	default:
		e.Path = f.path + ": " + e.Path
	}
	return e
}

// apply sets path to value in the tree. Missing mappings on the way are made.
// The Go type at the path decides how the value is read: text as it stands,
// mappings and lists as YAML. The value null takes the field out.
func (o *override) apply(set string) *Error {
	path, value, ok := strings.Cut(set, "=")
	if !ok {
		return o.from.place(&Error{Problem: "has no =", Hint: "write path=value, for example traffic[0].short_lived.rate=900/s"})
	}
	path = strings.TrimSpace(path)
	steps, err := parsePath(path)
	if err != nil {
		return o.from.place(&Error{Problem: err.Error(), Hint: "write for example traffic[0].short_lived.rate=900/s"})
	}
	types, e := o.types(path, steps)
	if e != nil {
		return e
	}
	if value == "null" {
		return o.remove(path, steps)
	}
	n, e := o.walk(path, steps, true)
	if e != nil {
		return e
	}
	v, e := o.read(path, value, types)
	if e != nil {
		return e
	}
	*n = *v
	o.mark(n)
	return nil
}

func (o *override) fail(path, problem, hint string) *Error {
	return o.from.place(&Error{Path: path, Problem: problem, Hint: hint})
}

// types checks the whole path against the Go types before anything is made,
// and returns the type at its end.
func (o *override) types(path string, steps []step) (reflect.Type, *Error) {
	t := reflect.TypeFor[Scenario]()
	for _, s := range steps {
		switch {
		case s.bracket && t.Kind() == reflect.Slice, !s.bracket && t.Kind() == reflect.Map:
			t = t.Elem()
		case s.bracket:
			return nil, o.fail(path, "["+s.text+"] stands behind what is not a list", "")
		case t.Kind() == reflect.Slice:
			return nil, o.fail(path, s.text+" needs an element of the list", "write for example [0]."+s.text)
		case t.Kind() == reflect.Struct && !isText(t):
			f, ok := lookupField(t, s.text)
			if !ok {
				return nil, o.fail(path, "unknown field "+quote(s.text), unknownHint(s.text, fieldsOf(t), nil))
			}
			t = f.typ
		default:
			return nil, o.fail(path, s.text+" stands below what has no fields", "")
		}
		t = deref(t)
	}
	return t, nil
}

// mark notes that n and all below it come from this override.
func (o *override) mark(n *yaml.Node) {
	n.Line, n.Column = 0, 0
	o.made[n] = o.from
	for _, c := range n.Content {
		o.mark(c)
	}
}

// read makes a node of the value, for a place of type t.
func (o *override) read(path, value string, t reflect.Type) (*yaml.Node, *Error) {
	switch {
	case isText(t) || t.Kind() == reflect.String:
		return text(value), nil
	case t.Kind() == reflect.Struct || t.Kind() == reflect.Slice || t.Kind() == reflect.Map:
		var doc yaml.Node
		if err := yaml.Unmarshal([]byte(value), &doc); err != nil {
			return nil, o.fail(path, syntaxError(err).Problem, "")
		}
		if len(doc.Content) == 0 {
			return nil, o.fail(path, "has no value", "write {} for all defaults, or null to take it out")
		}
		x := expander{inside: map[*yaml.Node]bool{}}
		n := x.expand(doc.Content[0])
		if len(x.errs) > 0 {
			return nil, o.fail(path, x.errs[0].Problem, x.errs[0].Hint)
		}
		return n, nil
	default:
		// No tag: YAML's own rules decide what the text is.
		n := &yaml.Node{Kind: yaml.ScalarNode, Value: strings.TrimSpace(value)}
		n.Tag = n.ShortTag()
		return n, nil
	}
}

// remove takes the field or element at the path out of the tree. What is not
// there need not be taken out.
func (o *override) remove(path string, steps []step) *Error {
	parent, e := o.walk(path, steps[:len(steps)-1], false)
	if e != nil || parent == nil {
		return e
	}
	n, e := o.step(path, parent, steps[len(steps)-1], false)
	if e != nil || n == nil {
		return e
	}
	first := slices.Index(parent.Content, n)
	last := first + 1
	if parent.Kind == yaml.MappingNode {
		first-- // the key
	}
	parent.Content = slices.Delete(parent.Content, first, last)
	return nil
}

// walk follows the steps from the root. Where a place does not exist it is
// made, or without create, nil is returned.
func (o *override) walk(path string, steps []step, create bool) (*yaml.Node, *Error) {
	n := o.root
	for _, s := range steps {
		var e *Error
		if n, e = o.step(path, n, s, create); e != nil || n == nil {
			return nil, e
		}
	}
	return n, nil
}

func (o *override) step(path string, n *yaml.Node, s step, create bool) (*yaml.Node, *Error) {
	if s.bracket {
		if !o.become(n, yaml.SequenceNode, create) {
			return nil, o.fail(path, describe(n)+" stands where the list should be", "")
		}
		return o.element(path, n, s, create)
	}
	if !o.become(n, yaml.MappingNode, create) {
		return nil, o.fail(path, describe(n)+" stands where a mapping should be", "")
	}
	c := child(n, s.text)
	if c == nil && create {
		c = o.empty()
		n.Content = append(n.Content, text(s.text), c)
	}
	return c, nil
}

// become makes an empty node a mapping or a list; anything else must be one.
func (o *override) become(n *yaml.Node, kind yaml.Kind, create bool) bool {
	if isNull(n) && create {
		n.Kind, n.Tag, n.Value = kind, "", ""
		n.Tag = n.ShortTag()
	}
	return n.Kind == kind || isNull(n)
}

func (o *override) empty() *yaml.Node {
	n := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!null"}
	o.made[n] = o.from
	return n
}

// element finds an element by its number or name, or makes a new one for +.
func (o *override) element(path string, n *yaml.Node, s step, create bool) (*yaml.Node, *Error) {
	if s.text == "+" {
		if !create {
			return nil, nil
		}
		c := o.empty()
		n.Content = append(n.Content, c)
		return c, nil
	}
	if i, err := strconv.Atoi(s.text); err == nil {
		if i < 0 || i >= len(n.Content) {
			return nil, o.fail(path, fmt.Sprintf("there is no element [%d]; the list has %d", i, len(n.Content)), "elements count from 0, and [+] appends")
		}
		return n.Content[i], nil
	}
	var names []string
	for _, c := range n.Content {
		name := elementName(c)
		if name == s.text {
			return c, nil
		}
		if name != "" {
			names = append(names, name)
		}
	}
	return nil, o.fail(path, "there is no element named "+quote(s.text), didYouMean(s.text, "names", names))
}

// elementName is what a service, a traffic or an action is called: its name,
// or for a traffic without one its shape, for an action its kind.
func elementName(n *yaml.Node) string {
	if name := child(n, "name"); name != nil && name.Kind == yaml.ScalarNode {
		return name.Value
	}
	for _, what := range slices.Concat(shapes, kinds) {
		if child(n, what) != nil {
			return what
		}
	}
	return ""
}
