package scenarios

import (
	"encoding/json"
	"fmt"
	"reflect"
	"regexp"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// everyShape leaves out whatever can be left out, with a traffic of each shape.
const everyShape = `
name: every-shape
services:
  - {name: tcp}
  - {name: udp, protocol: udp}
  - {name: gateway, protocol: http, gateway: {to: web}}
  - {name: web, protocol: http}
traffic:
  - {to: tcp, short_lived: {ramp: {to: 5/s}}}
  - {to: tcp, idle: {count: 5, open_rate: 5/s}}
  - {to: udp, udp: {rate: 5/s, socket: long_lived}}
  - {to: tcp, flood: {rate: 5/s}}
  - {to: gateway, http: {rate: 5/s}}
actions:
  - {rollout: {service: tcp}}
  - {scale: {service: tcp}}
  - {delete_pod: {service: tcp}}
  - {restart_proxy: {}}
  - {upgrade_proxy: {binary: v1.36.3, conntrack: {max_per_core: 0}}}
  - {flush: {}}
  - {set_sysctl: {values: {net.ipv4.tcp_fin_timeout: 5}}}
arms: [{name: one}, {name: other}]
`

// everyField sets every field there is to something that is not its default.
const everyField = `
name: every-field
description: Everything is set.
seed: 7
duration: 1m
lab:
  kernel: private
  family: ipv6
  clients: {addresses: 500}
  tunnel: {kind: vxlan, notrack: true}
  proxy: {mode: nftables, masquerade: true, masquerade_ports: {from: 1024, to: 2047}, delay: 100ms, keep_udp: true, pass_new: true}
conntrack:
  headroom: 2000
  max: 100000
  buckets: 4096
  timeouts: {tcp_timeout_time_wait: 30s, udp_timeout: 10s}
services:
  - {name: tcp, port: 80, port_count: 4, pods: 3, families: [ipv6, ipv4], server: {behaviour: silent, backlog: 5, delay: 5ms}, lifecycle: {ready_after: 1s, pre_stop: 2s, grace: 9s, on_sigterm: ignore}}
  - {name: udp, protocol: udp}
  - {name: direct, headless: true, notrack: true}
  - {name: gateway, protocol: http, gateway: {to: web, keepalive: false, idle_connections: 7}}
  - {name: web, protocol: http, node_port: 30080, external_traffic_policy: Local, health_check_node_port: 30081}
  - {name: nobody, no_pods: true}
traffic:
  - name: short
    to: tcp
    family: ipv4
    start: 5s
    duration: 10s
    timeout: 2s
    short_lived:
      ramp: {from: 5/s, to: 50/s}
      close: half
      closer: server
      source_ports: {fixed: 4000}
      request_bytes: 5
      response_bytes: 500
  - {to: tcp, idle: {count: 5, open_rate: 30/m, validate_every: 1s, keepalive: 10s, close_rate: 50/s}}
  - to: udp
    udp:
      sine: {mean: 50/s, amplitude: 20/s, period: 7s}
      socket: long_lived
      sockets: 9
      source_ports: {from: 5000, to: 6000}
      reply: false
      request_bytes: 100
  - name: pairs
    to: udp
    udp: {rate: 5/s, dns_pair: true, parallel: true}
  - to: tcp
    flood:
      stages: [{from: 1/s, to: 9/s, for: 5s}, {to: 9/s, for: 5s}, {to: 0/s, for: 50s}]
      kind: syn
      sources: 17
  - {name: flood-udp, to: udp, flood: {kind: udp, rate: 5/s}}
  - {to: gateway, http: {rate: 5/h, keepalive: false, connections: 3, path: "/x?y=z"}}
actions:
  - {name: first, at: 5s, every: 10s, count: 3, timeout: 1m, rollout: {service: tcp, max_surge: 2, max_unavailable: 1}}
  - {at: 1s, scale: {service: tcp, to: 5}}
  - {delete_pod: {service: tcp, count: 2, force: true}}
  - {restart_proxy: {clean: true, down: 2s, rolling: true}, nodes: [node1]}
  - {pause_proxy: {}}
  - {resume_proxy: {}}
  - {drain_node: {}}
  - {uncordon_node: {}}
  - upgrade_proxy:
      mode: ipvs
      ipvs: {conn_reuse_mode: 0, expire_nodest_conn: false, drain_check: 5s}
  - {upgrade_proxy: {binary: ./kube-proxy, mode: iptables, conntrack: {max_per_core: 1000, min: 2000}}}
  - {ballast: {headroom: 500}}
  - {flush: {protocol: udp}}
  - {set_sysctl: {values: {net.netfilter.nf_conntrack_tcp_be_liberal: 1}, for: 2s}}
  - {conntrack_settings: {max: 5000, max_per_core: 3, min: 4, timeouts: {tcp_timeout_close: 5s}, be_liberal: true}}
  - {hold_xtables_lock: {for: 3s}}
sampling: {every: 50ms, census_every: 5s, no_census: true, no_autopsy: true}
trials: 5
arms:
  - {name: as-it-is, description: Nothing is different.}
  - {name: more-room, set: [conntrack.headroom=5000], expect: [drop == 0], thresholds: [errors < 1%]}
thresholds:
  - "short: errors < 0.1% during 5s..10s"
  - drop == 0
abort_on: ["drop <= 5"]
expect:
  - stale > 5s
  - stale_backend > 100
`

// TestDescriptionsTellTheDefaults reads the default out of each description
// and compares it with what a scenario gets that leaves the field out.
func TestDescriptionsTellTheDefaults(t *testing.T) {
	s, err := Parse("every-shape.yaml", []byte(everyShape))
	require.NoError(t, err)
	told := map[string]string{}
	collectDefaults(t, reflect.ValueOf(s), "", told)
	want := map[string]bool{}
	defaultIs := regexp.MustCompile(`Default ([^ ]+?)(?:[:,] .*)?(?: \(.*\))?\.(?: |$)`)
	n := 0
	for path, text := range told {
		m := defaultIs.FindStringSubmatch(text)
		if m == nil {
			continue
		}
		n++
		want[path] = true
		v, ok := valueAt(reflect.ValueOf(s), path)
		require.True(t, ok, path)
		assert.Equal(t, m[1], fmt.Sprint(v.Interface()), path)
	}
	// Fields that a description gives no default for keep their zero.
	for path := range told {
		v, ok := valueAt(reflect.ValueOf(s), path)
		if ok && !want[path] && !v.IsZero() && !regexp.MustCompile(`(?:required|name|to|rate|count|services|traffic|actions|service|values|for|binary|gateway|protocol|socket|duration)$`).MatchString(path) &&
			v.Kind() != reflect.Struct && v.Kind() != reflect.Slice {
			t.Errorf("%s is %v without being told", path, v)
		}
	}
	assert.Greater(t, n, 25, "the test must find the defaults")
}

func collectDefaults(t *testing.T, v reflect.Value, path string, told map[string]string) {
	t.Helper()
	v = reflect.Indirect(v)
	switch {
	case !v.IsValid():
	case v.Kind() == reflect.Slice:
		for i := range v.Len() {
			collectDefaults(t, v.Index(i), fmt.Sprintf("%s[%d]", path, i), told)
		}
	case v.Kind() == reflect.Struct:
		for _, f := range fieldsOf(v.Type()) {
			at := join(path, f.name)
			// These were set by the scenario, for the sake of others.
			if at != "services[1].protocol" && at != "services[2].protocol" && at != "services[3].protocol" && at != "traffic[2].udp.socket" {
				told[at] = f.description
			}
			collectDefaults(t, v.FieldByIndex(f.index), at, told)
		}
	}
}

// The defaults that depend on other fields.
func TestDependentDefaults(t *testing.T) {
	s, err := Parse("x.yaml", []byte(`
name: x
duration: 30s
services:
  - {name: web}
  - {name: none, no_pods: true}
traffic:
  - {name: late, to: web, start: 12s, short_lived: {rate: 5/s}}
  - {name: staged, to: web, start: 1s, short_lived: {stages: [{to: 5/s, for: 2s}, {to: 9/s, for: 3s}, {from: 1/s, to: 2/s, for: 4s}]}}
  - {to: web, idle: {count: 5, open_rate: 5/s}}
`))
	require.NoError(t, err)
	assert.Equal(t, "18s", s.Traffic[0].Duration.String(), "to the end of the scenario")
	assert.Equal(t, "9s", s.Traffic[1].Duration.String(), "as long as the stages")
	var from []Rate
	for _, st := range s.Traffic[1].ShortLived.Stages {
		require.NotNil(t, st.From)
		from = append(from, *st.From)
	}
	assert.Equal(t, []Rate{5, 5, 1}, from)
	assert.Equal(t, "idle", s.Traffic[2].Name)
	assert.Nil(t, s.Traffic[2].Pacing())
	assert.Equal(t, 0, s.Services[1].Pods)
}

// Actions are named after their kind, and never like another one.
func TestActionNames(t *testing.T) {
	s, err := Parse("x.yaml", []byte(small+`
actions:
  - {flush: {}}
  - {flush: {}, name: flush-2}
  - {flush: {protocol: udp}}
  - {rollout: {service: web}}
  - {flush: {}}
`))
	require.NoError(t, err)
	var names []string
	for _, a := range s.Actions {
		names = append(names, a.Name)
	}
	assert.Equal(t, []string{"flush", "flush-2", "flush-3", "rollout", "flush-4"}, names)
}

func TestDefaultsTwiceIsOnce(t *testing.T) {
	for _, src := range []string{everyShape, everyField, everySearch} {
		once, err := Parse("once.yaml", []byte(src))
		require.NoError(t, err)
		twice, err := Parse("once.yaml", []byte(src))
		require.NoError(t, err)
		twice.Defaults()
		assert.Equal(t, once, twice)
		assert.NoError(t, twice.Validate())
	}
}

func TestYAMLIsReadBack(t *testing.T) {
	for _, src := range []string{everyShape, everyField, everySearch, small} {
		s, err := Parse("a.yaml", []byte(src))
		require.NoError(t, err)
		b, err := s.YAML()
		require.NoError(t, err)
		again, err := Parse("b.yaml", b)
		require.NoError(t, err, "%s", b)
		assert.Equal(t, s, again)
	}
	assert.Equal(t, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", Digest([]byte("abc")))
}

// everyField must live up to its name: a field added to the types is noticed
// here, and then takes part in the round trips.
func TestEveryFieldIsEveryField(t *testing.T) {
	set := map[string]bool{}
	for _, src := range []string{everyField, everySearch} {
		s, err := Parse("every-field.yaml", []byte(src))
		require.NoError(t, err)
		markSet(reflect.ValueOf(s), set)
	}
	types := map[reflect.Type]bool{}
	eachStruct(reflect.TypeFor[Scenario](), types)
	for typ := range types {
		for _, f := range fieldsOf(typ) {
			assert.True(t, set[declared(typ, f)], "%s is never set", declared(typ, f))
		}
	}
}

// declared names a field by the struct that declares it, inlined or not.
func declared(t reflect.Type, f field) string {
	for _, i := range f.index[:len(f.index)-1] {
		t = t.Field(i).Type
	}
	return t.Name() + "." + f.name
}

func markSet(v reflect.Value, set map[string]bool) {
	v = reflect.Indirect(v)
	switch {
	case !v.IsValid():
	case v.Kind() == reflect.Slice:
		for i := range v.Len() {
			markSet(v.Index(i), set)
		}
	case v.Kind() == reflect.Struct:
		for _, f := range fieldsOf(v.Type()) {
			fv := v.FieldByIndex(f.index)
			if !fv.IsZero() {
				set[declared(v.Type(), f)] = true
			}
			markSet(fv, set)
		}
	}
}

// Traffic travels to the agents as JSON.
func TestTrafficAsJSON(t *testing.T) {
	s, err := Parse("every-field.yaml", []byte(everyField))
	require.NoError(t, err)
	b, err := json.Marshal(s.Traffic)
	require.NoError(t, err)
	var again []Traffic
	require.NoError(t, json.Unmarshal(b, &again))
	assert.Equal(t, s.Traffic, again)
}

// Validate stands by itself for scenarios that were built in Go.
func TestValidateWithoutAFile(t *testing.T) {
	err := (&Scenario{Name: "x", Traffic: []Traffic{{Name: "t", To: "web", Duration: -5}}}).Validate()
	var es Errors
	require.ErrorAs(t, err, &es)
	assert.ErrorContains(t, err, "services: there is none; describe at least one service\n")
	assert.ErrorContains(t, err, "traffic[0]: has no shape")
	assert.ErrorContains(t, err, "duration: 0s is out of range")
	for _, e := range es {
		assert.Empty(t, e.File)
		assert.Zero(t, e.Line)
	}
	s, perr := Parse("small.yaml", []byte(small))
	require.NoError(t, perr)
	assert.True(t, s.Validate() == nil, "no mistakes are a nil error")
}
