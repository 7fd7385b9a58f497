package scenarios

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Rate is attempts per second. In YAML its unit is spelled: 700/s, 6000/m,
// 2.5/s.
type Rate float64

// Duration is a time.Duration that is spelled with its unit in YAML: 30s, 5m,
// 900ms. Negative durations are refused.
type Duration time.Duration

// Seconds returns d in seconds.
func (d Duration) Seconds() float64 { return time.Duration(d).Seconds() }

// String leaves out what is zero: 10m, not 10m0s.
func (d Duration) String() string {
	s := time.Duration(d).String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// MarshalText makes durations strings in YAML and JSON.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads what time.ParseDuration reads, less the sign.
func (d *Duration) UnmarshalText(b []byte) error {
	s := string(b)
	v, err := time.ParseDuration(s)
	if err != nil {
		if _, ferr := strconv.ParseFloat(s, 64); ferr == nil && s != "0" {
			return &unitError{quote(s) + " has no unit", fmt.Sprintf("write for example %ss or %sms", s, s)}
		}
		return &unitError{quote(s) + " is not a duration", "write for example 30s, 5m or 900ms"}
	}
	if v < 0 {
		return &unitError{quote(s) + " is negative", ""}
	}
	*d = Duration(v)
	return nil
}

func (r Rate) String() string { return strconv.FormatFloat(float64(r), 'f', -1, 64) + "/s" }

// MarshalText makes rates strings in YAML and JSON.
func (r Rate) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText reads NUMBER/UNIT with UNIT one of s, m, h.
func (r *Rate) UnmarshalText(b []byte) error {
	s := strings.TrimSpace(string(b))
	num, unit, ok := strings.Cut(s, "/")
	if !ok {
		if _, err := strconv.ParseFloat(s, 64); err == nil {
			return &unitError{quote(s) + " has no unit", "write " + s + "/s"}
		}
		return &unitError{quote(s) + " is not a rate", "write for example 700/s"}
	}
	v, err := strconv.ParseFloat(strings.TrimSpace(num), 64)
	if err != nil || math.IsNaN(v) || math.IsInf(v, 0) {
		return &unitError{quote(s) + " is not a rate", "write for example 700/s"}
	}
	var per float64
	switch strings.TrimSpace(unit) {
	case "s":
		per = 1
	case "m":
		per = 60
	case "h":
		per = 3600
	default:
		return &unitError{quote(s) + " has the unknown unit " + quote(unit), "write /s, /m or /h"}
	}
	if v < 0 {
		return &unitError{quote(s) + " is negative", ""}
	}
	*r = Rate(v / per)
	return nil
}
