# make demo: the main job. make test: the tests. Both create .venv and install what they need.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test slow lint types clean

demo: $(VENV)/.installed-gcd
	$(BIN)/python -m examples.gcd_vit

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

slow: $(VENV)/.installed-test
	XLA_FLAGS= $(BIN)/python -m pytest -n 2 -m slow

lint: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/.installed-dev
	$(BIN)/pyright --pythonpath $(BIN)/python

$(BIN)/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if v >= (3, 11) else "eagc_jax needs Python 3.11 or newer, found %d.%d: run make with PYTHON=python3.11" % v[:2])'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed-%: $(BIN)/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[$*]'
	@touch $@

clean:
	rm -rf $(VENV) runs
