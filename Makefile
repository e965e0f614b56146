# The commands of this project; `make help` lists them.
SHELL := /bin/bash
.ONESHELL:
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# The Kubernetes version the testbed runs: a folder testbed/pins/kubernetes-$(KUBERNETES).
export KUBERNETES ?= 1.37
NODES ?= 1
PYTHON := .venv/bin/python
TESTBED := $(PYTHON) -m testbed
IMAGES := localhost/sfc/webhook:dev localhost/sfc/cluster-controller:dev localhost/sfc/controller:dev localhost/sfc/nf:dev

.PHONY: help
help: ## list these commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

.PHONY: demo
demo: cluster images ## scale a chain on a real Kubernetes while traffic crosses it (NODES=1); the cluster stays up
	@KUBECTL=build/bin/kubectl $(PYTHON) deploy/examples/demo.py --kubeconfig build/kubeconfig --output build/demo.json

.PHONY: test
test: lint ## run everything (as root): static checks, then unit, BPF, network-namespace and cluster tests
	$(PYTHON) -m pytest --numprocesses=2 --dist=worksteal tests/unit tests/bpf
	$(PYTHON) -m pytest --durations=20 tests/netns tests/cluster

.PHONY: unit
unit: deps ## run the tests that need neither root nor a cluster
	$(PYTHON) -m pytest tests/unit

.PHONY: lint
lint: deps ## static checks: ruff, mypy, import contracts, rooms, Markdown, clang-format, shellcheck
	.venv/bin/ruff check .
	.venv/bin/ruff format --check --quiet .
	.venv/bin/mypy
	.venv/bin/lint-imports
	$(PYTHON) -m architecture.picture --check
	.venv/bin/rumdl check .
	git ls-files '*.c' '*.h' | xargs -r clang-format --dry-run -Werror
	git grep -lE '^#!.*\b(ba)?sh\b' | xargs -r shellcheck -x -P SCRIPTDIR

.PHONY: deps
deps:
	@testbed/install-deps

.PHONY: lock
lock: deps ## write the lock files anew, after a change of requirements*.txt (UPGRADE=1: with all that is new)
	for file in $$(git ls-files '*requirements*.txt'); do
	  .venv/bin/uv pip compile --quiet --no-config --generate-hashes --only-binary=:all: --python-version=3.11 \
	    --python-platform=x86_64-unknown-linux-gnu --custom-compile-command='make lock' $(if $(UPGRADE),--upgrade) \
	    "$$file" --output-file "$${file%.txt}.lock"
	done

.PHONY: fuzz
fuzz: deps ## try hostile input on everything that reads from outside (FUZZ=1000000 inputs)
	$(PYTHON) -m tests.fuzz

.PHONY: bench
bench: deps ## run a benchmark (as root): NAME=program and others, see docs/benchmarks.md; QUICK=1 for a look, NODES=3 for events
	$(PYTHON) -m benchmarks $(NAME)

.PHONY: soak
soak: deps ## run random events on a real Kubernetes for ten minutes (SOAK_SECONDS=600, SOAK_SEED)
	$(PYTHON) -m benchmarks soak

.PHONY: evaluation
evaluation: deps ## repeat the paper's evaluation and more, and write docs/evaluation.md (QUICK=1 for a look; ANEW="NAME …")
	@$(PYTHON) -m evaluation

.PHONY: packets
packets: deps ## write docs/packets.md (as root): what the program does with each kind of packet
	$(PYTHON) -m tests.bpf.packets_table

.PHONY: rooms
rooms: deps ## draw the picture of the rooms in docs/architecture.md anew, from the imports in the code
	$(PYTHON) -m architecture.picture

.PHONY: cluster
cluster: deps ## bring up a Kubernetes on this machine (NODES=1, KUBERNETES=1.37)
	@$(TESTBED) up --nodes $(NODES)

.PHONY: images
images: cluster ## build the project's images and load them into the cluster
	@$(TESTBED) build-image -t localhost/sfc/webhook:dev -f deploy/webhook.Dockerfile .
	@$(TESTBED) build-image -t localhost/sfc/cluster-controller:dev -f deploy/cluster-controller.Dockerfile .
	@$(TESTBED) build-image -t localhost/sfc/controller:dev -f deploy/controller.Dockerfile .
	@$(TESTBED) build-image -t localhost/sfc/nf:dev -f deploy/examples/nf/Dockerfile deploy/examples/nf

.PHONY: release
release: deps ## write manifests, images, bills of materials, provenance and checksums to dist/ (as root; VERSION=1.2.3)
	@$(PYTHON) -m release "$(VERSION)"

.PHONY: clean
clean: ## remove every cluster of this checkout with all that it left on the machine, build/ and dist/
	$(firstword $(wildcard $(PYTHON)) python3) -m testbed down --all
	rm -rf build dist
