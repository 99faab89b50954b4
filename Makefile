# make demo: a first search, start to end.  make test: everything CI runs.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN = .venv/bin
STAMP = .venv/.installed

.PHONY: help install demo test test-slow test-chaos test-gpu check ui clean

help:
	@echo "make demo       install, search SmolLM2-135M (24 trials), export the best model"
	@echo "make test       lint, types and tests, as CI runs them"
	@echo "make check      lint and types only"
	@echo "make test-slow  the minutes-long tests and those on the packaged models and data"
	@echo "make test-chaos kills drivers, workers, nodes, heads, the ledger and the database"
	@echo "make test-gpu   the tests that need a CUDA device"
	@echo "make ui         MLflow's pages over what was searched here"

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c "import sys; assert sys.version_info[:2] >= (3, 11), 'Rayduce needs Python 3.11 or newer; set PYTHON=...'"
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	touch $(STAMP)

demo: $(STAMP)
	$(BIN)/rayduce launch spaces/studies/demo.toml
	rm -rf runs/demo/export
	$(BIN)/rayduce export demo --best nonzero_parameters --to runs/demo/export
	@echo; echo "The exported model in plain transformers, in a fresh process:"
	@TRANSFORMERS_VERBOSITY=error $(BIN)/python -c "from transformers import pipeline; \
	say = pipeline('text-generation', 'runs/demo/export'); \
	print(say('The capital of France is', max_new_tokens=24, do_sample=False)[0]['generated_text'])"
	@echo; $(BIN)/rayduce best demo
	@echo "pages: make ui    report: $(BIN)/rayduce report demo    model: runs/demo/export"

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# One more than there are cores, as launches wait a lot.
WORKERS = $(shell $(PYTHON) -c "import os; print(min(os.cpu_count() + 1, 4))")

test: check
	$(BIN)/pytest -q --numprocesses $(WORKERS) --dist worksteal

test-slow: $(STAMP)
	$(BIN)/pytest -q -m "slow or assets"

test-chaos: $(STAMP)
	$(BIN)/pytest -q -m chaos

test-gpu: $(STAMP)
	$(BIN)/pytest -q -m gpu

ui: $(STAMP)
	$(BIN)/rayduce ui

clean:
	rm -rf .venv runs
