// Package runner takes a scenario from plan to run log: it resolves the
// scenario into a Plan, brings an env.Environment up, starts jobs on its
// hosts, collects their records into run.jsonl and puts everything back.
//
// It does not know which environment it runs in, and it draws no conclusions:
// those are package report's, from the run log alone.
package runner
