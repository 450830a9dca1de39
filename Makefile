PYTHON ?= python3
BIN := .venv/bin
CODE := hatch_build.py $(wildcard sb3_ddpg_ext/fused/*.c)  # compiled when the package is installed

.PHONY: train test test-slow test-long test-lowest drill lint docs clean
.DEFAULT_GOAL := help
.PHONY: help
help:
	@echo "make train         train CustomDDPG on Pendulum-v1"
	@echo "make test          lint, check types, run the tests"
	@echo "make test-slow     run the tests that take long: kills, restarts, clusters, clean environments, documentation"
	@echo "make test-long     run the tests that take longest: three pages of the documentation, very many runs"
	@echo "make test-lowest   run the core's tests with the lowest versions that are allowed"
	@echo "make drill         kill commands, damage their files, fill their disk, try hostile files; takes about an hour"
	@echo "make lint          lint and check types only"
	@echo "make docs          build the documentation in docs/_build/html"
	@echo "make clean         remove the virtual environments and the built documentation"

train: .venv/.train
	$(BIN)/sb3-ddpg train --env Pendulum-v1

test: lint
	$(BIN)/pytest -n 3 --dist worksteal -m "not slow and not long and not drill"

test-slow: .venv/.dev
	$(BIN)/pytest -n 4 --dist load --maxschedchunk 1 -m slow

test-long: .venv/.dev
	$(BIN)/pytest -n 4 --dist load --maxschedchunk 1 -m long

drill: .venv/.dev
	$(BIN)/pytest -n 3 --dist worksteal -m drill
	$(BIN)/python tests/helpers/drill.py

lint: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: .venv/.docs
	$(BIN)/sphinx-build -W --keep-going -b html docs docs/_build/html

# The core, a comparison and a search; without MuJoCo's tasks, which need a newer Gymnasium
LOWEST := .venv-lowest/bin
test-lowest: .venv-lowest/.compare
	$(LOWEST)/pytest -n 2 -k "not mujoco and not normalised_from and not tensorboard" $(addprefix tests/test_, \
	  $(addsuffix .py, equations fused buffers noise guards ddpg statistics))
	rm -rf .venv-lowest/runs
	cd .venv-lowest && bin/sb3-ddpg compare --algos custom_ddpg,ddpg --envs Pendulum-v1 --seeds 2 --steps 600 \
	  --eval-freq 300 --eval-episodes 10 --quiet
	cd .venv-lowest && bin/sb3-ddpg tune --env Pendulum-v1 --trials 2 --steps 600 --eval-freq 300 --eval-episodes 2 \
	  --seeds 1 --top 1 --confirm-seeds 2 --no-write --quiet

.venv-lowest/.compare: pyproject.toml constraints-lowest.txt $(CODE)
	test -x $(LOWEST)/python || $(PYTHON) -m venv .venv-lowest
	$(LOWEST)/pip install --quiet -c constraints-lowest.txt -e ".[tune]" pytest pytest-xdist hypothesis
	touch $@

clean:
	rm -rf .venv .venv-lowest docs/_build

# One virtual environment; each stamp stands for an extra that is installed in it
.venv/.train .venv/.dev .venv/.docs: .venv/.%: pyproject.toml constraints.txt $(CODE)
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet -c constraints.txt -e ".[$*]"
	touch $@
