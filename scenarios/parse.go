package scenarios

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"

	"gopkg.in/yaml.v3"
)

// Parse reads a scenario, applies overrides, fills defaults in, and validates.
// name is what messages call the source. Each of sets is path=value, for
// example traffic[0].short_lived.rate=900/s, traffic[web].timeout=2s (by name),
// thresholds[+]=errors < 1% (a new element), or conntrack.headroom=null (taken
// out). An error is always an [Errors] with every mistake that was found.
func Parse(name string, src []byte, sets ...string) (*Scenario, error) {
	s, _, err := parse(name, src, sets)
	return s, err
}

// parse is Parse, and returns what becomes of the scenario in each of its arms.
func parse(name string, src []byte, sets []string) (*Scenario, []ArmScenario, error) {
	root, errs := readTree(src)
	if len(errs) > 0 {
		for _, e := range errs {
			e.File = name
		}
		return nil, nil, errs.err()
	}
	p := parser{name: name, root: root, made: map[*yaml.Node]origin{}}
	for _, s := range sets {
		o := override{root: root, made: p.made, from: origin{file: "--set " + s}}
		if e := o.apply(s); e != nil {
			p.errs = append(p.errs, e)
		}
	}
	s := p.parse()
	arms := p.arms(s)
	if err := p.errs.err(); err != nil {
		return nil, nil, err
	}
	return s, arms, nil
}

// Load reads the scenario that ref names: one of the library, a file, or - for
// stdin. It also returns the source as it was read, without the overrides. For
// sets see [Parse]. Errors are [Errors] here as well; for a ref that names
// nothing they wrap fs.ErrNotExist.
func Load(ref string, stdin io.Reader, sets ...string) (*Scenario, []byte, error) {
	name, raw, err := read(ref, stdin)
	if err != nil {
		return nil, nil, err
	}
	s, err := Parse(name, raw, sets...)
	return s, raw, err
}

func read(ref string, stdin io.Reader) (name string, raw []byte, err error) {
	if ref == "-" {
		if raw, err = io.ReadAll(io.LimitReader(stdin, maxSource+1)); err != nil {
			return "", nil, Errors{{File: "stdin", Problem: "cannot be read: " + reason(err), cause: err}}
		}
		return "stdin", raw, nil
	}
	if raw, ok := Source(ref); ok {
		return ref + ".yaml", raw, nil
	}
	f, err := os.Open(ref)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		e := &Error{File: ref, Problem: "there is no such file", cause: err}
		if filepath.Base(ref) == ref {
			e.Problem, e.Hint = "there is no such scenario or file", didYouMean(strings.TrimSuffix(ref, filepath.Ext(ref)), "the library has", Names())
		}
		return "", nil, Errors{e}
	case err != nil:
		return "", nil, Errors{{File: ref, Problem: "cannot be opened: " + reason(err), cause: err}}
	}
	defer f.Close()
	if raw, err = io.ReadAll(io.LimitReader(f, maxSource+1)); err != nil {
		return "", nil, Errors{{File: ref, Problem: "cannot be read: " + reason(err), cause: err}}
	}
	return ref, raw, nil
}

// reason is err without the path, which the message has already.
func reason(err error) string {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err.Error()
	}
	return err.Error()
}

// parser turns a tree into a scenario and collects the mistakes on the way.
type parser struct {
	name string
	root *yaml.Node
	made map[*yaml.Node]origin
	errs Errors
}

func (p *parser) parse() *Scenario {
	var c checker
	clean := c.value(p.root, field{typ: reflect.TypeFor[Scenario]()}, "", nil)
	for i, e := range c.errs {
		p.place(e, c.nodes[i])
	}
	p.errs = append(p.errs, c.errs...)
	if clean == nil {
		return nil
	}
	s, err := decode(clean)
	if err != nil {
		p.errs = append(p.errs, &Error{File: p.name, Problem: err.Error()})
		return nil
	}
	s.Defaults()
	// What is 0 in the file must be 0 in the run: where 0 would mean the
	// default, the file says one thing and the run does another.
	for _, z := range c.zeros {
		if v, ok := valueAt(reflect.ValueOf(s), z.path); ok && !v.IsZero() {
			e := &Error{Path: z.path, Problem: fmt.Sprintf("%s would mean the default, %v", cmp.Or(z.node.Value, "empty text"), v), Hint: "leave it out, or write another value"}
			if strings.HasSuffix(z.path, ".pods") {
				e.Hint = "for a service without pods write no_pods: true"
			}
			p.place(e, z.node)
			p.errs = append(p.errs, e)
		}
	}
	for _, e := range s.validate() {
		if !follows(e, c.errs) {
			p.place(e, nodeAt(p.root, e.Path))
			p.errs = append(p.errs, e)
		}
	}
	return s
}

// follows says whether e is only the consequence of a mistake already found:
// it is about the same field or one around it, or relied on one.
func follows(e *Error, found Errors) bool {
	for _, f := range found {
		if f.Path == "" {
			continue
		}
		if related(e.Path, f.Path) {
			return true
		}
		for _, n := range e.needs {
			if related(n, f.Path) {
				return true
			}
		}
	}
	return false
}

// place says where node n is: in the file, or in an override.
func (p *parser) place(e *Error, n *yaml.Node) {
	if from, ok := p.made[n]; ok {
		from.place(e)
		return
	}
	e.File, e.Line, e.Col = p.name, n.Line, n.Column
}

// decode reads a checked tree strictly. It goes through text because the
// decoder of a node has no strict mode. An error means that the checker and
// the decoder disagree.
func decode(clean *yaml.Node) (*Scenario, error) {
	b, err := yaml.Marshal(clean)
	if err != nil {
		return nil, fmt.Errorf("write checked scenario: %w", err)
	}
	var s Scenario
	dec := yaml.NewDecoder(bytes.NewReader(b))
	dec.KnownFields(true)
	if err := dec.Decode(&s); err != nil {
		return nil, fmt.Errorf("decode checked scenario: %s", strings.TrimPrefix(err.Error(), "yaml: "))
	}
	return &s, nil
}
