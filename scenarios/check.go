package scenarios

import (
	"encoding"
	"errors"
	"fmt"
	"math"
	"reflect"
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"
)

// checker compares a node tree with the Go types, collects every mistake, and
// builds a tree of what is right: the decoder, the defaults and the validation
// can then go on and find the rest.
type checker struct {
	errs Errors
	// nodes are where each error of errs is.
	nodes []*yaml.Node
	// zeros are the scalars that are written out as 0 or "".
	zeros []leaf
}

// maxHints is after how many mistakes unknown fields are no longer looked for
// elsewhere: a file of something else has thousands of them.
const maxHints = 200

type leaf struct {
	path string
	node *yaml.Node
}

// place is a mapping around the node that is being checked.
type place struct {
	path string
	typ  reflect.Type
}

func (c *checker) fail(n *yaml.Node, path, problem, hint string) *yaml.Node {
	c.errs = append(c.errs, &Error{Path: path, Problem: problem, Hint: hint})
	c.nodes = append(c.nodes, n)
	return nil
}

// value returns what is right of n, nil where nothing is.
func (c *checker) value(n *yaml.Node, f field, path string, around []place) *yaml.Node {
	t := deref(f.typ)
	if !knownTag(n) {
		return c.fail(n, path, "the tag "+quote(n.Tag)+" means nothing here", "leave it out")
	}
	switch {
	case isText(t):
		return c.text(n, t, path)
	case t.Kind() == reflect.Struct:
		if isNull(n) && f.typ.Kind() == reflect.Pointer {
			return c.fail(n, path, "is empty", "write its fields below it, {} for all defaults, or leave it out")
		}
		return c.mapping(n, t, path, around)
	case t.Kind() == reflect.Map:
		return c.keyed(n, t, path)
	case t.Kind() == reflect.Slice:
		return c.list(n, t, path, around)
	case t.Kind() == reflect.String:
		return c.str(n, f, path)
	case t.Kind() == reflect.Bool:
		return c.boolean(n, path)
	default:
		return c.number(n, t, path)
	}
}

func knownTag(n *yaml.Node) bool {
	switch n.ShortTag() {
	case "!!str", "!!int", "!!float", "!!bool", "!!null", "!!timestamp", "!!merge", "!!map", "!!seq":
		return true
	}
	return false
}

func (c *checker) mapping(n *yaml.Node, t reflect.Type, path string, around []place) *yaml.Node {
	out := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
	if isNull(n) {
		return out
	}
	fields := fieldsOf(t)
	if n.Kind != yaml.MappingNode {
		return c.fail(n, path, describe(n)+" is not a mapping", "its fields are "+strings.Join(fieldNames(fields), ", "))
	}
	around = append(around[:len(around):len(around)], place{path, t})
	c.entries(n, path, func(key, value *yaml.Node) {
		f, ok := findField(fields, key.Value)
		if !ok {
			hint := ""
			if len(c.errs) < maxHints {
				hint = unknownHint(key.Value, fields, around)
			}
			c.fail(key, join(path, key.Value), "unknown field", hint)
			return
		}
		if v := c.value(value, f, join(path, f.name), around); v != nil {
			out.Content = append(out.Content, text(key.Value), v)
		}
	})
	for _, f := range fields {
		if f.required && child(n, f.name) == nil {
			c.fail(n, join(path, f.name), "is missing", firstSentence(f.description))
		}
	}
	return out
}

// keyed checks a map with free keys.
func (c *checker) keyed(n *yaml.Node, t reflect.Type, path string) *yaml.Node {
	out := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
	if isNull(n) {
		return out
	}
	if n.Kind != yaml.MappingNode {
		return c.fail(n, path, describe(n)+" is not a mapping", "write name: value below it")
	}
	c.entries(n, path, func(key, value *yaml.Node) {
		if v := c.value(value, field{typ: t.Elem()}, join(path, key.Value), nil); v != nil {
			out.Content = append(out.Content, text(key.Value), v)
		}
	})
	return out
}

// entries calls fn for each key of mapping n that is a plain word and the
// first of its name.
func (c *checker) entries(n *yaml.Node, path string, fn func(key, value *yaml.Node)) {
	first := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i]
		if key.Kind != yaml.ScalarNode || isNull(key) {
			c.fail(key, path, describe(key)+" is not a field's name", "write name: value")
			continue
		}
		if line, dup := first[key.Value]; dup {
			c.fail(key, join(path, key.Value), "is there twice", fmt.Sprintf("the first is in line %d", line))
			continue
		}
		first[key.Value] = key.Line
		fn(key, n.Content[i+1])
	}
}

func (c *checker) list(n *yaml.Node, t reflect.Type, path string, around []place) *yaml.Node {
	out := &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq"}
	if isNull(n) {
		return out
	}
	if n.Kind != yaml.SequenceNode {
		return c.fail(n, path, describe(n)+" is not a list", "begin each element with -")
	}
	for i, e := range n.Content {
		at := fmt.Sprintf("%s[%d]", path, i)
		v := c.element(e, t.Elem(), at, around)
		if v == nil {
			// The place is kept, so that the other elements keep their numbers.
			v = &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!null", Value: "null"}
		}
		out.Content = append(out.Content, v)
	}
	return out
}

func (c *checker) element(n *yaml.Node, t reflect.Type, path string, around []place) *yaml.Node {
	// "- web: p99 < 50ms" is a mapping to YAML. It is meant as text.
	if t.Kind() == reflect.String && n.Kind == yaml.MappingNode && len(n.Content) == 2 &&
		n.Content[0].Kind == yaml.ScalarNode && n.Content[1].Kind == yaml.ScalarNode {
		return c.fail(n, path, "is a mapping to YAML, because of its colon", "put it in quotes: "+quote(n.Content[0].Value+": "+n.Content[1].Value))
	}
	if t.Kind() == reflect.Struct && isNull(n) {
		return c.fail(n, path, "is empty", "write its fields, or leave the - out")
	}
	return c.value(n, field{typ: t}, path, around)
}

func (c *checker) scalar(n *yaml.Node, path, want string) bool {
	if n.Kind != yaml.ScalarNode {
		c.fail(n, path, describe(n)+" is not "+want, "")
		return false
	}
	if isNull(n) {
		c.fail(n, path, "is empty", "write "+want+", or leave it out")
		return false
	}
	return true
}

func (c *checker) text(n *yaml.Node, t reflect.Type, path string) *yaml.Node {
	if !c.scalar(n, path, "a "+strings.ToLower(t.Name())) {
		return nil
	}
	v := reflect.New(t)
	if err := v.Interface().(encoding.TextUnmarshaler).UnmarshalText([]byte(n.Value)); err != nil {
		var u *unitError
		if errors.As(err, &u) {
			return c.fail(n, path, u.problem, u.hint)
		}
		return c.fail(n, path, err.Error(), "")
	}
	if v.Elem().IsZero() {
		c.zeros = append(c.zeros, leaf{path, n})
	}
	return text(n.Value)
}

func (c *checker) str(n *yaml.Node, f field, path string) *yaml.Node {
	if !c.scalar(n, path, "text") {
		return nil
	}
	if f.enum != nil {
		for _, e := range f.enum {
			if e == n.Value {
				return text(n.Value)
			}
		}
		return c.fail(n, path, quote(n.Value)+" is not known", didYouMean(n.Value, "one of", f.enum))
	}
	if n.Value == "" {
		c.zeros = append(c.zeros, leaf{path, n})
	}
	return text(n.Value)
}

func (c *checker) boolean(n *yaml.Node, path string) *yaml.Node {
	if !c.scalar(n, path, "true or false") {
		return nil
	}
	var v bool
	if n.ShortTag() != "!!bool" || n.Decode(&v) != nil {
		return c.fail(n, path, quote(n.Value)+" is not true or false", "write true or false")
	}
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!bool", Value: strconv.FormatBool(v)}
}

// number checks an integer of type t. The decoder itself would cut 1.5 to 1.
func (c *checker) number(n *yaml.Node, t reflect.Type, path string) *yaml.Node {
	if !c.scalar(n, path, "a whole number") {
		return nil
	}
	tag := n.ShortTag()
	if tag != "!!int" && tag != "!!float" {
		return c.fail(n, path, quote(n.Value)+" is not a whole number", wholeHint(n.Value))
	}
	v := reflect.New(t)
	if tag == "!!float" {
		var f float64
		if n.Decode(&f) != nil || f != math.Trunc(f) {
			return c.fail(n, path, quote(n.Value)+" is not a whole number", wholeHint(n.Value))
		}
		if math.Abs(f) > 1<<53 {
			return c.fail(n, path, quote(n.Value)+" is out of range", "")
		}
	}
	if n.Decode(v.Interface()) != nil {
		return c.fail(n, path, quote(n.Value)+" is out of range", "")
	}
	if v.Elem().IsZero() {
		c.zeros = append(c.zeros, leaf{path, n})
	}
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!int", Value: fmt.Sprint(v.Elem().Interface())}
}

// wholeHint says how to write a number that has a unit or a fraction.
func wholeHint(s string) string {
	f, err := strconv.ParseFloat(s, 64)
	switch {
	case err == nil && math.Abs(f) <= 1<<53:
		return "write for example " + strconv.FormatFloat(math.Round(f), 'f', 0, 64)
	case s != "" && s[0] >= '0' && s[0] <= '9':
		return "write the digits in full, without a unit"
	}
	return "write for example 64"
}

// unknownHint says where an unknown field belongs, or what it is called.
func unknownHint(name string, fields []field, around []place) string {
	var inside []string
	for _, f := range fields {
		t, below := deref(f.typ), "."
		if t.Kind() == reflect.Slice {
			t, below = t.Elem(), "[0]."
		}
		if t.Kind() == reflect.Struct {
			if _, ok := lookupField(t, name); ok {
				inside = append(inside, f.name+below+name)
			}
		}
	}
	if len(inside) > 0 {
		return "did you mean " + strings.Join(inside, " or ") + "?"
	}
	for i := len(around) - 2; i >= 0; i-- {
		if _, ok := lookupField(around[i].typ, name); ok {
			if around[i].path == "" {
				return name + " belongs to the top level"
			}
			return name + " belongs to " + around[i].path
		}
	}
	return didYouMean(name, "known fields", fieldNames(fields))
}

// describe is a node in a message.
func describe(n *yaml.Node) string {
	switch {
	case n.Kind == yaml.MappingNode:
		return "a mapping"
	case n.Kind == yaml.SequenceNode:
		return "a list"
	case isNull(n):
		return "nothing"
	}
	return quote(n.Value)
}

// text is a node that every YAML reader takes for this very string.
func text(s string) *yaml.Node {
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: s, Style: yaml.DoubleQuotedStyle}
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

func firstSentence(s string) string {
	s, _, _ = strings.Cut(s, ". ")
	s = strings.TrimSuffix(s, ".")
	if s == "" {
		return ""
	}
	return strings.ToLower(s[:1]) + s[1:]
}
