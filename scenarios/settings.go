package scenarios

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// A Setting is one value of a scenario that an override (see [Parse]) can
// change.
type Setting struct {
	// Path is how an override names it, for example traffic[0].short_lived.rate.
	Path string
	// Kind is what its values are: rate, duration, whole number, true or
	// false, text.
	Kind string
	// Value is what it is in the scenario, defaults applied; empty where it is
	// not set.
	Value string
	// Enum lists the values it can have, where these are few.
	Enum        []string
	Description string
}

// ShellPath is Path without brackets, which are special to shells:
// traffic.0.short_lived.rate. Overrides take both.
func (s Setting) ShellPath() string {
	return strings.NewReplacer("[", ".", "]", "").Replace(s.Path)
}

// Settings lists what overrides can change in s, in the order of the types.
// Of shapes and pacings, of which only one can be set, it lists the one that
// is. For each list there is also [+], a new element.
func (s *Scenario) Settings() []Setting {
	w := settingWalk{}
	w.fields(reflect.ValueOf(s).Elem(), "")
	return w.out
}

// AllSettings lists what overrides can change in any scenario, each list with
// one element, [0].
func AllSettings() []Setting {
	w := settingWalk{all: true}
	w.fields(reflect.New(reflect.TypeFor[Scenario]()).Elem(), "")
	return w.out
}

type settingWalk struct {
	all bool // without a scenario: all types, no values
	out []Setting
}

func (w *settingWalk) fields(v reflect.Value, path string) {
	for _, f := range fieldsOf(v.Type()) {
		at := f.name
		if path != "" {
			at = path + "." + f.name
		}
		value := v.FieldByIndex(f.index)
		// Of an action only one kind can be set, as of a traffic.
		if !w.all && v.Type() == reflect.TypeFor[Action]() && value.Kind() == reflect.Pointer && value.IsNil() {
			continue
		}
		w.field(value, f, at)
	}
}

func (w *settingWalk) field(v reflect.Value, f field, path string) {
	t := deref(f.typ)
	unset := f.typ.Kind() == reflect.Pointer && v.IsNil()
	switch {
	case isText(t):
		w.leaf(reflect.Indirect(v), f, path)
	case t.Kind() == reflect.Struct:
		if unset && !w.all && (slices.Contains(shapes, f.name) || slices.Contains(pacings, f.name)) {
			return
		}
		if unset {
			v = reflect.New(t)
		}
		w.fields(reflect.Indirect(v), path)
	case t.Kind() == reflect.Map:
		if t.Elem() != reflect.TypeFor[Duration]() {
			return // its keys are anybody's
		}
		for _, name := range TimeoutNames() {
			w.leaf(v.MapIndex(reflect.ValueOf(name)), field{typ: t.Elem(), description: "The node's nf_conntrack_" + name + "."}, path+"."+name)
		}
	case t.Kind() == reflect.Slice:
		w.list(v, f, path)
	default:
		w.leaf(reflect.Indirect(v), f, path)
	}
}

func (w *settingWalk) list(v reflect.Value, f field, path string) {
	elem := f.typ.Elem()
	n := v.Len()
	if w.all {
		n = 1
	} else if n == 0 && slices.Contains(pacings, f.name) {
		return
	}
	for i := range n {
		at := fmt.Sprintf("%s[%d]", path, i)
		x := reflect.New(elem).Elem()
		if i < v.Len() {
			x = v.Index(i)
		}
		if elem.Kind() == reflect.Struct {
			w.fields(x, at)
		} else {
			w.leaf(x, field{typ: elem, description: f.description}, at)
		}
	}
	w.out = append(w.out, Setting{Path: path + "[+]", Kind: kindOf(elem), Description: "A new element. " + f.description})
}

func (w *settingWalk) leaf(v reflect.Value, f field, path string) {
	s := Setting{Path: path, Kind: kindOf(deref(f.typ)), Enum: f.enum, Description: f.description}
	if s.Kind == kindOf(reflect.TypeFor[bool]()) {
		s.Enum = []string{"true", "false"}
	}
	if v.IsValid() && (f.typ.Kind() == reflect.Pointer || !v.IsZero()) {
		s.Value = fmt.Sprint(v.Interface())
	}
	if !w.all && s.Value == "" && slices.Contains(pacings, path[strings.LastIndex(path, ".")+1:]) {
		return // the traffic has another pacing
	}
	w.out = append(w.out, s)
}

// kindOf names what values of t are, for people.
func kindOf(t reflect.Type) string {
	switch {
	case t == reflect.TypeFor[Rate]():
		return "rate"
	case t == reflect.TypeFor[Duration]():
		return "duration"
	case t.Kind() == reflect.Bool:
		return "true or false"
	case t.Kind() == reflect.String:
		return "text"
	case t.Kind() == reflect.Struct:
		return "mapping"
	case t.Kind() == reflect.Slice:
		return "list"
	case t.Kind() == reflect.Map:
		return "mapping"
	}
	return "whole number"
}
