"""Bare loops over engines' own Python packages, without a line of ours, to hold ours against.

``python tests/benches/vendor_loops.py onnxruntime MODEL.onnx INPUT.npy``, ``... openvino MODEL.xml
INPUT.npy`` and ``... ncnn MODEL.param INPUT.npy`` print one line of JSON: every sample in ns and
the engine's version.

onnxruntime: what its documentation times, ``session.run(None, {name: array})`` (no I/O binding).
openvino: the loop of its sample ``sync_benchmark`` (github.com/openvinotoolkit/openvino,
``samples/python/benchmark``): one request, its input filled once, outputs left where they are.
ncnn: the loop of its ``benchncnn`` (github.com/Tencent/ncnn, ``benchmark/benchncnn.cpp``): the
same options and allocators, one input Mat, an extractor a call, every output extracted and left
where it is; but with the real weights and a real input.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

Call = Callable[[], object]


@contextmanager
def onnxruntime_call(model: Path, image: Path, threads: int) -> Iterator[tuple[Call, str]]:
    """One inference, and the engine's version."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    feeds = {session.get_inputs()[0].name: np.load(image)}
    yield lambda: session.run(None, feeds), f"onnxruntime {onnxruntime.__version__}"


@contextmanager
def openvino_call(model: Path, image: Path, threads: int) -> Iterator[tuple[Call, str]]:
    """One inference, and the engine's version."""
    modules: dict[str, Any] = sys.modules
    modules.setdefault("openvino_telemetry", None)  # or it reports its import over the network
    import openvino

    options = {
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
    }
    request = openvino.Core().compile_model(str(model), "CPU", options).create_infer_request()
    array = np.load(image)
    request.set_input_tensor(openvino.Tensor(array, shared_memory=True))
    yield request.infer, f"openvino {openvino.__version__.partition('-')[0]}"


@contextmanager
def ncnn_call(model: Path, image: Path, threads: int) -> Iterator[tuple[Call, str]]:
    """One inference, and the engine's version."""
    import ncnn

    net = ncnn.Net()
    blob, workspace = ncnn.UnlockedPoolAllocator(), ncnn.PoolAllocator()
    options = net.opt
    options.lightmode = True
    options.num_threads = threads
    options.blob_allocator = blob
    options.workspace_allocator = workspace
    options.use_vulkan_compute = False
    for name in (
        *("use_winograd_convolution", "use_sgemm_convolution", "use_packing_layout"),
        *("use_int8_inference", "use_int8_storage", "use_int8_arithmetic"),
        *("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic"),
    ):
        setattr(options, name, True)
    ncnn.set_cpu_powersave(0)
    ncnn.set_omp_dynamic(0)
    ncnn.set_omp_num_threads(threads)
    if net.load_param(str(model)) != 0 or net.load_model(str(model.with_suffix(".bin"))) != 0:
        raise SystemExit(f"ncnn cannot load {model}")
    inputs, outputs = net.input_names(), net.output_names()
    # A Mat made of an array only points into it: the array must live until it is copied.
    array = np.load(image)[0]
    mat = ncnn.Mat(array).clone()

    def call() -> None:
        extractor = net.create_extractor()
        if extractor.input(inputs[0], mat) != 0:
            raise SystemExit(f"ncnn has no input {inputs[0]}")
        for name in outputs:
            if extractor.extract(name)[0] != 0:
                raise SystemExit(f"ncnn failed on {name}")

    yield call, f"ncnn {ncnn.__version__}"
    net.clear()  # before its allocators go


_CALLS = {"onnxruntime": onnxruntime_call, "openvino": openvino_call, "ncnn": ncnn_call}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("engine", choices=sorted(_CALLS))
    parser.add_argument("model", type=Path)
    parser.add_argument("image", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--warmup-seconds", type=float, default=0.3)
    parser.add_argument("--seconds", type=float, default=1.0)
    arguments = parser.parse_args()
    make = _CALLS[arguments.engine]
    samples = []
    with make(arguments.model, arguments.image, arguments.threads) as (call, engine):
        start = time.perf_counter()
        while time.perf_counter() - start < arguments.warmup_seconds:
            call()
        start = time.perf_counter()
        while time.perf_counter() - start < arguments.seconds:
            before = time.perf_counter_ns()
            call()
            samples.append(time.perf_counter_ns() - before)
    print(json.dumps({"engine": engine, "samples_ns": samples}))


if __name__ == "__main__":
    main()
