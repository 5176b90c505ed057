# Every target makes what it needs, so any of them works as the first command after a clone.
# Other interpreter: make PYTHON=python3.12 test. Options for a tool: make demo ARGS="...".

PYTHON ?= $(firstword $(foreach p,python3.11 python3,$(shell $(p) -c 'print("$(p)")' 2>/dev/null)))
UV_VERSION := 0.13.9

VENV := .venv
PY := $(VENV)/bin/python
UV := $(VENV)/bin/uv
INSTALLED := $(VENV)/.installed
BUSY := $(VENV)/.installing
MUTATION := $(VENV)/mutation
MKDOCS := $(VENV)/mkdocs
PAGES := README.md CHANGELOG.md CONTRIBUTING.md SECURITY.md LICENSE CITATION.cff docs configs projects examples
# Somebody's own Detectron2, built from source (its distribution is called detectron2), stays as it is.
OWN_DETECTRON2 = $(PY) -W ignore -c 'import importlib.metadata as m; m.version("detectron2"); import detectron2.engine'

VERSION_OF = $(shell $(1) -c 'import sys; print(sys.version_info[:2])' 2>/dev/null)
ifeq ($(origin PYTHON)-$(filter clean help,$(MAKECMDGOALS)),command line-)
ifneq ($(wildcard $(PY)),)
ifneq ($(call VERSION_OF,$(PYTHON)),$(call VERSION_OF,$(PY)))
$(error $(VENV) is of another Python than $(PYTHON): make clean first)
endif
endif
endif

.DEFAULT_GOAL := help
.PHONY: help .venv demo test test-clients mutate lint docs doctor repair lock clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z.-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

.venv: $(INSTALLED)  ## create the environment, or bring it up to date

demo: $(INSTALLED)  ## from images to COCO AP on this machine; writes outputs/demo/report.html
	$(PY) tools/demo.py $(ARGS)

test: $(INSTALLED)  ## run the tests, on one thread unless OMP_NUM_THREADS says otherwise
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(PY) -m pytest $(ARGS)

test-clients: $(INSTALLED)  ## try the packages of others, each in an environment of its own; ARGS=NAME for one
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(PY) tests/clients/run.py $(ARGS)

mutate: $(MUTATION)  ## break the code in 300 places and see whether the tests notice; goes on where it stopped
	PYTHONPATH=$(CURDIR)/$(MUTATION) nice -n 10 $(PY) tests/mutation/run.py $(ARGS)

lint: $(INSTALLED)  ## check style and spelling
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m codespell_lib

docs: $(MKDOCS)  ## the manual as a site, build/docs/site/index.html; a warning fails
	rm -rf build/docs && mkdir -p build/docs/pages
	find $(PAGES) -type f \( -name '*.md' -o ! -path '*/*' -o -path 'docs/*' -o -path 'examples/*' \) ! -path '*/__pycache__/*' \
		-exec cp --parents -t build/docs/pages {} +
	NO_MKDOCS_2_WARNING=1 PYTHONPATH=$(CURDIR)/$(MKDOCS) $(PY) -m mkdocs build --strict

doctor: $(INSTALLED)  ## what is installed, what will run, what is missing and how to repair it
	$(PY) tools/doctor.py

repair:  ## install everything anew into .venv
	@mkdir -p $(VENV) && touch $(BUSY) && rm -f $(INSTALLED)
	@$(MAKE) --no-print-directory $(INSTALLED)

lock: $(UV)  ## renew requirements/{base,mkdocs}.txt; ARGS=--upgrade for newer versions
	$(UV) pip compile --python $(PY) --generate-hashes --custom-compile-command "make lock" $(ARGS) \
		--quiet --output-file requirements/base.txt requirements/base.in
	$(UV) pip compile --python $(PY) --generate-hashes --custom-compile-command "make lock" $(ARGS) \
		--quiet --output-file requirements/mkdocs.txt requirements/mkdocs.in

clean:  ## remove the environment and caches; outputs stay
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(UV):
	@test -n "$(PYTHON)" || { echo "error: no python3 found; install Python 3.11, or say make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: $(PYTHON) is older than 3.11, which the pinned packages need; say make PYTHON=/path/to/python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

# $(BUSY) stands while an installation is under way. Found standing, the last one was cut short and may have left
# packages in pieces, so this one installs all of them anew.
$(INSTALLED): requirements/base.txt requirements/detectron2.txt setup.py | $(UV)
	@rm -f $(INSTALLED)
	@test ! -e $(BUSY) || echo "The last installation did not finish: installing everything anew."
	@echo "Installing the pinned packages into $(VENV) ..."
	@anew=$$(test ! -e $(BUSY) || echo --reinstall); touch $(BUSY); set -e; \
	$(UV) pip install --python $(PY) $$anew --require-hashes -r requirements/base.txt; \
	site=$$($(PY) -c 'import sysconfig; print(sysconfig.get_path("purelib"))'); \
	$(OWN_DETECTRON2) 2>/dev/null || $(UV) pip install --python-version 3.10 --target "$$site" $$anew --no-deps \
		--require-hashes -r requirements/detectron2.txt; \
	$(UV) pip install --python $(PY) --no-deps --no-build-isolation -e .
	@rm -f $(BUSY)
	@touch $(INSTALLED)

$(MUTATION) $(MKDOCS): $(VENV)/%: requirements/%.txt | $(INSTALLED)
	$(UV) pip install --python $(PY) --target $@ --no-deps --require-hashes -r $<
	@touch $@
