PYTHON ?= python3
BIN := .venv/bin

.PHONY: train test lint clean
.DEFAULT_GOAL := help
.PHONY: help
help:
	@echo "make train   train CustomDDPG on Pendulum-v1"
	@echo "make test    lint, check types, run the tests"
	@echo "make lint    lint and check types only"
	@echo "make clean   remove the virtual environment"

train: .venv/.train
	$(BIN)/sb3-ddpg train --env Pendulum-v1

test: lint
	$(BIN)/pytest -n 3 --dist worksteal -m "not slow"

lint: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf .venv

# One virtual environment; each stamp stands for an extra that is installed in it
.venv/.train .venv/.dev: .venv/.%: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet -c constraints.txt -e ".[$*]"
	touch $@
