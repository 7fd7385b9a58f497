package scenarios

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"
)

const (
	maxArms   = 16
	maxTrials = 100
)

// An Arm is a variant of the scenario.
type Arm struct {
	Name        string   `yaml:"name" jsonschema:"required" jsonschema_description:"Name in reports and of its directory: lower case letters, digits and dashes, a letter first."`
	Description string   `yaml:"description,omitempty" jsonschema_description:"What it stands for, in one line."`
	Set         []string `yaml:"set,omitempty" jsonschema_description:"What is different in it: PATH=VALUE each, as --set spells it, for example conntrack.headroom=6000. None: the scenario as it stands."`
	Expect      []string `yaml:"expect,omitempty" jsonschema_description:"What this arm must show, in place of the scenario's expect."`
	Thresholds  []string `yaml:"thresholds,omitempty" jsonschema_description:"What must hold in this arm, in place of the scenario's thresholds."`
}

// An ArmScenario is the scenario as it is in one arm.
type ArmScenario struct {
	Arm
	Scenario *Scenario // resolved; has no arms itself
}

// ParseArms is [Parse], and returns the scenario in each of its arms as well,
// in their order; none where it has none. Their mistakes are among those of
// Parse.
func ParseArms(name string, src []byte, sets ...string) (*Scenario, []ArmScenario, error) {
	return parse(name, src, sets)
}

// LoadArms is [Load] for ParseArms.
func LoadArms(ref string, stdin io.Reader, sets ...string) (*Scenario, []ArmScenario, []byte, error) {
	name, raw, err := read(ref, stdin)
	if err != nil {
		return nil, nil, nil, err
	}
	s, arms, err := parse(name, raw, sets)
	return s, arms, raw, err
}

// armDefaults is the part of Defaults that arms need.
func (s *Scenario) armDefaults() {
	if len(s.Arms) == 0 {
		s.Arms = nil
	} else {
		orElse(&s.Trials, 1)
	}
	for i := range s.Arms {
		a := &s.Arms[i]
		a.Description = oneLine(a.Description)
		for _, list := range []*[]string{&a.Set, &a.Expect, &a.Thresholds} {
			if len(*list) == 0 {
				*list = nil
			}
			for j, text := range *list {
				(*list)[j] = strings.TrimSpace(text)
			}
		}
	}
}

// arms checks the arms, less what their settings make of the scenario.
func (v *validator) arms() {
	s := v.s
	v.names("arms", validName, len(s.Arms), func(i int) string { return s.Arms[i].Name })
	switch n := len(s.Arms); {
	case n == 0 && s.Trials != 0:
		v.fail("trials", "is about arms, and there are none", "describe at least two arms, or leave it out").needs = []string{"arms"}
	case n == 0:
		return
	case n == 1:
		v.fail("arms", "there is only one", "describe at least two: the first is what the others are compared with")
	case n > maxArms:
		v.fail("arms", fmt.Sprintf("there are %d", n), fmt.Sprintf("write at most %d", maxArms))
	}
	if len(s.Arms) > 0 {
		v.between("trials", int64(s.Trials), 1, maxTrials)
	}
}

// ownSettings are what an arm cannot change: what names and counts the runs.
var ownSettings = []string{"name", "arms", "trials", "seed"}

// arms resolves the scenario in each of its arms, and collects mistakes that are
// not those of the scenario itself. s is nil where that is beyond reading.
func (p *parser) arms(s *Scenario) []ArmScenario {
	list := child(p.root, "arms")
	if s == nil || list == nil || list.Kind != yaml.SequenceNode {
		return nil
	}
	common := slices.Clone(p.errs)
	var out []ArmScenario
	for i, n := range list.Content {
		if i >= len(s.Arms) || i >= maxArms {
			break
		}
		out = append(out, p.arm(fmt.Sprintf("arms[%d]", i), n, s.Arms[i], common))
	}
	return out
}

// arm resolves one arm. common are the mistakes that all arms share.
func (p *parser) arm(path string, n *yaml.Node, a Arm, common Errors) ArmScenario {
	q := parser{name: p.name, root: cloneWithout(p.root, p.made, ownSettings[1:3]...), made: p.made}
	at := func(list string, i int) origin {
		from := origin{file: p.name, path: fmt.Sprintf("%s.%s[%d]", path, list, i)}
		node := n
		if l := child(n, list); l != nil && i < len(l.Content) {
			node = l.Content[i]
		}
		if made, ok := p.made[node]; ok {
			from.file, from.line, from.col = made.file, made.line, made.col
		} else {
			from.line, from.col = node.Line, node.Column
		}
		return from
	}
	for i, set := range a.Set {
		o := override{root: q.root, made: q.made, from: at("set", i)}
		if e := o.own(set); e != nil {
			p.errs = append(p.errs, e)
			continue
		}
		if e := o.apply(set); e != nil {
			p.errs = append(p.errs, e)
		}
	}
	for _, list := range []struct {
		name  string
		texts []string
	}{{"expect", a.Expect}, {"thresholds", a.Thresholds}} {
		if list.texts == nil {
			continue
		}
		replace := &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq"}
		for i, t := range list.texts {
			node := text(t)
			q.made[node] = at(list.name, i)
			replace.Content = append(replace.Content, node)
		}
		setChild(q.root, list.name, replace)
	}
	s := q.parse()
	for _, e := range q.errs {
		if slices.ContainsFunc(common, e.same) {
			continue
		}
		if !strings.HasPrefix(e.Path, path+".") {
			e.Problem = "in arm " + quote(a.Name) + " " + e.Problem
		}
		p.errs = append(p.errs, e)
	}
	return ArmScenario{Arm: a, Scenario: s}
}

// own refuses settings that are not the arm's.
func (o *override) own(set string) *Error {
	path, _, _ := strings.Cut(set, "=")
	steps, err := parsePath(strings.TrimSpace(path))
	if err != nil || !slices.Contains(ownSettings, steps[0].text) {
		return nil
	}
	return o.fail(strings.TrimSpace(path), "cannot be different in an arm", "leave it out")
}

// same says whether both are the same mistake.
func (e *Error) same(f *Error) bool {
	return e.File == f.File && e.Line == f.Line && e.Col == f.Col && e.Path == f.Path && e.Problem == f.Problem
}

// cloneWithout copies a tree, less some keys at its top. What overrides made
// stays so.
func cloneWithout(root *yaml.Node, made map[*yaml.Node]origin, keys ...string) *yaml.Node {
	c := clone(root, made)
	for i := 0; i+1 < len(c.Content); {
		if slices.Contains(keys, c.Content[i].Value) {
			c.Content = slices.Delete(c.Content, i, i+2)
			continue
		}
		i += 2
	}
	return c
}

func clone(n *yaml.Node, made map[*yaml.Node]origin) *yaml.Node {
	c := *n
	c.Content = make([]*yaml.Node, len(n.Content))
	for i, x := range n.Content {
		c.Content[i] = clone(x, made)
	}
	if from, ok := made[n]; ok {
		made[&c] = from
	}
	return &c
}

// setChild puts a value in place of a mapping's, or adds it.
func setChild(m *yaml.Node, key string, value *yaml.Node) {
	for i := 0; i+1 < len(m.Content); i += 2 {
		if m.Content[i].Value == key {
			m.Content[i+1] = value
			return
		}
	}
	m.Content = append(m.Content, text(key), value)
}
