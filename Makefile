# `make demo` and `make test` set everything up by themselves.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Written when the installation has finished; made again when what is to be installed changes.
READY := $(VENV)/.installed

.PHONY: setup demo test test-slow notebooks docs lint format type clean

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

demo: $(READY)
	$(BIN)/ssl-transfer demo

# In the order of the folders: long files of few tests come first, and the short ones of tests/unit fill up the end.
test: $(READY)
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-slow: $(READY)
	$(BIN)/python -m pytest -m slow

notebooks: $(READY)
	$(BIN)/python -m pytest -m slow tests/notebooks

docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

type: $(READY)
	$(BIN)/mypy

clean:
	rm -rf $(VENV) build dist *.egg-info
