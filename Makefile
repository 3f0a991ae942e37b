# make demo | test | check | fix | bench. Everything happens in .venv; a second call installs nothing.
PYTHON ?= python3.11
BIN := .venv/bin

.PHONY: demo test check fix bench clean

demo: .venv/.demo
	$(BIN)/raybd run configs/quickstart.yaml --store results --report

test: .venv/.test
	$(BIN)/pytest

check: .venv/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest -m "not ray"

fix: .venv/.test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: .venv/.demo
	$(BIN)/python benchmarks/training.py

clean:
	rm -rf .venv results .mypy_cache .pytest_cache .ruff_cache .import_linter_cache

.venv/bin/pip:
	$(PYTHON) -m venv .venv

.venv/.demo: .venv/bin/pip pyproject.toml
	$(BIN)/pip install -q -e '.[report]'
	touch $@

.venv/.test: .venv/bin/pip pyproject.toml
	$(BIN)/pip install -q -e '.[test]'
	touch $@ .venv/.demo
