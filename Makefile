# The study in one command: `make all`. The run store decides what is trained, make decides which notebook is executed.

PROFILE ?= quick
PARAMS  ?=
BENCH   ?=
PYTHON  ?= python3

VENV      := .venv
BIN       := $(VENV)/bin
INSTALLED := $(VENV)/installed
REPORTS   := $(or $(KDLIB_REPORTS),reports)
ifneq ($(strip $(PARAMS)),)# other data, another pair: pages and figures of their own, not in place of the profile's
REPORTS   := $(patsubst %/other/other,%/other,$(REPORTS)/other)
export KDLIB_REPORTS := $(REPORTS)
endif
OUT       := $(REPORTS)/$(patsubst %.toml,%,$(notdir $(PROFILE)))
STUDY     := $(wildcard $(filter %.toml,$(PROFILE)) profiles/$(PROFILE).toml)
NAMES     := $(basename $(notdir $(wildcard notebooks/*.ipynb)))
ONE       := $(addprefix notebooks/,$(NAMES))
DONE      := $(patsubst %,$(OUT)/%.ipynb,$(NAMES))
SOURCES   := $(wildcard kdlib/*.py kdlib/*/*.py)
EXECUTE    = $(BIN)/python -m kdlib notebook

.PHONY: help setup all executed test faults lint verify lab docs licences bench clean lock $(ONE)
.DEFAULT_GOAL := help

help:            ## print this list
	@sed -nE 's/^\$$\(ONE\):/notebooks\/NAME:/; s/^([a-zA-Z\/]+):[^#]*## /\1\t/p' Makefile | expand -t 18
	@echo "Options: PROFILE=$(PROFILE) (a name in profiles/, or a .toml file)  PARAMS=\"-p NAME VALUE …\"  BENCH=\"--short\"  PYTHON=$(PYTHON)"

setup: $(INSTALLED) ## build .venv from constraints.txt, if it is missing or stale

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if v >= (3, 11) else "make: Python 3.11 or newer is needed, $(PYTHON) is %d.%d; try make PYTHON=python3.12" % v)'
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
	@touch $@

all: setup       ## train what is missing, execute every notebook, write reports/index.html
	$(BIN)/python -m kdlib sweep --profile $(PROFILE)
	@$(MAKE) --no-print-directory --jobs=2 executed
	$(BIN)/python -m kdlib report --profile $(PROFILE)

executed: $(DONE)

$(OUT)/%.ipynb: notebooks/%.ipynb $(INSTALLED) $(SOURCES) $(STUDY)
	@$(EXECUTE) $< --out $@ -p profile $(PROFILE) $(PARAMS)

$(ONE): notebooks/%: setup ## execute one notebook, as make notebooks/05_rkd
	@$(EXECUTE) $@.ipynb --out $(OUT)/$*.ipynb -p profile $(PROFILE) $(PARAMS)

test: setup      ## run every test, and the notebooks in their smoke size
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile tests
	@folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && \
	export KDLIB_SMOKE=1 KDLIB_HEADLESS=1 KDLIB_DATA=$$folder/data KDLIB_RUNS=$$folder/runs KDLIB_REPORTS=$$folder/reports && \
	$(BIN)/python -m kdlib sweep --profile quick && \
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --nbval-lax notebooks

faults: setup    ## kill processes 200 times at file events, and look whether anything is lost (half an hour)
	KDLIB_KILLS=200 $(BIN)/python -m pytest --quiet tests/test_kills.py

lint: setup      ## check style, types, and that notebooks hold no outputs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/nbstripout --verify --keep-id notebooks/*.ipynb
	$(BIN)/mypy

verify: setup    ## rebuild what reports/published says from its predictions, without training; fail on any difference
	$(BIN)/python -m kdlib verify

docs: setup      ## write the documentation as a site that opens from disk: reports/docs/index.html
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict --site-dir $(abspath $(REPORTS))/docs

lab: setup       ## open JupyterLab
	$(BIN)/jupyter lab notebooks

licences: setup  ## list the licence of every package that is installed
	$(BIN)/pip-licenses --order=license --from=mixed --format=markdown

bench: setup     ## time training, decoding and bias figures beside others' (BENCH=--short: some minutes)
	$(BIN)/python -m benchmarks.speed $(BENCH)
	$(BIN)/python -m benchmarks.decoding
	$(BIN)/python -m benchmarks.bias

clean:           ## remove the executed notebooks of PROFILE; runs and data stay
	rm -rf $(OUT) $(REPORTS)/index.html

lock:            ## renew constraints.txt from the newest versions that pyproject.toml allows
	rm -rf $(VENV) && $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	$(BIN)/python -m pip freeze --exclude-editable > constraints.txt
