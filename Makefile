# The targets that people and CI call. `make help` lists them.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:

CARGO ?= cargo
TARGET_DIR := $(abspath $(or $(CARGO_TARGET_DIR),target))
# The decoy is a static binary in an otherwise empty image; a glibc target does, so nothing has to be added to Rust.
DECOY_TARGET ?= $(shell uname -m)-unknown-linux-gnu
DECOY_BINARY := $(TARGET_DIR)/decoy/$(DECOY_TARGET)/release/decnet-decoy
DECOY_IMAGE := $(TARGET_DIR)/decoy-image.tar
DECOY_ARCH := $(if $(filter aarch64%,$(DECOY_TARGET)),arm64,amd64)
# What is shipped holds no folder of its builder, so that the same source gives the same bytes wherever it is built.
BUILDER_FOLDERS := $(CURDIR) $(or $(CARGO_HOME),$(HOME)/.cargo)
REMAP := --remap-path-prefix=$(CURDIR)=/decnet --remap-path-prefix=$(or $(CARGO_HOME),$(HOME)/.cargo)=/cargo
# `make packages PROFILE=dev` packages what `make build` has built, for trying: a release takes minutes.
PROFILE ?= release
PACKAGED := $(if $(filter dev,$(PROFILE)),$(TARGET_DIR)/debug,$(TARGET_DIR)/shipped/release)

.PHONY: help
help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

.PHONY: toolchain
toolchain:
	@command -v $(CARGO) >/dev/null || { echo 'no cargo: install Rust from https://rustup.rs' >&2; exit 1; }
	@$(CARGO) fmt --version >/dev/null 2>&1 || \
		{ echo 'no cargo fmt: rustup component add rustfmt' >&2; exit 1; }
	@$(CARGO) clippy --version >/dev/null 2>&1 || \
		{ echo 'no cargo clippy: rustup component add clippy' >&2; exit 1; }

.PHONY: set-up
set-up: ## install what suites and demo need on Debian, start Docker (root)
	tests/setup.sh

.PHONY: build
build: ## all programs
	$(CARGO) build --workspace --bins --locked
	$(CARGO) build --workspace --locked --features decnet-agent/fault-injection --bin decnet-agent-crashing

.PHONY: image
image: ## the decoy image, as target/decoy-image.tar
	RUSTFLAGS='-C target-feature=+crt-static $(REMAP)' $(CARGO) build --locked --release -p decnet-decoy \
		--target $(DECOY_TARGET) --target-dir $(TARGET_DIR)/decoy
	$(CARGO) run --locked --quiet -p decnet-packaging --bin decnet-pack -- \
		image --binary $(DECOY_BINARY) --arch $(DECOY_ARCH) --out $(DECOY_IMAGE) >/dev/null
	@echo 'the decoy image is $(DECOY_IMAGE)'

.PHONY: packages
packages: image $(if $(filter dev,$(PROFILE)),programs,shipped) ## deb and rpm of agent and master, under target/packages (PROFILE=dev packages what tests use)
	$(CARGO) build --locked --quiet -p decnet-packaging --bin decnet-pack
	@pack() { \
		$(TARGET_DIR)/debug/decnet-pack $$1 --package $$2 --binary $(PACKAGED)/$$2 \
			--decoy-image $(DECOY_IMAGE) $(if $(filter dev,$(PROFILE)),--level 0,$(BUILDER_FOLDERS:%=--forbid %)) \
			$(if $(MAINTAINER),--maintainer '$(MAINTAINER)') --out $(TARGET_DIR)/packages "$${@:3}"; \
	}; \
	agents=(); \
	for format in deb rpm; do path=$$(pack $$format decnet-agent); echo "$$path"; agents+=(--agent-package "$$path"); done; \
	for format in deb rpm; do pack $$format decnet "$${agents[@]}"; done

.PHONY: programs
programs:
	$(CARGO) build --locked -p decnet -p decnet-agent --bins

# In a folder of its own: other flags than those of `cargo build --release`.
.PHONY: shipped
shipped:
	RUSTFLAGS='$(REMAP)' $(CARGO) build --locked --release -p decnet -p decnet-agent --bins --target-dir $(TARGET_DIR)/shipped

.PHONY: lab-image
lab-image: ## the disk of lab hosts, under target/lab; made again when its recipe changes (root)
	tests/lab/image.sh >/dev/null

.PHONY: lab
lab: set-up build image lab-image ## the suites on lab hosts: whole Debian guests with their own kernel (root)
	$(CARGO) test --locked --no-fail-fast -p decnet-tests --test lab

.PHONY: fmt-check
fmt-check: toolchain
	$(CARGO) fmt --all --check

.PHONY: lint
lint: fmt-check ## format and lints; warnings are errors
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings

.PHONY: test
test: fmt-check set-up build image lab-image lint ## everything: set-up, lints, every test, on real engines (root)
	$(CARGO) test --workspace --locked --no-fail-fast

.PHONY: siege
siege: build image ## a longer siege of the master's listeners than the suite's (SIEGE=300, in seconds)
	DECNET_SIEGE_SECONDS=$(or $(SIEGE),300) $(CARGO) test --locked -p decnet-tests --test siege -- --nocapture

.PHONY: chaos
chaos: build image ## faults of every kind for as long as asked, then everybody has to agree (SEED=, MINUTES=10, DECKIES=200)
	$(if $(SEED),DECNET_SEED=$(SEED)) DECNET_CHAOS_SECONDS=$$(($(or $(MINUTES),10) * 60)) DECNET_CHAOS_DECKIES=$(or $(DECKIES),200) \
		$(CARGO) test --locked -p decnet-tests --test chaos -- --nocapture

.PHONY: power-cuts
power-cuts: set-up build image lab-image ## cuts the power of a lab host as often as asked, on one disk (SEED=, CUTS=50; root)
	$(if $(SEED),DECNET_SEED=$(SEED)) DECNET_POWER_CUTS=$(or $(CUTS),50) \
		$(CARGO) test --locked -p decnet-tests --test lab lab_power -- --nocapture

.PHONY: crashes
crashes: build image ## the agent dies before and after every commit and every call to the engine, one after the other (PART=2/3 for a third of them)
	$(if $(SEED),DECNET_SEED=$(SEED)) DECNET_CRASH_ALL=$(or $(PART),1) $(CARGO) test --locked -p decnet-tests --test agent_crash -- --nocapture

.PHONY: fuzz
fuzz: toolchain ## a fuzz target under libFuzzer (TARGET=loader, envelope, bundle, root, policy, release, order, csr, token; MINUTES=60; needs a C++ compiler)
	@case '$(or $(TARGET),loader)' in \
	loader) CARGO='$(CARGO)' agent/plan/fuzz/run.sh $(or $(MINUTES),60) ;; \
	*) CARGO='$(CARGO)' agent/fuzz/run.sh '$(TARGET)' $(or $(MINUTES),60) ;; \
	esac

.PHONY: deny
deny: ## licences, advisories and sources of dependencies
	@$(CARGO) deny --version >/dev/null 2>&1 || \
		{ echo 'no cargo-deny here: cargo install --locked cargo-deny' >&2; exit 1; }
	$(CARGO) deny --locked check

.PHONY: demo
demo: set-up build image ## a whole fleet on this machine: deployed, visited, changed, removed (root; KEEP=1 leaves it)
	@KEEP='$(KEEP)' $(TARGET_DIR)/debug/demo

.PHONY: demo-down
demo-down: ## end the demo that KEEP=1 left
	@test -x $(TARGET_DIR)/debug/demo || $(CARGO) build --locked -p decnet-tests --bin demo
	@$(TARGET_DIR)/debug/demo --down

.PHONY: bench
bench: set-up image bench-load ## up, nothing to do, one change, down: against Docker Compose and a bare loop (root; DECKIES=5,20,60 ROUNDS=5 KNOWN=250)
	$(CARGO) build --release --locked -p decnet -p decnet-agent -p decnet-tests --bins
	BENCH_OUT='$(BENCH_OUT)' DECKIES='$(DECKIES)' ROUNDS='$(ROUNDS)' KNOWN='$(KNOWN)' $(TARGET_DIR)/release/bench

.PHONY: bench-load
bench-load: toolchain ## lifecycle transitions that a master takes, changes that a ledger takes (HOSTS=100 FLEET=500 LASTS=20 RATE=)
	HOSTS=$(or $(HOSTS),100) FLEET=$(or $(FLEET),500) LASTS=$(or $(LASTS),20) RATE=$(or $(RATE),0) \
		$(CARGO) run --release --locked -p decnet-tests --bin reports
	$(CARGO) run --release --locked -p decnet-agent --features bench --example ledger_bench

.PHONY: bench-host
bench-host: set-up packages lab-image ## the packaged agent: from power-on to the first decky that answers; idle with a fleet (root; DECKIES=20 IDLE=600)
	$(CARGO) build --locked -p decnet-tests --bin host
	DECNET_BIN_DIR=$(TARGET_DIR)/shipped/release DECNET_DECOY_IMAGE=$(DECOY_IMAGE) DECKIES=$(or $(DECKIES),20) IDLE=$(or $(IDLE),600) \
		AGENT_DEB=$$(ls -t $(TARGET_DIR)/packages/decnet-agent_*.deb | head -n 1) $(TARGET_DIR)/debug/host

.PHONY: clean
clean: ## remove everything that was built
	$(CARGO) clean
