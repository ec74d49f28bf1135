# make run    sets everything up and takes MNIST from its files to a pushed model
# make test   sets everything up and passes the linter, the type checker and the tests
.PHONY: run test setup lint unit lock bench clean

run: setup
	.venv/bin/conveyor run mnist

test: setup lint
	.venv/bin/python -m pytest -n 2 --dist loadfile

setup:
	@$(or $(PYTHON),python3) requirements/install.py

lint: setup
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy
	.venv/bin/lint-imports

# The quick tests: a minute instead of ten.
unit: setup
	.venv/bin/python -m pytest --ignore=tests/end_to_end

lock: setup
	requirements/lock.sh

bench: setup
	.venv/bin/python -m benchmarks.ingest
	.venv/bin/python -m benchmarks.pipeline_overhead
	.venv/bin/python -m benchmarks.retraining
	.venv/bin/python -m benchmarks.serving

clean:
	rm -rf .venv build *.egg-info
