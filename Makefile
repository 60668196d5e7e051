# What one does here; `make help` lists it. Every target sets up what it needs.
.DEFAULT_GOAL := help
.PHONY: help setup build demo test check bench fmt doc sqlx audit clean

help: ## This list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/\1\t\2/' | expand -t 10

setup: ## Install PostgreSQL and a C compiler, if they are missing
	@scripts/setup

build: setup ## Build everything, in debug mode
	cargo build --workspace --examples --bins --lib

demo: build ## Run the quick start of README.md from an empty cluster, and check what it prints
	@cargo build --workspace --quiet
	@scripts/demo

# In memory where there is room: making and dropping a database for each test is what takes time.
# Two checkouts on one machine do not stop each other's server.
test: export REWORK_TEST_CLUSTER := $(shell scripts/test-cluster)
# Tests wait more than they compute.
test: export RUST_TEST_THREADS ?= $(shell expr 3 \* $$(nproc))
# The plugins of the tests are built before the tests run; where nothing has changed, nothing is built.
test: setup ## Run all tests
	cargo test --workspace --no-run
	@built=$$(cargo test --quiet --workspace --test main plugins::all_are_built 2>&1) || { echo "$$built"; exit 1; }
	cargo test --workspace --no-fail-fast; status=$$?; \
	  cargo run --quiet --bin rework -- embedded stop --path $$REWORK_TEST_CLUSTER >/dev/null && \
	    rm -rf "$$REWORK_TEST_CLUSTER"; \
	  exit $$status
	cd example-plugins/standalone && cargo test --locked --target-dir ../../target/standalone

check: ## What a change must pass besides the tests: format, lints, docs, licences
	cargo fmt --all --check
	cargo fmt --manifest-path example-plugins/standalone/Cargo.toml --check
	cargo clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --quiet
	@if command -v cargo-deny >/dev/null; then cargo deny check licenses bans sources; \
	  else echo "check: cargo-deny is not installed, so licences are not checked"; fi

bench: setup ## Measure this machine, beside the fastest peer (release builds; QUICK=1: one small round)
	cargo build --release -p rework-host -p hello
	cargo build --release --locked --manifest-path bench/Cargo.toml --target-dir target/measure
	scripts/bench $(if $(QUICK),--tasks 5000 --samples 50)
	target/measure/release/suite $(if $(QUICK),--rounds 1 --tasks 10000 --samples 50)

fmt: ## Format the code
	cargo fmt --all
	cargo fmt --manifest-path example-plugins/standalone/Cargo.toml

doc: ## Build the documentation
	cargo doc --workspace --no-deps

sqlx: setup ## Check the queries against a fresh schema and refresh .sqlx/
	cargo build --quiet --bin rework
	scripts/sqlx

audit: ## Look for known vulnerabilities (needs cargo-deny and its advisory database)
	cargo deny check advisories

clean: ## Remove what was built
	cargo clean
