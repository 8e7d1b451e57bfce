# Two commands: `make demo` and `make test`. Both install synthmed into .venv first, and only when something changed.
PYTHON ?= python3
BIN := .venv/bin
SOURCES := pyproject.toml README.md LICENSE $(shell find synthmed recipes -type f ! -name '*.pyc')

.PHONY: demo test check clean

demo: .venv/installed
	$(BIN)/synthmed demo --output demo

test: .venv/installed-test
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal

check: .venv/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.venv/installed: $(SOURCES)
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install .
	touch $@

.venv/installed-test: .venv/installed
	$(BIN)/python -m pip install '.[test]'
	touch $@

clean:
	rm -rf .venv demo build dist
