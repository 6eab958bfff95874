"""Networks for the tests of the native runner, and what the ncnn package says of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from targets.runners.native.call import NativeInput, NativeNetwork, write_input

Array = npt.NDArray[np.float32]


def ncnn_files(onnx_path: Path, folder: Path, precision: str = "fp16") -> tuple[Path, Path, Any]:
    """``.param``, ``.bin`` and the spec, as the converter leaves them."""
    import onnx

    from converters.formats.ncnn import convert_ncnn
    from converters.graph.prepare import prepare
    from converters.job import Job
    from edge.spec import Variant

    folder.mkdir(parents=True, exist_ok=True)
    prepared = prepare(onnx_path, onnx_path.stem)
    onnx.save(prepared.model, str(folder / "prepared.onnx"))
    kind = Variant.parse(f"ncnn-{precision}").precision
    files = convert_ncnn(Job(folder / "prepared.onnx", prepared.spec, kind, folder))
    return folder / files["model"], folder / files["weights"], prepared.spec


def network_of(
    param: Path, weights: Path, spec: Any, image: Array, folder: Path, name: str = "in.bin"
) -> NativeNetwork:
    """The network fed with one image, which is written to a file."""
    folder.mkdir(parents=True, exist_ok=True)
    write_input(folder / name, image)
    return NativeNetwork(
        str(param),
        str(weights),
        (NativeInput(spec.input.name, str(folder / name), image.shape),),
        tuple(tensor.name for tensor in spec.outputs),
    )


def wheel_answers(
    param: Path,
    weights: Path,
    feeds: Mapping[str, Array],
    outputs: Sequence[str],
    *,
    bf16: bool = False,
) -> dict[str, Array]:
    """The outputs in fp32 (or bf16 storage) of the ncnn Python package."""
    import ncnn

    net = ncnn.Net()
    net.opt.use_vulkan_compute = False
    net.opt.num_threads = 1
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    net.opt.use_bf16_storage = bf16
    assert net.load_param(str(param)) == 0 and net.load_model(str(weights)) == 0
    extractor = net.create_extractor()
    for name, array in feeds.items():
        plain = np.ascontiguousarray(array[0])
        assert extractor.input(name, ncnn.Mat(plain).clone()) == 0
    answers = {}
    for name in outputs:
        code, mat = extractor.extract(name)
        assert code == 0
        answers[name] = np.array(mat)[None]
    return answers


def noise(shape: tuple[int, ...], seed: int = 3) -> Array:
    return np.random.default_rng(seed).normal(0, 1, shape).astype(np.float32)
