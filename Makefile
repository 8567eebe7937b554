# `make` lists the targets. Nothing but a Rust toolchain and a C compiler is assumed; everything is built in the dev profile, but for
# what measures speed.
#
# Every cargo call selects the whole workspace, so that all targets share one build of the dependencies.

SHELL := /bin/sh
BIN := $(or $(CARGO_TARGET_DIR),target)/debug
RELEASE := $(or $(CARGO_TARGET_DIR),target)/release
BENCHES := --bench fold --bench log --bench view --bench question
PEERS := $(or $(CARGO_TARGET_DIR),target)/bench-peers
ONLINE_RETAIL := ../shared/data/online_retail/events-2010-12.jsonl.zst

.DEFAULT_GOAL := help
.PHONY: help build release demo test run load-test load-test-smoke bench bench-smoke overload ci fmt lint doc deps buf test-alerts test-docs test-web test-clients reference schedules mutants deny demo-events chaos sim fuzz fuzz-slice network bench-peers bench-peers-smoke

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

demo: build ## the whole path on orders (SCALE=0.01) or on your own events (EVENTS=file), checked against a plain fold
	@$(BIN)/demo $(if $(EVENTS),--events '$(EVENTS)') $(if $(SCALE),--scale '$(SCALE)')

test: ## every test that needs no outside server
	cargo test --workspace --quiet

run: build ## both servers on the default ports with ./data, until Ctrl-C
	@$(BIN)/run-servers

load-test: release ## the servers under load beside an echo, in one run (ARGS='--users 1000000 --seconds 10'); report in target/load-test
	@$(RELEASE)/load-test $(ARGS)

load-test-smoke: build
	@$(BIN)/load-test --users 500 --days 3 --seconds 1 --in-flight 1,16 --parts questions,ingest --out target/load-test-smoke

overload: build ## appends and questions at 1, 2 and 3 times what the servers can do; prints a table (SECONDS_EACH=5; TLS=1 over mutual TLS, with [auth])
	@$(BIN)/overload --seconds $(or $(SECONDS_EACH),5) $(if $(TLS),--tls)

bench: ## criterion benches of the hot kernels (ARGS='merge' for some)
	cargo bench --workspace $(BENCHES) -- $(ARGS)

bench-smoke: ## each bench once, for whether it runs
	cargo bench --workspace --profile dev --quiet $(BENCHES) -- --test

bench-peers: $(if $(MERGANSER_BIN_DIR),,release) ## beside DuckDB, ClickHouse, Polars, Spark, Redis, PostgreSQL, NATS, RocksDB; writes docs/performance.md (EVENTS=20000000, SECTIONS='batch ingest reads', RUNS=3)
	@python3 bench/peers/fetch.py $(PEERS)
	@PEERS_COMMAND='make bench-peers $(filter-out MERGANSER_BIN_DIR=%,$(MAKEOVERRIDES))' $(PEERS)/venv/bin/python bench/peers --folder $(PEERS) \
	    $(if $(EVENTS),--events $(EVENTS)) $(if $(SECTIONS),--sections $(SECTIONS)) $(if $(RUNS),--runs $(RUNS))

bench-peers-smoke: $(if $(MERGANSER_BIN_DIR),,build) ## seconds: does the batch agree with DuckDB and Polars? skipped where Python cannot have them
	@if python3 bench/peers/fetch.py $(PEERS)-smoke --only duckdb polars && [ -x $(PEERS)-smoke/venv/bin/python ]; then \
	    MERGANSER_BIN_DIR=$(or $(MERGANSER_BIN_DIR),$(BIN)) $(PEERS)-smoke/venv/bin/python bench/peers --folder $(PEERS)-smoke --smoke; \
	else echo 'bench-peers-smoke SKIPPED: python3 with venv and pip, and a way to PyPI, would be needed'; fi

ci: ## what CI runs: format, lints, docs, dependencies and their licences, buf, alert rules, tests, schedules, simulated runs, demos, docs, load test, peers, console, clients; prints minutes against budgets
	@.ci/parts fmt:1 lint:9 doc:3 deps:1 deny:7 buf:1 test-alerts:1 test:30 schedules:4 sim:5 demo:2 demo-events:3 test-docs:6 load-test-smoke:3 bench-peers-smoke:2 test-web:3 test-clients:4

fmt: ## fails where `cargo fmt` would change something
	cargo fmt --all --check

lint: ## clippy, every warning an error
	cargo clippy --workspace --all-targets --quiet -- -D warnings

doc: ## rustdoc of our crates, every warning an error
	RUSTDOCFLAGS='-D warnings' cargo doc --workspace --no-deps --quiet

deps: ## exactly one version of arrow, parquet, object_store and tonic
	@.ci/deps arrow parquet object_store tonic

deny: ## licences, sources and advisories of dependencies with cargo-deny, built once under target/; skipped where it cannot be had
	@.ci/deny

buf: ## lints proto/ with the buf that PyPI has; skipped where there is no pip
	@.ci/buf

test-clients: build ## the clients of examples/clients in four languages and a browser, against servers on free ports; what this machine has not is skipped (CLIENTS='Go browser' for some)
	@$(BIN)/test-clients $(CLIENTS)

test-alerts: ## the alert rules in deploy/prometheus with promtool, installed or Debian's; skipped where there is neither
	@.ci/promtool

reference: build ## writes what docs/reference.md says of settings and commands anew, from the code
	@$(BIN)/reference

test-docs: build ## types every command of the docs in a working copy and compares what is printed (ARGS='--all docs/guide.md'); skips what is not there, and says so
	@$(BIN)/test-docs $(ARGS)

schedules: ## random schedules against the oracle (SCHEDULES=100, SEED=printed seed)
	SCHEDULES=$(or $(SCHEDULES),100) cargo test --workspace --quiet --test agreement -- --nocapture

mutants: ## plants bugs one by one and shows that a test finds each
	@integration-tests/mutants/replay

demo-events: ## `make demo` on the first month of Online Retail, skipped where the file is not there
	@if [ -e '$(ONLINE_RETAIL)' ]; then $(MAKE) --no-print-directory demo EVENTS='$(ONLINE_RETAIL)'; \
	else echo 'skipped: there is no $(ONLINE_RETAIL)'; fi

build:
	@[ -x $(BIN)/demo ] || echo 'building everything: a quarter of an hour on two cores, the first time'
	@cargo build --workspace --bins --quiet

release:
	@cargo build --release --workspace --quiet --bin speed-layer --bin batch-layer --bin serving-layer --bin load-test

chaos: build ## real processes killed, then the power cut (CHAOS_SECONDS=600, POWER_CUTS=400, SEED=printed seed)
	@$(BIN)/chaos

sim: build ## simulated runs from consecutive seeds (SEEDS=1500, SEED=first seed; TRACE=1 prints the steps, TWICE=1 compares two runs)
	@SEEDS=$(or $(SEEDS),1500) $(BIN)/sim $(if $(TRACE),--trace) $(if $(TWICE),--twice)

fuzz: ## libFuzzer over every reader for FUZZ_SECONDS=60 in all, led by coverage; needs a C++ compiler (TARGETS='log sql' for some)
	@FUZZ_SECONDS=$(or $(FUZZ_SECONDS),60) fuzz/run $(TARGETS)

network: build ## whole servers on simulated networks from consecutive seeds (SEEDS=300, SEED=first seed; TRACE=1 prints the steps, TWICE=1 compares two runs)
	@SEEDS=$(or $(SEEDS),300) $(BIN)/network $(if $(TRACE),--trace) $(if $(TWICE),--twice)

test-web: build ## the console in headless Chromium: look-ups, odd ids, runs, rollback, keyboard, phone, dark (ARGS='odd' for some); screenshots in target/web
	@integration-tests/web/run $(ARGS)
