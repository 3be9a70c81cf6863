# Thin: each target is one line into tools/. VENV, TORCH_SPEC and WORKERS may be given.
VENV ?= .venv
PY := $(VENV)/bin/python
ARGS ?=
WORKERS ?= 2

.PHONY: setup train test check check-native bench drills clean

setup: $(VENV)/.ready ## environment and extension

$(VENV)/.ready: pyproject.toml setup.py tools/setup tools/constraints.txt $(shell find csrc -type f)
	VENV=$(VENV) tools/setup

train: setup ## grow a network on scikit-learn's digits
	$(VENV)/bin/tolaria-train --data digits --model mlp --hidden 6,6 --run-dir runs/digits --overwrite $(ARGS)

test: setup ## the default suite
	OMP_NUM_THREADS=1 $(PY) -m pytest -n $(WORKERS) --dist worksteal $(ARGS)

drills: setup ## the slow drills: kill -9, load, faults
	$(PY) -m pytest -m "slow and not gpu" $(ARGS)

check: setup ## format, lint, types, floors, protos, CUDA build, wheel
	VENV=$(VENV) tools/check

check-native: setup ## sanitised build of the kernels
	VENV=$(VENV) tools/check_native

bench: setup ## ratios of the control plane and of the kernels
	VENV=$(VENV) tools/bench/all $(ARGS)

clean: ## everything that the targets above made, runs excepted
	tools/clean
