# Everything runs from .venv; `make demo` and `make test` need nothing but Python 3.11+ and make.
PYTHON ?= python3
BIN := .venv/bin
STORE ?= .polychoir

.PHONY: setup demo test test-all check audit bench clean
setup: .venv/.installed
.venv/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: setup  ## The main job on real data: prepare, train, combine, judge, track
	$(BIN)/polychoir demo --store $(STORE)

test: setup  ## The tests that take minutes; slow ones run in .ci/run
	$(BIN)/python -m pytest -n 2 --dist loadfile -m 'not slow'

test-all: setup  ## Every test, the slow ones too: most of an hour
	$(BIN)/python -m pytest -n 2 --dist loadfile --timeout 1800 --cov --cov-report=term:skip-covered --cov-fail-under=85

check: setup  ## Style, types, and the rules of the house
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports

audit:  ## Known advisories against the pinned versions; needs a network, and fails without one
	$(PYTHON) -m venv build/audit
	build/audit/bin/pip install --quiet --disable-pip-version-check pip-audit
	build/audit/bin/pip-audit --requirement constraints.txt --no-deps --disable-pip

bench: setup  ## Measurements, printed as tables
	$(BIN)/python benchmarks/data.py --larger-than-memory
	$(BIN)/python benchmarks/cost_model.py
	$(BIN)/python benchmarks/overhead.py
	$(BIN)/python benchmarks/cohort.py
	$(BIN)/python benchmarks/checkpoint.py
	$(BIN)/python benchmarks/resume.py

clean:
	rm -rf .polychoir build *.egg-info .pytest_cache .ruff_cache .import_linter_cache
