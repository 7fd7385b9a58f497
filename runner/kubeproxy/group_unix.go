//go:build unix

package kubeproxy

import (
	"os/exec"
	"syscall"
)

// asGroup makes what the command starts end with it, when its context does.
func asGroup(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
}
