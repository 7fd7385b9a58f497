package lab

import (
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestReasonOfACapabilityIsOneLine(t *testing.T) {
	again := errors.New("no such file or directory")
	err := fmt.Errorf("program nftables: %w", errors.Join(errors.New("operation not supported"), again, again, again))
	assert.Equal(t, "program nftables: operation not supported; no such file or directory", inOneLine(err))
	assert.Equal(t, "no such file or directory", inOneLine(again))
}
