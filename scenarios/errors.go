package scenarios

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/agnivade/levenshtein"
)

// An Error is one mistake in a scenario.
type Error struct {
	// File is where the mistake is: the name given to Parse, or the override
	// as it was written, for example "--set traffic[0].to=wbe". Empty for a
	// scenario that was built in Go.
	File string
	// Line and Col count from 1. Line 0: the place is not in a file.
	Line, Col int
	// Path is the field, for example traffic[0].short_lived.rate. Empty: the
	// file as a whole.
	Path string
	// Problem is what is wrong, Hint what would be right; Hint may be empty.
	Problem, Hint string

	// needs are other paths whose values this check relied on. Where one of
	// those is a mistake already, this one would only repeat it.
	needs []string
	// cause is what the operating system said, where it did.
	cause error
}

// Unwrap is the error of the operating system behind the mistake, or nil: a
// scenario that does not exist wraps fs.ErrNotExist.
func (e *Error) Unwrap() error { return e.cause }

// Error is the mistake in one line: file:line:col: path: problem; hint.
func (e *Error) Error() string {
	var b strings.Builder
	if e.File != "" {
		b.WriteString(e.File)
		if e.Line > 0 {
			fmt.Fprintf(&b, ":%d:%d", e.Line, e.Col)
		}
		b.WriteString(": ")
	}
	if e.Path != "" {
		b.WriteString(e.Path + ": ")
	}
	b.WriteString(e.Problem)
	if e.Hint != "" {
		b.WriteString("; " + e.Hint)
	}
	return b.String()
}

// Errors is all the mistakes in a scenario, in the order of the file; mistakes
// that are in no line of it come last.
type Errors []*Error

// Error is one line for each mistake.
func (es Errors) Error() string {
	lines := make([]string, len(es))
	for i, e := range es {
		lines[i] = e.Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap gives errors.As each mistake.
func (es Errors) Unwrap() []error {
	out := make([]error, len(es))
	for i, e := range es {
		out[i] = e
	}
	return out
}

func (es Errors) sort() {
	slices.SortStableFunc(es, func(a, b *Error) int {
		if (a.Line == 0) != (b.Line == 0) {
			if a.Line == 0 {
				return 1
			}
			return -1
		}
		if a.Line != b.Line {
			return a.Line - b.Line
		}
		return a.Col - b.Col
	})
}

// err is nil where there are no mistakes, so that an empty list never becomes
// a non-nil error.
func (es Errors) err() error {
	if len(es) == 0 {
		return nil
	}
	es.sort()
	return es
}

// unitError is why a text is not a value of some type.
type unitError struct{ problem, hint string }

func (e *unitError) Error() string {
	if e.hint == "" {
		return e.problem
	}
	return e.problem + "; " + e.hint
}

// maxWord is the longest word worth a suggestion, and the most of a value that
// a message repeats. The distance is quadratic in the length.
const maxWord = 64

// nearest is the candidate that word was probably meant to be, or "".
func nearest(word string, candidates []string) string {
	if len(word) > maxWord {
		return ""
	}
	word = strings.ToLower(word)
	if len(word) >= 3 {
		for _, c := range candidates {
			if strings.HasPrefix(c, word) && c != word {
				return c
			}
		}
	}
	best, bestDistance := "", max(1, utf8.RuneCountInString(word)/3)+1
	for _, c := range candidates {
		if len(c)-len(word) >= bestDistance || len(word)-len(c) >= bestDistance {
			continue // as many letters are missing
		}
		if d := distance(word, strings.ToLower(c)); d < bestDistance {
			best, bestDistance = c, d
		}
	}
	return best
}

// distance is the Levenshtein distance, but two neighbouring letters that
// changed places are one mistake, not two.
func distance(a, b string) int {
	if len(a) == len(b) {
		i := 0
		for i < len(a) && a[i] == b[i] {
			i++
		}
		if i+1 < len(a) && a[i] == b[i+1] && a[i+1] == b[i] && a[i+2:] == b[i+2:] {
			return 1
		}
	}
	return levenshtein.ComputeDistance(a, b)
}

// didYouMean suggests the nearest candidate, or lists them all.
func didYouMean(word, what string, candidates []string) string {
	if c := nearest(word, candidates); c != "" {
		return "did you mean " + c + "?"
	}
	if len(candidates) == 0 {
		return "there is no " + what
	}
	const most = 32
	list := candidates
	if len(list) > most {
		list = append(slices.Clone(list[:most]), "...")
	}
	return what + ": " + strings.Join(list, ", ")
}

// quote shows a value in a message, cut where it is long.
func quote(s string) string {
	if len(s) <= maxWord {
		return strconv.Quote(s)
	}
	cut := maxWord
	for cut > 0 && !utf8.RuneStart(s[cut]) {
		cut--
	}
	return strconv.Quote(s[:cut] + "...")
}
