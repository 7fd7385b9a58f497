package main

// quit does nothing: Windows has no SIGQUIT.
func quit() {}
