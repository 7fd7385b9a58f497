package scenarios

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"
)

const (
	// maxSource is the largest scenario that is read, in bytes.
	maxSource = 1 << 20
	// maxNodes bounds what a scenario may be after its aliases are written
	// out: nine anchors of nine aliases each would be 400 million values.
	maxNodes = 100_000
)

// readTree reads one YAML document into a tree without aliases and merge keys:
// each place has a node of its own, so that overrides change one place.
func readTree(src []byte) (*yaml.Node, Errors) {
	if len(src) > maxSource {
		return nil, Errors{{Problem: fmt.Sprintf("a scenario has at most %d bytes", maxSource)}}
	}
	dec := yaml.NewDecoder(bytes.NewReader(src))
	var doc yaml.Node
	switch err := dec.Decode(&doc); {
	case errors.Is(err, io.EOF):
		return nil, Errors{{Line: 1, Col: 1, Problem: "the file is empty", Hint: "a scenario has at least name, services and traffic"}}
	case err != nil:
		if e := tabError(src); e != nil {
			return nil, Errors{e}
		}
		return nil, Errors{anchorLine(src, syntaxError(err))}
	}
	var next yaml.Node
	switch err := dec.Decode(&next); {
	case err == nil:
		return nil, Errors{{Line: next.Line, Col: next.Column, Problem: "the file has more than one document", Hint: "write one scenario in one file, without ---"}}
	case !errors.Is(err, io.EOF):
		return nil, Errors{anchorLine(src, syntaxError(err))}
	}
	x := expander{inside: map[*yaml.Node]bool{}}
	root := x.expand(doc.Content[0])
	if len(x.errs) > 0 {
		return nil, x.errs
	}
	if root.Kind != yaml.MappingNode {
		return nil, Errors{{Line: root.Line, Col: root.Column, Problem: "a scenario is a mapping", Hint: "it begins for example with name: my-scenario"}}
	}
	return root, nil
}

var syntaxLine = regexp.MustCompile(`^(?:yaml: )?(?:line (\d+): )?((?s:.*))$`)

// syntaxError takes the line out of a message of the YAML parser, which has no
// other place for it.
func syntaxError(err error) *Error {
	m := syntaxLine.FindStringSubmatch(err.Error())
	e := &Error{Problem: "not YAML: " + m[2]}
	if line, aerr := strconv.Atoi(m[1]); aerr == nil {
		e.Line, e.Col = line, 1
	}
	// The parser counts lines from 0 where its scanner counts from 1, and
	// these are the parser's messages.
	if strings.HasPrefix(m[2], "did not find expected") {
		e.Line, e.Col = e.Line+1, 1
	}
	return e
}

// tabError is the first line that a tab indents, or nil: the usual reason why a
// file is not YAML, of which the parser says something else.
func tabError(src []byte) *Error {
	n := 0
	for line := range bytes.Lines(src) {
		n++
		rest := bytes.TrimLeft(line, " ")
		if len(rest) > 0 && rest[0] == '\t' && len(bytes.TrimSpace(rest)) > 0 {
			return &Error{Line: n, Col: len(line) - len(rest) + 1, Problem: "a tab indents this line", Hint: "YAML wants spaces"}
		}
	}
	return nil
}

var unknownAnchor = regexp.MustCompile(`unknown anchor '(.+)' referenced`)

// anchorLine finds the line of an alias whose anchor is missing, which the
// parser does not tell.
func anchorLine(src []byte, e *Error) *Error {
	m := unknownAnchor.FindStringSubmatch(e.Problem)
	if m == nil {
		return e
	}
	line := 0
	for text := range bytes.Lines(src) {
		line++
		if col := bytes.Index(text, []byte("*"+m[1])); col >= 0 {
			e.Line, e.Col = line, col+1
			e.Hint = "define it further up with &" + m[1]
			break
		}
	}
	return e
}

// expander writes aliases out. inside holds the nodes that are being written,
// which must not be met again below themselves.
type expander struct {
	nodes  int
	inside map[*yaml.Node]bool
	errs   Errors
}

func (x *expander) fail(n *yaml.Node, problem, hint string) *yaml.Node {
	x.errs = append(x.errs, &Error{Line: n.Line, Col: n.Column, Problem: problem, Hint: hint})
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!null", Line: n.Line, Column: n.Column}
}

func (x *expander) expand(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if x.inside[n] {
		return x.fail(n, "the anchor "+quote(n.Anchor)+" contains itself", "write the value out")
	}
	// Past the bound nothing is written out any more, and one error says so.
	if x.nodes++; x.nodes > maxNodes {
		if x.nodes == maxNodes+1 {
			return x.fail(n, fmt.Sprintf("more than %d values once the aliases are written out", maxNodes), "use fewer aliases")
		}
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!null"}
	}
	out := &yaml.Node{Kind: n.Kind, Tag: n.Tag, Value: n.Value, Line: n.Line, Column: n.Column}
	x.inside[n] = true
	defer delete(x.inside, n)
	if n.Kind != yaml.MappingNode {
		for _, c := range n.Content {
			out.Content = append(out.Content, x.expand(c))
		}
		return out
	}
	var merged []*yaml.Node
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if key.Kind == yaml.ScalarNode && key.Tag == "!!merge" {
			merged = append(merged, x.merge(value)...)
			continue
		}
		out.Content = append(out.Content, x.expand(key), x.expand(value))
	}
	return withDefaults(out, merged)
}

// merge lists the mappings that a << key brings in, the first winning.
func (x *expander) merge(value *yaml.Node) []*yaml.Node {
	v := x.expand(value)
	list := []*yaml.Node{v}
	if v.Kind == yaml.SequenceNode {
		list = v.Content
	}
	for _, m := range list {
		if m.Kind != yaml.MappingNode {
			x.fail(value, "<< needs a mapping, or a list of mappings", "for example <<: *common")
			return nil
		}
	}
	return list
}

// withDefaults adds to mapping m the keys of the others that it lacks.
func withDefaults(m *yaml.Node, others []*yaml.Node) *yaml.Node {
	if len(others) == 0 {
		return m
	}
	have := map[string]bool{}
	for i := 0; i+1 < len(m.Content); i += 2 {
		have[m.Content[i].Value] = true
	}
	for _, o := range others {
		for i := 0; i+1 < len(o.Content); i += 2 {
			if k := o.Content[i].Value; !have[k] {
				have[k] = true
				m.Content = append(m.Content, o.Content[i], o.Content[i+1])
			}
		}
	}
	return m
}

// child is the value of key in mapping m, or nil. Of duplicates it is the first.
func child(m *yaml.Node, key string) *yaml.Node {
	if m.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(m.Content); i += 2 {
		if m.Content[i].Value == key {
			return m.Content[i+1]
		}
	}
	return nil
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" }
