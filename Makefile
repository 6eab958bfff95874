# Names for commands; the logic is in `edge` and .ci/. `make help` explains.
.DEFAULT_GOAL := help
.PHONY: help setup setup-torch setup-onnx2tf setup-runner setup-tests setup-openmmlab setup-docs convert devices bench report assets deploy run eval sensitivity verify info zoo fetch \
  export bench-runtime bench-variants bench-harness bench-peers bench-tracking docs docs-pictures choose train-demo lint test test-quick test-slow test-openmmlab test-faults lock clean

TARGET ?= android
MODEL ?= rtmpose-t-demo
OUT ?= build
DATA ?= synthetic:500
FORMAT ?= tflite
THREADS ?= 1
python := .venv/bin/python
edge := .venv/bin/edge

# DETECTOR as in `edge`'s --detector; DET is the older spelling. The demo pair goes together; whoever
# names a pose model names the detector that suits it.
ifeq ($(origin DETECTOR),undefined)
  DETECTOR := $(if $(filter-out undefined,$(origin DET)),$(DET),$(if $(filter rtmpose-t-demo,$(MODEL)),rtmdet-nano-demo))
else ifneq ($(origin DET),undefined)
  ifneq ($(DET),$(DETECTOR))
    $(error DETECTOR=$(DETECTOR) and DET=$(DET) are two spellings of one value: give one)
  endif
endif

# What a command line may set, goal by goal; a name that no asked goal knows is refused.
uses-convert := TARGET MODEL DETECTOR DET FORMATS SIZE BATCH CALIB OUT ARGS
uses-devices := HOST
uses-bench := TARGET MODEL DETECTOR DET FORMATS HOST SERIAL OUT ARGS
uses-report := OUT
uses-assets := TARGET OUT ARGS
uses-deploy := TARGET HOST MODEL DETECTOR DET OUT ARGS
uses-fetch := MODEL
uses-export := MODEL
uses-run := MODEL DETECTOR DET OUT IMAGES
uses-choose := ARGS
uses-eval := MODEL DATA IMAGES
uses-sensitivity := MODEL FORMAT OUT
uses-verify := ARTIFACT
uses-info := ARTIFACT
uses-bench-runtime := OUT
uses-bench-variants := OUT DATA IMAGES THREADS
uses-bench-peers := OUT ARGS
uses-bench-harness := THREADS OUT
uses-train-demo := OUT
uses-test := ARGS
uses-test-quick := ARGS
uses-test-slow := ARGS
uses-test-faults := INPUTS KILLS ARGS
uses-test-openmmlab := ARGS
# Read by .ci/setup, by the programs that are started, or by make itself.
everywhere := PYTHON EDGEPOSE_CACHE EDGEPOSE_MIRROR EDGEPOSE_INSECURE_MIRROR HOME TMPDIR PATH SHELL MAKEFLAGS PIP_% %_proxy %_PROXY
goals := $(or $(MAKECMDGOALS),$(.DEFAULT_GOAL))
known := $(foreach goal,$(goals),$(uses-$(goal)))
given := $(foreach name,$(.VARIABLES),$(if $(findstring command line,$(origin $(name))),$(name)))
unknown := $(firstword $(filter-out $(known) $(everywhere) -%,$(given)))
# A make that another one starts inherits its values.
ifneq ($(if $(filter 0,$(MAKELEVEL)),$(unknown)),)
  $(error make $(goals) takes no $(unknown)=$(shell .ci/did_you_mean $(unknown) $(known)))
endif

help: ## this text
	@echo "edgepose: make GOAL [NAME=VALUE ...]"
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## /  \1\t/' | expand -t 18
	@echo
	@echo "values for convert:"
	@echo "  TARGET=android        what to build for: android, x86, raspberry-pi, jetson"
	@echo "  MODEL=NAME|FILE       zoo name, .onnx, SDK folder or .zip, .pth ($(MODEL))"
	@echo "  DETECTOR=NAME|FILE    a detector as well (rtmdet-nano-demo beside the default model); DET= for short"
	@echo "  FORMATS=V,V           other variants than the target's, for example openvino-int8; or all"
	@echo "  CALIB=DIR|FILE.json   pictures to calibrate int8 with (rendered people)"
	@echo "  BATCH=N               fix the batch, for throughput (onnx and openvino)"
	@echo "  SIZE=HxW              input size of the detector, for example 640x640"
	@echo "  OUT=DIR               where artifacts go ($(OUT))"
	@echo "  ARGS='--OPTION ...'   more options of \`edge convert\`, for example --no-arm-check"
	@echo "values for bench: TARGET=, MODEL=, DETECTOR=, FORMATS=, HOST=USER@ADDRESS, SERIAL=, OUT=, and ARGS='--OPTION ...'"
	@echo "values for run: MODEL=, DETECTOR= (artifact folders, files or names), IMAGES='PHOTO ...', OUT="
	@echo "values for eval, bench-variants: DATA=FILE.json|synthetic:N ($(DATA)), IMAGES=DIR, THREADS="
	@echo "values for verify, info: ARTIFACT=DIR"
	@echo "every goal is an edge command with more options: source .venv/bin/activate, then edge --help"

setup: .venv/.ready ## build .venv from the lock

.venv/.ready: requirements.lock pyproject.toml .ci/setup
	@.ci/setup

setup-torch: .venv/.ready ## add PyTorch, for checkpoint export and training only
	@.ci/setup torch

setup-onnx2tf: .venv/.ready ## build the environment of the TFLite converter (convert does it on first need)
	@.ci/setup onnx2tf

setup-openmmlab: .venv/.ready ## build the environment of the real mmpose and mmdet, for test-openmmlab
	@.ci/setup openmmlab

setup-runner: .venv/.ready ## build the native runner (convert and bench do it on first need)
	@$(python) -m targets.runners.native.build aarch64 x86_64

convert: .venv/.ready ## convert the models for TARGET and verify them
	@$(edge) convert --target $(TARGET) --model $(MODEL) --out $(OUT) \
	  $(if $(DETECTOR),--detector $(DETECTOR)) $(if $(FORMATS),--formats $(FORMATS)) $(if $(SIZE),--size $(SIZE)) \
	  $(if $(BATCH),--batch $(BATCH)) $(if $(CALIB),--calib $(CALIB)) $(ARGS)

devices: .venv/.ready ## what can be reached: phones on a cable, this machine, HOST
	@$(edge) devices $(HOST)

bench: .venv/.ready ## latency of TARGET's variants on the device itself: adb, ssh (HOST=) or here
	@$(edge) bench --target $(TARGET) --model $(MODEL) --out $(OUT) $(if $(DETECTOR),--detector $(DETECTOR)) \
	  $(if $(FORMATS),--formats $(FORMATS)) $(if $(HOST),--host $(HOST)) $(if $(SERIAL),--serial "$$SERIAL") $(ARGS)

report: .venv/.ready ## what was measured, as a table and as a page
	@$(edge) report $(OUT)/results --html $(OUT)/report.html

assets: .venv/.ready ## what an Android app ships, from the converted models: models, .aar, C++ header, example
	@$(edge) assets --target $(TARGET) --build $(OUT) $(ARGS)

deploy: .venv/.ready ## models with all they need on a board: TARGET=raspberry-pi|jetson HOST=
	@$(edge) deploy --target $(TARGET) $(if $(HOST),--host $(HOST)) --model $(MODEL) --out $(OUT) $(if $(DETECTOR),--detector $(DETECTOR)) $(ARGS)

zoo: .venv/.ready ## list the models that have a name
	@$(edge) zoo list

fetch: .venv/.ready ## download the zoo model MODEL into the cache
	@$(edge) zoo fetch $(MODEL)

export: setup-torch ## write the checkpoint MODEL (zoo name or .pth) as a verified ONNX file
	@$(edge) export $(MODEL)

run: .venv/.ready ## draw the people in IMAGES and write their keypoints
	@$(edge) run --model $(MODEL) $(if $(DETECTOR),--detector $(DETECTOR)) --out $(OUT)/run $(IMAGES)

choose: .venv/.ready ## time the variants of all converted models here; run then takes the fastest
	@$(edge) choose $(ARGS)

eval: .venv/.ready ## accuracy of MODEL on DATA: COCO AP and PCK
	@$(edge) eval $(MODEL) --data $(DATA) $(if $(IMAGES),--images $(IMAGES))

sensitivity: .venv/.ready ## which parts of MODEL must stay float in FORMAT (onnx, openvino, tflite)
	@$(edge) sensitivity $(MODEL) --format $(FORMAT) --out $(OUT)

verify: .venv/.ready ## repeat the parity check of ARTIFACT
	@$(edge) verify $(ARTIFACT)

info: .venv/.ready ## show ARTIFACT: spec, files, hashes, provenance, parity
	@$(edge) info $(ARTIFACT)

bench-runtime: .venv/.ready ## our image and decoding code against OpenCV, as ratios, and how ncnn's threads wait
	@$(python) tests/benches/bench_runtime.py
	@$(edge) convert --target x86 --formats ncnn-fp16 --out $(OUT)
	@$(python) -m tests.benches.bench_ncnn_threads $(OUT)/x86/rtmdet-nano-demo-ncnn-fp16 $(OUT)/x86/rtmpose-t-demo-ncnn-fp16

bench-variants: .venv/.ready ## every variant of both demo models in one table: size, latency, error, accuracy
	@$(edge) convert --target x86 --formats all --out $(OUT) --eval-data $(DATA) \
	  $(if $(IMAGES),--eval-images $(IMAGES)) || echo "bench-variants: goes on with what was made"
	@$(edge) compare $(OUT)/x86 --threads $(THREADS) --data $(DATA) $(if $(IMAGES),--images $(IMAGES)) \
	  --out $(OUT)/variants

bench-peers: .venv/.ready ## pictures to keypoints against rtmlib and mmdeploy's runtime, in one run
	@$(python) -m tests.benches.bench_peers --out $(OUT)/peers $(ARGS)

bench-tracking: .venv/.ready ## who keeps people's numbers: both trackers and rtmlib's, IDF1 and switches
	@$(python) -m tests.benches.bench_tracking

setup-docs: .venv/.ready ## build the environment that makes the manual a site (docs does it on first need)
	@.ci/setup docs

docs: setup-docs ## the manual as a site: build/site/index.html
	@$(python) .ci/cli_reference $(CURDIR)/build/cli.md
	@NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --strict --quiet
	@! grep -rlE '<(script|link|img)[^>]* (src|href)="https?:' build/site --include='*.html' || \
	  { echo "docs: these pages take something from another host" >&2; exit 1; }
	@echo "docs: build/site/index.html; with its search: $(python) -m http.server -d build/site"

docs-pictures: .venv/.ready ## make the pictures of the manual again
	@$(python) -m tests.docs_pictures

bench-harness: .venv/.ready ## our latency figures against the engines' own tools, as ratios
	@$(python) tests/benches/bench_harness.py --threads $(THREADS) --out $(OUT)/harness

train-demo: setup-torch ## train the demo models again (two hours each on two cores)
	@$(edge) train --out $(OUT)/train/pose
	@$(edge) train --model rtmdet-nano-demo --out $(OUT)/train/detector

lint: .venv/.ready ## ruff, mypy --strict and the import layers
	@.ci/lint

setup-tests: ## all that the tests need, said before it starts: packages, PyTorch, onnx2tf, runners
	@.ci/setup-tests

test: setup-tests ## set up all that the tests need, then run them but for what takes over a minute each
	@.ci/test "not slow" $(ARGS)

test-quick: .venv/.ready ## the tests of seconds, with what is set up already
	@.ci/test quick $(ARGS)

test-slow: setup-tests ## the long tests: whole conversions, accuracy in full
	@.ci/test slow $(ARGS)

test-faults: .venv/.ready ## faults on purpose: INPUTS=100000 damaged ones, KILLS=20 of each command, full disks
	@$(python) -m tests.faults $(if $(INPUTS),--inputs $(INPUTS)) $(if $(KILLS),--kills $(KILLS)) $(ARGS)

test-openmmlab: setup-torch setup-openmmlab ## the kit's answers against those of the real mmpose and mmdet
	@$(python) -m pytest -v tests/openmmlab/proof.py $(ARGS)

lock: ## pin the newest allowed versions anew (needs uv)
	@command -v uv >/dev/null || { echo "lock: needs uv, which is not installed: pip install uv" >&2; exit 1; }
	uv pip compile pyproject.toml --extra host --group dev --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-header --no-annotate --override lock.overrides.txt --upgrade -o requirements.lock
	uv pip compile converters/formats/onnx2tf.in --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
	  --no-annotate --override converters/formats/onnx2tf.overrides.txt --upgrade -o converters/formats/onnx2tf.lock
	uv pip compile tests/openmmlab/stack.in --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
	  --no-annotate --override tests/openmmlab/stack.overrides.txt --upgrade -o tests/openmmlab/stack.lock
	uv pip compile docs/site.in --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
	  --no-annotate --upgrade -o docs/site.lock
	for pair in onnx:onnxruntime openvino:openvino tflite:tflite ncnn:ncnn; do uv pip compile pyproject.toml \
	  --extra $${pair#*:} --universal --python-version 3.10 --generate-hashes --no-emit-index-url --no-header \
	  --no-annotate --override lock.overrides.txt --upgrade -o targets/runners/python/locks/$${pair%:*}.lock || exit 1; done
	uv pip compile targets/runners/python/locks/tensorrt.in --universal --python-version 3.10 --generate-hashes \
	  --no-emit-index-url --no-header --no-annotate --upgrade -o targets/runners/python/locks/tensorrt.lock

clean: ## remove what was built, .venv stays
	rm -rf build dist
