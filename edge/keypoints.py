"""Families of keypoints: names, what to draw, what mirrors what, and OKS constants.

Orders, links, pairs and sigmas are those that mmpose publishes for each data set in
``configs/_base_/datasets``; names are spelt out here, so that a side is always ``left_`` or
``right_``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from edge.digits import parse_digits
from edge.errors import SpecError

__all__ = ["KEYPOINT_SETS", "KeypointSet", "find_keypoint_set", "read_keypoint_set", "usual_set"]

Pairs = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class KeypointSet:
    """Names, drawing order and statistics of one family of keypoints.

    ``skeleton`` and ``flip_pairs`` hold index pairs; ``sigmas`` are OKS constants, none where
    they are unknown.
    """

    name: str
    keypoints: tuple[str, ...]
    skeleton: Pairs
    flip_pairs: Pairs
    sigmas: tuple[float, ...]

    def to_json(self) -> dict[str, Any]:
        """All but the name as plain JSON values; ``read_keypoint_set`` reads it back."""
        return {
            "keypoints": list(self.keypoints),
            "skeleton": [list(pair) for pair in self.skeleton],
            "flip_pairs": [list(pair) for pair in self.flip_pairs],
            "sigmas": list(self.sigmas),
        }


def find_keypoint_set(name: str | None) -> KeypointSet:
    """A keypoint set by name; ``unnamed-K`` is K points of which nothing is known.

    Raises SpecError for any other name.
    """
    if name in KEYPOINT_SETS:
        return KEYPOINT_SETS[name]
    kind, _, count = (name or "").partition("-")
    number = parse_digits(count, most=5)
    if kind != "unnamed" or not number:
        raise SpecError(
            f"keypoint_set {name!r} is none of {', '.join(KEYPOINT_SETS)}, nor unnamed-K for "
            "K points without names"
        )
    names = tuple(f"point_{index}" for index in range(number))
    return KeypointSet(str(name), names, (), (), ())


_MOST_POINTS = 2000
_LONGEST_NAME = 80


def read_keypoint_set(name: str, data: Any) -> KeypointSet:
    """A keypoint set that a model brings with it, of `KeypointSet.to_json` or a file of a user.

    ``keypoints`` are different names, ``skeleton`` and ``flip_pairs`` pairs of indices of them,
    ``sigmas`` a number above 0 a keypoint; the last three may be missing or empty.

    Raises SpecError, which says what is wrong.
    """
    if not isinstance(data, Mapping) or not {"keypoints"} <= set(data) <= {
        *("keypoints", "skeleton", "flip_pairs", "sigmas")
    }:
        raise SpecError(
            f"own keypoints are a table {{keypoints, skeleton, flip_pairs, sigmas}}, not {data!r}"
        )
    names = data["keypoints"]
    if (
        not isinstance(names, list | tuple)
        or not 1 <= len(names) <= _MOST_POINTS
        or not all(isinstance(one, str) and one.strip().isprintable() for one in names)
        or not all(0 < len(one.strip()) <= _LONGEST_NAME for one in names)
        or len({one.strip() for one in names}) != len(names)
    ):
        raise SpecError(
            f"own keypoints need 1 to {_MOST_POINTS} different names of up to {_LONGEST_NAME} "
            "characters each"
        )
    sigmas = data.get("sigmas") or ()
    if len(sigmas) not in (0, len(names)) or not all(
        _is_number(sigma) and 0 < sigma < math.inf for sigma in sigmas
    ):
        raise SpecError(f"own sigmas are {len(names)} numbers above 0, or none")
    return KeypointSet(
        name,
        tuple(one.strip() for one in names),
        _index_pairs("skeleton", data.get("skeleton") or (), len(names)),
        _index_pairs("flip_pairs", data.get("flip_pairs") or (), len(names)),
        tuple(float(sigma) for sigma in sigmas),
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _index_pairs(key: str, pairs: Any, count: int) -> Pairs:
    for pair in pairs:
        if (
            not isinstance(pair, list | tuple)
            or len(pair) != 2
            or not all(type(index) is int and 0 <= index < count for index in pair)
        ):
            raise SpecError(f"own {key} are pairs of indices below {count}, not {pair!r}")
    return tuple((int(a), int(b)) for a, b in pairs)


# Published orders that are none of ours, by their number of points: a bare number fits them too.
_OTHER_ORDERS = {
    14: ("AI Challenger's",),
    17: ("Human3.6M's", "PoseTrack18's"),
    21: ("RHD's",),
}


def usual_set(count: int) -> tuple[str, str]:
    """The set that a bare number of points is taken for, and what to say of that choice.

    For callers that know nothing else of a model's points. The note is empty where one known order
    alone has that many; else it names what fits as well, what was assumed, and how to say which.
    """
    ours = [name for name, one in KEYPOINT_SETS.items() if len(one.keypoints) == count]
    if not ours:
        return (
            f"unnamed-{count}",
            f"{count} keypoints are those of no known set, so that they have no names; the known "
            f"sets are {', '.join(KEYPOINT_SETS)}",
        )
    fitting = [*ours, *(f"{owner} points" for owner in _OTHER_ORDERS.get(count, ()))]
    if len(fitting) == 1:
        return ours[0], ""
    return (
        ours[0],
        f"{count} keypoints fit {', '.join(fitting[:-1])} and {fitting[-1]}, and nothing in the "
        f"file says which; {ours[0]} is assumed, `edge convert --keypoint-set NAME` says another, "
        f"for example {fitting[1] if fitting[1] in ours else f'unnamed-{count}'}",
    )


# --- ways to write a set down ---------------------------------------------------------------------


def _both(*parts: str) -> tuple[str, ...]:
    """Each part on the left and then on the right."""
    return tuple(f"{side}_{part}" for part in parts for side in ("left", "right"))


def _named_links(names: tuple[str, ...], links: str) -> Pairs:
    """Index pairs of ``a-b-c`` chains; ``*`` stands for left and for right."""
    chains = [
        chain.replace("*", side).split("-")
        for chain in links.split()
        for side in (("left", "right") if "*" in chain else ("",))
    ]
    return tuple((names.index(a), names.index(b)) for chain in chains for a, b in pairwise(chain))


def _sides(names: tuple[str, ...]) -> Pairs:
    """Every ``left_`` name with its ``right_`` one."""
    return tuple(
        (index, names.index(f"right_{name[5:]}"))
        for index, name in enumerate(names)
        if name.startswith("left_")
    )


def _mirrored(runs: Iterable[tuple[int, int, int]], offset: int = 0) -> Pairs:
    """Pairs of runs (first, last, mirror of the first), the mirror counting down."""
    return tuple(
        (offset + index, offset + mirror - (index - first))
        for first, last, mirror in runs
        for index in range(first, last + 1)
    )


def _thousandths(text: str) -> tuple[float, ...]:
    return tuple(int(value) / 1000 for value in text.split())


# --- the sets -------------------------------------------------------------------------------------

_BODY = (
    "nose",
    *_both("eye", "ear", "shoulder", "elbow", "wrist", "hip", "knee", "ankle"),
)
_BODY_SIGMAS = _thousandths("26 25 25 35 35 79 79 72 72 62 62 107 107 87 87 89 89")
_FACE_LINKS = "left_eye-right_eye nose-*_eye-*_ear-*_shoulder"
_LIMB_LINKS = "*_shoulder-*_elbow-*_wrist *_hip-*_knee-*_ankle"
_TRUNK_LINKS = "left_hip-right_hip left_shoulder-right_shoulder *_shoulder-*_hip"
_FOOT_LINKS = "*_ankle-*_big_toe *_ankle-*_small_toe *_ankle-*_heel"

_HALPE = (
    *_BODY,
    *("head", "neck", "hip"),
    *_both("big_toe", "small_toe", "heel"),
)

_FINGERS = tuple(
    tuple(f"{finger}{joint}" for joint in range(1, 5))
    for finger in ("thumb", "forefinger", "middle_finger", "ring_finger", "pinky_finger")
)
_HAND = tuple(joint for finger in _FINGERS for joint in finger)
_HAND_SIGMAS = _thousandths("29 22 35 37 47 26 25 24 35 18 24 22 26 17 21 21 32 20 19 22 31")
_HAND_LINKS = " ".join("-".join(("wrist", *finger)) for finger in _FINGERS)

_WHOLEBODY = (
    *_BODY,
    *(f"{side}_{part}" for side in ("left", "right") for part in ("big_toe", "small_toe", "heel")),
    *(f"face_{index}" for index in range(68)),
    *(f"{side}_{part}" for side in ("left", "right") for part in ("hand_root", *_HAND)),
)
# Jaw, brows, nose, eyes from corner to corner and below, outer and inner lips.
_FACE_68_PAIRS = _mirrored(
    (
        *((0, 7, 16), (17, 21, 26), (31, 32, 35), (36, 39, 45), (40, 41, 47)),
        *((48, 50, 54), (55, 56, 59), (60, 61, 64), (65, 65, 67)),
    ),
    offset=23,
)
_FACE_68_SIGMAS = _thousandths(
    "42 43 44 43 40 35 31 25 20 23 29 32 37 38 43 41 45 13 12 11 11 12 12 11 11 13 15 9 7 7 7 12 9 "
    "8 16 10 17 11 9 11 9 7 13 8 11 12 10 34 8 8 9 8 8 7 10 8 9 9 9 7 7 8 11 8 8 8 10 8"
)
_FACE_106_PAIRS = _mirrored(
    (
        *((0, 15, 32), (33, 37, 46), (38, 41, 50), (55, 59, 65), (66, 70, 79), (71, 73, 82)),
        *((74, 74, 83), (84, 86, 90), (91, 92, 95), (96, 97, 100), (101, 101, 103)),
        (104, 104, 105),
    )
)

_ANIMAL = (
    *("left_eye", "right_eye", "nose", "neck", "root_of_tail"),
    *("left_shoulder", "left_elbow", "left_front_paw"),
    *("right_shoulder", "right_elbow", "right_front_paw"),
    *("left_hip", "left_knee", "left_back_paw", "right_hip", "right_knee", "right_back_paw"),
)
_CROWD = (*_both("shoulder", "elbow", "wrist", "hip", "knee", "ankle"), "top_head", "neck")

# Of several sets of one size, the most usual one comes first.
KEYPOINT_SETS: dict[str, KeypointSet] = {
    keypoint_set.name: keypoint_set
    for keypoint_set in (
        KeypointSet(
            "coco17",
            _BODY,
            _named_links(_BODY, f"{_FACE_LINKS} {_TRUNK_LINKS} {_LIMB_LINKS}"),
            _sides(_BODY),
            _BODY_SIGMAS,
        ),
        KeypointSet(
            "halpe26",
            _HALPE,
            _named_links(
                _HALPE,
                f"head-neck-hip neck-*_shoulder hip-*_hip {_FACE_LINKS} {_LIMB_LINKS} "
                f"{_FOOT_LINKS}",
            ),
            _sides(_HALPE),
            (*_BODY_SIGMAS, *_thousandths("26 26 66 79 79 79 79 79 79")),
        ),
        KeypointSet(
            "coco-wholebody133",
            _WHOLEBODY,
            _named_links(
                _WHOLEBODY,
                f"{_FACE_LINKS} {_TRUNK_LINKS} {_LIMB_LINKS} {_FOOT_LINKS} "
                + " ".join("-".join(f"*_{part}" for part in ("wrist", *f)) for f in _FINGERS),
            ),
            (*_sides(_WHOLEBODY), *_FACE_68_PAIRS),
            (
                *_BODY_SIGMAS,
                *_thousandths("68 66 66 92 94 94"),
                *_FACE_68_SIGMAS,
                *_HAND_SIGMAS,
                *_HAND_SIGMAS,
            ),
        ),
        KeypointSet(
            "hand21",
            ("wrist", *_HAND),
            _named_links(("wrist", *_HAND), _HAND_LINKS),
            (),
            _HAND_SIGMAS,
        ),
        # LaPa's 106 points of a face, which have neither names nor published sigmas.
        KeypointSet(
            "face106", tuple(f"kpt-{index}" for index in range(106)), (), _FACE_106_PAIRS, ()
        ),
        KeypointSet(
            "ap10k17",
            _ANIMAL,
            _named_links(
                _ANIMAL,
                "left_eye-right_eye *_eye-nose nose-neck-root_of_tail "
                "neck-*_shoulder-*_elbow-*_front_paw root_of_tail-*_hip-*_knee-*_back_paw",
            ),
            _sides(_ANIMAL),
            _thousandths("25 25 26 35 35 79 72 62 79 72 62 107 87 89 107 87 89"),
        ),
        KeypointSet(
            "crowdpose14",
            _CROWD,
            _named_links(_CROWD, f"top_head-neck neck-*_shoulder {_TRUNK_LINKS} {_LIMB_LINKS}"),
            _sides(_CROWD),
            _thousandths("79 79 72 72 62 62 107 107 87 87 89 89 79 79"),
        ),
    )
}
