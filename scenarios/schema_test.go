package scenarios

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"gopkg.in/yaml.v3"
)

func compiled(t *testing.T) *jsonschema.Schema {
	t.Helper()
	b, err := Schema()
	require.NoError(t, err)
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(b))
	require.NoError(t, err)
	c := jsonschema.NewCompiler()
	require.NoError(t, c.AddResource("scenario.json", doc))
	s, err := c.Compile("scenario.json")
	require.NoError(t, err)
	return s
}

// instance is YAML as a JSON Schema validator wants it.
func instance(t *testing.T, src []byte) any {
	t.Helper()
	var v any
	require.NoError(t, yaml.Unmarshal(src, &v))
	b, err := json.Marshal(v)
	require.NoError(t, err)
	v, err = jsonschema.UnmarshalJSON(bytes.NewReader(b))
	require.NoError(t, err)
	return v
}

func TestSchemaAcceptsTheLibrary(t *testing.T) {
	schema := compiled(t)
	for _, name := range Names() {
		src, _ := Source(name)
		assert.NoError(t, schema.Validate(instance(t, src)), name)
		s, err := Parse(name, src)
		require.NoError(t, err)
		resolved, err := s.YAML()
		require.NoError(t, err)
		assert.NoError(t, schema.Validate(instance(t, resolved)), "%s, resolved", name)
	}
	assert.NoError(t, schema.Validate(instance(t, []byte(everyField))))
}

// What an editor should underline.
func TestSchemaRefuses(t *testing.T) {
	schema := compiled(t)
	require.NoError(t, schema.Validate(instance(t, []byte(small))))
	a, err := txtar.ParseFile("testdata/mistakes.txtar")
	require.NoError(t, err)
	source := map[string][]byte{}
	for _, f := range a.Files {
		source[f.Name] = f.Data
	}
	for _, name := range []string{
		"missing-everything", "empty-lists", "no-unit", "wrong-unit", "negative", "duration-without-unit", "fraction", "number-with-unit", "enum", "kinds",
		"unknown-fields", "unknown-shape", "bad-names", "shapes", "pacings", "sine", "source-ports", "conntrack", "protocol-misspelt", "threshold-is-a-mapping",
	} {
		src, ok := source[name+".yaml"]
		require.True(t, ok, name)
		assert.Error(t, schema.Validate(instance(t, src)), name)
	}
}

// The schema has every field of the types with a description, allows no other,
// and requires nothing that has a default.
func TestSchemaDescribesEveryField(t *testing.T) {
	b, err := Schema()
	require.NoError(t, err)
	var schema struct {
		Version string `json:"$schema"`
		Defs    map[string]struct {
			Properties map[string]struct {
				Description string `json:"description"`
			} `json:"properties"`
			Additional *bool `json:"additionalProperties"`
		} `json:"$defs"`
	}
	require.NoError(t, json.Unmarshal(b, &schema))
	assert.Equal(t, "https://json-schema.org/draft/2020-12/schema", schema.Version)
	types := map[reflect.Type]bool{}
	eachStruct(reflect.TypeFor[Scenario](), types)
	require.Len(t, schema.Defs, len(types))
	for typ := range types {
		def, ok := schema.Defs[typ.Name()]
		require.True(t, ok, typ.Name())
		require.NotNil(t, def.Additional, typ.Name())
		assert.False(t, *def.Additional, typ.Name())
		fields := fieldsOf(typ)
		assert.Len(t, def.Properties, len(fields), typ.Name())
		for _, f := range fields {
			description := def.Properties[f.name].Description
			assert.NotEmpty(t, description, "%s.%s", typ.Name(), f.name)
			assert.True(t, strings.HasSuffix(description, "."), "%s.%s ends like a sentence: %q", typ.Name(), f.name, description)
			if f.required {
				assert.NotContains(t, description, "Default", "%s.%s", typ.Name(), f.name)
			}
		}
	}
}

func eachStruct(t reflect.Type, seen map[reflect.Type]bool) {
	t = deref(t)
	switch {
	case t.Kind() == reflect.Slice || t.Kind() == reflect.Map:
		eachStruct(t.Elem(), seen)
	case t.Kind() == reflect.Struct && !seen[t]:
		seen[t] = true
		for _, f := range fieldsOf(t) {
			eachStruct(f.typ, seen)
		}
	}
}
