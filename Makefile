# Everything a user or contributor does, by name. `make help` lists it.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
PIP = $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt
LABEL_STUDIO_VENV := .venv-labelstudio
RUN := .run
SAMPLE := $(RUN)/sample
OUTPUT := $(RUN)/output

.PHONY: help install install-test run stop labelstudio test soak style model bench clean

help: ## what there is
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: $(BIN)/python setup.py constraints.txt
	@echo "installing the project into $(VENV) (some minutes, once)"
	@# Without an NVIDIA driver the CPU build of torch will do: it spares gigabytes of CUDA.
	if ! command -v nvidia-smi >/dev/null; then \
	    $(PIP) --retries 0 --find-links https://download.pytorch.org/whl/cpu/torch/ torch; fi
	$(PIP) --editable .
	@touch $@

$(VENV)/installed-test: $(VENV)/installed
	$(PIP) --editable '.[test]'
	@touch $@

install: $(VENV)/installed ## a virtual environment with the project in it

install-test: $(VENV)/installed-test

labelstudio: install ## a real Label Studio on this machine, for the review queue
	@$(BIN)/python -m pipelines.labelstudio.server start --directory $(RUN)/labelstudio \
	    --venv $(LABEL_STUDIO_VENV)

$(SAMPLE)/metadata.jsonl: | $(VENV)/installed
	@$(BIN)/captioner scenes --count 60 --seed 7 --output $(SAMPLE)

run: install $(SAMPLE)/metadata.jsonl ## the main job on a sample folder, with a review queue
	@echo "starting Label Studio (the first time it is installed: some minutes)"
	@$(MAKE) --silent labelstudio >/dev/null
	@$(BIN)/captioner annotate --input $(SAMPLE) --output $(OUTPUT) --review_below 0.75 \
	    --label_studio_url "$$(cat $(RUN)/labelstudio/url)" \
	    --label_studio_token_file $(RUN)/labelstudio/token \
	    --label_studio_project "Captions to review"
	@echo
	@$(BIN)/python -m pipelines.labelstudio.server status --directory $(RUN)/labelstudio
	@echo "make stop ends it."

stop: ## end the Label Studio that `make run` started
	@if [ -x $(BIN)/python ]; then \
	    $(BIN)/python -m pipelines.labelstudio.server stop --directory $(RUN)/labelstudio; fi

test: install-test ## all tests, with the real servers that they need
	$(BIN)/python -m pytest

soak: install-test ## the long trials: a network that fails, processes that are killed (an hour)
	$(BIN)/python -m pytest -m soak --timeout=3600

style: install-test ## what CI checks besides the tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict -p schemas -p captioner
	$(BIN)/mypy -p pipelines

$(VENV)/installed-training: $(VENV)/installed
	$(PIP) --editable '.[training]'
	@touch $@

RECIPE := --name scenes --tasks labels boxes masks --word_noise 0.05 --weight_decay 0.02 \
    --averaging 0.998 --batch_size 64 --captions_per_image 1 --label_smoothing 0

model: $(VENV)/installed-training ## train the embedded model from nothing (some three hours with bfloat16)
	$(BIN)/captioner train --data scenes:50000 --languages en zh --encoder grid --decoder lstm \
	    --embedding_size 96 --hidden_size 256 --attention_size 128 --dropout 0.25 \
	    --embedding_dropout 0 $(RECIPE) --epochs 8 --learning_rate 2e-3 \
	    --encoder_learning_rate 2e-3 --output $(RUN)/model-first
	@# Once more, and captions above all: in one go the heads would cost captions a point.
	$(BIN)/captioner train --data scenes:50000 --start_from $(RUN)/model-first/last $(RECIPE) \
	    --caption_weight 3 --seed 1 --epochs 4 --learning_rate 1.5e-3 \
	    --encoder_learning_rate 1.5e-3 --output $(RUN)/model-second
	@# Masks anew, half as wide: faster, and nearly as good. All else stays bit for bit.
	$(BIN)/captioner train --data scenes:50000 --start_from $(RUN)/model-second/last $(RECIPE) \
	    --thaw none --caption_weight 0 --label_weight 0 --box_weight 0 --mask_width 8 --seed 2 \
	    --epochs 4 --learning_rate 3e-3 --output $(RUN)/model
	for language in "" "--language en" "--language zh"; do $(BIN)/captioner calibrate $$language \
	    --verifier --calibration sigmoid --model $(RUN)/model/last --labels scenes:16000 \
	    --output $(RUN)/model/last; done
	rm -f captioner/data/embedded/verifier-*.safetensors
	cp $(RUN)/model/last/*.json $(RUN)/model/last/*.safetensors captioner/data/embedded/

bench: install-test ## measure the embedded model's accuracy and speed
	$(BIN)/python benchmarks/scenes_accuracy.py

clean: stop ## remove what `make run` wrote (not the virtual environments)
	rm -rf $(RUN)
