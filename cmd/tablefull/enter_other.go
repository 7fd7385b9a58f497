//go:build !linux

package main

import "errors"

func enterNamespace(string, []string) error {
	return &cannotError{errors.New("enter network namespace: those are a part of Linux")}
}
