# Names for commands; the logic is in `edge` and .ci/. `make help` explains.
.DEFAULT_GOAL := help
.PHONY: help setup setup-torch convert run verify info zoo fetch export bench-runtime train-demo lint test lock clean

TARGET ?= android
MODEL ?= rtmpose-t-demo
# The demo pair; whoever names a pose model names the detector that suits it.
DET ?= $(if $(filter rtmpose-t-demo,$(MODEL)),rtmdet-nano-demo)
OUT ?= build
PYTHON := .venv/bin/python
EDGE := .venv/bin/edge

help: ## this text
	@echo "edgepose: make GOAL [NAME=VALUE ...]"
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  \1\t/' | expand -t 18
	@echo
	@echo "values for convert:"
	@echo "  TARGET=android        what to build for: android (Snapdragon 865), x86"
	@echo "  MODEL=NAME|FILE       zoo name, .onnx, SDK folder or .zip, .pth ($(MODEL))"
	@echo "  DET=NAME|FILE         a detector as well (rtmdet-nano-demo beside the default model)"
	@echo "  FORMATS=V,V           other variants than the target's: onnx-fp32, onnx-fp16, ncnn-fp16,"
	@echo "                        openvino-fp32, openvino-fp16"
	@echo "  BATCH=N               fix the batch, for throughput (onnx and openvino)"
	@echo "  SIZE=HxW              detector input size, where the file leaves it open (320x320)"
	@echo "  OUT=DIR               where artifacts go ($(OUT))"
	@echo "values for run: MODEL=, DET= (artifact folders, files or names), IMAGES='PHOTO ...', OUT="
	@echo "values for verify, info: ARTIFACT=DIR"
	@echo "every goal is an edge command with more options: .venv/bin/edge --help"

setup: .venv/.ready ## build .venv from the lock

.venv/.ready: requirements.lock pyproject.toml .ci/setup
	@.ci/setup

setup-torch: .venv/.ready ## add PyTorch, for checkpoint export and training only
	@.ci/setup torch

convert: .venv/.ready ## convert the models for TARGET and verify them
	@$(EDGE) convert --target $(TARGET) --model $(MODEL) --out $(OUT) \
	  $(if $(DET),--detector $(DET)) $(if $(FORMATS),--formats $(FORMATS)) $(if $(SIZE),--size $(SIZE)) \
	  $(if $(BATCH),--batch $(BATCH))

zoo: .venv/.ready ## list the models that have a name
	@$(EDGE) zoo list

fetch: .venv/.ready ## download the zoo model MODEL into the cache
	@$(EDGE) zoo fetch $(MODEL)

export: setup-torch ## write the checkpoint MODEL (zoo name or .pth) as a verified ONNX file
	@$(EDGE) export $(MODEL)

run: .venv/.ready ## draw the people in IMAGES and write their keypoints
	@$(EDGE) run --model $(MODEL) $(if $(DET),--detector $(DET)) --out $(OUT)/run $(IMAGES)

verify: .venv/.ready ## repeat the parity check of ARTIFACT
	@$(EDGE) verify $(ARTIFACT)

info: .venv/.ready ## show ARTIFACT: spec, files, hashes, provenance, parity
	@$(EDGE) info $(ARTIFACT)

bench-runtime: .venv/.ready ## our image and decoding code against OpenCV, as ratios
	@$(PYTHON) tests/bench_runtime.py

train-demo: setup-torch ## train the demo models again (two hours each on two cores)
	@$(EDGE) train --out $(OUT)/train/pose
	@$(EDGE) train --model rtmdet-nano-demo --out $(OUT)/train/detector

lint: .venv/.ready ## ruff, mypy --strict and the import layers
	@.ci/lint

test: .venv/.ready ## the whole test suite
	@$(PYTHON) -m pytest

lock: ## pin the newest allowed versions anew (needs uv)
	uv pip compile pyproject.toml --extra host --group dev --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-header --no-annotate --override lock.overrides.txt --upgrade -o requirements.lock

clean: ## remove what was built, .venv stays
	rm -rf build dist
