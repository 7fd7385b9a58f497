package scenarios

import (
	"errors"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// FuzzParse holds that Parse never panics, that what it refuses has a message
// in one line each, and that what it accepts is read back from its YAML as the
// same value.
func FuzzParse(f *testing.F) {
	for _, name := range Names() {
		src, _ := Source(name)
		f.Add(src, "")
	}
	a, err := txtar.ParseFile("testdata/mistakes.txtar")
	require.NoError(f, err)
	for _, file := range a.Files {
		if strings.HasSuffix(file.Name, ".yaml") {
			f.Add(file.Data, strings.Join(overridesOf(string(file.Data)), "\n"))
		}
	}
	f.Add([]byte(small), "description=\" \\x85\nseed=1e3\nthresholds=[errors<1%]")
	f.Add([]byte(everyField), "")
	f.Fuzz(func(t *testing.T, src []byte, set string) {
		var sets []string
		if set != "" {
			sets = strings.Split(set, "\n")
		}
		s, err := Parse("fuzz.yaml", src, sets...)
		if err != nil {
			var es Errors
			require.True(t, errors.As(err, &es))
			require.NotEmpty(t, es)
			for _, e := range es {
				assert.NotEmpty(t, e.Problem)
				assert.NotEmpty(t, e.File)
			}
			return
		}
		b, err := s.YAML()
		require.NoError(t, err)
		again, err := Parse("again.yaml", b)
		require.NoError(t, err, "%s", b)
		require.Equal(t, s, again)
		same, err := again.YAML()
		require.NoError(t, err)
		require.Equal(t, string(b), string(same))
		_, err = s.ParsedThresholds()
		require.NoError(t, err)
	})
}

// FuzzParseThreshold holds that what is accepted is read back from String as
// the same value, and that the String of that is the same.
func FuzzParseThreshold(f *testing.F) {
	for _, c := range thresholdCases {
		f.Add(c.in)
	}
	f.Add("errors < 0.30000000000000004")
	f.Add("max<2592000s during 0.000001s..2592000s")
	f.Fuzz(func(t *testing.T, in string) {
		a, err := ParseThreshold(in)
		if err != nil {
			require.NotEmpty(t, err.Error())
			return
		}
		b, err := ParseThreshold(a.String())
		require.NoError(t, err, a.String())
		require.Equal(t, a.String(), b.Source)
		require.Equal(t, a.String(), b.String())
		b.Source = a.Source
		require.Equal(t, a, b)
	})
}
