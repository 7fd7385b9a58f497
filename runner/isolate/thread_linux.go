package isolate

import (
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// OnOwnThread runs f on a thread that ends with it, so that whatever f does to
// the thread's namespaces needs no undoing.
func OnOwnThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the runtime ends the thread
		if unix.Gettid() == os.Getpid() {
			// But the main thread cannot be ended: it would stay, in another
			// namespace than the process is said to be in. While we hold it,
			// the next goroutine gets another one.
			done <- OnOwnThread(f)
			runtime.UnlockOSThread()
			return
		}
		done <- f()
	}()
	return <-done
}
