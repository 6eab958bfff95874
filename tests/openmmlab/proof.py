"""The kit against the real classes of mmpose and mmdet: `make test-openmmlab`.

The real models run in `.venv-openmmlab` (`make setup-openmmlab`) and leave their checkpoints, raw
outputs and decoded answers; here the kit reads the same checkpoints and is held to them. Random
weights give maps with many maxima of nearly one height, so that they are decoded from the very
tensor that the real pipeline made; the demo weights are trained, and are compared on the kit's own
crop as well.

Not collected by `make test`: the file's name starts with no `test_`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")

from converters.architectures.official import Description, build, export_checkpoint  # noqa: E402
from converters.commands.open_source import open_onnx  # noqa: E402
from edge import Detector, OneStage, PoseEstimator, load_artifact, open_session  # noqa: E402
from edge.codecs import heatmap, simcc  # noqa: E402
from edge.keypoints import KEYPOINT_SETS  # noqa: E402
from edge.picture import read_image, write_image  # noqa: E402
from edge.session import EngineSettings, Session  # noqa: E402
from tests.conftest import SHARED  # noqa: E402
from tests.openmmlab.cases import CASES  # noqa: E402
from tests.openmmlab.codecs import DECODINGS  # noqa: E402
from tests.openmmlab.same import (  # noqa: E402
    Answers,
    OnTensor,
    same_boxes,
    same_keypoints,
    same_people,
    same_raw_outputs,
    same_tensor,
)
from tests.stand_ins.specs import heatmap_spec, pose_spec  # noqa: E402

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PYTHON = ROOT / ".venv-openmmlab/bin/python"


# --- the real side ----------------------------------------------------------------------------


def pictures(folder: Path) -> list[dict[str, Any]]:
    """Photos with people and their annotated boxes; rendered ones where the photos are absent."""
    notes = SHARED / "data/coco/test_coco.json"
    if notes.is_file():
        data = json.loads(notes.read_text())
        boxes: dict[int, list[Any]] = {image["id"]: [] for image in data["images"]}
        for one in data["annotations"]:
            x, y, width, height = one["bbox"]
            boxes[one["image_id"]].append([x, y, x + width, y + height])
        return [
            {"path": str(notes.parent / image["file_name"]), "boxes": boxes[image["id"]]}
            for image in sorted(data["images"], key=lambda image: -len(boxes[image["id"]]))
        ]
    print("pictures: ../shared is absent, people are rendered", file=sys.stderr)
    from calibration.people.synthetic import coco_annotations, scene

    scenes = [scene(11, index) for index in range(3)]
    data = coco_annotations(scenes)
    found = []
    for made, image in zip(scenes, data["images"], strict=True):
        path = folder / f"{image['id']}.png"
        write_image(path, made.image_bgr)
        rows = [one["bbox"] for one in data["annotations"] if one["image_id"] == image["id"]]
        found.append({"path": str(path), "boxes": [[x, y, x + w, y + h] for x, y, w, h in rows]})
    return sorted(found, key=lambda one: -len(one["boxes"]))


def demo_state(file: Path, network: Any) -> dict[str, Any]:
    """The trained weights of a demo file under the names of ``network``.

    Its norms are folded into convolutions with a bias: here they become norms that only add. Of
    matrices the exporter keeps no names; they stand in the order in which they are used.
    """
    stored = {
        one.name.removesuffix("_fp16"): torch.tensor(
            onnx.numpy_helper.to_array(one).astype(np.float32)
        )
        for one in onnx.load(file).graph.initializer
    }
    unnamed = [value for name, value in stored.items() if name.startswith("onnx::")]
    if unnamed:
        mlp, uv, q_scale, q_shift, k_scale, k_shift, o, x, y = unnamed
        linear = {"mlp.1": mlp, "gau.uv": uv, "gau.o": o, "cls_x": x, "cls_y": y}
        stored |= {f"head.{name}.weight": value.T for name, value in linear.items()}
        stored["head.gau.gamma"] = torch.stack([q_scale, k_scale])
        stored["head.gau.beta"] = torch.stack([q_shift, k_shift])
    state = network.state_dict()
    for key, value in state.items():
        layer, is_norm, part = key.rpartition(".bn.")
        if not is_norm:
            state[key] = stored[key].reshape(value.shape)
        elif part == "bias":
            state[key] = stored[f"{layer}.conv.bias"]
        elif part == "running_var":
            state[key] = torch.full_like(value, 1 - network.get_submodule(f"{layer}.bn").eps)
        else:
            state[key] = torch.full_like(value, part == "weight")
    return dict(state)


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Path:
    """The folder with the real models' files; a process for each framework makes them.

    EDGEPOSE_OPENMMLAB names a folder that has them from an earlier run.
    """
    kept = os.environ.get("EDGEPOSE_OPENMMLAB")
    if kept:
        return Path(kept)
    if not PYTHON.is_file():
        pytest.skip("no .venv-openmmlab: run `make setup-openmmlab`")
    out = tmp_path_factory.mktemp("openmmlab")
    for case in CASES.values():
        if case.demo:
            is_pose = case.kind == "pose"
            network = build(
                Description("rtmpose", "t", 17) if is_pose else Description("rtmdet", "nano")
            )
            file = ROOT / f"converters/zoo/weights/{case.demo}.onnx"
            torch.save(demo_state(file, network), out / f"{case.demo}.pth")
    (out / "pictures.json").write_text(json.dumps(pictures(out)))
    for detectors in (False, True):
        names = [key for key, case in CASES.items() if (case.kind == "detector") == detectors]
        command: list[str | Path] = [
            PYTHON,
            HERE / "references.py",
            out / "pictures.json",
            out,
            *names,
        ]
        # A minute or two of silence looks like a hang: this is shown as it comes.
        with pytestconfig.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
            print(f"\nreal models: {', '.join(names)}", flush=True)
            subprocess.run(command, check=True)
    with pytestconfig.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        subprocess.run([PYTHON, HERE / "codecs.py", out / "codecs.npz"], check=True)
    return out


# --- the kit's side ---------------------------------------------------------------------------

THREADS = EngineSettings(threads=2)


def real_answers(made: Path, name: str) -> tuple[Any, Answers]:
    """The first picture, and what the real model gave for it."""
    first = json.loads((made / "pictures.json").read_text())[0]
    return read_image(Path(first["path"])), dict(np.load(made / f"{name}.npz"))


def exported(made: Path, name: str, tmp_path: Path) -> tuple[Session, list[str]]:
    """The kit's export of a real checkpoint, opened, and what was said of it."""
    said: list[str] = []
    case = CASES[name]
    side = 416 if case.kind == "one-stage" else 320 if case.changes.get("test_side") else 640
    free = case.kind != "pose"
    path = tmp_path / f"{name}.onnx"
    export_checkpoint(
        made / f"{name}.pth",
        path,
        name,
        input_hw=(side, side) if free else None,
        say=said.append,
    )
    return open_onnx(str(path), THREADS), said


checkpoints = pytest.mark.parametrize(
    "name", [name for name, case in CASES.items() if case.given_as == "checkpoint"]
)
networks = pytest.mark.parametrize(
    "name", [name for name, case in CASES.items() if case.given_as == "onnx"]
)


@checkpoints
def test_a_real_checkpoint_gives_the_real_outputs_and_answers(
    name: str, made: Path, tmp_path: Path
) -> None:
    case = CASES[name]
    image, real = real_answers(made, name)
    session, said = exported(made, name, tmp_path)
    with session:
        assert said == [], "the file says all of itself"
        same_raw_outputs(session, real)
        asked = OnTensor(session, real["x"])
        if case.kind == "pose":
            assert session.spec.keypoint_set == case.finds
            is_map = session.spec.codec == "heatmap"
            if is_map:
                # DARK divides by the curvature, of which random maps have little: the last digit
                # of a map moves some answers by pixels. The maps were compared; these are the real,
                # and a blur rounds as well. Precision is what the codecs' own test is for.
                PoseEstimator(asked)(image, real["boxes"].astype(np.float32))  # type: ignore[arg-type]
                asked.outputs = {session.spec.outputs[0].name: real["raw_0"]}
            limit_px, rare = (0.1, 30) if is_map else (0.01, 200)
            same_keypoints(PoseEstimator(asked), image, real, limit_px, rare=rare)  # type: ignore[arg-type]
            if case.demo:
                same_keypoints(PoseEstimator(session), image, real, 2.0, 0.02)
        elif case.kind == "one-stage":
            assert session.spec.keypoint_set == case.finds
            same_people(OneStage(asked, score_threshold=0.1), image, real)  # type: ignore[arg-type]
        else:
            floor = session.spec.score_threshold
            same_boxes(Detector(asked, score_threshold=floor), image, real)  # type: ignore[arg-type]
            if case.demo:
                # A quarter of a grey level, by which OpenCV rounds, moves a box by a quarter of a
                # pixel, and decides which one of two neighbours of one score is kept: the surest.
                own = Detector(session, score_threshold=floor)
                same_boxes(own, image, real, above=0.25, slack=4.0)
        same_tensor(asked)


@networks
def test_a_real_network_converts_and_gives_the_real_answers(
    name: str, made: Path, tmp_path: Path
) -> None:
    case = CASES[name]
    image, real = real_answers(made, name)
    words: list[str | Path] = [
        "--model",
        made / f"{name}.onnx",
        "--target",
        "x86",
        "--formats",
        "onnx-fp32",
    ]
    folder = Path(json.loads((made / "pictures.json").read_text())[0]["path"]).parent
    words += ["--out", tmp_path, "--images", folder]
    if case.spec is not None:
        maps = real["raw_0"].shape
        spec = case.spec | {
            "name": name,
            "input": {"name": "input", "shape": [1, *real["x"].shape[1:]]},
            "outputs": [{"name": "heatmaps", "shape": [1, *maps[1:]]}],
        }
        (tmp_path / "spec.json").write_text(json.dumps(spec))
        words += ["--spec", tmp_path / "spec.json"]
    edge = Path(sys.executable).with_name("edge")
    done = subprocess.run(
        [edge, "convert", *words], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stdout + done.stderr
    artifact = load_artifact(tmp_path / "x86" / f"{name}-onnx-fp32")
    with open_session(artifact, THREADS) as session:
        assert session.spec.keypoint_set == case.finds
        same_raw_outputs(session, real)
        asked = OnTensor(session, real["x"])
        same_keypoints(PoseEstimator(asked), image, real, 0.01)  # type: ignore[arg-type]
        same_tensor(asked)


@pytest.mark.parametrize("name", DECODINGS)
def test_the_codecs_decode_maps_of_one_peak_as_mmpose_does(name: str, made: Path) -> None:
    """Peaks between the cells and at the rim: every place, to a hundredth of a pixel."""
    kind, _, fields = DECODINGS[name]
    found = dict(np.load(made / "codecs.npz"))
    is_simcc = kind == "SimCCLabel"
    spec = (pose_spec if is_simcc else heatmap_spec)(**fields)
    got = (simcc if is_simcc else heatmap).decode(found, spec)
    if spec.udp:
        # mmpose takes the way back from (w - 1) cells to W pixels together with its crop's from
        # W - 1 of them; here either is what it says.
        got[..., :2] *= np.array([192 / 191, 256 / 255])
    real = found[name]
    np.testing.assert_allclose(got[..., 2], real[..., 2], atol=1e-5)
    # Keypoints that were not found are at cell -1; UDP moves them by what the rim's cells say.
    seen = got[..., 2] > 0 if "megvii" not in name else got[..., 2] > 0.5
    assert seen.sum() == seen.size - 1
    far = np.linalg.norm(got[..., :2] - real[..., :2], axis=-1)
    assert far[seen].max() <= 0.01
    # And they are the peaks, but where these lie beyond the rim.
    cells = found["heatmaps"].shape[:1:-1]
    peaks = found["peaks"]
    inner = seen & ((peaks > 2) & (peaks < np.array(cells) - 3)).all(axis=-1)
    assert inner.sum() > 80
    off = got[..., :2] / 4 - peaks - (np.array([3.5 / 8] * 2) if is_simcc else 0)
    assert np.abs(off[inner]).max() <= 1.2


def test_the_sets_that_the_kit_knows_are_those_of_the_real_files(made: Path) -> None:
    """Names, mirrored pairs and sigmas of mmpose, read from the real checkpoints."""
    from converters.architectures.reading import read_checkpoint

    for name, case in CASES.items():
        known = KEYPOINT_SETS.get(case.finds or "")
        if known is not None and case.given_as == "checkpoint":
            found = read_checkpoint(made / f"{name}.pth").claims.keypoints
            assert found is not None
            assert found.name == known.name
            assert found.keypoints == known.keypoints
            np.testing.assert_allclose(found.sigmas, known.sigmas, atol=1e-6)
