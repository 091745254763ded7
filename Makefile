# Two commands do everything: `make demo` and `make test`. Each makes the environment it needs when there is none.
PYTHON ?= python3
# An active virtual environment is used as it is, with its own torch; otherwise .venv is made.
VENV ?= $(or $(VIRTUAL_ENV),.venv)
BIN := $(VENV)/bin
READY := $(VENV)/.errata-ready
# One thread a process: two torch processes with two threads each on two cores spin and run five times slower.
export OMP_NUM_THREADS ?= 1
export OMP_WAIT_POLICY ?= PASSIVE
# Where the environment forbids byte code, each of the many commands that tests start would compile its imports anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test lint types docs format clean

demo: $(READY)
	$(BIN)/python scripts/demo.py

test: lint types
	$(BIN)/python -m pytest -n 2

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

# The site, into build/site; a broken link is an error.
docs: $(READY)
	$(BIN)/python -m pip install --quiet --editable ".[docs]"
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# torch first: without one installed, a dependency would bring the newest build with several gigabytes of CUDA.
$(READY): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -c "import torch" 2>/dev/null || $(BIN)/python -m pip install --quiet "torch==2.13.0"
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@

clean:
	rm -rf .venv runs dist build .pytest_cache .mypy_cache .ruff_cache
