"""``edge zoo``: the models that can be named."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from converters.commands.export import need_torch
from converters.zoo.models import find_entry, zoo_entries, zoo_fetch
from converters.zoo.table import zoo_details, zoo_json, zoo_table
from edge.cli.options import add_insecure_mirror
from edge.errors import SpecError
from edge.keypoints import find_keypoint_set

__all__ = ["add", "run"]


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument(
        "action", nargs="?", choices=["list", "show", "fetch"], default="list", help="default: list"
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="models to show or fetch")
    parser.add_argument(
        "--what", choices=["archive", "checkpoint"], help="fetch this one of a model's files"
    )
    parser.add_argument(
        "--counts",
        action="store_true",
        help="count parameters and multiply-adds beside the published ones (needs PyTorch)",
    )
    parser.add_argument("--json", action="store_true")
    parser.epilog = (
        "Files go to EDGEPOSE_CACHE (default: ~/.cache/edgepose). EDGEPOSE_MIRROR names a folder\n"
        "or https address that has them instead of the official servers; an http one needs\n"
        "--insecure-mirror (or EDGEPOSE_INSECURE_MIRROR=1)."
    )
    add_insecure_mirror(parser)


def run(arguments: argparse.Namespace) -> int:
    """List the zoo, show one of its models, or fetch some."""
    if arguments.counts:
        return _zoo_counts(arguments.json)
    if arguments.action == "list" and arguments.names:
        raise SpecError(f"`edge zoo list` takes no name; try `edge zoo show {arguments.names[0]}`")
    if arguments.action != "list" and not arguments.names:
        raise SpecError(f"name a model: edge zoo {arguments.action} NAME; `edge zoo` lists them")
    entries = zoo_entries()
    chosen = [find_entry(name, entries) for name in arguments.names] or list(entries.values())
    if arguments.action == "fetch":
        paths = {entry.name: zoo_fetch(entry.name, what=arguments.what) for entry in chosen}
        if arguments.json:
            print(json.dumps({name: str(path) for name, path in paths.items()}, indent=2))
        else:
            print("\n".join(str(path) for path in paths.values()))
    elif arguments.json:
        print(json.dumps(zoo_json(chosen), indent=2))
    elif arguments.action == "show":
        print("\n\n".join(zoo_details(entry) for entry in chosen))
    else:
        print(zoo_table(chosen))
    return 0


def _zoo_counts(as_json: bool) -> int:
    """Parameters and multiply-accumulates of the zoo's architectures beside the published ones."""
    need_torch()
    from converters.architectures.counts import PublishedModel, count_rows, counts_table

    models = [
        PublishedModel(
            name=entry.name,
            architecture=entry.architecture,
            size=entry.size,
            input_hw=entry.input_hw,
            keypoints=len(find_keypoint_set(entry.keypoint_set).keypoints)
            if entry.keypoint_set
            else None,
            classes=entry.num_classes,
            params_m=entry.params_m,
            flops_g=entry.flops_g,
        )
        for entry in zoo_entries().values()
        if entry.architecture and entry.size
    ]
    rows = count_rows(models)
    print(json.dumps([asdict(row) for row in rows], indent=2) if as_json else counts_table(rows))
    return 0
