package private

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// host is where init mounts the supervisor's file system, inside.
const host = "/run/host"

// beat is how often the inside gives a sign of life.
const beat = time.Second

// A Main is what runs inside: it gets Config.Input and returns an exit code.
type Main func(ctx context.Context, input io.Reader, stdout, stderr io.Writer) int

// Init is the hidden command private init, the first process of a private
// kernel. It makes the inside a place where a lab can be, runs main, and powers
// off: it does not return there. What goes wrong before main is on the console.
func Init(ctx context.Context, stdin io.Reader, main Main) error {
	if !Inside() {
		return errors.New("this command is for the program itself")
	}
	code, err := initAndRun(ctx, stdin, main)
	if err != nil {
		fmt.Fprintln(os.Stderr, "tablefull:", err)
	} else if err = os.WriteFile(filepath.Join(host, codeFile), []byte(strconv.Itoa(code)), 0o600); err != nil {
		fmt.Fprintln(os.Stderr, "tablefull: write exit code:", err)
	}
	unix.Sync()
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF); err != nil {
		return fmt.Errorf("power off: %w", err)
	}
	select {}
}

// Inside reports whether this is the first process of a private kernel.
func Inside() bool {
	var fs unix.Statfs_t
	return os.Getpid() == 1 && unix.Statfs("/", &fs) == nil && fs.Type == hostfsMagic
}

// hostfsMagic is the type of a file system that is the machine's outside.
const hostfsMagic = 0x00c0ffee

func initAndRun(ctx context.Context, stdin io.Reader, main Main) (int, error) {
	r, err := settle()
	if err != nil {
		return 0, err
	}
	out, err := appendTo(outFile)
	if err != nil {
		return 0, err
	}
	errOut, err := appendTo(errFile)
	if err != nil {
		return 0, err
	}
	alive, err := appendTo(aliveFile)
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		if line, err := bufio.NewReader(stdin).ReadString('\n'); err == nil && line == stopLine {
			cancel()
		}
	}()
	go func() {
		for {
			_, _ = alive.Write([]byte("."))
			time.Sleep(beat)
		}
	}()
	return main(ctx, bytes.NewReader(r.Input), out, errOut), nil
}

func appendTo(name string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(host, name), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", name, err)
	}
	return f, nil
}

// settle mounts, loads modules, and makes the surroundings what a program
// expects.
func settle() (request, error) {
	var r request
	for _, m := range []struct{ fs, at string }{{"proc", "/proc"}, {"sysfs", "/sys"}, {"tmpfs", "/run"}} {
		if err := mount(m.fs, m.at, ""); err != nil {
			return r, err
		}
	}
	for _, dir := range []string{host, "/run/tmp"} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			return r, fmt.Errorf("make directory: %w", err)
		}
	}
	if err := mount("hostfs", host, own); err != nil {
		return r, err
	}
	b, err := os.ReadFile(filepath.Join(host, requestFile))
	if err != nil {
		return r, fmt.Errorf("read request: %w", err)
	}
	if err := json.Unmarshal(b, &r); err != nil {
		return r, fmt.Errorf("read request: %w", err)
	}
	m, err := readModules(r.Modules)
	if err != nil {
		return r, err
	}
	if err := m.load(m.choose(r.Needs)); err != nil {
		return r, err
	}
	if r.Dir != "" {
		// It may be below what was mounted above.
		if err := os.MkdirAll(r.Dir, 0o755); err != nil {
			return r, fmt.Errorf("make directory: %w", err)
		}
		if err := mount("hostfs", r.Dir, r.Dir); err != nil {
			return r, err
		}
	}
	if err := surroundings(r, m); err != nil {
		return r, err
	}
	// All there is is loaded; a machine's modprobe would look for modules of this
	// kernel in vain, at each call of iptables, and takes five times as long as that.
	if err := os.WriteFile("/proc/sys/kernel/modprobe", []byte("\n"), 0); err != nil {
		return r, fmt.Errorf("stop the kernel from asking for modules: %w", err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 1 << 20, Max: 1 << 20}); err != nil {
		return r, fmt.Errorf("raise the limit of open files: %w", err)
	}
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(lo)
	}
	if err != nil {
		return r, fmt.Errorf("set up lo: %w", err)
	}
	return r, nil
}

// surroundings sets the environment and the working directory.
func surroundings(r request, m *modules) error {
	path := r.Path
	if _, legacy := m.path["iptable_filter"]; legacy {
		if err := legacyXtables("/run/bin", filepath.SplitList(path)); err != nil {
			return err
		}
		path = "/run/bin:" + path
	}
	// modprobe, which kube-proxy asks for what is loaded already, looks for
	// modules in lib/modules below a directory.
	if err := os.MkdirAll("/run/uml/lib", 0o755); err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	if err := os.Symlink(filepath.Dir(r.Modules), "/run/uml/lib/modules"); err != nil {
		return fmt.Errorf("make link: %w", err)
	}
	values := map[string]string{
		"PATH": path, "HOME": "/run/tmp", "TMPDIR": "/run/tmp", "XDG_STATE_HOME": "/run/tmp", "MODPROBE_OPTIONS": "-d /run/uml",
	}
	maps.Copy(values, r.Env)
	for name, value := range values {
		if err := os.Setenv(name, value); err != nil {
			return fmt.Errorf("set %s: %w", name, err)
		}
	}
	if r.WorkDir != "" {
		_ = os.Chdir(r.WorkDir) // what was mounted above may hide it
	}
	return nil
}

// legacyXtables makes dir, in which the programs of iptables are those that
// know the xtables of old: Debian builds this kernel without nf_tables for IP,
// which the other variant, the default of most distributions, is made for.
func legacyXtables(dir string, path []string) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	for _, name := range []string{"iptables", "ip6tables"} {
		for _, verb := range []string{"", "-save", "-restore"} {
			program, found := findProgram(name+"-legacy"+verb, path)
			if !found {
				continue // either iptables is that variant, or what needs it will say so
			}
			if err := os.Symlink(program, filepath.Join(dir, name+verb)); err != nil {
				return fmt.Errorf("make link: %w", err)
			}
		}
	}
	return nil
}

// findProgram is the file of that name in the first of the directories that has it.
func findProgram(name string, path []string) (string, bool) {
	for _, dir := range path {
		file := filepath.Join(dir, name)
		if info, err := os.Stat(file); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return file, true
		}
	}
	return "", false
}

func mount(fs, at, data string) error {
	if err := unix.Mount(fs, at, fs, 0, data); err != nil {
		return fmt.Errorf("mount %s at %s: %w", fs, at, err)
	}
	return nil
}
