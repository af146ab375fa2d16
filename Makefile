# `make` alone prints this help.                                     Everything runs inside .venv, which `make` creates.

PYTHON ?= python3
BIN := .venv/bin
CONFIG ?=
DATASET ?=
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help install demo smoke test types unit-tests test-cluster docs pretrain finetune bench bench-gpu format clean

help:  ## print this help
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14
	@echo
	@echo 'examples:'
	@echo '  make demo'
	@echo '  make pretrain CONFIG=configs/pretrain/mae_resenc_l.yaml ARGS="--trainer.devices 8"'
	@echo '  make finetune DATASET=openkbp ARGS="--model.init_from runs/openkbp/mae/encoder"'

.venv/libraries: pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip  # pip below 25.1 knows no dependency groups
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable . --group dev
	@touch $@

.venv/installed: .venv/libraries $(shell find src -name '*kernel*.py')
	$(BIN)/python -m medpretrain3d.compiled  # else the first run of each loop takes seconds
	@touch $@

install: .venv/installed  ## create .venv and install everything at the pinned versions

demo: .venv/installed  ## the whole chain on a synthetic phantom: pretrain, fine-tune twice, report (5 minutes)
	$(BIN)/medpretrain3d study run configs/study/demo.yaml $(ARGS)

smoke: .venv/installed  ## the same chain at toy size (1 minute)
	$(BIN)/medpretrain3d study run configs/study/smoke.yaml $(ARGS)

test: .venv/installed  ## lint, types and tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@$(MAKE) --no-print-directory --jobs 2 --keep-going types unit-tests

types: .venv/installed
	$(BIN)/mypy

unit-tests: .venv/installed
	$(BIN)/python -m pytest -n 3 --dist worksteal

test-cluster: .venv/installed  ## tests on a SLURM of its own, which it installs (as root, on Debian), starts and stops (4 minutes)
	$(BIN)/python -m tests.cluster.own_slurm $(BIN)/python -m pytest -m cluster -n 2 -rs tests/cluster $(ARGS)

docs: .venv/installed  ## the documentation as a site: docs/_build/index.html; a link that leads nowhere is an error
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build

pretrain: .venv/installed  ## stage 1: CONFIG=configs/pretrain/<recipe>.yaml ARGS="--key value ..."
	@test -n "$(CONFIG)" || { echo 'error: say which recipe, as in make pretrain CONFIG=configs/pretrain/mae_resenc_l.yaml' >&2; exit 2; }
	$(BIN)/python -m pretrain fit --config $(CONFIG) $(ARGS)

finetune: .venv/installed  ## stage 2: CONFIG=configs/finetune/<recipe>.yaml or DATASET=<recipe> ARGS="--key value ..."
	@test -n "$(CONFIG)$(DATASET)" || { echo 'error: say which recipe, as in make finetune DATASET=openkbp' >&2; exit 2; }
	$(BIN)/python -m finetune fit --config $(or $(CONFIG),configs/finetune/$(DATASET).yaml) $(ARGS)

bench: .bench/installed  ## speed and memory beside other libraries: docs/benchmarks.md; ARGS="boxes crops" for some, ARGS=profile for shares
	$(BIN)/python -m benchmarks $(ARGS)

bench-gpu: .venv/installed  ## agreement, speed, memory and waiting on the GPUs of this machine: runs/bench_gpu.md (10 minutes)
	$(BIN)/python -m benchmarks.gpu $(ARGS)

.bench/installed: .venv/installed benchmarks/peers.txt
	$(BIN)/python -m pip install --quiet --upgrade --no-deps --target .bench --requirement benchmarks/peers.txt
	@touch $@

format: .venv/installed  ## format and fix the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove caches and build products; runs/ and .venv/ stay
	rm -rf .venv/installed build dist docs/_build docs/methods docs/reference/api docs/reference/commands.md *.egg-info src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
