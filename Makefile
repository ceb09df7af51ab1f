# What people and CI run. `make` alone lists the targets.
SHELL := /bin/sh
# Unpacked packages; of this checkout, so that nothing outside it is written.
export LOTA_CACHE ?= $(CURDIR)/.cache/lota
.DEFAULT_GOAL := help
.PHONY: help images release demo up down test test-brokers test-containers chaos bench check sbom fuzz gen upgrade-record install new-bot fmt clean build-demo doctor

# The programs of a fleet, without the tools that only the workspace itself needs.
PROGRAMS := --workspace --exclude xtask --exclude tests --exclude bot-test --bins

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: build-demo ## one push through a whole fleet on this machine; REPO=path [REF=branch] takes your own repository
	@target/demo/lota demo $(if $(REPO),--repo "$(REPO)") $(if $(REF),--ref "$(REF)")

up: build-demo ## start a fleet on this machine
	@target/demo/lota up

down: build-demo ## stop the fleet that `make up` started
	@target/demo/lota down

test: doctor ## run all tests, with cargo-nextest where it is installed
	@cargo build --locked --workspace --bins
	@bwrap=$$(target/debug/lota fetch) || exit 1; export LOTA_TEST_BWRAP="$$bwrap"; \
	if cargo nextest --version >/dev/null 2>&1; then cargo nextest run --locked --workspace; \
	else echo 'test: cargo-nextest is not installed, so cargo runs the tests (cargo install --locked cargo-nextest)'; cargo test --locked --workspace --no-fail-fast --lib --bins --tests -- --test-threads 2; fi

test-brokers: doctor ## the tests that look closely at the broker, on RabbitMQ 4.0 and 4.3, alone and as clusters; debootstrap fetches them as root
	@cargo build --locked --workspace --bins
	@bwrap=$$(target/debug/lota fetch) || exit 1; export LOTA_TEST_BWRAP="$$bwrap"; tests/brokers.sh 4.0 4.3

test-containers: doctor ## the tests that need docker or podman, docker's plugin compose, and the image rabbitmq:4-management
	cargo build --locked --workspace --bins
	tests/tiny-image.sh
	bwrap=$$(target/debug/lota fetch) || exit 1; export LOTA_TEST_BWRAP="$$bwrap"; \
	cargo test --locked --package bot-sandbox --test container -- --ignored && \
	cargo test --locked --package build-bot --test images -- --ignored && \
	cargo test --locked --package deploy-bot --test deploy-bot compose -- --ignored
	cargo test --locked --package bot-provision --test container -- --ignored
	cargo test --locked --package bot-sandbox --test crowd -- --ignored --skip bot_in_a_crowd
	cargo test --locked --package tests --test local -- --ignored
	cargo test --locked --package tests --test journeys container -- --ignored
	deploy/binaries.sh target/images dev
	tests/compose/run.sh
	tests/compose/losses.sh
	tests/compose/replicas.sh
	tests/compose/cluster.sh
	tests/compose/runbooks.sh
	tests/compose/interrupted.sh
	tests/broker-upgrade.sh

images: doctor ## the images of docker-compose.yml, of programs that are compiled once, and how large each is
	@deploy/images.sh

release: doctor ## programs, what they are made of, images, checksums, in target/release-files
	@deploy/release.sh

chaos: doctor ## messages through a fleet whose every part fails at random; MESSAGES=100000 ROUNDS=400 SEED=any NODES=3, report in docs/chaos
	cargo build --locked --package tests --bins
	LOTA_CHAOS_MESSAGES=$(or $(MESSAGES),100000) LOTA_CHAOS_SEED=$(or $(SEED),$$(od -An -N3 -tu4 /dev/urandom | tr -d ' ')) LOTA_CHAOS_NODES=$(NODES) LOTA_CHAOS_ROUNDS=$(ROUNDS) LOTA_CHAOS_REPORT=$(CURDIR)/docs/chaos \
	cargo test --locked --package tests --test chaos -- --exact --nocapture nothing_is_lost_and_every_message_has_one_effect

bench: build-demo ## what the fleet adds to a push, in milliseconds, measured on this machine
	cargo bench --locked --profile demo --package tests --bench flow

check: doctor ## formatting, lints, the rules of the tree, generated files, dependencies
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	cargo run --package xtask -- tidy
	cargo run --package xtask -- gen --check
	@deny=$$(deploy/tool.sh cargo-deny 0.20.2) && "$$deny" --locked check bans licenses sources

sbom: doctor ## what the released programs are made of, as CycloneDX files in target/sbom
	@deploy/sbom.sh

fuzz: ## inputs that break a reader, looked for with cargo-fuzz and a nightly compiler; SECONDS=60 each
	@deploy/fuzz.sh $(SECONDS)

install: ## as root: a fleet of this host as systemd's units, of what `make release` compiled; DESTDIR=folder
	@DESTDIR="$(DESTDIR)" deploy/install.sh

gen: ## write the files that follow from the contracts
	cargo run --package xtask -- gen

upgrade-record: doctor ## what a fleet of this version leaves behind, as tests/upgrade/VERSION for those to come
	@cargo build --locked --workspace --bins
	@bwrap=$$(target/debug/lota fetch) || exit 1; export LOTA_TEST_BWRAP="$$bwrap"; \
	cargo test --locked --package tests --test upgrade -- --ignored this_release_is_recorded

new-bot: ## NAME=EchoBot: a new bot that runs, with a test
	cargo run --package xtask -- new-bot "$(NAME)"
	cargo run --package xtask -- gen

fmt: ## format all code
	cargo fmt --all

clean: ## delete what was built
	cargo clean

build-demo: doctor
	@deploy/compile.sh build --locked --profile demo $(PROGRAMS)

doctor:
	@deploy/doctor.sh
