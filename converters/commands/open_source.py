"""Sessions of untouched model files, and what holds artifacts to them: for commands of a device.

`edge.cli.host.load` takes this module by name where a checkout is at hand.
"""

from __future__ import annotations

import sys

from converters.commands.parity_pictures import parity_images
from converters.graph.file import load_onnx
from converters.graph.recognise import recognise
from converters.parity.answers import judge_answers
from converters.source import Source
from converters.zoo.models import find_source
from edge.artifact import Artifact
from edge.engines.onnxruntime import OnnxRuntimeSession
from edge.errors import EngineMissingError
from edge.session import EngineSettings, Session

__all__ = ["check_source", "open_onnx", "open_source"]


def open_onnx(text: str, settings: EngineSettings) -> Session:
    """A session of an untouched ONNX file or zoo model on ONNX Runtime."""
    return open_source(find_source(text), settings)


def open_source(source: Source, settings: EngineSettings) -> Session:
    """A session of a source on ONNX Runtime; what was assumed of it goes to stderr."""
    model = load_onnx(source.path)
    found = recognise(
        model, source.path, source.name, source.spec, source.input_hw, source.keypoint_set
    )
    session = OnnxRuntimeSession(bytes(model.SerializeToString()), found.source_spec, settings)
    for note in source.assumed(found.notes):
        print(f"note: {source.name}: {note}", file=sys.stderr, flush=True)
    return session


def check_source(artifact: Artifact, session: Session) -> str:
    """Compare a session with its artifact's source on rendered people; what came of it, in words.

    With the limits of the artifact's own precision, as `edge verify` has it. Raises ParityError.
    """
    try:
        report = judge_answers(artifact, parity_images(None), session)
    except ImportError as error:
        raise EngineMissingError(f"it takes what `make setup` installs ({error})") from None
    report.raise_if_failed()
    return report.summary()
