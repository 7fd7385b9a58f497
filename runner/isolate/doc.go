// Package isolate starts a supervisor: a process that is the first one of
// namespaces of its own, so that all it makes goes away with it, whoever ends
// it.
package isolate
