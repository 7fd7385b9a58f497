// Package dataplane reads what a node's kernel is programmed with: which pods
// each service address leads to, whoever programmed it. Compared with what the
// API server has it shows backends that are stale, missing or draining.
package dataplane
