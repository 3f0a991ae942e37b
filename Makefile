# make demo | test | check | fix | docs | mutants | bench. All commands use .venv; it is installed once.
PYTHON ?= python3.11
BIN := .venv/bin
# Its plugins print advertisements for forks of mkdocs.
export DISABLE_MKDOCS_2_WARNING := true
export NO_MKDOCS_2_WARNING := 1
# Two processes; the tests of a file share one, and with it what the file's fixtures have built.
PYTEST_ARGS := -n 2 --dist loadfile --no-loadscope-reorder
MUTANTS ?= --jobs 2
BENCH ?= startup poisoning detectors features memory convolutions training encoders packed groups

.PHONY: demo test test-lowest check fix docs mutants bench clean

demo: .venv/.demo
	$(BIN)/raybd run configs/quickstart.yaml --store results --report

test: .venv/.test # everything; what CI runs
	$(BIN)/pytest $(PYTEST_ARGS) -m "not ray"
	$(BIN)/pytest $(PYTEST_ARGS) -m ray

test-lowest: .venv/.test # with the lowest versions that pyproject.toml allows
	$(BIN)/pip install -q uv
	$(BIN)/uv venv -q --clear --python $(BIN)/python .venv-lowest
	$(BIN)/uv pip install -q --python .venv-lowest/bin/python --resolution lowest-direct -e '.[test]'
	.venv-lowest/bin/python -m pytest $(PYTEST_ARGS) -m "not ray"
	.venv-lowest/bin/python -m pytest $(PYTEST_ARGS) -m ray

check: .venv/.test # before each commit: everything that takes no training of many seconds and no Ray
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest $(PYTEST_ARGS) -m "not ray and not slow"

fix: .venv/.test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: .venv/.test # the documentation as a website, in site/
	$(BIN)/mkdocs build --strict --quiet

mutants: .venv/.test # faults that the tests must notice: make mutants MUTANTS="--only spectral"
	$(BIN)/python -m tests.mutants $(MUTANTS)

bench: .venv/.demo # one benchmark: make bench BENCH=poisoning
	for one in $(BENCH); do $(BIN)/python -m benchmarks.$$one || exit 1; done

clean:
	rm -rf .venv .venv-lowest results site .mypy_cache .pytest_cache .ruff_cache .import_linter_cache

.venv/bin/pip:
	$(PYTHON) -m venv .venv

.venv/.demo: .venv/bin/pip pyproject.toml
	$(BIN)/pip install -q -e '.[report]'
	touch $@

.venv/.test: .venv/bin/pip pyproject.toml
	$(BIN)/pip install -q -e '.[test]'
	touch $@ .venv/.demo
