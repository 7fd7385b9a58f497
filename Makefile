# Everything a person or a pipeline does with this repository.
SHELL := /bin/bash
GO ?= go
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
GOLANGCI := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.5.0
GOFUMPT := mvdan.cc/gofumpt@v0.9.1
OUT ?= out/demo

# What the tests use besides Go. The tests that need one of them fail without it.
PACKAGES := conntrack iproute2 util-linux user-mode-linux nftables iptables ipset kmod chromium fonts-dejavu-core poppler-utils
# Debian's npm and another nodejs than Debian's do not go together.
PACKAGES += $(if $(shell command -v npm),,npm)
# What the test cluster runs besides Kubernetes. It needs root. Docker brings
# some of these programs in packages of its own, which must stay.
ROOT := $(filter 0,$(shell id -u))
PACKAGES += $(if $(ROOT),$(if $(shell command -v etcd),,etcd-server) $(if $(shell command -v containerd),,containerd) $(if $(shell command -v runc),,runc))
PACKAGES += $(if $(ROOT),$(if $(wildcard /opt/cni/bin/ptp),,containernetworking-plugins))
# What only the comparisons of `make bench` use.
BENCH_PACKAGES := wrk hping3 gcc libc6-dev
# The benchmarks that compare. Each does several rounds by itself.
BENCH := Beside|^BenchmarkBallast$$|^BenchmarkCensus$$|ObserverEffect

# The kube-proxies that the tests run: built once, for minutes, where the release site cannot be reached.
KUBE_PROXIES := v1.36.3 v1.35.4
# The Kubernetes of the test cluster, and its directory.
KUBERNETES := v1.36.3
CLUSTER ?= out/cluster
IMAGE ?= out/image/tablefull.tar

.PHONY: help demo test test-user prove kills elsewhere bench bench-day bench-open lint build man packages bench-packages kube-proxies kube-programs image cluster cluster-down

## help: this list
help:
	@sed -n 's/^## //p' $(MAKEFILE_LIST)

## demo: fill a conntrack table and report it (no root, no cluster); results in out/demo
demo: build
	rm -rf $(OUT)
	@bin/tablefull run short-lived --out $(OUT); code=$$?; \
	if [ $$code -eq 3 ]; then echo "(exit code 3: the demo's threshold failed, as it is meant to)"; exit 0; fi; exit $$code

## build: bin/tablefull, one static binary
build:
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags "-X main.version=$(VERSION)" -o bin/tablefull ./cmd/tablefull

## test: install what is needed and run every test; as root, once more as an ordinary user what depends on that
test: packages kube-proxies $(if $(ROOT),kube-programs)
	$(GO) vet ./...
	.ci/again - $(GO) test -race -timeout 30m -p 1 $$($(GO) list ./... | grep -v '/cmd/tablefull$$')
	$(GO) test -timeout 5m -run '^TestDay$$' ./report # minutes with the race detector
	.ci/again - $(GO) test -race -timeout 10m -run 'Scripts|Interrupted|PodResets' -skip LiveView ./cmd/tablefull
	.ci/again - $(GO) test -timeout 40m -skip '^TestScripts$$' ./cmd/... # the truth: measured without the race detector, which is load
	@if [ "$$(id -u)" = 0 ]; then $(MAKE) --no-print-directory test-user; fi

# The tests of what depends on who runs it, as an unprivileged user: compiled here, run as nobody.
test-user:
	.ci/as-nobody $(GO)

## prove: the proofs that are too long for every day, bounded by three hours; last results: docs/proofs.md
prove: packages elsewhere
	TABLEFULL_PROVE=1 TABLEFULL_REQUIRE=netns $(GO) test -count=1 -timeout 3h -v -run '^TestProve' ./cmd/tablefull ./report/search ./runner/cluster

## kills: kill the controller of a run on the test cluster at ten random moments, and put back what it left; takes about six minutes, as root
kills: packages kube-proxies kube-programs
	TABLEFULL_PROVE=1 $(GO) test -count=1 -timeout 20m -v -run '^TestProveClusterKills$$' ./runner/cluster

## elsewhere: build the controller for macOS and Windows
elsewhere:
	CGO_ENABLED=0 GOOS=darwin $(GO) build -o /dev/null ./cmd/tablefull
	CGO_ENABLED=0 GOOS=windows $(GO) build -o /dev/null ./cmd/tablefull

## bench: measure against public peers, in one run, as a table of ratios; takes about six minutes
bench: bench-packages
	set -o pipefail; $(GO) test -run '^$$' -bench '$(BENCH)' -benchtime 1x -timeout 30m ./runner/traffic ./runner/conntrack ./cmd/tablefull | .ci/bench-table

## bench-day: analyse and render the log of a day (0.7 GB, written to TMPDIR): s/run and peak-MB of heap; 5 s and 300 MB are the aim
bench-day:
	$(GO) test -run '^$$' -bench '^BenchmarkDay$$' -benchtime 3x -timeout 10m ./report

## bench-open: open the report of an hour in Chromium: ms until it is loaded and its plots are drawn; 1000 are the aim
bench-open:
	$(GO) test -run '^$$' -bench '^BenchmarkOpen$$' -benchtime 15x -timeout 5m ./report

## pictures: make the pictures of README.md and docs/ anew from real runs; look at them before you commit them
pictures: build packages
	$(GO) run ./docs/pictures

## lint: gofumpt and golangci-lint, at fixed versions
lint:
	@out=$$($(GO) run $(GOFUMPT) -l .) && if [ -n "$$out" ]; then echo "gofumpt would change:"; echo "$$out"; exit 1; fi
	$(GO) run $(GOLANGCI) run ./...

define install
	@missing=""; for p in $(1); do dpkg -s $$p >/dev/null 2>&1 || missing="$$missing $$p"; done; \
	if [ -n "$$missing" ]; then \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null; \
	  elif command -v dpkg >/dev/null; then echo "missing Debian packages:$$missing; install them as root: apt-get install$$missing" >&2; exit 1; \
	  else echo "not a Debian system; the tests use these programs: $(1)" >&2; fi; \
	fi
endef

## man: manual pages in out/man
man: build
	bin/tablefull man out/man

kube-proxies: build
	@for v in $(KUBE_PROXIES); do bin/tablefull kube-proxy get $$v || exit; done

# What a test cluster runs of Kubernetes: downloaded, or built once, for minutes.
kube-programs: bin/test-cluster
	bin/test-cluster get --version $(KUBERNETES)

.PHONY: bin/test-cluster
bin/test-cluster:
	$(GO) build -o $@ ./runner/testcluster/cluster

## image: tablefull's container image as an OCI archive, without Docker (manifests/Dockerfile is for others)
image: build bin/test-cluster
	bin/test-cluster image --image $(IMAGE) --name localhost/tablefull:$(VERSION)

## cluster: a real Kubernetes with two nodes on this machine, as root; see docs/test-cluster.md
cluster: packages kube-programs image
	bin/test-cluster up --version $(KUBERNETES) --dir $(CLUSTER) --image $(IMAGE)
	@echo "export TABLEFULL_IMAGE=localhost/tablefull:$(VERSION)"

## cluster-down: end it, and remove all there is of it
cluster-down: bin/test-cluster
	bin/test-cluster down --dir $(CLUSTER)

packages:
	$(call install,$(PACKAGES))

bench-packages: packages
	$(call install,$(BENCH_PACKAGES))
