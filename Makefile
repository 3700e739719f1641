# DingoSpeed. Two commands: `make run` serves, `make test` proves. Both bring the tools they lack.
#
#   make run     builds the release and serves on 127.0.0.1:8090; more flags: make run ARGS="--listen 0.0.0.0:8090"
#   make test    every test, with real Hub clients against a fake Hub on loopback; one: make test ARGS="cold::"
#   make test-browser  the page in Chromium, which is part of `make test`, with pictures into target/screenshots/
#   make test-clients  the clients beyond huggingface_hub: Rust, JavaScript, datasets, curl ..; installs a gigabyte, takes ten minutes
#   make demo    a real model, twice through the mirror with `hf download`, without the internet
#   make venvs   the Python clients that tests and demo use, into .venvs/
#   make fuzz    every decoder of outside bytes, a minute each (FUZZ_SECONDS=60); one: make fuzz ARGS="route"
#   make soak    everything at once, at random, for SOAK_SECONDS=300; prints its seed, SOAK_SEED plays it again
#   make bench   beside nginx and the origin, in one run; into bench/results/
#   make profile where the CPU time goes, by perf: small hits, streams, cold pulls
#   make conformance   REDbot (PyPI) and http-cache-tests (npm), compared with tests/conformance/
#   make deb     the Debian package, into target/debian/; brings cargo-deb
#   make test-systemd  the package and its unit under a real systemd, in a container; needs root or sudo, on Debian or Ubuntu
#   make lint    rustfmt and clippy, warnings are errors
#   make clean   removes what these commands built (never ./repos, the cache)

CARGO  ?= cargo
PYTHON ?= python3
ARGS   ?=

# After the system's own, so that a tool we fetched is used only where there is none.
export PATH := $(PATH):$(HOME)/.cargo/bin:$(CURDIR)/.tools/bin
export PYTHON

.PHONY: run test test-clients test-browser demo venvs browser soak bench profile fuzz conformance deb test-systemd lint clean tools

run: tools
	$(CARGO) build --release --locked
	./target/release/dingospeed serve $(ARGS)

test: tools venvs browser
	$(CARGO) test --workspace --locked -- $(ARGS)

# The page in Chromium, and pictures of it.
test-browser: tools venvs browser
	SCREENSHOTS=$${SCREENSHOTS:-$(CURDIR)/target/screenshots} $(CARGO) test --locked --test it -- browser::

soak: tools
	SOAK_SECONDS=$${SOAK_SECONDS:-300} $(CARGO) test --test it --locked -- soak:: --nocapture

bench: tools
	$(CARGO) build --release --locked
	$(CARGO) build --release --locked --package fake-hub
	@$(PYTHON) bench/run.py $(ARGS)

profile: tools
	$(CARGO) build --release --locked
	$(CARGO) build --release --locked --package fake-hub
	@$(PYTHON) bench/profile.py $(ARGS)

test-clients: tools venvs
	@$(PYTHON) tests/clients/venvs.py libraries
	@$(PYTHON) tests/clients/npm.py
	@./.ci/tools downloaders
	$(CARGO) test --locked --test it -- clients:: registry::
	$(CARGO) test --locked --test more -- $(ARGS)

demo: tools
	@$(PYTHON) tests/clients/venvs.py demo
	$(CARGO) build --release --locked
	$(CARGO) build --release --locked --package fake-hub
	.venvs/demo/bin/python tests/clients/demo.py --bin target/release

venvs:
	@$(PYTHON) tests/clients/venvs.py

browser: venvs
	@./.ci/tools browser

fuzz: tools
	@./.ci/fuzz $(ARGS)

conformance: tools
	$(CARGO) build --locked --workspace --bins
	$(PYTHON) tests/conformance/run.py --bin target/debug $(ARGS)

deb: tools
	@./.ci/deb

test-systemd: tools
	@./.ci/systemd

lint: tools
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	$(CARGO) clippy --test more --locked -- -D warnings

clean:
	$(CARGO) clean
	rm -rf .venvs .tools tests/clients/npm/*/node_modules

tools:
	@./.ci/tools
