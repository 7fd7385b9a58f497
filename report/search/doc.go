// Package search finds the highest load that a system carries, from trials
// that may lie. It is a state machine without a clock, a socket or a random
// number: its state is the list of the trials so far, [Next] says what to try
// next, and [Conclude] what has been shown. So whoever has the list, which is
// in the run log, comes to the same bounds.
//
// The classification of loads is that of MLRsearch
// (draft-ietf-bmwg-mlrsearch): a load is a lower bound once the trials that
// were bad there can no longer come to more than the exceed ratio of the
// goal's duration sum, an upper bound once the good ones can no longer prevent
// that, and undecided in between. A single burst of loss therefore does not end
// a search, as it does with the bisection of RFC 2544.
//
// How it goes: the first trial warms up and counts for nothing. From the first
// guess, or the minimum, the search steps up while loads hold and down while
// they do not, in steps that double, never to more than twice the highest load
// that held. Between the two bounds it bisects. All this with one trial per
// load; then the bounds that were found have to stand the whole duration sum,
// and where one does not, the search goes on from there. Goals are taken in
// turn and use each other's trials. At last the control arm has to hold the
// highest load that did not: the same traffic where what is measured is not
// the limit. If it does not hold there, the generator or the machine was the
// limit.
//
// A trial that says nothing, because the generator was the limit or the table
// was not as it should be, is inconclusive: it is tried again, and a load at
// which [Config.Retries] in turn say nothing is the end of what can be measured.
package search
