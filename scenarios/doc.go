// Package scenarios is the vocabulary of an experiment: the types of a
// scenario file, its units and thresholds, and the library of scenarios that
// comes with the program.
//
// A scenario goes one way: YAML is read into a node tree, overrides (--set)
// are applied to the tree, the tree is checked against the Go types, decoded,
// completed with defaults, and validated. Every mistake is found before the
// first is reported, each with its place and what would be right: see [Errors].
// What [Parse] returns is resolved, and [Scenario.YAML] writes it so that Parse
// reads the same value back.
//
// A scenario is data: nothing here runs, or looks at the machine. Whether this
// machine can do what a scenario asks is the runner's question.
package scenarios
