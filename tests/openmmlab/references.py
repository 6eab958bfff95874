"""Real models of mmpose or mmdet with their own answers; runs in .venv-openmmlab.

    .venv-openmmlab/bin/python references.py PICTURES.json OUT NAME ...

PICTURES.json is a list of {"path", "boxes"}, boxes (N, 4) xyxy in px. For each NAME of one of the
two frameworks it writes NAME.pth as mmengine saves it, for some NAME.onnx (the raw heads), and
NAME.npz: ``x`` (N, 3, H, W), what the real pipeline gave the network for the first picture, its
``raw_0``, ``raw_1``, ..., and what the real model answered, decoded.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import stand_ins
import torch
from cases import CASES, Case

stand_ins.install()


def build(case: Case) -> tuple[Any, Any]:
    """The real model in eval mode, as its configuration builds it, and the configuration."""
    import mmdet
    from mmengine.config import Config
    from mmengine.registry import MODELS, init_default_scope

    if case.kind == "detector":
        from mmdet.utils import register_all_modules
    else:
        import mmpose
        from mmpose.utils import register_all_modules
    register_all_modules(init_default_scope=False)
    scope = mmdet if case.kind == "detector" else mmpose
    init_default_scope(scope.__name__)
    config = Config.fromfile(Path(scope.__file__).parent / ".mim/configs" / case.config)
    changes = dict(case.changes)
    side = changes.pop("test_side", None)
    for place, value in changes.items():
        *path, last = place.split(".")
        table = config
        for part in path:
            table = table[part]
        table[last] = value
    if side:
        for step in config.test_dataloader.dataset.pipeline:
            for key in ("scale", "size"):
                if key in step:
                    step[key] = (side, side)
    config.default_scope = scope.__name__
    # Pretrained weights would be fetched; a flip test is no part of a deployed model.
    config.model.get("backbone", {}).pop("init_cfg", None)
    if "flip_test" in (config.model.get("test_cfg") or {}):
        config.model.test_cfg.flip_test = False
    torch.manual_seed(1)
    return MODELS.build(config.model).eval(), config


def tensors(value: Any) -> list[torch.Tensor]:
    """All tensors of nested lists and tuples in their order."""
    if torch.is_tensor(value):
        return [value]
    return [one for item in value or () for one in tensors(item)]


def raw(model: Any, x: torch.Tensor) -> list[torch.Tensor]:
    """What the network gives before any decoding."""
    head = model.bbox_head if hasattr(model, "bbox_head") else model.head
    return tensors(head(model.extract_feat(x)))


def randomise(model: Any, x: torch.Tensor) -> None:
    """Random weights that keep the size of what they pass on, norms with statistics of ``x``."""
    norms = []
    for module in model.modules():
        weight: Any = getattr(module, "weight", None)
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            weight.uniform_(0.6, 1.4)
            module.bias.normal_(0, 0.2)
            module.reset_running_stats()
            norms.append((module, module.momentum))
            module.momentum = 1.0
        elif isinstance(module, torch.nn.LayerNorm):
            weight.uniform_(0.6, 1.4)
        elif torch.is_tensor(weight) and weight.ndim > 1:
            gain = 1.0 if weight.ndim == 2 else 2.0
            weight.normal_(0, (gain / weight[0].numel()) ** 0.5)
            if module.bias is not None:
                module.bias.normal_(0, 0.1)
    for name, value in model.named_parameters():
        if name.rpartition(".")[2] in ("gamma", "beta", "w", "pos_embed"):
            value.normal_(0, 0.3)
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.eval()
    raw(model, x)
    for module, momentum in norms:
        module.momentum = momentum
    model.eval()


def make_boxes_rare(model: Any, x: torch.Tensor) -> None:
    """Last layers of a detector as training leaves them: few cells are sure, boxes are small."""
    head = getattr(model, "bbox_head", None) or model.head
    for name, layer in head.named_modules():
        if not isinstance(layer, torch.nn.Conv2d):
            continue
        if "rtm_reg" in name:
            layer.weight.mul_(0.1)
            layer.bias.fill_(1.2 if head.exp_on_reg else 3.0)
        elif "out_bbox" in name:
            layer.weight.mul_(0.2)
            layer.bias.fill_(0.8)
        elif "out_pose" in name:
            layer.weight.mul_(0.3)
    for layer in [
        layer for name, layer in head.named_modules() if "rtm_cls." in name or "out_cls." in name
    ]:
        seen: list[torch.Tensor] = []
        hook = layer.register_forward_hook(lambda _, __, out, seen=seen: seen.append(out))
        raw(model, x)
        hook.remove()
        logits = torch.cat([one.flatten() for one in seen])
        layer.bias.sub_(logits.kthvalue(max(1, int(logits.numel() * 0.998)))[0])


class _SeenError(Exception):
    """Carries the network's input out of a framework's own pipeline."""


def network_input(model: Any, case: Case, config: Any, picture: dict[str, Any]) -> torch.Tensor:
    """The tensor (N, 3, H, W) that the real pipeline makes of a picture; nothing is run on it."""

    def carry(_: Any, __: Any, out: Any) -> None:
        raise _SeenError(out["inputs"])

    hook = model.data_preprocessor.register_forward_hook(carry)
    try:
        found = answers(model, case, config, picture)
    except _SeenError as seen:
        found = seen.args[0]
    hook.remove()
    return found


def answers(model: Any, case: Case, config: Any, picture: dict[str, Any]) -> Any:
    """What the real model answers for a picture, decoded."""
    model.cfg = config
    path = picture["path"]
    if case.kind == "detector":
        from mmdet.apis import inference_detector

        found = inference_detector(model, path).pred_instances
        result = {"boxes": found.bboxes, "scores": found.scores, "labels": found.labels}
    elif case.kind == "pose":
        from mmpose.apis import inference_topdown

        boxes = np.array(picture["boxes"], np.float32)
        people = [one.pred_instances for one in inference_topdown(model, path, boxes)]
        result = {
            "boxes": boxes,
            "keypoints": np.stack([one.keypoints[0] for one in people]),
            "scores": np.stack([one.keypoint_scores[0] for one in people]),
        }
    else:
        from mmpose.apis import inference_bottomup

        found = inference_bottomup(model, path)[0].pred_instances
        result = {
            "boxes": found.bboxes,
            "scores": found.bbox_scores,
            "keypoints": found.keypoints,
            "visible": found.keypoint_scores,
        }
    return {key: np.asarray(value) for key, value in result.items()}


def make_maps_positive(model: Any) -> None:
    """Heatmaps as trained ones are, above 0: a logarithm of them refines the maxima."""
    last = getattr(model.head, "final_layer", None)
    if type(model.head).__name__ == "HeatmapHead" and last is not None:
        last.weight.mul_(0.1)
        last.bias.fill_(0.5)


class Heads(torch.nn.Module):  # type: ignore[misc]
    """The network up to the heads that are decoded, for export."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> Any:
        found = raw(self.model, x)
        # Of several stages the last one is decoded; of SimCC both axes.
        return tuple(found) if len(found) == 2 and found[0].ndim == 3 else found[-1]


def make(name: str, pictures: list[dict[str, Any]], out: Path) -> None:
    """Write the files of one model."""
    case = CASES[name]
    start = time.monotonic()
    model, config = build(case)
    meta: dict[str, Any] = {}
    if case.kind != "detector":
        from mmpose.apis.inference import dataset_meta_from_config

        meta = dataset_meta_from_config(config, "test") or dataset_meta_from_config(config, "train")
    else:
        from mmdet.registry import DATASETS

        meta = DATASETS.get(config.dataset_type).METAINFO if not case.changes else {}
    model.dataset_meta = meta
    if case.demo:
        model.load_state_dict(torch.load(out / f"{case.demo}.pth", weights_only=True))
    else:
        # Several pictures, so that no norm sees one alone.
        inputs = torch.cat([network_input(model, case, config, one)[:2] for one in pictures[:3]])
        randomise(model, inputs)
        if case.kind == "pose":
            make_maps_positive(model)
        else:
            make_boxes_rare(model, inputs[:1])
    x = network_input(model, case, config, pictures[0])
    found = answers(model, case, config, pictures[0])
    heads = {f"raw_{index}": value.numpy() for index, value in enumerate(raw(model, x))}
    content = {
        "meta": {"cfg": config.pretty_text, "dataset_meta": meta, "epoch": 1},
        "state_dict": model.state_dict(),
    }
    torch.save(content, out / f"{name}.pth", _use_new_zipfile_serialization=not case.legacy)
    if case.given_as == "onnx":
        torch.onnx.export(
            Heads(model),
            (x[:1],),
            str(out / f"{name}.onnx"),
            input_names=["input"],
            output_names=["simcc_x", "simcc_y"] if len(heads) == 2 else ["heatmaps"],
            opset_version=17,
            dynamo=False,
        )
    np.savez(out / f"{name}.npz", x=x.numpy(), **heads, **found)
    print(f"{name}: {time.monotonic() - start:.0f} s", flush=True)


def main() -> None:
    """Make the models that are named."""
    pictures, out = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    warnings.simplefilter("ignore")
    torch.set_num_threads(2)
    with torch.no_grad():
        for name in sys.argv[3:]:
            make(name, pictures, out)


if __name__ == "__main__":
    main()
