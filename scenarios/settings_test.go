package scenarios

import (
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func settingOf(list []Setting, path string) *Setting {
	i := slices.IndexFunc(list, func(s Setting) bool { return s.Path == path })
	if i < 0 {
		return nil
	}
	return &list[i]
}

// What is listed for a scenario is what --set takes: each setting that has a
// value is set to that value, which changes nothing.
func TestSettingsAreWhatOverridesTake(t *testing.T) {
	for _, name := range Names() {
		src, _ := Source(name)
		s, err := Parse(name, src)
		require.NoError(t, err)
		set := 0
		for _, x := range s.Settings() {
			if x.Value == "" {
				continue
			}
			set++
			again, err := Parse(name, src, x.Path+"="+x.Value)
			require.NoError(t, err, "%s: --set %s=%s", name, x.Path, x.Value)
			assert.Equal(t, s, again, "%s: --set %s=%s", name, x.Path, x.Value)
			again, err = Parse(name, src, x.ShellPath()+"="+x.Value)
			require.NoError(t, err, "%s: --set %s=%s", name, x.ShellPath(), x.Value)
			assert.Equal(t, s, again, "%s: --set %s=%s", name, x.ShellPath(), x.Value)
		}
		assert.Greater(t, set, 20, name)
	}
}

func TestSettings(t *testing.T) {
	src, _ := Source("short-lived")
	s, err := Parse("short-lived", src)
	require.NoError(t, err)
	list := s.Settings()

	rate := settingOf(list, "traffic[0].short_lived.rate")
	require.NotNil(t, rate)
	assert.Equal(t, "700/s", rate.Value)
	assert.Equal(t, "traffic.0.short_lived.rate", rate.ShellPath())
	assert.Equal(t, "rate", rate.Kind)
	assert.Equal(t, []string{"fin", "rst", "half", "none"}, settingOf(list, "traffic[0].short_lived.close").Enum)
	assert.Equal(t, []string{"true", "false"}, settingOf(list, "lab.proxy.masquerade").Enum)
	assert.NotNil(t, settingOf(list, "conntrack.timeouts.tcp_timeout_time_wait"))
	assert.NotNil(t, settingOf(list, "conntrack.max"), "what is not set can be")
	assert.NotNil(t, settingOf(list, "thresholds[+]"))
	for _, x := range list {
		assert.NotContains(t, x.Path, ".udp.", "another shape")
		assert.NotContains(t, x.Path, ".ramp.", "another pacing")
		assert.NotEmpty(t, x.Description, x.Path)
	}
}

func TestPathsWithoutBrackets(t *testing.T) {
	src, _ := Source("short-lived")
	s, err := Parse("short-lived", src, "traffic.0.short_lived.rate=9/s", "thresholds.+=drop == 0")
	require.NoError(t, err)
	assert.Equal(t, Rate(9), s.Traffic[0].ShortLived.Rate)
	assert.Equal(t, []string{"errors < 0.1%", "drop == 0"}, s.Thresholds)
	for _, set := range []string{"0.name=x", "traffic.1.to=web", "name.0=x", "traffic..to=x", "+=x"} {
		_, err := Parse("short-lived", src, set)
		assert.Error(t, err, set)
	}
}

// Without a scenario all types are listed, and each path is one.
func TestAllSettings(t *testing.T) {
	list := AllSettings()
	for _, path := range []string{"duration", "traffic[0].udp.rate", "traffic[0].http.ramp.to", "traffic[0].flood.stages[0].for", "services[0].gateway.to", "thresholds[0]"} {
		assert.NotNil(t, settingOf(list, path), path)
	}
	o := override{}
	for _, x := range list {
		steps, err := parsePath(x.Path)
		require.NoError(t, err, x.Path)
		_, e := o.types(x.Path, steps)
		assert.Nil(t, e, x.Path)
		assert.Empty(t, x.Value, x.Path)
		assert.False(t, strings.HasSuffix(x.Path, "."))
	}
}
