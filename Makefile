PYTHON ?= python3
PY := .venv/bin/python

.PHONY: demo web docs test test-all check clean

# The main job on three shipped, held-out scans: x4 super-resolution, plug and play, shipped pixel prior.
demo: .venv/.app
	$(PY) sample.py

# The page: http://127.0.0.1:7860
web: .venv/.web
	$(PY) scripts/web.py

# The pages of docs/ with a search and the Python reference, in site/
docs: .venv/.docs
	$(PY) -m mkdocs build --strict

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

.venv/.web .venv/.docs: .venv/.%: pyproject.toml .venv/.app
	$(PY) -m pip install --quiet -e '.[$*]'
	touch $@

clean:
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache
