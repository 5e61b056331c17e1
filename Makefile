# make demo and make test are all that a newcomer needs; `make help` lists the rest.
# Everything is installed into .venv in this folder, whatever environment is active outside.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
unexport PYTHONPATH PYTHONHOME PYTHONSTARTUP VIRTUAL_ENV CONDA_PREFIX PIP_USER PIP_TARGET PIP_PREFIX

# A Python to make the environment from: `make test PYTHON=python3.13` chooses.
PYTHON ?=
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

# With DROPCORE_LOCKED=1 pip installs what requirements/ pins, see .ci/requirements.
SET := $(VENV)/.$(if $(filter-out 0,$(DROPCORE_LOCKED)),locked,extra)
# What a build and the package need.
BUILD_SET := editable

# What a build depends on besides its sources: another value builds again from the start.
BUILD_VARIABLES := CC CFLAGS LDFLAGS $(addprefix DROPCORE_,DEBUG SYMBOLS SANITIZE COVERAGE WERROR \
	NO_OPENMP)
BUILT_WITH := $(foreach name,$(BUILD_VARIABLES),$(name)=$($(name)))

SOURCES := pyproject.toml setup.cfg setup.py python/dropcore/_version.py \
	$(shell find src python/dropcore/include -type f ! -name _core.c)

define FIND_PYTHON
found=; without=; \
for name in $(or $(PYTHON),python3 python3.13 python3.12 python3.11 python3.14); do \
	"$$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue; \
	"$$name" -c 'import ensurepip, venv' 2>/dev/null \
		|| { without="$$without $$name(venv)"; continue; }; \
	"$$name" -c 'import os, sys, sysconfig; \
sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' \
		|| { without="$$without $$name(headers)"; continue; }; \
	found="$$name"; break; \
done; \
if [ -z "$$found" ]; then \
	echo "dropcore needs Python 3.11 or later with its venv module and C headers." >&2; \
	echo "Looked for: $(or $(PYTHON),python3 python3.13 python3.12 python3.11 python3.14)" >&2; \
	if [ -n "$$without" ]; then echo "Found, but with parts missing:$$without" >&2; fi; \
	echo "Debian, Ubuntu: apt-get install python3 python3-venv python3-dev" >&2; \
	echo "Or name one: make test PYTHON=/path/to/python3" >&2; \
	exit 1; \
fi
endef

.PHONY: help build installed demo test peers kernels check lint docs bench locks clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' Makefile

build: $(VENV)/.built ## environment and editable install

installed: $(VENV)/.built $(SET)-test $(SET)-lint $(SET)-docs $(SET)-bench ## all that test, lint, docs and bench need

demo: $(VENV)/.built $(SET)-demo ## train a network on digits with and without dropout
	$(BIN)/dropcore demo

test: $(VENV)/.built $(SET)-test ## the tests, in minutes
	$(BIN)/python -m pytest $(PYTEST_ARGS)

# The peers bring their own versions of common packages, so they get an environment of their own.
peers: ## the tests beside other libraries and of the adapters to them; no skip is allowed
	$(MAKE) VENV=.venv-peers BUILD_SET=peers build
	DROPCORE_NO_SKIPS=1 .venv-peers/bin/python -m pytest tests/peers tests/adapters $(PYTEST_ARGS)

kernels: $(VENV)/.built $(SET)-test ## every CUDA kernel, compiled for every processor
	$(BIN)/python -m pytest -m kernels $(PYTEST_ARGS)

check: $(VENV)/.built $(SET)-test ## the long rest: slow tests, every Python, compiler and ISA
	.ci/check

lint: $(VENV)/.built $(SET)-lint ## ruff, cython-lint, mypy, stubtest
	.ci/lint

# Built afresh, so that no page stays that has no source.
docs: $(VENV)/.built $(SET)-docs ## the documentation site, in build/docs
	rm -rf build/docs build/doctrees docs/api docs/auto_gallery
	$(BIN)/python -m sphinx -W --keep-going --doctree-dir build/doctrees docs build/docs
	$(BIN)/python -m pytest -m site tests/project/test_site.py tests/project/test_docstrings.py

bench: $(VENV)/.built $(SET)-bench ## every kernel beside a copy and its peers
	$(BIN)/python -m pytest bench --benchmark-only $(PYTEST_ARGS)

clean: ## remove what was built, and the environment
	rm -rf build dist docs/api docs/auto_gallery $(VENV) .venv-peers python/*.egg-info src/cdrop/_core.c python/dropcore/_core*.so

# The link to the interpreter is dead or missing where the environment was never made or its
# Python has gone: make it afresh.
ifeq ($(shell $(BIN)/python -c 'import sys; print(sys.version_info >= (3, 11))' 2>/dev/null),True)
$(VENV)/.made:
	@touch $@
else
.PHONY: $(VENV)/.made
$(VENV)/.made:
	@$(FIND_PYTHON); echo "making $(VENV) with $$found ($$("$$found" -V))"; \
	"$$found" -m venv --clear $(VENV) && touch $@
endif

.PHONY: always
$(VENV)/.built-with: $(VENV)/.made always
	@printf '%s\n' '$(BUILT_WITH)' | cmp -s - $@ || { rm -rf build/temp.* build/lib.* \
		python/dropcore/_core*.so; printf '%s\n' '$(BUILT_WITH)' > $@; }

SHOW = import dropcore as d; i = d.build_info(); \
	print('dropcore', d.__version__, 'built:', i['isa'] + ',', \
	'OpenMP' if i['openmp'] else 'single-threaded, for OpenMP is not available here')

$(VENV)/.built: $(SET)-$(BUILD_SET) $(VENV)/.built-with $(SOURCES)
	$(PIP) install --no-build-isolation --no-deps --editable .
	@$(if $(filter-out 0,$(DROPCORE_SANITIZE)),echo "built with sanitizers",$(BIN)/python -c "$(SHOW)")
	@touch $@

$(SET)-%: $(VENV)/.made pyproject.toml $(wildcard requirements/*.txt)
	@PYTHON=$(BIN)/python .ci/requirements $* > $@.txt
	$(PIP) install -r $@.txt
	@touch $@

locks: $(SET)-lock ## requirements/: versions and hashes of today for .ci/run
	$(BIN)/python .ci/locks.py make
