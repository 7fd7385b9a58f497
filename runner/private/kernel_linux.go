package private

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/tablefull/tablefull/runner/env"
)

// Files says where the kernel and its modules are. The zero value is where the
// Debian package puts them.
type Files struct {
	Kernel  string // linux.uml; a name without a slash is looked for in PATH, too
	Modules string // the directory above <release>/modules.dep
}

func (f Files) withDefaults() Files {
	if f.Kernel == "" {
		f.Kernel = "/usr/bin/linux.uml"
	}
	if f.Modules == "" {
		f.Modules = "/usr/lib/uml/modules"
	}
	return f
}

// image is a kernel that is there.
type image struct {
	kernel  string
	release string
	modules string // with modules.dep
}

// find looks for the kernel and its modules. What is missing is an *Unfit.
func (f Files) find(ctx context.Context) (image, error) {
	f = f.withDefaults()
	kernel, err := exec.LookPath(f.Kernel)
	if err != nil {
		return image{}, &Unfit{fmt.Sprintf("%s is not there; as root: apt-get install %s", f.Kernel, Package)}
	}
	if kernel, err = filepath.Abs(kernel); err != nil {
		return image{}, fmt.Errorf("find %s: %w", f.Kernel, err)
	}
	out, err := exec.CommandContext(ctx, kernel, "--version").Output()
	if err != nil {
		return image{}, &Unfit{fmt.Sprintf("%s --version failed: %v; it must be user-mode Linux", kernel, err)}
	}
	i := image{kernel: kernel, release: strings.TrimSpace(string(out))}
	i.modules = filepath.Join(f.Modules, i.release)
	if _, err := os.Stat(filepath.Join(i.modules, "modules.dep")); err != nil {
		return image{}, &Unfit{fmt.Sprintf("the modules of %s are not there: %v; as root: apt-get install %s", kernel, err, Package)}
	}
	return i, nil
}

// Probe says whether a private kernel can be booted here: the capability
// private_kernel. It boots none.
func Probe(ctx context.Context, f Files) env.Capability {
	c := env.Capability{Name: "private_kernel", State: env.Yes}
	i, err := f.find(ctx)
	if err != nil {
		c.State, c.Reason = env.No, err.Error()
		return c
	}
	c.Reason = "user-mode Linux " + i.release
	return c
}

// checkMemory refuses what the machine cannot give. The kernel's memory is
// taken only as it is used, so this is about the worst case.
func checkMemory(mib uint64) error {
	free, err := availableMemory()
	if err != nil {
		return err
	}
	if mib > free {
		return &Unfit{fmt.Sprintf("a private kernel with %d MiB could use up this machine's memory, of which %d MiB are available; lower lab.memory", mib, free)}
	}
	return nil
}

// availableMemory reads MemAvailable, MiB.
func availableMemory() (uint64, error) {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return 0, fmt.Errorf("read available memory: %w", err)
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if fields := strings.Fields(s.Text()); len(fields) > 1 && fields[0] == "MemAvailable:" {
			kib, err := strconv.ParseUint(fields[1], 10, 64)
			if err != nil {
				return 0, fmt.Errorf("read available memory: %w", err)
			}
			return kib >> 10, nil
		}
	}
	return 0, fmt.Errorf("read available memory: %s has no MemAvailable", f.Name())
}
