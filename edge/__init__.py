"""edgepose's device runtime: everything around the network, with numpy alone.

Reading order: ``spec`` and ``keypoints`` (what a model is), ``artifact`` (what was shipped),
``session`` and ``engines`` (running a network), ``image`` and ``codecs`` (before and after it),
``detector``, ``pose``, ``pipeline`` and ``onestage`` (an image in, poses out), ``tracker`` (who is
who), ``latency``, ``cli``.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edge.artifact import Artifact, load_artifact
    from edge.detector import Boxes, Detector
    from edge.errors import EdgeError
    from edge.latency import LatencyResult, LatencySettings, measure
    from edge.onestage import OneStage
    from edge.pipeline import Pipeline, Pose
    from edge.pose import PoseEstimator
    from edge.session import EngineSettings, Session, open_session
    from edge.spec import KEYPOINT_SETS, KeypointSet, ModelSpec, TensorSpec, Variant
    from edge.tracking.tracker import PoseTracker, TrackedPose, TrackerParams

# ONNX Runtime reports its use to its maker and writes an identity into the user's folders when it
# is imported, by whichever module that may be (1.31.1, its Privacy.md). Read then, and never again.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__version__ = "0.1.0"

# Loaded when first used: `edge --help` and a device's programs need few of them.
_MODULES = {
    "edge.artifact": ("Artifact", "load_artifact"),
    "edge.detector": ("Boxes", "Detector"),
    "edge.errors": ("EdgeError",),
    "edge.latency": ("LatencyResult", "LatencySettings", "measure"),
    "edge.onestage": ("OneStage",),
    "edge.pipeline": ("Pipeline", "Pose"),
    "edge.pose": ("PoseEstimator",),
    "edge.session": ("EngineSettings", "Session", "open_session"),
    "edge.spec": ("KEYPOINT_SETS", "KeypointSet", "ModelSpec", "TensorSpec", "Variant"),
    "edge.tracking.tracker": ("PoseTracker", "TrackedPose", "TrackerParams"),
}

__all__ = [
    "KEYPOINT_SETS",
    "Artifact",
    "Boxes",
    "Detector",
    "EdgeError",
    "EngineSettings",
    "KeypointSet",
    "LatencyResult",
    "LatencySettings",
    "ModelSpec",
    "OneStage",
    "Pipeline",
    "Pose",
    "PoseEstimator",
    "PoseTracker",
    "Session",
    "TensorSpec",
    "TrackedPose",
    "TrackerParams",
    "Variant",
    "__version__",
    "load_artifact",
    "measure",
    "open_session",
]

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        for module, names in _MODULES.items():
            if name in names:
                found = getattr(import_module(module), name)
                globals()[name] = found
                return found
        raise AttributeError(f"module 'edge' has no attribute {name!r}")
