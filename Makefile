# SPDX-License-Identifier: Apache-2.0

# The one place that pins clang. bpf2go reads the BPF2GO_ variables, the checks in test/arch read them too.
CLANG_VERSION := 19
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.7.0
GOLANGCI := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.5.0

export CGO_ENABLED := 0
export STATICCHECK
export CLANG_FORMAT := clang-format-$(CLANG_VERSION)
export BPF2GO_CC := clang-$(CLANG_VERSION)
export BPF2GO_STRIP := llvm-strip-$(CLANG_VERSION)
export BPF2GO_CFLAGS := -O2 -g -Wall -Wextra -Werror -mcpu=v3 -I/usr/include/$(shell uname -m)-linux-gnu

# What test-kernel runs without PKG: facts of the kernel, every program, the loader with its guards, and a short lab
# without the tests whose time limits an emulated machine does not keep.
SHORT_LAB := TestMatrix/across_hosts/uplink_tx_false/guest_on/|TestSecurityGroups|TestEIP|TestGuard|TestPortMadeAgain|TestAgentStopped
PKG ?= ./test/kernel/smoke ./test/kernel/load ./loader './test/e2e=$(SHORT_LAB)'
RUN ?=
N ?= 10
T ?= 10m
SEED ?= $(shell date +%s)000

.DEFAULT_GOAL := help
.PHONY: help build etcd generate test demo test-kernel fuzz mutants bench bench-full soak lint fmt clean root

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## build enid, enictl and enibench into bin/ (needs Go only)
	go build -trimpath -o bin/ ./cmd/...

etcd: ## build the etcd server that test/etcd pins into bin/, for development and tests
	@mkdir -p bin
	cd test/etcd && go build -trimpath -ldflags='-s -w' -o ../../bin/etcd go.etcd.io/etcd/server/v3

generate: ## compile the BPF object and write the generated Go (needs clang-19)
	@deploy/install-deps.sh generate
	go generate ./...

test: root ## run every test and check, as root; installs what it needs (about 25 minutes)
	@deploy/install-deps.sh generate bench e2e
	@$(MAKE) --no-print-directory build etcd
	@go build -o bin/ ./test/run
	@exec bin/run -p 1 -timeout 20m ./...

demo: root ## show two hosts, their ENIs and real traffic; leaves nothing behind (at most 3 minutes)
	@$(MAKE) --no-print-directory build
	@exec bin/enictl lab demo

test-kernel: ## run tests on a Debian 6.12 kernel in QEMU: make test-kernel PKG=./pkg/dataplane RUN=TestLoad
	@deploy/install-deps.sh kernel
	@$(MAKE) --no-print-directory build
	@go build -o bin/ ./test/kernel
	@exec bin/kernel -kernel 6.12 -run '$(RUN)' $(PKG)

fuzz: root ## compare the programs with the reference model on random packets for T=10m: make fuzz T=8h SEED=1
	ENIPLANE_ROOT_TESTS=1 ENIPLANE_DIFF_PACKETS=0 ENIPLANE_DIFF_TIME=$(T) ENIPLANE_DIFF_SEED=$(SEED) \
		go test -count=1 -timeout 0 -run TestDifferential -v ./test/diff

mutants: root ## prove that the tests find bugs: put those of test/mutants/list in, one by one
	@deploy/install-deps.sh generate
	go run ./test/mutants

bench: root ## run the quick benchmarks: bin/bench.json and .html (at most 15 minutes; see bench/README.md)
	@deploy/install-deps.sh bench
	@$(MAKE) --no-print-directory build
	bin/enibench run --out bin/bench.json; status=$$?; bin/enibench report bin/bench.json --format html >bin/bench.html && exit $$status

bench-full: root ## run all benchmarks with all their sweeps: bin/bench-full.json and .html
	@deploy/install-deps.sh bench
	@$(MAKE) --no-print-directory build
	bin/enibench run --size full --out bin/bench-full.json; status=$$?; bin/enibench report bin/bench-full.json --format html >bin/bench-full.html && exit $$status

soak: root ## run the loader and end-to-end tests N=10 times in their long versions, then the proof on 6.12
	@deploy/install-deps.sh generate e2e
	@$(MAKE) --no-print-directory build
	@go build -o bin/ ./test/run
	ENIPLANE_SOAK=1 bin/run -p 1 -timeout 10h -count $(N) ./loader/... ./test/e2e/...
	@$(MAKE) --no-print-directory test-kernel

lint: ## run the checks of test/arch and golangci-lint
	@deploy/install-deps.sh generate
	ENIPLANE_ROOT_TESTS=1 go test -count=1 ./test/arch
	go run $(GOLANGCI) run ./...

fmt: ## format Go and C
	gofmt -w $$(git ls-files -co --exclude-standard '*.go')
	$(CLANG_FORMAT) -i $$(git ls-files -co --exclude-standard '*.c' '*.h')

clean: ## remove what was built and the unpacked kernels
	rm -rf bin

root:
	@[ "$$(id -u)" = 0 ] || { echo "make $(MAKECMDGOALS): run this as root: it makes network namespaces and loads BPF programs" >&2; exit 1; }
