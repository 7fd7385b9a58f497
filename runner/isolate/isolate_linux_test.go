package isolate

import (
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestTailKeepsTheEnd(t *testing.T) {
	var c Tail
	for range 100 {
		_, err := c.Write([]byte(strings.Repeat("x", 1<<10)))
		require.NoError(t, err)
	}
	_, err := c.Write([]byte("the end\r\n"))
	require.NoError(t, err)
	assert.LessOrEqual(t, len(c.String()), tailBytes)
	assert.True(t, strings.HasSuffix(c.String(), "xthe end"))
}

// Who lacks a capability needs a user namespace.
func TestAttr(t *testing.T) {
	const none = 31 // CAP_SETFCAP, of those below 32 the last
	for _, needs := range [][]uint{nil, {unix.CAP_SYS_ADMIN}, {none}} {
		a := Attr(syscall.CLONE_NEWNET, needs...)
		assert.NotZero(t, a.Cloneflags&syscall.CLONE_NEWPID)
		assert.NotZero(t, a.Cloneflags&syscall.CLONE_NEWNET)
		assert.Equal(t, !Privileged(needs...), a.Cloneflags&syscall.CLONE_NEWUSER != 0)
		assert.Equal(t, !Privileged(needs...), len(a.UidMappings) == 1)
		assert.True(t, a.Setsid)
	}
}
