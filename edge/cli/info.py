"""``edge info``: all that is known of an artifact."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from edge.artifact import Artifact, load_artifact
from edge.spec import ModelSpec
from edge.spec_text import spec_lines

__all__ = ["add", "parity_lines", "run"]


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--allow-failed", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument(
        "--spec",
        action="store_true",
        help="the spec of the file it was made of, as --spec reads it",
    )


def run(arguments: argparse.Namespace) -> int:
    """Print an artifact's manifest as text or JSON."""
    artifact = load_artifact(arguments.artifact, allow_failed=arguments.allow_failed)
    if arguments.json:
        print(json.dumps(artifact.to_json(), indent=2))
        return 0
    spec = artifact.spec
    if arguments.spec:
        source = artifact.source.get("spec")
        where = f"{artifact.folder}: source"
        whole = spec if source is None else ModelSpec.from_json(source, where)
        print("\n".join(spec_lines(whole)))
        return 0
    lines = [f"{spec.name} as {artifact.variant}" + (" (FAILED)" if artifact.failed else "")]
    lines.append("spec:")
    lines += [f"  {line}" for line in spec_lines(spec)]
    lines.append("files:")
    for role, name in artifact.files.items():
        size = (artifact.folder / name).stat().st_size
        lines.append(f"  {role:<10} {name}  {size} bytes  sha256 {artifact.sha256[name]}")
    lines.append("made of:")
    shown = ("file", "sha256", "path", "images", "scale_norms_made_fp16_safe")
    lines += [f"  {key:<26} {artifact.source[key]}" for key in shown if key in artifact.source]
    lines += [f"  note: {note}" for note in artifact.source.get("notes", ())]
    lines.append("made with:")
    lines.append("  " + ", ".join(f"{name} {version}" for name, version in artifact.tools.items()))
    lines += parity_lines(artifact.parity) + _arm_lines(artifact) + _quantisation_lines(artifact)
    print("\n".join(_printable(line) for line in lines))
    return 0


def _printable(line: str) -> str:
    """A line of a terminal, whatever a file holds."""
    return "".join(sign if sign.isprintable() else "?" for sign in line)


def _arm_lines(artifact: Artifact) -> list[str]:
    """Which arithmetic an ARM CPU may use, and what the tries gave; nothing for other variants."""
    record = artifact.arm
    if not record:
        return []
    lines = [record.get("text", "ARM: no verdict")]
    if record.get("checked"):
        lines.append(f"  on {record.get('cpu', '?')} with {record.get('runner', '?')}")
    for precision, one in record.get("tried", {}).items():
        rejected = bool(record.get("safe") and one["failures"])
        summary = one["summary"].removeprefix("FAIL: ") if rejected else one["summary"]
        how = "tried and rejected: " if rejected else ""
        lines.append(f"  {how}{precision:<12} {one['images']} images: {summary}")
        lines += [f"  {'' if rejected else 'FAILURE '}{failure}" for failure in one["failures"]]
    return lines


def _quantisation_lines(artifact: Artifact) -> list[str]:
    """What was quantised with what, and what it cost; nothing for other precisions."""
    lines = []
    if artifact.quantisation:
        made = artifact.quantisation
        text = made.get("calibration", {}).get("text", "unknown pictures")
        # Over the pictures and their boxes: no file's own.
        sha256 = str(made.get("calibration", {}).get("sha256", ""))[:16]
        lines.append(f"quantised: calibrated on {text}, fingerprint {sha256}")
        floats = ", ".join(made.get("float_parts", ())) or "none"
        lines.append(f"  parts that stay float, of {made.get('parts')}: {floats}")
    if artifact.accuracy:
        lines.append(f"accuracy: {artifact.accuracy.get('summary', 'no verdict')}")
        lines.append(f"  on {artifact.accuracy.get('data', '?')}")
    return lines


def parity_lines(parity: dict[str, Any]) -> list[str]:
    """A parity report as text, a line an item."""
    if not parity:
        return ["parity: never compared"]
    known = {key: parity.get(key, "?") for key in _PARITY_TEXTS}
    lines = [
        f"parity: {known['summary']}",
        f"  {known['engine']} computing in {known['inference_precision']} on {known['machine']}, "
        f"against {known['reference']}",
        f"  {known['image_count']} images: {known['images']}",
    ]
    lines += [
        f"  {t['name']:<16} max abs {_figure(t['max_abs'])}, mean abs {_figure(t['mean_abs'])}, "
        f"cosine >= {_figure(t['cosine_min'], '.7f')}"
        for t in parity.get("tensors", ())
    ]
    if parity.get("fp16_peak"):
        peak = parity["fp16_peak"]
        lines.append(
            f"  largest value inside {_figure(peak['max_abs'], '.4g')} ({peak['tensor']}), FP16 "
            f"ends at {peak['limit']:g}"
        )
    return lines + [f"  FAILURE {failure}" for failure in parity.get("failures", ())]


_PARITY_TEXTS = (
    *("summary", "engine", "inference_precision", "machine", "reference", "image_count", "images"),
)


def _figure(value: float | None, form: str = ".3g") -> str:
    """A number; what was not finite has none in JSON."""
    return "not finite" if value is None else format(value, form)
