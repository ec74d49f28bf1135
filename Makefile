# `make help` lists the targets.
.PHONY: help run test setup lint unit docs compatibility lock bench clean

help:  ## Lists the targets
	@sed -n 's/^\([a-z]*\):[^#]*## \(.*\)/  \1\t\2/p' Makefile | expand -t 10

run: setup  ## Sets everything up, and takes MNIST from its files to a pushed model
	.venv/bin/conveyor run mnist

test: setup lint  ## Sets everything up, and passes linters, types, contracts, documentation and all tests
	.venv/bin/python -m pytest -n 2 --dist loadfile

setup:  ## Makes .venv, with everything locked by hash
	@$(or $(PYTHON),python3) requirements/install.py

lint: setup  ## ruff, mypy, the import contracts, the documentation built strictly
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy
	.venv/bin/lint-imports
	.venv/bin/python docs/make_reference.py --check
	.venv/bin/python docs/make_measurements.py --check
	NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --quiet

unit: setup  ## The quick unit tests, in under a minute
	.venv/bin/python -m pytest -n 2 --dist loadfile -m "not slow" --ignore=tests/end_to_end --ignore=tests/benchmarks

docs: setup  ## Writes the reference pages from the code, and builds the documentation into build/site
	.venv/bin/python docs/make_reference.py
	.venv/bin/python docs/make_measurements.py
	NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build

compatibility: setup  ## Runs what TensorFlow Serving's own sources expect, and writes the table of it
	COMPATIBILITY_PAGE=1 .venv/bin/python -m pytest -n 2 --dist loadfile -m compatible tests/serving tests/end_to_end

lock: setup  ## Resolves every stack anew
	requirements/lock.sh

bench: setup  ## Runs every benchmark, and stores the results
	.venv/bin/python -m benchmarks.ingest
	.venv/bin/python -m benchmarks.data_size
	.venv/bin/python -m benchmarks.pipeline_overhead
	.venv/bin/python -m benchmarks.retraining
	.venv/bin/python -m benchmarks.training
	.venv/bin/python -m benchmarks.training_workers
	.venv/bin/python -m benchmarks.serving
	.venv/bin/python -m benchmarks.serving_processes

clean:  ## Removes .venv and what was built
	rm -rf .venv build *.egg-info
