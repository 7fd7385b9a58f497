package ociimage

import (
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// libraryDirs are where a dynamic loader looks without being told.
var libraryDirs = []string{"/usr/lib/*-linux-gnu", "/lib/*-linux-gnu", "/usr/lib64", "/lib64", "/usr/lib", "/lib"}

// Closure returns the files that the dynamically linked programs and libraries
// need to run: these themselves, under their own paths, their loader, and all
// libraries they name, directly or not.
func Closure(programs ...string) ([]File, error) {
	var files []File
	seen := map[string]bool{}
	for todo := programs; len(todo) > 0; todo = todo[1:] {
		file := todo[0]
		if seen[file] {
			continue
		}
		seen[file] = true
		files = append(files, File{Path: file, Source: file})
		needs, err := needed(file)
		if err != nil {
			return nil, fmt.Errorf("find what %s needs: %w", file, err)
		}
		todo = append(slices.Clone(todo), needs...)
	}
	return files, nil
}

// needed lists the loader and libraries that one file names.
func needed(file string) ([]string, error) {
	f, err := elf.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var needs []string
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			b, err := io.ReadAll(p.Open())
			if err != nil {
				return nil, fmt.Errorf("read its loader's name: %w", err)
			}
			needs = append(needs, strings.TrimRight(string(b), "\x00"))
		}
	}
	names, err := f.ImportedLibraries()
	if err != nil {
		return nil, fmt.Errorf("read its libraries' names: %w", err)
	}
	for _, name := range names {
		lib, err := findLibrary(name, f.Machine)
		if err != nil {
			return nil, err
		}
		needs = append(needs, lib)
	}
	return needs, nil
}

func findLibrary(name string, machine elf.Machine) (string, error) {
	for _, dir := range libraryDirs {
		found, _ := filepath.Glob(filepath.Join(dir, name)) // the pattern is well formed
		for _, lib := range found {
			f, err := elf.Open(lib)
			if err != nil {
				if errors.Is(err, os.ErrNotExist) {
					continue
				}
				return "", fmt.Errorf("read %s: %w", lib, err)
			}
			fits := f.Machine == machine
			_ = f.Close()
			if fits {
				return lib, nil
			}
		}
	}
	return "", fmt.Errorf("library %s is in none of %s", name, strings.Join(libraryDirs, " "))
}
