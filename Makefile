# Gatehouse. `make` alone lists the targets.
#
# One virtual environment, two stamps: `make run` installs the light set (services and embedded
# servers), everything else adds the development set. The stamps lie inside .venv, so removing it
# starts over.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV := .venv
PY := $(VENV)/bin/python
PYTHON ?= $(shell command -v python3.11 || command -v python3)
UV := $(shell command -v uv)
LIGHT := gateway,inference,guardrails,features,analytics,audit,local
STATE ?= .gatehouse
SERVICE ?= inference
DURATION ?= 20
RUN_ARGS ?=
PYTEST_ARGS ?= -n 2 --dist loadgroup
CHECKED := libs services deploy training benchmarks tests

ifdef UV
INSTALL = $(UV) pip install --quiet --python $(PY) -c constraints.txt
else
INSTALL = $(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt
endif

.PHONY: help
help: ## List the targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z_-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "Variables: RELOAD=1 (run), ONLY=a,b (run), PORTS=auto (run), DATA=path (demo), SERVICE=name (profile)"

$(PY):
ifdef UV
	@echo "make: virtual environment with $$($(UV) --version)"
	@$(UV) venv --quiet --python ">=3.11" $(VENV)
else
	@echo "make: virtual environment with venv and pip ($(PYTHON), $$($(PYTHON) --version))"
	@$(PYTHON) -c 'import sys; sys.exit("Gatehouse needs Python 3.11 or newer" if sys.version_info < (3, 11) else 0)'
	@$(PYTHON) -m venv $(VENV)
endif

$(VENV)/.run-stamp: pyproject.toml constraints.txt | $(PY)
	@echo "make: installing the light set ($(if $(UV),uv,pip))"
	@$(INSTALL) -e '.[$(LIGHT)]'
	@touch $@

$(VENV)/.dev-stamp: pyproject.toml constraints.txt $(VENV)/.run-stamp
	@echo "make: installing the development set ($(if $(UV),uv,pip))"
	@$(INSTALL) -e '.[dev]'
	@touch $@

.PHONY: install
install: $(VENV)/.dev-stamp ## Install everything that development needs

.PHONY: run
run: $(VENV)/.run-stamp ## Start Postgres, Redis and the six services; Ctrl-C stops them
	@exec $(PY) -m deploy.local --state-dir $(STATE) $(if $(RELOAD),--reload) $(if $(ONLY),--only $(ONLY)) $(if $(PORTS),--ports $(PORTS)) $(RUN_ARGS)

.PHONY: demo
demo: $(VENV)/.run-stamp ## Replay a day of payments through the running gateway
	@exec $(PY) -m libs.cli demo --state-dir $(STATE) $(if $(DATA),--data $(DATA))

.PHONY: test
test: $(VENV)/.dev-stamp ## Run the test suite; needs no server started by hand
	@$(PY) -m pytest $(PYTEST_ARGS)

.PHONY: test-again
test-again: $(VENV)/.dev-stamp ## Run only the tests that failed last time, one at a time
	@$(PY) -m pytest --last-failed --last-failed-no-failures none

$(VENV)/torch/.stamp: pyproject.toml constraints.txt constraints-torch.txt
	@echo "make: an environment for torch, $(VENV)/torch"
	@mkdir -p $(VENV) && $(PYTHON) -m venv $(VENV)/torch
	@$(VENV)/torch/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -c constraints-torch.txt -e '.[inference,local,torch]' pytest
	@touch $@

.PHONY: torch
torch: $(VENV)/torch/.stamp ## Install torch and transformers, in an environment of their own

.PHONY: test-torch
test-torch: torch ## Test the torch engine there, on small random checkpoints
	@$(VENV)/torch/bin/python -c 'import torch, transformers; print("make: torch", torch.__version__, "transformers", transformers.__version__)'
	@$(VENV)/torch/bin/python -m pytest -q tests/unit/inference/adapters/test_torch_engine.py

.PHONY: lint
lint: $(VENV)/.dev-stamp ## Check style, types and the borders between the packages
	@$(VENV)/bin/ruff check $(CHECKED)
	@$(VENV)/bin/ruff format --check $(CHECKED)
	@$(VENV)/bin/mypy $(CHECKED)
	@$(VENV)/bin/lint-imports

.PHONY: models
models: $(VENV)/.dev-stamp ## Train the models under models/ again, from their seeds
	@$(PY) -m training.fraud
	@$(PY) -m training.personalization

.PHONY: peers
peers: ## Make the environments of clients that clash with ours and of the servers measured beside it
	@PYTHON=$(PYTHON) sh benchmarks/peers/make.sh

.PHONY: bench
bench: $(VENV)/.run-stamp ## Measure the suite; prints a table and writes JSON under benchmarks/results/
	@$(PY) -m benchmarks.suite

.PHONY: mlflow
mlflow: ## Start an MLflow server and UI on 127.0.0.1:5000, in an environment of its own
	@test -x .venv-mlflow/bin/mlflow || ($(PYTHON) -m venv .venv-mlflow && .venv-mlflow/bin/pip install --quiet --disable-pip-version-check 'mlflow>=3,<4')
	@mkdir -p $(STATE)/mlflow
	@exec .venv-mlflow/bin/mlflow server --host 127.0.0.1 --port 5000 --backend-store-uri sqlite:///$(STATE)/mlflow/mlflow.db --artifacts-destination $(STATE)/mlflow/artifacts

.PHONY: profile
profile: $(VENV)/.dev-stamp ## Sample a running service with py-spy into profile-SERVICE.svg
	@$(VENV)/bin/py-spy record --duration $(DURATION) --output profile-$(SERVICE).svg --pid $$(cat $(STATE)/run/$(SERVICE).pid)

.PHONY: env-example
env-example: $(VENV)/.run-stamp ## Write .env.example again from the settings classes
	@$(PY) -m deploy.local.env_example > .env.example

.PHONY: docs
docs: $(VENV)/.run-stamp ## Write the status table of README.md again from the catalogue
	@$(PY) -m libs.common.catalog.table README.md

.PHONY: api-docs
api-docs: $(VENV)/.dev-stamp ## Write docs/api/openapi.json again: the merged description of all services
	@mkdir -p docs/api && $(PY) -m deploy.local.api_docs > docs/api/openapi.json.part && mv docs/api/openapi.json.part docs/api/openapi.json

.PHONY: clean
clean: ## Remove caches and build files; the environment and .gatehouse/ stay
	@find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +
	@rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache build dist *.egg-info profile-*.svg

.PHONY: distclean
distclean: clean ## Remove also the environment and all local state (stop the suite first)
	@rm -rf $(VENV) $(STATE)
