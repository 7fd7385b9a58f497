package isolate

import (
	"bytes"
	"os"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Attr puts a child into a new PID namespace and the other given ones
// (CLONE_NEW flags), within a new user namespace where this process lacks a
// capability that making them needs. A session of its own keeps a terminal's
// Ctrl-C away from it: who started it decides how it ends.
func Attr(namespaces uintptr, needs ...uint) *syscall.SysProcAttr {
	a := &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID | namespaces, Setsid: true}
	if !Privileged(needs...) {
		a.Cloneflags |= syscall.CLONE_NEWUSER
		a.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
		a.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	}
	return a
}

// Privileged reports whether this process is root with these capabilities
// (CAP_ numbers below 32).
func Privileged(needs ...uint) bool {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return false
	}
	for _, c := range needs {
		if data[0].Effective&(1<<c) == 0 {
			return false
		}
	}
	return os.Geteuid() == 0
}

// A Tail is a writer that keeps the last 64 KiB of what a process says.
type Tail struct {
	mu  sync.Mutex
	buf []byte
}

const tailBytes = 64 << 10

// Write is part of io.Writer.
func (t *Tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, b...)
	if n := len(t.buf) - tailBytes; n > 0 {
		t.buf = append(t.buf[:0], t.buf[n:]...)
	}
	return len(b), nil
}

// String is it as text: valid, without carriage returns and space around it.
func (t *Tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	text := bytes.ReplaceAll(bytes.ToValidUTF8(t.buf, []byte("?")), []byte("\r"), nil)
	return strings.TrimSpace(string(text))
}
