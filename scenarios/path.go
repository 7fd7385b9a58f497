package scenarios

import (
	"fmt"
	"reflect"
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"
)

// step is one part of a path: a field or map key, or what stands in brackets:
// a number from 0, a name, or + for a new element.
type step struct {
	text    string
	bracket bool
}

// parsePath splits a path such as traffic[0].short_lived.rate. The number of an
// element, or +, can also stand between dots, as in traffic.0.short_lived.rate:
// brackets are special to shells.
func parsePath(path string) ([]step, error) {
	var steps []step
	for part := range strings.SplitSeq(path, ".") {
		if len(steps) > 0 && isElement(part) {
			steps = append(steps, step{text: part, bracket: true})
			continue
		}
		name, rest, found := strings.Cut(part, "[")
		if name == "" || strings.ContainsAny(name, "] \t") {
			return nil, fmt.Errorf("%s is not a path", quote(path))
		}
		steps = append(steps, step{text: name})
		for found {
			var index string
			var closed bool
			index, rest, closed = strings.Cut(rest, "]")
			if !closed || index == "" {
				return nil, fmt.Errorf("%s is not a path", quote(path))
			}
			steps = append(steps, step{text: index, bracket: true})
			if rest != "" && rest[0] != '[' {
				return nil, fmt.Errorf("%s is not a path", quote(path))
			}
			rest, found = strings.CutPrefix(rest, "[")
		}
	}
	return steps, nil
}

func isElement(part string) bool {
	return part == "+" || part != "" && strings.Trim(part, "0123456789") == ""
}

// related says whether one path is the other, or lies below it.
func related(a, b string) bool { return below(a, b) || below(b, a) }

// below says whether path a is path b or lies below it. Everything lies below
// the empty path.
func below(a, b string) bool {
	rest, ok := strings.CutPrefix(a, b)
	return ok && (b == "" || rest == "" || rest[0] == '.' || rest[0] == '[')
}

// nodeAt is the node at path, or the nearest one above it that exists.
func nodeAt(root *yaml.Node, path string) *yaml.Node {
	steps, err := parsePath(path)
	if err != nil {
		return root
	}
	n := root
	for _, s := range steps {
		var next *yaml.Node
		if s.bracket {
			if i, aerr := strconv.Atoi(s.text); aerr == nil && n.Kind == yaml.SequenceNode && i >= 0 && i < len(n.Content) {
				next = n.Content[i]
			}
		} else {
			next = child(n, s.text)
		}
		if next == nil {
			return n
		}
		n = next
	}
	return n
}

// valueAt is the Go value at path below v. ok is false where a pointer on the
// way is nil or the path does not exist.
func valueAt(v reflect.Value, path string) (_ reflect.Value, ok bool) {
	steps, err := parsePath(path)
	if err != nil {
		return reflect.Value{}, false
	}
	for _, s := range steps {
		v = reflect.Indirect(v)
		switch {
		case !v.IsValid():
			return v, false
		case s.bracket && v.Kind() == reflect.Slice:
			i, aerr := strconv.Atoi(s.text)
			if aerr != nil || i < 0 || i >= v.Len() {
				return v, false
			}
			v = v.Index(i)
		case !s.bracket && v.Kind() == reflect.Map:
			v = v.MapIndex(reflect.ValueOf(s.text))
		case !s.bracket && v.Kind() == reflect.Struct:
			f, found := lookupField(v.Type(), s.text)
			if !found {
				return v, false
			}
			v = v.FieldByIndex(f.index)
		default:
			return v, false
		}
	}
	v = reflect.Indirect(v)
	return v, v.IsValid()
}
