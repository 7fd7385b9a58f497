package scenarios

import (
	"fmt"
	"reflect"
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"
)

// override is one --set path=value.
type override struct {
	root *yaml.Node
	// made are the nodes that overrides put in, each with the override as it
	// was written: mistakes in them are in no line of the file.
	made   map[*yaml.Node]string
	source string
}

// apply sets path to value in the tree. Missing mappings on the way are made.
// The Go type at the path decides how the value is read: text as it stands,
// mappings and lists as YAML. The value null takes the field out.
func (o *override) apply(set string) *Error {
	o.source = "--set " + set
	path, value, ok := strings.Cut(set, "=")
	if !ok {
		return &Error{File: o.source, Problem: "has no =", Hint: "write path=value, for example traffic[0].short_lived.rate=900/s"}
	}
	path = strings.TrimSpace(path)
	steps, err := parsePath(path)
	if err != nil {
		return &Error{File: o.source, Problem: err.Error(), Hint: "write for example traffic[0].short_lived.rate=900/s"}
	}
	if last := steps[len(steps)-1]; value == "null" {
		return o.remove(path, steps, last)
	}
	n, t, e := o.walk(path, steps, true)
	if e != nil {
		return e
	}
	v, e := o.read(path, value, t)
	if e != nil {
		return e
	}
	*n = *v
	o.mark(n)
	return nil
}

// mark notes that n and all below it come from this override.
func (o *override) mark(n *yaml.Node) {
	n.Line, n.Column = 0, 0
	o.made[n] = o.source
	for _, c := range n.Content {
		o.mark(c)
	}
}

// read makes a node of the value, for a place of type t.
func (o *override) read(path, value string, t reflect.Type) (*yaml.Node, *Error) {
	t = deref(t)
	switch {
	case isText(t) || t.Kind() == reflect.String:
		return text(value), nil
	case t.Kind() == reflect.Struct || t.Kind() == reflect.Slice || t.Kind() == reflect.Map:
		var doc yaml.Node
		if err := yaml.Unmarshal([]byte(value), &doc); err != nil {
			return nil, &Error{File: o.source, Path: path, Problem: syntaxError(err).Problem}
		}
		if len(doc.Content) == 0 {
			return nil, &Error{File: o.source, Path: path, Problem: "has no value", Hint: "write {} for all defaults, or null to take it out"}
		}
		x := expander{inside: map[*yaml.Node]bool{}}
		n := x.expand(doc.Content[0])
		if len(x.errs) > 0 {
			return nil, &Error{File: o.source, Path: path, Problem: x.errs[0].Problem, Hint: x.errs[0].Hint}
		}
		return n, nil
	default:
		// No tag: YAML's own rules decide what the text is.
		n := &yaml.Node{Kind: yaml.ScalarNode, Value: strings.TrimSpace(value)}
		n.Tag = n.ShortTag()
		return n, nil
	}
}

// remove takes the field or element at the path out of the tree.
func (o *override) remove(path string, steps []step, last step) *Error {
	parent, t := o.root, reflect.TypeFor[Scenario]()
	if len(steps) > 1 {
		var e *Error
		if parent, t, e = o.walk(path, steps[:len(steps)-1], false); e != nil || parent == nil {
			return e
		}
	}
	n, _, e := o.step(path, parent, t, last, false)
	if e != nil || n == nil {
		return e
	}
	for i, c := range parent.Content {
		if c != n {
			continue
		}
		first := i
		if parent.Kind == yaml.MappingNode {
			first--
		}
		parent.Content = append(parent.Content[:first:first], parent.Content[i+1:]...)
		return nil
	}
	return nil
}

// walk follows the steps from the root. Without make it returns nil where the
// place does not exist.
func (o *override) walk(path string, steps []step, create bool) (*yaml.Node, reflect.Type, *Error) {
	n, t := o.root, reflect.TypeFor[Scenario]()
	for _, s := range steps {
		var e *Error
		if n, t, e = o.step(path, n, t, s, create); e != nil || n == nil {
			return nil, nil, e
		}
	}
	return n, t, nil
}

func (o *override) step(path string, n *yaml.Node, t reflect.Type, s step, create bool) (*yaml.Node, reflect.Type, *Error) {
	fail := func(problem, hint string) (*yaml.Node, reflect.Type, *Error) {
		return nil, nil, &Error{File: o.source, Path: path, Problem: problem, Hint: hint}
	}
	t = deref(t)
	if s.bracket {
		if t.Kind() != reflect.Slice {
			return fail("["+s.text+"] stands behind what is not a list", "")
		}
		if !o.become(n, yaml.SequenceNode, create) {
			return fail(describe(n)+" stands where the list should be", "")
		}
		return o.element(path, n, t, s, create)
	}
	var next reflect.Type
	switch {
	case isText(t):
		return fail(s.text+" stands below what has no fields", "")
	case t.Kind() == reflect.Struct:
		f, ok := lookupField(t, s.text)
		if !ok {
			return fail("unknown field "+quote(s.text), unknownHint(s.text, fieldsOf(t), nil))
		}
		next = f.typ
	case t.Kind() == reflect.Map:
		next = t.Elem()
	case t.Kind() == reflect.Slice:
		return fail(s.text+" needs an element of the list", "write for example [0]."+s.text)
	default:
		return fail(s.text+" stands below what has no fields", "")
	}
	if !o.become(n, yaml.MappingNode, create) {
		return fail(describe(n)+" stands where a mapping should be", "")
	}
	if c := child(n, s.text); c != nil {
		return c, next, nil
	}
	if !create {
		return nil, nil, nil
	}
	c := o.empty()
	n.Content = append(n.Content, text(s.text), c)
	return c, next, nil
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
	o.made[n] = o.source
	return n
}

// element finds an element by its number or name, or makes a new one for +.
func (o *override) element(path string, n *yaml.Node, t reflect.Type, s step, create bool) (*yaml.Node, reflect.Type, *Error) {
	if s.text == "+" {
		if !create {
			return nil, nil, nil
		}
		c := o.empty()
		n.Content = append(n.Content, c)
		return c, t.Elem(), nil
	}
	if i, err := strconv.Atoi(s.text); err == nil {
		if i < 0 || i >= len(n.Content) {
			return nil, nil, &Error{
				File: o.source, Path: path, Problem: fmt.Sprintf("there is no element [%d]; the list has %d", i, len(n.Content)),
				Hint: "elements count from 0, and [+] appends",
			}
		}
		return n.Content[i], t.Elem(), nil
	}
	var names []string
	for _, c := range n.Content {
		name := elementName(c)
		if name == s.text {
			return c, t.Elem(), nil
		}
		if name != "" {
			names = append(names, name)
		}
	}
	return nil, nil, &Error{
		File: o.source, Path: path, Problem: "there is no element named " + quote(s.text),
		Hint: didYouMean(s.text, "names", names),
	}
}

// elementName is what a service or a traffic is called: its name, or for a
// traffic without one its shape.
func elementName(n *yaml.Node) string {
	if name := child(n, "name"); name != nil && name.Kind == yaml.ScalarNode {
		return name.Value
	}
	for _, shape := range shapes {
		if child(n, shape) != nil {
			return shape
		}
	}
	return ""
}
