PYTHON ?= python3
PY := .venv/bin/python

.PHONY: demo test test-all check clean

# The main job on three shipped, held-out scans: x4 super-resolution, plug and play, shipped pixel prior.
demo: .venv/.app
	$(PY) sample.py

# Two processes of one thread: the tests are many and small.
test: .venv/.dev
	OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 --dist loadfile

# The long ones too: minutes each; their figures belong in the commit that changes them.
test-all: .venv/.dev
	$(PY) -m pytest -m ""

check: .venv/.dev
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

.venv/.app: pyproject.toml
	test -x $(PY) || $(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --upgrade pip
	$(PY) -m pip install --quiet -e .
	touch $@

.venv/.dev: pyproject.toml
	test -x $(PY) || $(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --upgrade pip
	$(PY) -m pip install --quiet -e '.[dev]'
	touch $@ .venv/.app

clean:
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache
