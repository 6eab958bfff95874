"""What a converter is given, and what can quantise a network in several ways."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from edge.session import Feeds
from edge.spec import ModelSpec, Precision

__all__ = [
    "Calibration",
    "Converter",
    "FeedSource",
    "Job",
    "NamedFeeds",
    "OpenQuantiser",
    "Quantiser",
]


@dataclass(frozen=True)
class NamedFeeds:
    """One image's feeds (a batch of one) and what to call it in messages."""

    name: str
    feeds: Feeds


@dataclass(frozen=True)
class FeedSource:
    """Pictures to compare answers on.

    ``text`` says what they are, for the record and for what is up to date; ``feeds`` is called
    only when they are needed.
    """

    text: str
    feeds: Callable[[ModelSpec], Sequence[NamedFeeds]]


@dataclass(frozen=True)
class Calibration:
    """What to calibrate with: ``text`` as in ``FeedSource``.

    ``load`` gives the feeds for a model and a record of them in plain values.
    """

    text: str
    load: Callable[[ModelSpec], tuple[Sequence[Feeds], dict[str, Any]]]


@dataclass(frozen=True)
class Job:
    """One variant to be made: the prepared file, what it is, and where the result goes.

    ``folder`` is a private one; what is left in it beside the files that a converter names is
    removed. ``feeds`` are calibration inputs, one image each, empty where the precision needs none.
    Both paths become absolute: they are handed to programs that run in another folder.
    """

    onnx_path: Path
    spec: ModelSpec
    precision: Precision
    folder: Path
    feeds: Sequence[Feeds] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "onnx_path", self.onnx_path.absolute())
        object.__setattr__(self, "folder", self.folder.absolute())


# Role -> name of a file in ``Job.folder``.
Converter = Callable[[Job], dict[str, str]]


class Quantiser(Protocol):
    """A network that was calibrated once and can be quantised in several ways.

    ``parts`` are the names of groups of its layers, in the order of computation; together they
    hold everything that the precision quantises. ``fragile_parts`` are those that quantisation is
    known to break first (what is no convolution, and the layers before the outputs): `mixed`
    keeps them float where nobody says otherwise.
    """

    parts: Sequence[str]
    fragile_parts: Sequence[str]

    def quantise(self, float_parts: Collection[str], folder: Path) -> dict[str, str]:
        """Quantise all but ``float_parts`` into ``folder``; role -> file name, as a converter.

        They are some of ``parts``: whoever takes names from users looks.
        """
        ...


OpenQuantiser = Callable[[Job], Quantiser]
