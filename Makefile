# The commands of this project; `make help` lists them.
SHELL := /bin/bash
.ONESHELL:
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

# The Kubernetes version the testbed runs: a folder testbed/pins/kubernetes-$(KUBERNETES).
export KUBERNETES ?= 1.37
VENV := .venv
PYTHON := $(VENV)/bin/python

.PHONY: help
help: ## list the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

.PHONY: deps
deps: ## install what is needed on this machine (Debian packages, Python environment)
	@testbed/install-deps
