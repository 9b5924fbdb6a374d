.DEFAULT_GOAL := help
.PHONY: help install demo test faults fuzz soak optimizers table frameworks bench gpu study notebooks lint fmt docs pages chromium screenshots clean

PYTHON ?= python3
SERVE ?= 1
SECONDS ?= 60
PORT ?= 8050
BIN := .venv/bin

help: ## List the targets
	@echo "make TARGET [VARIABLE=value]; PYTHON=python3 is what makes .venv"
	@sed -nE 's/^([a-z]+):.*## (.*)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 15

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "optgeom needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) --version). Try: make PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv .venv

.venv/.core: pyproject.toml constraints.txt | .venv/bin/python
	@echo "Installing optgeom into .venv (a few minutes the first time)"
	$(BIN)/pip install --disable-pip-version-check -q -c constraints.txt -e .
	@touch $@

.venv/.dev: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/pip install --disable-pip-version-check -q -c constraints.txt -e '.[dev]'
	@touch $@ .venv/.core

install: .venv/.core ## Make .venv and install optgeom into it

demo: .venv/.core ## Train three optimizers, serve their runs (SERVE=0: do not)
	$(BIN)/optgeom demo --out runs/demo --overwrite --port $(PORT) $(if $(filter 0,$(SERVE)),--no-serve)

chromium:
	@sh tests/chromium.sh

test: .venv/.dev chromium lint ## Install the development side, lint, run every test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

# environments for what the tests ask of other packages: on top of .venv, so that torch is installed once
CONSTRAINTS-optimizers := -c constraints.txt

.venv-%/.done: tests/%/requirements.txt .venv/.dev
	$(BIN)/python -m venv .venv-$*
	$(BIN)/python -c 'import site; print("import site; site.addsitedir(%r)" % site.getsitepackages()[0])' \
		> $$(.venv-$*/bin/python -c 'import site; print(site.getsitepackages()[0])')/development.pth
	.venv-$*/bin/pip install --disable-pip-version-check -q $(CONSTRAINTS-$*) -r tests/$*/requirements.txt
	@touch $@

fuzz: .venv-fuzz/.done ## Fuzz the readers of traces (SECONDS=60 each)
	@for reader in runfile stream segment; do \
		OMP_NUM_THREADS=1 .venv-fuzz/bin/python -m tests.fuzz.$$reader .venv-fuzz/corpus/$$reader \
			-max_total_time=$(SECONDS) -rss_limit_mb=3000 -timeout=20 -artifact_prefix=.venv-fuzz/ \
			> .venv-fuzz/$$reader.log 2>&1 || { tail -30 .venv-fuzz/$$reader.log; exit 1; }; \
		echo "$$reader: $$(tail -1 .venv-fuzz/$$reader.log)"; done

optimizers: .venv-optimizers/.done ## Check what is recorded of the optimizers of other packages
	OMP_NUM_THREADS=2 .venv-optimizers/bin/python -m pytest tests/optimizers/test_packages.py

table: .venv-optimizers/.done ## Write docs/optimizers.md from what the optimizers do
	OMP_NUM_THREADS=2 .venv-optimizers/bin/python -m tests.optimizers.table

# the settings of pyproject.toml, but for what keeps these tests out of the others
frameworks: .venv-frameworks/.done ## Test with Trainer, Lightning, accelerate, W&B and their like
	OMP_NUM_THREADS=1 .venv-frameworks/bin/python -m pytest \
		-o addopts='-p no:dash --import-mode=importlib --strict-markers --strict-config -ra --durations=15' \
		tests/frameworks

faults: .venv/.dev ## Break captured runs in every way, see what is left (30 min)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.faults

soak: .venv/.dev ## Write a million records, then 100,000 steps: how does memory grow
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/soak.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/soak.py --long

bench: .venv/.dev ## Run every benchmark and the peers', into docs/benchmarks.md
	$(BIN)/python benchmarks/bench.py

gpu: .venv/.dev ## Check and measure on a GPU, report under benchmarks/results
	$(BIN)/python benchmarks/gpu.py

study: .venv/.dev chromium ## Compare the paper's rules at five seeds, write docs/study.md
	$(BIN)/python -m benchmarks.study

notebooks: .venv/.dev ## Execute every notebook on fresh runs of the demo
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/test_notebooks.py

lint: .venv/.dev ## ruff, mypy --strict, import contracts: the fast checks
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fmt: .venv/.dev ## Format and fix
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# the variable silences Material's note on what comes after it
docs: .venv/.dev ## Build the documentation into site/; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

pages: .venv/.dev ## Write the pages of docs/ that are made from code
	$(BIN)/python -m tests.docs.pages

screenshots: .venv/.dev chromium ## Take the pictures under docs/screenshots from runs/demo
	$(BIN)/python tests/dashboard/screenshots.py runs/demo docs/screenshots

clean: ## Remove the environments, the built pages and the demo's traces
	rm -rf .venv .venv-optimizers .venv-fuzz .venv-frameworks runs/demo site
