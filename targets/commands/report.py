"""``edge report``: runs as a table, JSON, Markdown or a page, and against earlier ones."""

from __future__ import annotations

import argparse
import json
import math
import sys
from datetime import UTC, datetime
from pathlib import Path

from edge.errors import SpecError
from edge.files import write_bytes
from edge.printable import printable
from targets.report.compare import compare_runs
from targets.report.page import html_page
from targets.report.tables import (
    comparison_json,
    comparison_markdown,
    comparison_text,
    markdown,
    report_json,
    text_report,
)
from targets.result import read_runs

__all__ = ["add", "run"]


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument(
        "runs",
        nargs="*",
        metavar="RUN.json",
        help="files of runs, folders of them, or glob patterns in quotes",
    )
    parser.add_argument(
        "--html", type=Path, metavar="FILE.html", help="write one page that needs no network"
    )
    parser.add_argument(
        "--markdown", type=Path, metavar="FILE.md", help="write the tables as Markdown"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    parser.add_argument(
        "--title", default="Latency report", help="title of the page (default: %(default)s)"
    )
    parser.add_argument(
        "--compare",
        nargs=2,
        metavar=("OLD", "NEW"),
        help="the change of the median latency, with its confidence; each a file, folder or "
        "pattern. Exits 1 where a change is past the limit or could not be judged",
    )
    parser.add_argument(
        "--max-regression",
        type=_share,
        default=0.05,
        metavar="PERCENT",
        help="how much slower NEW may be (default: 5%%)",
    )
    parser.add_argument(
        "--include-invalid", action="store_true", help="compare INVALID runs too, marked so"
    )
    parser.add_argument(
        "--any-device", action="store_true", help="compare runs of different devices"
    )


def run(arguments: argparse.Namespace) -> int:
    """Show runs, or compare two sets of them."""
    for path in (arguments.html, arguments.markdown):
        if path and not path.absolute().parent.is_dir():
            raise SpecError(f"{path}: its folder does not exist")
    if arguments.compare:
        return _compare(arguments)

    if not arguments.runs:
        raise SpecError("name the runs: edge report build/results, or --compare OLD NEW")
    runs = read_runs(arguments.runs)
    if arguments.html:
        page = html_page(runs, made=datetime.now(UTC), title=arguments.title)
        _write(arguments.html, page)
    if arguments.markdown:
        _write(arguments.markdown, markdown(runs))
    print(json.dumps(report_json(runs), indent=2) if arguments.json else text_report(runs))
    return 0


def _compare(arguments: argparse.Namespace) -> int:

    if arguments.runs or arguments.html:
        raise SpecError("--compare takes OLD and NEW alone, and writes no page; leave the rest out")
    old, new = (read_runs([side]) for side in arguments.compare)
    comparison = compare_runs(
        old,
        new,
        max_regression=arguments.max_regression,
        include_invalid=arguments.include_invalid,
        any_device=arguments.any_device,
    )
    if arguments.markdown:
        _write(arguments.markdown, comparison_markdown(comparison))
    if arguments.json:
        print(json.dumps(comparison_json(comparison), indent=2))
    else:
        print(comparison_text(comparison))
    return 0 if comparison.passed else 1


def _write(path: Path, text: str) -> None:

    # Names come from devices.
    write_bytes(path, printable(text, lines=True).encode())
    print(f"-> {path}", file=sys.stderr)


def _share(text: str) -> float:
    """``5%`` as 0.05; a number without the sign is refused, for 5 and 0.05 are both meant."""
    number = text.removesuffix("%").strip()
    try:
        value = float(number) / 100
    except ValueError:
        value = -1.0
    if not text.endswith("%") or not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no percentage, for example 5%")
    return value
