# `make help` lists what there is. Everything runs unattended, on a machine with Rust and make.

CARGO    ?= cargo
SECONDS  ?= 30
PLUGIN   ?= rbd-docker-plugin
# One set of features for all tests: nothing is built twice.
FEATURES := --features fault-points
RUN      := $(CARGO) test $(FEATURES)
# Loop devices and Docker need root. Without it, and without a sudo that asks nothing, those tests skip themselves and say so.
AS_ROOT  := tools/as-root $(RUN)

.DEFAULT_GOAL := build
.PHONY: help setup build release package demo demo-ceph test check test-unit test-local test-docker test-ceph test-krbd test-package test-vm test-leaks model bench bench-ceph fuzz plugin clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## install the packages that building and testing need and this machine lacks
	@tools/setup --tier all

build: ## debug build
	@tools/setup --tier build
	$(CARGO) build

release: ## target/release/rbd-docker-plugin
	@tools/setup --tier build
	$(CARGO) build --release

plugin: ## the managed Docker plugin: target/plugin, and where a Docker engine answers, PLUGIN (rbd-docker-plugin) in it
	@tools/setup --tier plugin
	$(CARGO) build --release
	@tools/plugin-rootfs
	@tools/plugin-create $(PLUGIN)

package: ## target/package: a deb, an RPM and a tpkg of this machine's release build
	@tools/setup --tier package
	$(CARGO) build --release
	@tools/package

demo: ## a volume's life on this machine, step by step: no Ceph needed, root is
	@tools/setup --tier demo
	$(CARGO) build --release
	@tools/demo

demo-ceph: ## a real Ceph on this machine and, where virtual machines can run, two hosts with Docker, of which one loses its power
	@tools/setup --tier vm
	$(CARGO) build --release
	@tools/demo-ceph

test: ## everything: format, lints, unit, protocol, model, loop devices, a real Docker engine, a real Ceph, packages, a real kernel with rbd, two hosts
	@tools/setup --tier all
	+@tools/test-all

check: ## format and lints
	@tools/headline "Format and lints"
	@$(CARGO) fmt --check
	@$(CARGO) clippy --workspace --all-targets $(FEATURES) -- -D warnings

test-unit: ## unit, protocol and model tests: no root, no devices
	@tools/setup --tier build
	@tools/headline "Unit, protocol and model tests"
	@$(RUN) --lib --bins --test protocol --test model --test ownership

model: ## a million histories of how hosts own images, on a cluster in memory (10 000 of them are part of make test)
	@tools/setup --tier build
	@tools/headline "The protocol of ownership: a million histories"
	@RBD_HISTORIES=1000000 $(RUN) --profile measured --test ownership -- --nocapture

test-local: ## the local backend on real loop devices
	@tools/setup --tier local
	@tools/headline "Local tier: real loop devices, real filesystems"
	@$(AS_ROOT) --test local

test-krbd: ## mapping, on a kernel with rbd in a virtual machine, against a real Ceph
	@tools/setup --tier vm
	@tools/headline "krbd tier: a real kernel, a real cluster"
	@$(RUN) --test krbd --no-run
	@tools/test-krbd

test-vm: ## two hosts and a cluster: the plugin and Docker on a kernel with rbd, freezes, power losses, network cuts
	@tools/setup --tier vm
	@tools/headline "VM tier: two hosts, a real cluster"
	@tools/previous >/dev/null || [ $$? = 3 ]
	@$(AS_ROOT) --test vm

test-docker: ## a real Docker engine, started for the tests and apart from the host's
	@tools/setup --tier docker
	@tools/headline "Docker tier: a real Docker engine"
	@$(AS_ROOT) --test docker

test-ceph: ## the Ceph layer on a real cluster, started for the tests; RBD_TEST_CLUSTER=ceph.conf uses yours
	@tools/setup --tier ceph
	@tools/headline "Ceph tier: a real cluster"
	@$(RUN) --test ceph

test-package: package ## the packages: installed, looked at, upgraded and removed, each in a root of its own
	@tools/headline "Package tier: deb, RPM and tpkg in roots of their own"
	@tools/test-package

test-leaks: ## a small life of the Ceph layer under valgrind: nothing of librados or librbd may be lost
	@tools/setup --tier ceph
	@tools/headline "Ceph layer under valgrind"
	@tools/leaks $(RUN) --test ceph --

bench: ## the table of speeds and costs, each beside its floor or limit: local, and on a real Ceph with a stand-in for the kernel
	@tools/setup --tier ceph
	@tools/headline "Speed"
	@tools/as-root $(CARGO) bench --profile measured $(FEATURES) --bench speed

bench-ceph: ## the table of speeds on a real cluster, in a virtual machine: the plugin, the old plugin's programs, bare system calls
	@tools/setup --tier vm
	@tools/headline "Speed on Ceph"
	$(CARGO) bench --bench ceph --no-run
	@tools/bench-ceph

fuzz: ## fuzz each target for SECONDS (30)
	@tools/setup --tier fuzz
	@tools/fuzz $(SECONDS)

clean: ## remove what was built
	$(CARGO) clean
	rm -rf fuzz/target fuzz/corpus fuzz/artifacts
