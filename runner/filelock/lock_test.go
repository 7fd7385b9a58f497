package filelock

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// Who has locked a file keeps others from locking it, and from nothing else,
// until it is closed.
func TestTry(t *testing.T) {
	name := filepath.Join(t.TempDir(), "lock")
	open := func() *os.File {
		f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o600)
		require.NoError(t, err)
		return f
	}
	first, second := open(), open()
	defer func() { require.NoError(t, second.Close()) }()
	require.NoError(t, Try(first))
	require.ErrorIs(t, Try(second), ErrHeld)
	_, err := second.WriteString("read me")
	require.NoError(t, err)
	b, err := os.ReadFile(name)
	require.NoError(t, err)
	require.Equal(t, "read me", string(b))
	require.NoError(t, first.Close())
	require.NoError(t, Try(second))
}
