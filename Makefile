# make demo   the whole loop on two real models, in about a minute once installed
# make test   everything that is checked: style, types, all tests with their coverage, the Hub tests again over Xet
# make check  the quick part of it, for every change
# make wheel  build the sdist and the wheel, and run the command from the wheel in an empty virtual environment
# make sdist  the same, and then the quick tests from the unpacked sdist
# make bench  time and memory against mergekit, LM_Cocktail, sentence-transformers and a plain copy (BENCH_ARGS)
# make docs   write docs/cli.md anew from the commands' own help
# make site   the docs as a site in build/site; warnings and dead links are errors
# make page   drive the page of `cocktail ui` in Chromium (apt install chromium), and take the pictures of the docs
# make lowest the tests on the lowest versions that pyproject.toml accepts
# make release VERSION=1.2.3  set the version, date the changelog, commit and tag; pushing the tag publishes
# make fuzz   a random search for files that the parsers do not bear, for FUZZ_SECONDS
# make hub-suite  huggingface_hub's own tests against the loopback Hub, but for those in tests/hub_suite.txt
# make coverage  lines that the last `make test` did not run, file by file
#
# demo and test install what they need into $(VENV). Variables: PYTHON, VENV, JOBS, PYTEST_ARGS.
# For a selection of the tests, turn the coverage floor off: make test COVERAGE= PYTEST_ARGS="-k adapters"

PYTHON ?= python3
VENV ?= .venv
LOWEST_VENV ?= .venv-lowest
WHEEL_VENV ?= .venv-wheel
LOWEST_TORCH ?= 2.13.0
JOBS ?= 2
PYTEST_ARGS ?=
FUZZ_SECONDS ?= 300
COVERAGE ?= --cov --cov-report=
BENCH_WORK ?= build/bench
BENCH_ARGS ?= --sizes 0.1B embedder --ingredients 2 4 10 --dtypes bfloat16 float32

# What talks to a Hub as users do; tests/testing tries both ways of transfer by itself.
XET_TESTS = tests/hub tests/integrations/test_auto.py tests/pipeline tests/publishing tests/cli

BIN = $(VENV)/bin
PIP_INSTALL = -m pip install --quiet --disable-pip-version-check
PYTEST = $(abspath $(BIN))/python -m pytest -q -n $(JOBS) --dist loadfile $(PYTEST_ARGS)
QUICK = $(PYTEST) --hypothesis-profile=quick -m "not whole and not slow and not real and not fuzz and not browser and not site" tests

# Several workers with several threads each only get in each other's way.
export OMP_NUM_THREADS ?= $(if $(filter 0,$(JOBS)),,1)

.DEFAULT_GOAL := help
.PHONY: help demo test check fuzz hub-suite coverage lint types docs format bench site page lowest wheel sdist release clean

help:
	@sed -n 's/^# \{0,1\}//p;/^$$/q' Makefile

demo: $(VENV)/.demo
	@env -u OMP_NUM_THREADS $(BIN)/cocktail demo --output demo-output

test: $(VENV)/.test lint types
	$(PYTEST) $(COVERAGE) tests
	COCKTAIL_TEST_XET=1 $(PYTEST) $(XET_TESTS)

check: $(VENV)/.test lint types
	$(QUICK)

fuzz: $(VENV)/.test
	FUZZ_SECONDS=$(FUZZ_SECONDS) $(BIN)/python -m pytest -q $(PYTEST_ARGS) tests/test_fuzz.py

hub-suite: $(VENV)/.test
	@$(BIN)/python $(PIP_INSTALL) -c constraints.txt pytest-mock
	@$(BIN)/python tests/hub_suite.py $(PYTEST_ARGS)

coverage: $(VENV)/.test
	@$(BIN)/python -m coverage report --show-missing --skip-covered --fail-under=0

lint: $(VENV)/.test
	@$(BIN)/python -m ruff check .
	@$(BIN)/python -m ruff format --check .
	@$(BIN)/codespell

types: $(VENV)/.test
	@$(BIN)/python -m mypy

docs: $(VENV)/.test
	@$(BIN)/python tests/help_page.py

format: $(VENV)/.test
	@$(BIN)/python -m ruff check --fix .
	@$(BIN)/python -m ruff format .

bench: $(VENV)/.test
	@$(BIN)/python benchmarks/run.py --work "$(BENCH_WORK)" --docs "$(BENCH_WORK)" $(BENCH_ARGS)

site: $(VENV)/.test
	@$(BIN)/python $(PIP_INSTALL) -c constraints.txt -e ".[site]"
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@$(BIN)/python tests/site_links.py build/site

page: $(VENV)/.test
	@$(BIN)/python $(PIP_INSTALL) -c constraints.txt -e ".[browser]"
	COCKTAIL_SCREENSHOTS=docs/ui $(BIN)/python -m pytest -q tests/cli/ui $(PYTEST_ARGS)

lowest: $(LOWEST_VENV)/.test
	$(LOWEST_VENV)/bin/python -m pytest -q -n $(JOBS) --dist loadfile -W default -m "not slow and not real" $(PYTEST_ARGS) tests

# The wheel is built from the sdist, and tried from a folder where Python cannot import the checkout instead.
wheel:
	@rm -rf dist $(WHEEL_VENV)
	@$(call make_venv,$(WHEEL_VENV))
	@$(WHEEL_VENV)/bin/python $(PIP_INSTALL) -c constraints.txt build
	@$(WHEEL_VENV)/bin/python -m build --quiet --outdir dist .
	@$(PYTHON) -m venv --clear $(WHEEL_VENV)
	@echo "Installing the wheel into $(WHEEL_VENV)."
	@$(WHEEL_VENV)/bin/python $(PIP_INSTALL) -c constraints.txt dist/*.whl
	@cd $(WHEEL_VENV) && bin/cocktail --help > /dev/null && bin/cocktail --version && bin/python -c "import cocktail_hub"
	@rm -rf $(WHEEL_VENV)

sdist: wheel $(VENV)/.test
	@rm -rf build/sdist && mkdir -p build/sdist
	@tar -xzf dist/*.tar.gz -C build/sdist --strip-components 1
	cd build/sdist && PYTHONPATH="$$PWD" $(QUICK)

release:
	@echo "$(VERSION)" | grep -qxE "[0-9]+\.[0-9]+\.[0-9]+" || { echo "Write the version: make release VERSION=1.2.3"; exit 2; }
	@git diff --quiet HEAD || { echo "Commit your changes first: a release has what is committed."; exit 2; }
	@sed "s/^VERSION = .*/VERSION = \"$(VERSION)\"/" cocktail_hub/version.py > .release
	@cat .release > cocktail_hub/version.py
	@sed "s/^## \[Unreleased\]$$/&\n\n## [$(VERSION)] - $$(date +%F)/" CHANGELOG.md > .release
	@cat .release > CHANGELOG.md && rm .release
	@git commit --quiet --message "Release $(VERSION)" cocktail_hub/version.py CHANGELOG.md && git tag "v$(VERSION)"
	@echo "Committed and tagged v$(VERSION). Publish it with: git push origin HEAD v$(VERSION)"

clean:
	rm -rf $(VENV) $(LOWEST_VENV) $(WHEEL_VENV) demo-output build dist *.egg-info .coverage .coverage.* htmlcov
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis

# Installing. A stamp tells what a virtual environment has; it is out of date when the versions change.

$(VENV)/.demo: pyproject.toml cocktail_hub/version.py constraints.txt
	@$(call make_venv,$(VENV))
	@echo "Installing cocktail-hub with its demo into $(VENV); a first time takes some minutes."
	@$(BIN)/python $(PIP_INSTALL) -c constraints.txt -e ".[demo]"
	@touch $@

$(VENV)/.test: pyproject.toml cocktail_hub/version.py constraints.txt
	@$(call make_venv,$(VENV))
	@echo "Installing cocktail-hub with its tests into $(VENV); a first time takes some minutes."
	@$(BIN)/python $(PIP_INSTALL) -c constraints.txt -e ".[test]"
	@touch $@ $(VENV)/.demo

$(LOWEST_VENV)/.test: pyproject.toml cocktail_hub/version.py constraints-lowest.txt
	@$(call make_venv,$(LOWEST_VENV))
	@echo "Installing the lowest versions into $(LOWEST_VENV); a first time takes some minutes."
	@$(LOWEST_VENV)/bin/python $(PIP_INSTALL) -c constraints-lowest.txt "torch==$(LOWEST_TORCH)" -e ".[demo,parquet,peft]" \
	  hypothesis pytest pytest-timeout pytest-xdist
	@touch $@

# Make a virtual environment, or say in plain words why it cannot be made.
define make_venv
	command -v "$(PYTHON)" > /dev/null || { \
	  echo "There is no '$(PYTHON)' here. Install Python 3.10 or newer, or name one: make $(MAKECMDGOALS) PYTHON=python3.11"; exit 1; }; \
	"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	  echo "'$(PYTHON)' is $$("$(PYTHON)" --version 2>&1), but cocktail-hub needs Python 3.10 or newer."; \
	  echo "Install a newer one, or name it: make $(MAKECMDGOALS) PYTHON=python3.11"; exit 1; }; \
	"$(PYTHON)" -c 'import ensurepip, venv' 2> /dev/null || { \
	  echo "'$(PYTHON)' cannot make virtual environments: its venv module is missing."; \
	  echo "Install it (on Debian and Ubuntu: apt install python3-venv) and try again."; exit 1; }; \
	test -x "$(1)/bin/python" || "$(PYTHON)" -m venv "$(1)"
endef
