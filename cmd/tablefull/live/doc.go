// Package live shows a running run on a terminal: a screen that is repainted
// in place a few times a second and is gone when the run has ended.
//
// [Frame] is pure: a state in, lines out. [View] puts frames on a terminal's
// alternate screen, so that nothing scrolls and the scrollback stays as it
// was. It leaves the terminal's line discipline as it is, but for the echo and
// the suspend key: Ctrl-C stays a signal, and what is typed is there for the
// shell afterwards.
package live
