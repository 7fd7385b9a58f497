// Package serve shows the runs of a folder as local web pages: a list, each
// run's report as it is now, and two runs over each other. It reads the run
// logs and changes nothing.
//
// There is no authentication. What keeps the runs private is the address that
// is listened on: on loopback, only names of this machine are answered, so
// that no web page can reach the server under a name of its own.
package serve
