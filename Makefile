# Each target makes the environment it needs; nothing else has to be installed but Python.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# DATA: a MovieLens zip or folder for demo and tune; empty: the embedded set
DATA ?=
# EPOCHS: passes over the events in them; empty: the default

.PHONY: demo tune test lint clean

demo: $(VENV)/demo.done
	$(BIN)/python examples/movies.py $(DATA) $(if $(EPOCHS),--epochs $(EPOCHS))

tune: $(VENV)/demo.done
	$(BIN)/python examples/tune.py $(DATA) $(if $(EPOCHS),--epochs $(EPOCHS))

test: $(VENV)/test.done
	$(BIN)/python -m pytest -n 2 --dist loadfile

lint: $(VENV)/lint.done
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(VENV)/%.done: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[$*]"
	@touch $@

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

clean:
	rm -rf $(VENV) demo-output
