package scenarios

import (
	"encoding/json"
	"fmt"
	"reflect"

	"github.com/invopop/jsonschema"
)

// Patterns of what the units read. They are for editors, so they leave out
// spellings that are accepted but unusual, such as 1e3/s.
const (
	ratePattern     = `^[0-9]+(\.[0-9]+)? ?/ ?[smh]$`
	durationPattern = `^([0-9]+(\.[0-9]+)?(ns|us|µs|ms|s|m|h))+$`
)

// Schema is the JSON Schema (draft 2020-12) of a scenario file, made from the
// types and their descriptions. It is what an editor completes and checks
// with; [Parse] checks more.
func Schema() ([]byte, error) {
	r := jsonschema.Reflector{
		Anonymous:                  true,
		FieldNameTag:               "yaml",
		RequiredFromJSONSchemaTags: true,
		Mapper:                     unitSchema,
	}
	s := r.Reflect(&Scenario{})
	s.Title = "tablefull scenario"
	s.Description = "One experiment: a lab, the services in it, the traffic to them, and what must hold."

	def := func(name string) *jsonschema.Schema { return s.Definitions[name] }
	def("Traffic").OneOf = exactlyOne(shapes)
	def("Action").OneOf = exactlyOne(kinds)
	for _, t := range []reflect.Type{
		reflect.TypeFor[ShortLived](), reflect.TypeFor[UDP](), reflect.TypeFor[Flood](), reflect.TypeFor[HTTP](),
	} {
		def(t.Name()).OneOf = exactlyOne(pacings)
	}
	def("SourcePorts").OneOf = []*jsonschema.Schema{{Required: []string{"fixed"}}, {Required: []string{"from", "to"}}}

	names := &jsonschema.Schema{}
	for _, n := range TimeoutNames() {
		names.Enum = append(names.Enum, n)
	}
	timeouts, ok := def("Conntrack").Properties.Get("timeouts")
	if !ok {
		return nil, fmt.Errorf("make schema: no field timeouts")
	}
	timeouts.PropertyNames = names
	values, ok := def("SetSysctl").Properties.Get("values")
	if !ok {
		return nil, fmt.Errorf("make schema: no field values")
	}
	values.AdditionalProperties = &jsonschema.Schema{AnyOf: []*jsonschema.Schema{{Type: "string"}, {Type: "integer"}}}
	// Numbers are text there, because a rate is; YAML takes plain ones for numbers.
	number := []*jsonschema.Schema{{Type: "string"}, {Type: "number"}}
	for _, name := range []string{"min", "max", "width", "exceed"} {
		p, ok := def("Search").Properties.Get(name)
		if !ok {
			return nil, fmt.Errorf("make schema: Search has no field %s", name)
		}
		p.Type, p.AnyOf = "", number
	}
	goals, ok := def("Search").Properties.Get("goals")
	if !ok {
		return nil, fmt.Errorf("make schema: Search has no field goals")
	}
	goals.Items = &jsonschema.Schema{AnyOf: number}
	for _, list := range []string{"services", "traffic"} {
		if l, ok := def("Scenario").Properties.Get(list); ok {
			l.MinItems = new(uint64(1))
		}
	}
	for _, n := range []struct{ def, pattern string }{
		{"Scenario", validName.String()}, {"Service", validName.String()}, {"Traffic", validTraffic.String()}, {"Action", validTraffic.String()},
	} {
		name, ok := def(n.def).Properties.Get("name")
		if !ok {
			return nil, fmt.Errorf("make schema: %s has no field name", n.def)
		}
		name.Pattern = n.pattern
	}
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("make schema: %w", err)
	}
	return append(b, '\n'), nil
}

// unitSchema describes the types that are text in YAML; nil leaves a type to
// the reflector.
func unitSchema(t reflect.Type) *jsonschema.Schema {
	switch t {
	case reflect.TypeFor[Rate]():
		return &jsonschema.Schema{Type: "string", Pattern: ratePattern, Examples: []any{"700/s", "6000/m"}}
	case reflect.TypeFor[Duration]():
		return &jsonschema.Schema{Type: "string", Pattern: durationPattern, Examples: []any{"30s", "900ms"}}
	}
	return nil
}

func exactlyOne(names []string) []*jsonschema.Schema {
	var out []*jsonschema.Schema
	for _, n := range names {
		out = append(out, &jsonschema.Schema{Required: []string{n}})
	}
	return out
}
