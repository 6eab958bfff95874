"""What a command is given as a model, opened."""

from __future__ import annotations

import argparse
from pathlib import Path

from edge.artifact import MANIFEST, load_artifact
from edge.cli.host import load
from edge.session import (
    EngineSettings,
    InferencePrecision,
    Session,
    open_session,
    shipped_precision,
)

__all__ = ["open_model"]


def open_model(text: str, arguments: argparse.Namespace) -> Session:
    """A session of an artifact folder, or (in a checkout) of an untouched ONNX or SDK model."""
    path = Path(text)
    precision: InferencePrecision | None = arguments.inference_precision
    if path.is_dir() and ((path / MANIFEST).is_file() or not (path / "deploy.json").is_file()):
        artifact = load_artifact(path, allow_failed=arguments.allow_failed)
        settings = EngineSettings(arguments.threads, precision or shipped_precision(artifact))
        return open_session(artifact, settings)
    source = load(
        "converters.commands.open_source",
        f"{text} is no folder of an artifact; what runs models by file or name",
    )
    settings = EngineSettings(arguments.threads, precision or "fp32")
    session: Session = source.open_onnx(text, settings)
    return session
