# Everything needs only make and Python 3.10 to 3.12; the environment is made in .venv on first use.
# Settings:  make train SUBJECT=obama MINUTES=20

PYTHON ?= python3
VENV ?= .venv
# Where pip looks for PyTorch besides its usual index: empty for the usual build (on Linux it has CUDA).
TORCH_INDEX ?=

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
REPORTS := $(or $(DNERF_HOME),.)/runs/notebooks
NOW := $(shell date +%Y%m%d-%H%M%S)

export PATH := $(abspath $(BIN)):$(PATH)
export JUPYTER_PREFER_ENV_PATH = 1
# Threads that wait for each other must not keep other programs from the cores (see nbs/00_core.ipynb).
export GOMP_SPINCOUNT ?= 5000
export SUBJECT AUDIO PRESET MINUTES STEPS SEED SEEDS ROWS JOBS CONDITIONS NAME OVERRIDES VIDEO SIZE RUN SPLIT MEASURES REPORTS NOW
export SPEECH OUT MOTION BLINKS PITCH RHYTHM CONTENT ARTICULATION WEIGHTS BADGE PASTE OVERWRITE

# name on the command line -> papermill parameter; `-r` keeps text that looks like a number as text
text = $(if $($(1)),-r $(2) "$$$(1)")
number = $(if $($(1)),-p $(2) "$$$(1)")

.DEFAULT_GOAL := help
.PHONY: help env train prepare drive evaluate table1 doctor test poses export pages lab docs readme clean fuzz kills pairs delay memory

help: ## this list
	@echo "make TARGET [SETTING=value ...]"
	@awk -F ':.*## ' '/^[a-z0-9]+:.*## / { printf "  %-8s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

env: $(STAMP) ## the Python environment in .venv [PYTHON= TORCH_INDEX=]

$(STAMP): constraints.txt settings.ini setup.py
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 10) else "dnerf needs Python 3.10 or newer and $(PYTHON) is %d.%d; say which to use: make PYTHON=python3.12 ..." % sys.version_info[:2])'
	@echo "installing the environment into $(VENV); this takes some minutes and is done once"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) -e '.[dev]'
	@touch $@

train: $(STAMP) ## train and render [VIDEO=file SUBJECT=name AUDIO= PRESET= MINUTES= STEPS= SEED= NAME= SIZE= OVERRIDES=]
	@.ci/notebook train $(call text,VIDEO,video) $(call text,SUBJECT,subject) $(call text,AUDIO,audio) $(call text,PRESET,preset) $(call number,MINUTES,minutes) \
	  $(call number,STEPS,steps) $(call number,SEED,seed) $(call text,NAME,name) $(call number,SIZE,size) $(call text,OVERRIDES,overrides)

prepare: $(STAMP) ## a subject from a video: VIDEO=file [SUBJECT=name SIZE= FORCE=True]
	@.ci/notebook prepare $(call text,VIDEO,video) $(call text,SUBJECT,subject) $(call number,SIZE,size) $(call number,FORCE,force)

# the options are listed in nbs/talk/00_options.ipynb, and a test compares them with these words
drive: $(STAMP) ## let a trained run speak: RUN=subject/name SPEECH=file [OUT= MOTION= BLINKS= PITCH= RHYTHM= CONTENT= ARTICULATION= WEIGHTS= BADGE= PASTE= SIZE= SEED= OVERWRITE=]
	@.ci/notebook drive $(call text,RUN,run) $(call text,SPEECH,speech) $(call text,OUT,out) $(call text,MOTION,motion) \
	  $(call number,BLINKS,blinks) $(call number,PITCH,pitch) $(call number,RHYTHM,rhythm) $(call text,CONTENT,content) \
	  $(call number,ARTICULATION,articulation) $(call text,WEIGHTS,weights) $(call number,BADGE,badge) $(call number,PASTE,paste) \
	  $(call number,SIZE,size) $(call number,SEED,seed) $(call number,OVERWRITE,overwrite)

evaluate: $(STAMP) ## measure a trained run, with figures and a page: RUN=subject/name [SPLIT=test MEASURES=]
	@.ci/notebook evaluate $(call text,RUN,run) $(call text,SPLIT,split) $(call text,MEASURES,measures)

table1: $(STAMP) ## the paper's Table 1 [SUBJECT=demo SEEDS= MINUTES= STEPS= ROWS= SIZE= PRESET= JOBS= OVERRIDES= CONDITIONS=]
	@.ci/notebook table1 $(call text,SUBJECT,subject) $(call number,SEEDS,seeds) $(call number,MINUTES,minutes) $(call number,STEPS,steps) \
	  $(call text,ROWS,rows) $(call number,SIZE,size) $(call text,PRESET,preset) $(call number,JOBS,jobs) $(call text,OVERRIDES,overrides) \
	  $(call text,CONDITIONS,conditions)

doctor: $(STAMP) ## what is here, what is missing, and how to get it
	@$(BIN)/dnerf doctor

test: $(STAMP) ## the whole suite, what fails fastest first
	@$(BIN)/python -m pytest -q -n 2 tests/test_repository.py
	@$(BIN)/python .ci/notebooks.py
	@$(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder tests --ignore tests/test_repository.py --durations 10

poses: $(STAMP) ## fit the head pose of every window of the demo clip, 3 to 10 s at three sizes (half an hour)
	@$(BIN)/python tests/poses.py

fuzz: $(STAMP) ## damaged files on every verb: one sentence, nothing lost [DRAWS=400 SEED=0 ONLY=numbers]
	@$(BIN)/python tests/fuzz.py --draws $(or $(DRAWS),400) --seed $(or $(SEED),0) $(if $(ONLY),--only $(ONLY))

kills: $(STAMP) ## verbs killed or stopped at random moments, then called again [DRAWS=30 SEED=0 ONLY=numbers]
	@$(BIN)/python tests/fuzz_kills.py --draws $(or $(DRAWS),30) --seed $(or $(SEED),0) $(if $(ONLY),--only $(ONLY))

pairs: $(STAMP) ## all pairs of verbs at once on one subject and run [SEED=0 ONLY=numbers]
	@$(BIN)/python tests/fuzz_pairs.py --seed $(or $(SEED),0) $(if $(ONLY),--only $(ONLY))

delay: $(STAMP) ## `dnerf live` in Chromium with clicks from a fake microphone: delay, offset, lost frames, memory [RUN=demo SIZE=192 MINUTES=10]
	@$(BIN)/python tests/live_minutes.py --run $(or $(RUN),demo) --size $(or $(SIZE),192) --minutes $(or $(MINUTES),10)

memory: $(STAMP) ## prepare and train 3.5 minutes at 512 px in 2.5 GB of memory (half an hour)
	@$(BIN)/python tests/fuzz_memory.py

export: $(STAMP) ## notebooks to dnerf/, cleaned, and README.md
	@$(BIN)/nbdev_export
	@$(BIN)/nbdev_clean
	@$(BIN)/python .ci/readme.py

pages: $(STAMP) ## run prepare, train, evaluate, drive, viewer and control on the demo subject and store their outputs in nbs/
	@$(BIN)/python .ci/pages.py
	@$(BIN)/nbdev_clean

lab: $(STAMP) ## JupyterLab on the notebooks
	@$(BIN)/jupyter lab --notebook-dir nbs

docs: $(STAMP) ## the documentation site in _docs/, without quarto
	@$(BIN)/python .ci/build_site.py

readme: $(STAMP) ## README.md from nbs/index.ipynb
	@$(BIN)/python .ci/readme.py

clean: ## remove what can be made again; keeps .venv, data/ and runs/
	rm -rf _docs _proc _site_src build dist .pytest_cache lightning_logs outputs nbs/nbdev.yml
	find . -path ./$(VENV) -prune -o \( -name __pycache__ -o -name .ipynb_checkpoints \) -type d -exec rm -rf {} +
