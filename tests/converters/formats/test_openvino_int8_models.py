"""Real models in OpenVINO's int8: their answers stay near the float ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from converters.formats.openvino import convert_openvino
from converters.formats.openvino_int8 import open_openvino_quantiser
from converters.job import Job
from edge.engines.openvino import OpenVinoSession
from edge.session import Array, EngineSettings, Feeds
from edge.spec import ModelSpec
from tests.stand_ins.openvino_jobs import artifact_of

pytest.importorskip("onnx")
pytest.importorskip("nncf")


def prepared_job(name: str, folder: Path, feeds_of: Callable[[ModelSpec], list[Feeds]]) -> Job:
    from converters.graph.prepare import prepare
    from converters.zoo.models import find_source

    source = find_source(name)
    prepared = prepare(source.path, source.name, spec=source.spec, batch=1)
    path = folder / "prepared.onnx"
    path.write_bytes(prepared.model.SerializeToString())
    return Job(path, prepared.spec, "int8", folder, feeds_of(prepared.spec))


def both_sessions(job: Job) -> tuple[OpenVinoSession, OpenVinoSession]:
    """FP32 and int8 of a job."""
    sessions = []
    for precision in ("fp32", "int8"):
        out = job.folder / precision
        out.mkdir()
        if precision == "int8":
            files = open_openvino_quantiser(job).quantise((), out)
        else:
            files = convert_openvino(replace(job, precision="fp32", folder=out))
        artifact = artifact_of(replace(job, precision=precision), files, out)
        sessions.append(OpenVinoSession(artifact, EngineSettings(threads=1)))
    return sessions[0], sessions[1]


def test_the_demo_pose_model_keeps_its_keypoints(tmp_path: Path) -> None:
    from calibration.people.synthetic import crop_scene
    from edge.pose import PoseEstimator, pose_feeds

    scenes = [crop_scene(7, index, variety=0.25) for index in range(20)]
    boxes = [np.stack([person.box_xyxy for person in scene.people])[:1] for scene in scenes]
    pairs = list(zip(scenes, boxes, strict=True))

    def feeds(spec: ModelSpec) -> list[Feeds]:
        return [pose_feeds(spec, scene.image_bgr, box)[0] for scene, box in pairs[:12]]

    job = prepared_job("rtmpose-t-demo", tmp_path, feeds)
    gaps = []
    full, small = both_sessions(job)
    with full, small:
        for scene, box in pairs[12:]:
            want, found = (PoseEstimator(one)(scene.image_bgr, box)[0] for one in (full, small))
            size = float(max(box[0, 2] - box[0, 0], box[0, 3] - box[0, 1]))
            gaps.append(np.linalg.norm(found[:, :2] - want[:, :2], axis=1)[want[:, 2] > 0.3] / size)
    assert 0 < np.median(np.concatenate(gaps)) < 0.01
    assert np.mean(np.concatenate(gaps) < 0.05) > 0.98
    sizes = {
        precision: sum(path.stat().st_size for path in (tmp_path / precision).iterdir())
        for precision in ("fp32", "int8")
    }
    assert sizes["int8"] <= 0.3 * sizes["fp32"]


@pytest.mark.slow
def test_the_real_detector_finds_the_same_people(
    tmp_path: Path, rtmdet_file: Path, photos: list[Path]
) -> None:
    from calibration.people.synthetic import scene
    from edge.detector import Detector, detector_feeds
    from edge.picture import read_image

    def feeds(spec: ModelSpec) -> list[Feeds]:
        pictures = (scene(7, index, variety=0.25).image_bgr for index in range(200))
        return [detector_feeds(spec, picture)[0] for picture in pictures]

    def near(box: Array, others: Array) -> Array:
        """IoU of a box (4,) with others (N, 4)."""
        corner = np.minimum(others[:, 2:], box[2:]) - np.maximum(others[:, :2], box[:2])
        shared = np.clip(corner, 0, None).prod(1)
        both = (others[:, 2:] - others[:, :2]).prod(1) + (box[2:] - box[:2]).prod()
        return np.asarray(shared / (both - shared))

    full, small = both_sessions(prepared_job(str(rtmdet_file), tmp_path, feeds))
    with full, small:
        for photo in photos:
            image = read_image(photo)
            # One of FP32's boxes scores 0.299: who is found may differ by what a score does.
            want, found = (
                Detector(one, label=0, score_threshold=0.25)(image) for one in (full, small)
            )
            assert (want.scores > 0.3).any()
            for ours, theirs in ((want, found), (found, want)):
                for box in ours.boxes_xyxy[ours.scores > 0.3]:
                    overlaps = near(box, theirs.boxes_xyxy)
                    assert overlaps.max() >= 0.9
