package report

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"reflect"

	"github.com/invopop/jsonschema"
)

// SummarySchema returns the JSON Schema (draft 2020-12) of summary.json, made
// from the type Findings.
func SummarySchema() ([]byte, error) {
	return schemaOf(&Findings{}, "summary", "What one run of tablefull found.")
}

// ComparisonSchema returns the JSON Schema (draft 2020-12) of comparison.json,
// made from the type Comparison.
func ComparisonSchema() ([]byte, error) {
	return schemaOf(&Comparison{}, "comparison", "What the runs of several arms show beside each other.")
}

// schemaOf is the schema of what v points to, as NAME.json.
func schemaOf(v any, name, about string) ([]byte, error) {
	r := &jsonschema.Reflector{
		Mapper: func(t reflect.Type) *jsonschema.Schema {
			switch t {
			case reflect.TypeFor[netip.AddrPort](), reflect.TypeFor[netip.Addr]():
				return &jsonschema.Schema{Type: "string"}
			}
			return nil
		},
	}
	s := r.Reflect(v)
	s.ID = jsonschema.ID("https://tablefull.github.io/schema/" + name + ".json")
	s.Title = "tablefull " + name
	s.Description = about
	nullable(s, reflect.TypeOf(v), map[reflect.Type]bool{})
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode schema: %w", err)
	}
	return append(b, '\n'), nil
}

// nullable says in the schema what the types say: a pointer or a map can be
// null, and the key is there all the same, and so can elements that are
// pointers and slices tagged summary:"nullable".
func nullable(s *jsonschema.Schema, t reflect.Type, done map[reflect.Type]bool) {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice || t.Kind() == reflect.Map {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct || done[t] {
		return
	}
	done[t] = true
	def := s.Definitions[t.Name()]
	for i := range t.NumField() {
		f := t.Field(i)
		nullable(s, f.Type, done)
		name := jsonName(f)
		if def == nil || name == "" {
			continue
		}
		p, ok := def.Properties.Get(name)
		if !ok {
			continue
		}
		if f.Type.Kind() == reflect.Slice && f.Type.Elem().Kind() == reflect.Pointer {
			p.Items = &jsonschema.Schema{AnyOf: []*jsonschema.Schema{p.Items, {Type: "null"}}}
		}
		if f.Type.Kind() != reflect.Pointer && f.Type.Kind() != reflect.Map && f.Tag.Get("summary") != "nullable" {
			continue
		}
		description := p.Description
		inner := *p
		inner.Description = ""
		def.Properties.Set(name, &jsonschema.Schema{
			Description: description,
			AnyOf:       []*jsonschema.Schema{&inner, {Type: "null"}},
		})
	}
}

func jsonName(f reflect.StructField) string {
	tag := f.Tag.Get("json")
	for i := range len(tag) {
		if tag[i] == ',' {
			return tag[:i]
		}
	}
	return tag
}
