//go:build linux

// Command cluster starts and ends the test cluster of this machine, and makes
// container images without a container engine: `make cluster`, `make
// cluster-down`, `make image`. It is no part of tablefull: who has a cluster
// uses that one.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/tablefull/tablefull/runner/kubeproxy"
	"github.com/tablefull/tablefull/runner/testcluster"
	"github.com/tablefull/tablefull/runner/testcluster/ociimage"
)

const usage = `usage: cluster get|up|down|image [flags]
  get    put Kubernetes' programs into the cache
  up     start a cluster and print how to use it
  down   end it and remove all of it
  image  write the container image of a static program`

func main() {
	testcluster.Stage()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		stop()
		fmt.Fprintln(os.Stderr, "cluster:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return errors.New(usage)
	}
	f := flag.NewFlagSet(args[0], flag.ContinueOnError)
	version := f.String("version", "v1.36.3", "of Kubernetes")
	dir := f.String("dir", "out/cluster", "directory of the cluster's own")
	image := f.String("image", "out/image/tablefull.tar", "archive of tablefull's image")
	name := f.String("name", "localhost/tablefull:devel", "of the image")
	program := f.String("program", "bin/tablefull", "what the image holds")
	mode := f.String("mode", "nftables", "of kube-proxy: nftables or iptables")
	if err := f.Parse(args[1:]); err != nil {
		return err
	}
	switch args[0] {
	case "get":
		_, err := testcluster.Find(ctx, kubeproxy.Getter{Log: say}, *version)
		return err
	case "up":
		return up(ctx, *dir, *version, *mode, *image)
	case "down":
		return testcluster.Down(ctx, *dir)
	case "image":
		if err := os.MkdirAll(filepath.Dir(*image), 0o755); err != nil {
			return fmt.Errorf("make directory: %w", err)
		}
		fmt.Println(*image)
		return ociimage.WriteFile(*image, testcluster.TablefullImage(*name, *program))
	}
	return fmt.Errorf("unknown command %s\n%s", args[0], usage)
}

func say(line string) { fmt.Fprintln(os.Stderr, line) }

func up(ctx context.Context, dir, version, mode, image string) error {
	programs, err := testcluster.Find(ctx, kubeproxy.Getter{Log: say}, version)
	if err != nil {
		return err
	}
	images, err := os.MkdirTemp("", "tablefull-images-")
	if err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	defer os.RemoveAll(images)
	archives, err := testcluster.MakeImages(ctx, images, version, programs["kube-proxy"])
	if err != nil {
		return err
	}
	start := time.Now()
	c, err := testcluster.Up(ctx, testcluster.Config{
		Dir: dir, Version: version, Programs: programs, Mode: mode, Images: append(archives, image), Log: say,
	})
	if err != nil {
		return err
	}
	say(fmt.Sprintf("Kubernetes %s with nodes %v is up after %.1f s; end it with: make cluster-down", version, c.NodeNames(), time.Since(start).Seconds()))
	fmt.Printf("export KUBECONFIG=%s\nexport PATH=$PATH:%s\n", c.Kubeconfig(), filepath.Dir(programs["kubectl"]))
	return nil
}
