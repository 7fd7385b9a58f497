package scenarios

import (
	"encoding"
	"reflect"
	"strings"
)

// field is one YAML field of a struct type, as its tags describe it.
type field struct {
	name        string
	typ         reflect.Type
	index       []int
	required    bool
	enum        []string
	description string
}

// fieldsOf lists the YAML fields of struct type t in their order, those of
// inlined structs included.
func fieldsOf(t reflect.Type) []field {
	var out []field
	for i := range t.NumField() {
		f := t.Field(i)
		name, options, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		if strings.Contains(options, "inline") {
			for _, g := range fieldsOf(f.Type) {
				g.index = append([]int{i}, g.index...)
				out = append(out, g)
			}
			continue
		}
		if name == "" || name == "-" {
			continue
		}
		g := field{name: name, typ: f.Type, index: []int{i}, description: f.Tag.Get("jsonschema_description")}
		for _, o := range strings.Split(f.Tag.Get("jsonschema"), ",") {
			if o == "required" {
				g.required = true
			}
			if v, ok := strings.CutPrefix(o, "enum="); ok {
				g.enum = append(g.enum, v)
			}
		}
		out = append(out, g)
	}
	return out
}

func fieldNames(fields []field) []string {
	names := make([]string, len(fields))
	for i, f := range fields {
		names[i] = f.name
	}
	return names
}

func lookupField(t reflect.Type, name string) (field, bool) { return findField(fieldsOf(t), name) }

func findField(fields []field, name string) (field, bool) {
	for _, f := range fields {
		if f.name == name {
			return f, true
		}
	}
	return field{}, false
}

// deref is t without its pointer.
func deref(t reflect.Type) reflect.Type {
	if t.Kind() == reflect.Pointer {
		return t.Elem()
	}
	return t
}

// isText says whether values of t are read from text by the type itself.
func isText(t reflect.Type) bool {
	return reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextUnmarshaler]())
}
