"""Which variant of each model `make bench-peers` takes for this kit's default choice.

``python -m tests.benches.peer_choice FOLDER THREADS`` asks `edge.choice` about the artifacts in
FOLDER, as `edge run` would, but measures anew and remembers nothing. It prints JSON: of detector
and pose model the artifact's folder and the precision to compute in.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from edge.choice import ChoiceSettings, choose, find_artifacts
from edge.cli.choose import bf16_check
from edge.errors import EdgeError


def chosen(folder: Path, threads: int) -> dict[str, Any]:
    """[folder, precision] as ``detector`` and ``pose``; ``measured`` has all candidates in ms."""
    artifacts, left_out = find_artifacts(folder)
    for reason in left_out:
        print(f"left out: {reason}", file=sys.stderr)
    found: dict[str, Any] = {"measured": {}}
    for task, part in (("detection", "detector"), ("pose", "pose")):
        ours = [artifact for artifact in artifacts if artifact.spec.task == task]
        with tempfile.TemporaryDirectory(prefix="edgepose-") as memory:
            settings = ChoiceSettings(threads, again=True, folder=Path(memory))
            choice = choose(ours, settings, check=bf16_check())
        found[part] = [str(choice.artifact.folder), choice.inference_precision]
        for one in choice.candidates:
            name = f"{one.artifact.spec.name} {one.name}"
            found["measured"][name] = {"ms": one.latency_ms, "reason": one.reason or "chosen"}
    return found


if __name__ == "__main__":
    try:
        print(json.dumps(chosen(Path(sys.argv[1]), int(sys.argv[2]))))
    except EdgeError as error:
        sys.exit(f"peer_choice: {error}")
