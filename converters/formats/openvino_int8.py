"""Prepared ONNX -> OpenVINO's int8 files, by NNCF's post-training quantisation."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from converters.formats.openvino import read_onnx
from converters.formats.openvino_ir import save_ir
from converters.graph.file import load_onnx
from converters.graph.parts import fragile_parts, network_parts, node_name
from converters.job import Job
from edge.engines.openvino import import_openvino, keep_signal_stack
from edge.errors import SpecError, ToolError, last_line

__all__ = ["OpenVinoQuantiser", "open_openvino_quantiser", "operations_of_parts"]


def open_openvino_quantiser(job: Job) -> OpenVinoQuantiser:
    """Calibrate with ``job.feeds``, all of them; a quantiser for any choice of float parts.

    Raises SpecError without feeds, ToolError where OpenVINO or NNCF cannot do it.
    """
    if not job.feeds:
        raise SpecError(f"{job.spec.name} cannot become {job.precision} without calibration images")
    return OpenVinoQuantiser(job)


class OpenVinoQuantiser:
    """NNCF with what it measured kept.

    What NNCF wants to know of a network is ranges and means of tensors; which ones depends on
    where quantisers stand, and so on the parts that stay float. Whatever was measured once serves
    every later choice, so that only few tensors, mostly none, are left to be measured then.

    Weights are symmetric per channel, activations asymmetric per tensor (preset `mixed`): SiLU's
    outputs begin at -0.28, and a symmetric range would waste half of its codes on that. Ranges are
    those of least error by histograms: NNCF's default, the mean of the images' extremes, cuts off
    what places RTMPose's keypoints (0.9 points of the demo model's AP, against 0.1). Biases are
    corrected for the mean error of their layer, without which RTMDet-nano finds people who are not
    there. The first layer's weights use 7 bits, NNCF's default for CPUs: without VNNI the sum of
    two products of 8 bits can exceed the 16 that x86 has for it.
    """

    def __init__(self, job: Job) -> None:
        self._name = job.spec.name
        self._feeds = job.feeds
        onnx_model = load_onnx(job.onnx_path)
        nodes = network_parts(onnx_model)
        self._model = read_onnx(job.onnx_path, self._name)
        self._operations = operations_of_parts(self._model, onnx_model, nodes)
        self.parts: Sequence[str] = tuple(self._operations)
        fragile = set(fragile_parts(onnx_model, nodes))
        self.fragile_parts: Sequence[str] = tuple(part for part in self.parts if part in fragile)
        self._measured: dict[Any, Any] = {}
        with _nncf_at_work(self._name):
            self._planned(())

    def quantise(self, float_parts: Collection[str], folder: Path) -> dict[str, str]:
        """Quantise all but ``float_parts``; ``.xml`` and ``.bin`` by role.

        Weights of float parts are half floats.
        """
        with _nncf_at_work(self._name):
            from openvino._offline_transformations import (
                compress_quantize_weights_transformation,
            )

            quantised = self._planned(float_parts)()
            # Weights become the 8-bit numbers that so far are only rounded to.
            compress_quantize_weights_transformation(quantised)
        return save_ir(quantised, folder, self._name, small=True)

    def _planned(self, float_parts: Collection[str]) -> Callable[[], Any]:
        """What quantises the network, with all that it needs measured.

        ``nncf.quantize`` in two halves (NNCF 3.4, ``openvino/quantization/quantize_model.py``), to
        put statistics in from outside between them, as its own cache of weight statistics does.
        """
        import nncf
        from nncf.common.factory import build_graph
        from nncf.quantization.algorithms.post_training.algorithm import PostTrainingQuantization
        from nncf.quantization.range_estimator import RangeEstimatorParametersSet

        algorithm = PostTrainingQuantization(
            preset=nncf.QuantizationPreset.MIXED,
            target_device=nncf.TargetDevice.CPU,
            subset_size=len(self._feeds),
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                activations_range_estimator_params=RangeEstimatorParametersSet.HISTOGRAM
            ),
            ignored_scope=nncf.IgnoredScope(
                names=[name for part in float_parts for name in self._operations[part]],
                validate=False,  # NNCF removes some of them itself, what is constant for example
            ),
        )
        graph = build_graph(self._model)
        points = algorithm.get_statistic_points(self._model, graph)
        self._measure(points, graph)
        return lambda: algorithm.apply(self._model, graph, points)

    def _measure(self, points: Any, graph: Any) -> None:
        """Fill NNCF's collectors: with what is known, and the others by running the feeds."""
        import nncf
        from nncf.common.tensor_statistics.statistic_point import (
            StatisticPoint,
            StatisticPointsContainer,
        )
        from nncf.quantization.algorithms.pipeline import collect_statistics

        missing = StatisticPointsContainer()
        new = []
        for algorithm, point, collector in points.get_tensor_collectors():
            target = point.target_point
            # Where, and what of it: the aggregators' keys are hashes of what they compute.
            key = (
                target.target_node_name,
                target.type,
                target.port_id,
                frozenset(collector.aggregators),
            )
            if key in self._measured:
                collector.set_cache(self._measured[key])
            else:
                missing.add_statistic_point(StatisticPoint(target, collector, algorithm))
                new.append((key, collector))
        if new:
            feeds = nncf.Dataset([dict(feeds) for feeds in self._feeds])
            collect_statistics(missing, self._model, graph, feeds)
        for key, collector in new:
            self._measured[key] = collector.get_statistics()


def operations_of_parts(
    model: Any, onnx_model: Any, nodes: Mapping[str, Sequence[str]]
) -> dict[str, list[str]]:
    """Part -> the names of its operations in an ``openvino.Model``, constants left out.

    ``nodes`` are ONNX nodes by part. An operation is called after the node that it comes from, or
    carries the name of its tensor (the last ones are called after the output). What a node became
    besides, such as the convolution before the addition of its bias, belongs to the first of its
    users that has a part, or to what it follows.
    """
    part_of = {name: part for part, names in nodes.items() for name in names}
    for node in onnx_model.graph.node:
        part_of |= dict.fromkeys(node.output, part_of[node_name(node)])
    operations = [
        op
        for op in model.get_ordered_ops()
        if op.get_type_name() not in ("Constant", "Parameter", "Result")
    ]
    found: dict[str, str] = {}

    def join(op: Any, parts: Iterable[str | None]) -> None:
        for part in parts:
            if part is not None:
                found.setdefault(op.get_friendly_name(), part)

    for op in operations:
        names = [op.get_friendly_name(), *(name for port in op.outputs() for name in port.names)]
        join(op, map(part_of.get, names))
    for op in reversed(operations):
        users = [user.get_node() for port in op.outputs() for user in port.get_target_inputs()]
        join(op, (found.get(user.get_friendly_name()) for user in users))
    for op in operations:
        sources = [value.get_node() for value in op.input_values()]
        join(op, (found.get(source.get_friendly_name()) for source in sources))
    parts: dict[str, list[str]] = {part: [] for part in nodes}
    for op in operations:
        parts[found[op.get_friendly_name()]].append(op.get_friendly_name())
    return {part: names for part, names in parts.items() if names}


@contextlib.contextmanager
def _nncf_at_work(name: str) -> Iterator[None]:
    """NNCF without its reports over the network, its log and its bars; its errors as ours.

    Where ``openvino_telemetry`` is not to be had it sends nothing (3.4, ``telemetry/wrapper.py``).
    """
    import_openvino()
    try:
        # Its progress bars and its logger write to what is standard output at that moment.
        with keep_signal_stack(), contextlib.redirect_stdout(io.StringIO()):
            import nncf

            logging.getLogger(nncf.__name__).setLevel(logging.ERROR)
            yield
    except ModuleNotFoundError as error:
        raise ToolError(f"{error.name} is not installed; run `make setup`") from None
    except Exception as error:  # its exceptions share no base class but Exception
        raise ToolError(f"NNCF cannot quantise {name}: {last_line(error).strip(' -')}") from None
