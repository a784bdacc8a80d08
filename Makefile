# make quickstart: everything from a bare Python 3.11 to a detector at work.
# make test:       everything from a bare Python 3.11 to tested code.
# With CPU=1 the one that makes the environment takes PyTorch without CUDA: 4 GB less, no GPU used.
PYTHON ?= python3
VENV := .venv
BIN = $(VENV)/bin
PIP_INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check
# The index that PyTorch documents for its CPU wheels. Not tried: it could not be reached from where
# this was written.
CPU_INDEX := https://download.pytorch.org/whl/cpu
STAMP := $(VENV)/.installed
BROWSER_STAMP := $(VENV)/.installed-browser
SITE_STAMP := $(VENV)/.installed-site
SITE := build/site

.DEFAULT_GOAL := help
.PHONY: help setup quickstart test test-code test-notebooks test-browser test-oldest test-newest \
  attack audit lab lint bench notebooks claims site clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

setup: $(STAMP) ## make the environment in .venv (5 GB with PyTorch); CPU=1 for one without CUDA

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "htdg needs Python 3.11 or newer: make setup PYTHON=python3.11"; exit 2; }
	@test -x $(BIN)/python || { echo "making the environment in $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@echo "installing (a few minutes the first time)"
	@$(if $(CPU),$(PIP_INSTALL) --index-url $(CPU_INDEX) torch torchvision)
	@$(PIP_INSTALL) -e '.[notebooks,tests]'
	@touch $@

quickstart: $(STAMP) ## trains on one normal image, finds damaged ones and where: runs/quickstart
	@$(BIN)/htdg run 00_quickstart --out runs/quickstart

test: lint test-code test-notebooks ## all tests

# Two processes, however many cores there are: each needs 2 GB. The programs that tests start have a
# thread each, since another test has the other core (benchmarks.busy).
test-code: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# A thread each, since two notebooks run at a time. 09 with its answers computes all that 09 does.
test-notebooks: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -x -n 2 --dist loadscope --nbval-lax --nbval-current-env \
	  --nbval-cell-timeout=600 --ignore notebooks/09_is_it_worth_it.ipynb notebooks

test-browser: $(BROWSER_STAMP) ## run notebooks in a real browser, not part of test; NOTEBOOKS=all for all of them
	@missing=; for package in chromium:chromium chromedriver:chromium-driver; do \
	  command -v $${package%%:*} > /dev/null || missing="$$missing $${package##*:}"; done; \
	test -z "$$missing" || \
	  { echo "The browser test needs these Debian packages:$$missing (apt-get install$$missing)."; exit 2; }
	$(BIN)/python -m pytest tests/browser $(if $(NOTEBOOKS),--notebooks '$(NOTEBOOKS)')

$(BROWSER_STAMP): $(STAMP)
	@$(PIP_INSTALL) -e '.[browser]'
	@touch $@

attack: $(STAMP) ## kill every command at every event, try every hostile file, fuzz (hours)
	@failed=0; \
	$(BIN)/python -m tests.attack.kills --twice 20 || failed=1; \
	$(BIN)/python -m tests.attack.corpus || failed=1; \
	HTDG_ATTACK=long $(BIN)/python -m pytest tests/attack/test_fuzz_*.py tests/attack/test_image_modes.py \
	  || failed=1; \
	exit $$failed

# Each of these has an environment of its own, which is made anew when PYTHON is another.
test-oldest: VENV := .venv-oldest
test-newest: VENV := .venv-newest
audit: AUDIT := .venv-audit/bin
OWN_VENV = test "$$($(BIN)/python -V 2>&1)" = "$$($(PYTHON) -V)" || $(PYTHON) -m venv --clear $(VENV)

test-oldest: ## test the code with the lower bounds in pyproject.toml, in .venv-oldest (7 GB)
	@$(OWN_VENV)
	@$(BIN)/python tests/oldest.py > $(VENV)/oldest.txt
	@$(PIP_INSTALL) --constraint $(VENV)/oldest.txt -e '.[notebooks,tests]'
	$(BIN)/python -m pytest

test-newest: ## test the code with the newest versions there are, in .venv-newest (7 GB)
	@$(OWN_VENV)
	@$(PIP_INSTALL) --upgrade --upgrade-strategy eager -e '.[notebooks,tests]'
	$(BIN)/python -m pytest

# Strict, since pip-audit passes over what its service does not know, and calls that a success.
audit: $(STAMP) ## look up published vulnerabilities of what is installed in .venv
	@test -x $(AUDIT)/pip-audit || { $(PYTHON) -m venv .venv-audit && \
	  $(AUDIT)/python -m pip install --quiet --disable-pip-version-check pip-audit; }
	@$(BIN)/python -m pip list --format=freeze --exclude-editable | sed 's/+.*//' > .venv-audit/installed.txt
	$(AUDIT)/pip-audit --strict --disable-pip --no-deps -r .venv-audit/installed.txt

lint: $(STAMP) ## style with ruff, types with mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy htdg

# Kernels wait as `htdg` has its threads wait: docs/speed.md, "Beside other work".
lab notebooks claims: export GOMP_SPINCOUNT ?= 1000

lab: $(STAMP) ## open the first notebook in JupyterLab
	$(BIN)/jupyter lab notebooks/00_quickstart.ipynb

notebooks: $(STAMP) ## make the exercises from the solutions, execute all and save their outputs
	$(BIN)/python -m htdg.course.exercises
	$(BIN)/python -m htdg.course.execute notebooks/*.ipynb notebooks/solutions/*.ipynb

claims: $(STAMP) ## execute the notebooks in another way; fails where their text turns false (minutes)
	$(BIN)/python -m htdg.course.claims --execute

# The front page is the README, so that its links work, and the server's index is a copy of it.
site: $(SITE_STAMP) ## build the course and the documentation as web pages in build/site
	@rm -rf $(SITE)
	REPOSITORY=$(REPOSITORY) BRANCH=$(BRANCH) \
	  $(BIN)/sphinx-build --fail-on-warning --keep-going --quiet -c site -d build/doctrees . $(SITE)
	@cp $(SITE)/README.html $(SITE)/index.html
	@$(BIN)/python site/check.py $(SITE)

$(SITE_STAMP): $(STAMP)
	@$(PIP_INSTALL) -e '.[site]'
	@touch $@

bench: $(STAMP) ## measure speed (a quarter to half an hour)
	$(BIN)/python -m benchmarks.speed

clean: ## remove what the targets above made, except the environments
	rm -rf runs build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +
