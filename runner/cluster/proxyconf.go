package cluster

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"gopkg.in/yaml.v3"

	"github.com/tablefull/tablefull/scenarios"
)

// conntrackSection is what a kube-proxy makes of the section conntrack of its
// configuration, as far as it is changed here. Zero leaves a setting alone. Its
// defaults are those of kubeproxy.config.k8s.io/v1alpha1 (pkg/proxy/apis/config,
// the same from Kubernetes 1.30 to 1.36).
type conntrackSection struct {
	maxPerCore, min        int64
	established, closeWait time.Duration
}

// The names of the settings in the section, in the order in which they are added.
const (
	maxPerCoreKey  = "maxPerCore"
	minKey         = "min"
	establishedKey = "tcpEstablishedTimeout"
	closeWaitKey   = "tcpCloseWaitTimeout"
)

var sectionKeys = []string{maxPerCoreKey, minKey, establishedKey, closeWaitKey}

// establishedTimeout and closeWaitTimeout are the kernel's names of what a
// kube-proxy's two timeouts set, below net.netfilter.nf_conntrack_.
const (
	establishedTimeout = "tcp_timeout_established"
	closeWaitTimeout   = "tcp_timeout_close_wait"
)

// readSection reads it from a KubeProxyConfiguration.
func readSection(conf string) (conntrackSection, error) {
	c := conntrackSection{maxPerCore: 32768, min: 131072, established: 24 * time.Hour, closeWait: time.Hour}
	var text struct {
		Kind      string
		Conntrack map[string]any
	}
	if err := yaml.Unmarshal([]byte(conf), &text); err != nil {
		return c, fmt.Errorf("read kube-proxy's configuration: %w", err)
	}
	if text.Kind != "KubeProxyConfiguration" {
		return c, fmt.Errorf("read kube-proxy's configuration: it is a %q", text.Kind)
	}
	for key, to := range map[string]any{maxPerCoreKey: &c.maxPerCore, minKey: &c.min, establishedKey: &c.established, closeWaitKey: &c.closeWait} {
		v := text.Conntrack[key]
		if v == nil {
			continue
		}
		var err error
		switch to := to.(type) {
		case *int64:
			*to, err = strconv.ParseInt(fmt.Sprint(v), 10, 32)
		case *time.Duration:
			*to, err = time.ParseDuration(fmt.Sprint(v))
		}
		if err != nil {
			return c, fmt.Errorf("read conntrack.%s of kube-proxy's configuration: %w", key, err)
		}
	}
	return c, nil
}

// limits are those that a kube-proxy with this configuration may write on so
// many CPUs (getConntrackMax in cmd/kube-proxy and, from 1.36 on, in
// pkg/proxy/conntrack, where it caps what is scaled); none where it writes none.
func (c conntrackSection) limits(cpus int) []uint64 {
	if c.maxPerCore <= 0 {
		return nil
	}
	scaled := c.maxPerCore * int64(cpus)
	out := []uint64{uint64(max(scaled, c.min))}
	if scaled > maxScaled {
		out = append(out, maxScaled)
	}
	return out
}

// maxScaled is the most that kube-proxy makes of maxPerCore from 1.36 on.
const maxScaled = 1 << 20

// sectionValues are what a scenario wants in the section, as it stands there.
func sectionValues(s *scenarios.ConntrackSettings) map[string]string {
	out := map[string]string{}
	if s.MaxPerCore != nil {
		out[maxPerCoreKey] = strconv.FormatInt(*s.MaxPerCore, 10)
	}
	if s.Min != nil {
		out[minKey] = strconv.FormatInt(*s.Min, 10)
	}
	if d, ok := s.Timeouts[establishedTimeout]; ok {
		out[establishedKey] = time.Duration(d).String()
	}
	if d, ok := s.Timeouts[closeWaitTimeout]; ok {
		out[closeWaitKey] = time.Duration(d).String()
	}
	return out
}

// editSection returns a KubeProxyConfiguration with these values in its section
// conntrack. Every other byte stays, comments too; where the text is written in a
// way in which that cannot be done, it is an error and nothing is guessed.
func editSection(conf string, values map[string]string) (string, error) {
	out := conf
	for _, key := range sectionKeys {
		v, ok := values[key]
		if !ok {
			continue
		}
		var err error
		if out, err = editValue(out, key, v); err != nil {
			return "", fmt.Errorf("set conntrack.%s in kube-proxy's configuration: %w", key, err)
		}
	}
	return out, checkEdit(conf, out, values)
}

// editValue sets one value.
func editValue(conf, key, value string) (string, error) {
	var doc yaml.Node
	if err := yaml.Unmarshal([]byte(conf), &doc); err != nil {
		return "", err
	}
	if len(doc.Content) != 1 || doc.Content[0].Kind != yaml.MappingNode {
		return "", errors.New("it is no mapping")
	}
	lines := strings.SplitAfter(conf, "\n")
	name, section := child(doc.Content[0], "conntrack")
	if section == nil {
		if doc.Content[0].Style&yaml.FlowStyle != 0 {
			return "", errors.New("it is written in one line, without that section")
		}
		if conf != "" && !strings.HasSuffix(conf, "\n") {
			conf += "\n"
		}
		return conf + "conntrack:\n  " + key + ": " + value + "\n", nil
	}
	if section.Kind != yaml.MappingNode {
		return "", errors.New("its section conntrack has nothing in it: write it with one setting")
	}
	if _, old := child(section, key); old != nil {
		return replaceScalar(lines, old, value)
	}
	if section.Style&yaml.FlowStyle != 0 {
		at := section.Column // of what comes after the bracket
		line := lines[section.Line-1]
		if at > len(line) || line[at-1] != '{' {
			return "", errors.New("its section conntrack is written in a way that is not known here")
		}
		comma := ", "
		if len(section.Content) == 0 {
			comma = ""
		}
		lines[section.Line-1] = line[:at] + quoteIn(section, key) + ": " + quoteIn(section, value) + comma + line[at:]
		return strings.Join(lines, ""), nil
	}
	first := section.Content[0]
	added := strings.Repeat(" ", first.Column-1) + key + ": " + value + "\n"
	return strings.Join(slices.Insert(lines, name.Line, added), ""), nil
}

// quoteIn writes a word as those of a mapping in JSON are written, where it is.
func quoteIn(m *yaml.Node, word string) string {
	if len(m.Content) > 0 && m.Content[0].Style&yaml.DoubleQuotedStyle != 0 {
		if _, err := strconv.ParseInt(word, 10, 64); err != nil {
			return strconv.Quote(word)
		}
	}
	return word
}

// replaceScalar puts another value in a scalar's place.
func replaceScalar(lines []string, old *yaml.Node, value string) (string, error) {
	written := old.Value
	switch {
	case old.Style&yaml.DoubleQuotedStyle != 0:
		written, value = `"`+written+`"`, `"`+value+`"`
	case old.Style&yaml.SingleQuotedStyle != 0:
		written, value = `'`+written+`'`, `'`+value+`'`
	}
	line := lines[old.Line-1]
	at := old.Column - 1
	if old.Kind != yaml.ScalarNode || written == "" || at > len(line) || !strings.HasPrefix(line[at:], written) {
		return "", errors.New("its present value is written in a way that is not known here")
	}
	lines[old.Line-1] = line[:at] + value + line[at+len(written):]
	return strings.Join(lines, ""), nil
}

// child is a mapping's key and value of a name; nil where there is none.
func child(m *yaml.Node, name string) (key, value *yaml.Node) {
	for i := 0; i+1 < len(m.Content); i += 2 {
		if m.Content[i].Value == name {
			return m.Content[i], m.Content[i+1]
		}
	}
	return nil, nil
}

// checkEdit returns an error unless after says the same as before but for the
// values.
func checkEdit(before, after string, values map[string]string) error {
	read := func(text string) (rest, section map[string]any, err error) {
		if err := yaml.Unmarshal([]byte(text), &rest); err != nil {
			return nil, nil, fmt.Errorf("read kube-proxy's configuration: %w", err)
		}
		section, _ = rest["conntrack"].(map[string]any)
		section = maps.Clone(section)
		if section == nil {
			section = map[string]any{}
		}
		delete(rest, "conntrack")
		return rest, section, nil
	}
	oldRest, old, err := read(before)
	if err != nil {
		return err
	}
	newRest, now, err := read(after)
	if err != nil {
		return err
	}
	for key, v := range values {
		if fmt.Sprint(now[key]) != v {
			return fmt.Errorf("edit kube-proxy's configuration: conntrack.%s would be %v, not %s", key, now[key], v)
		}
		delete(now, key)
		delete(old, key)
	}
	if !reflect.DeepEqual(oldRest, newRest) || !reflect.DeepEqual(old, now) {
		return errors.New("edit kube-proxy's configuration: something else would have changed, too")
	}
	return nil
}
