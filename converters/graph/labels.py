"""Whether a file's suppression takes one class of a cell, or every one above the threshold."""

from __future__ import annotations

from typing import Any

from converters.graph.file import Graph

__all__ = ["gives_several_labels"]

_BEST = ("ArgMax", "Hardmax", "ReduceMax", "TopK")
# What picks cells by their best class, as mmdeploy does before the suppression, picks no class.
_PICKS = ("Gather", "GatherElements", "GatherND")


def gives_several_labels(model: Any) -> bool:
    """True where the suppression in the file reads the scores of all classes as they are.

    mmdeploy writes YOLOX so. A file that takes each cell's best class alone has a maximum over
    the classes among what the scores are computed from.
    """
    graph = Graph(model)
    suppression = next((n for n in model.graph.node if n.op_type == "NonMaxSuppression"), None)
    if suppression is None:
        return False
    stack, seen = [suppression.input[1]], set[str]()
    while stack:
        name = stack.pop()
        node = graph.producer.get(name)
        if node is None or name in seen or node.op_type == "Conv":
            continue
        seen.add(name)
        if node.op_type in _BEST:
            return False
        stack += node.input[:1] if node.op_type in _PICKS else node.input
    return True
