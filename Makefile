# Thin: each target is one line into tools/. VENV, TORCH_SPEC, WORKERS, DEVICES, PROCESSES and GPU_PLANS may be given.
VENV ?= .venv
PY := $(VENV)/bin/python
ARGS ?=
WORKERS ?= 2
DEVICES ?= cuda
PROCESSES ?= 2
GPU_PLANS ?= stack_real stack_markov stack_by_heart stack_21m stack_21m_useless stack_21m_longer stack_rules_d96 stack_rules_d96_headers \
	stack_controls_d96 stack_85m

.PHONY: setup train test check check-native clients bench drills drill-alarms drill-fire harness-quick soak experiments-quick learn experiments-gpu clean

setup: $(VENV)/.ready ## environment and extension

$(VENV)/.ready: pyproject.toml setup.py tools/setup tools/constraints.txt $(shell find csrc -type f)
	VENV=$(VENV) tools/setup

train: setup ## grow a network on scikit-learn's digits
	$(VENV)/bin/tolaria-train --data digits --model mlp --hidden 6,6 --run-dir runs/digits --overwrite $(ARGS)

test: setup ## the default suite
	OMP_NUM_THREADS=1 $(PY) -m pytest -n $(WORKERS) --dist worksteal $(ARGS)

drills: setup ## the slow drills: kill -9, load, faults
	$(PY) -m pytest -m "slow and not gpu" $(ARGS)

drill-alarms: setup ## break a live plane in eight ways: each alert must rise in a real Prometheus, and clear
	$(VENV)/bin/esper drill alarms $(ARGS)

drill-fire: setup ## kill Weatherlight, Redis and consumers under load for five minutes on each bus, then count
	$(VENV)/bin/esper drill fire $(ARGS)

check: setup ## format, lint, types, floors, protos, CUDA build, wheel
	VENV=$(VENV) tools/check

check-native: setup ## sanitised build of the kernels
	VENV=$(VENV) tools/check_native

clients: setup ## clients in Python, Node, Go and Java, grpcurl and buf, against real services; what is missing is skipped
	OMP_NUM_THREADS=1 $(PY) -m pytest tests/clients -m "not gpu" $(ARGS)

bench: setup ## ratios of the control plane and of the kernels
	VENV=$(VENV) tools/bench/all $(ARGS)

harness-quick: setup ## a growing run measured, broken and measured again; under a minute on a CPU
	$(VENV)/bin/esper harness all --epochs 30 --sizes 2x64 --disable-compile --output-dir runs/harness-quick $(ARGS)

soak: setup ## 100 epochs with many seeds: nothing may grow but the network
	$(VENV)/bin/esper harness soak --output-dir runs/soak $(ARGS)

experiments-quick: setup ## one grown run beside a sweep of sizes, on digits; minutes on a CPU
	OMP_NUM_THREADS=1 $(PY) tools/experiments/run_plan.py digits_quick $(ARGS)

learn: setup ## the learning loop: explore, learn, publish, swap, decide, beside shuffled outcomes
	OMP_NUM_THREADS=1 $(PY) tools/experiments/learning.py loop --out runs/learn $(ARGS)

experiments-gpu: setup ## the language models' plans on DEVICES, PROCESSES runs at a time on each
	for plan in $(GPU_PLANS); do $(PY) tools/experiments/run_plan.py $$plan --devices $(DEVICES) --processes $(PROCESSES) $(ARGS) || exit; done

clean: ## everything that the targets above made, runs excepted
	tools/clean
