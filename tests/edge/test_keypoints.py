from __future__ import annotations

import json
from typing import Any

import pytest

from edge.errors import SpecError
from edge.keypoints import (
    KEYPOINT_SETS,
    KeypointSet,
    find_keypoint_set,
    read_keypoint_set,
    usual_set,
)

# Points, links and pairs of mirrored points of each set as published.
COUNTS = {
    "coco17": (17, 19, 8),
    "halpe26": (26, 27, 11),
    "coco-wholebody133": (133, 65, 61),
    "hand21": (21, 20, 0),
    "face106": (106, 0, 48),
    "ap10k17": (17, 17, 7),
    "crowdpose14": (14, 15, 6),
}


@pytest.fixture(params=list(KEYPOINT_SETS.values()), ids=list(KEYPOINT_SETS))
def keypoint_set(request: pytest.FixtureRequest) -> KeypointSet:
    found: KeypointSet = request.param
    return found


def test_sizes_are_the_published_ones(keypoint_set: KeypointSet) -> None:
    points, links, pairs = COUNTS[keypoint_set.name]
    assert len(set(keypoint_set.keypoints)) == len(keypoint_set.keypoints) == points
    assert len({frozenset(link) for link in keypoint_set.skeleton}) == links
    assert len(keypoint_set.flip_pairs) == pairs
    assert len(keypoint_set.sigmas) in (0, points)
    assert {i for link in keypoint_set.skeleton for i in link} <= set(range(points))


def test_mirroring_twice_changes_nothing(keypoint_set: KeypointSet) -> None:
    paired = [index for pair in keypoint_set.flip_pairs for index in pair]
    assert len(set(paired)) == len(paired)
    assert set(paired) <= set(range(len(keypoint_set.keypoints)))


def test_what_has_a_side_is_mirrored(keypoint_set: KeypointSet) -> None:
    names = keypoint_set.keypoints
    mirror = {**dict(keypoint_set.flip_pairs), **{b: a for a, b in keypoint_set.flip_pairs}}
    for index, name in enumerate(names):
        if "left" in name:
            assert names[mirror[index]] == name.replace("left", "right")
    for index in mirror:
        if "left" not in names[index] and "right" not in names[index]:
            assert names[index].startswith(("face_", "kpt-"))


def test_a_link_is_mirrored_to_a_link(keypoint_set: KeypointSet) -> None:
    mirror = {**dict(keypoint_set.flip_pairs), **{b: a for a, b in keypoint_set.flip_pairs}}
    links = {frozenset(link) for link in keypoint_set.skeleton}
    assert {frozenset(mirror.get(i, i) for i in link) for link in links} == links


def test_coco17_is_what_pycocotools_uses() -> None:
    cocoeval = pytest.importorskip("pycocotools.cocoeval")
    params = cocoeval.Params(iouType="keypoints")
    assert list(KEYPOINT_SETS["coco17"].sigmas) == pytest.approx(list(params.kpt_oks_sigmas))


def test_the_parts_of_a_whole_body_are_where_they_were_published() -> None:
    whole = KEYPOINT_SETS["coco-wholebody133"]
    assert whole.keypoints[:17] == KEYPOINT_SETS["coco17"].keypoints
    assert whole.keypoints[17:20] == ("left_big_toe", "left_small_toe", "left_heel")
    assert whole.keypoints[20] == "right_big_toe"
    assert (whole.keypoints[23], whole.keypoints[90]) == ("face_0", "face_67")
    assert (whole.keypoints[91], whole.keypoints[92]) == ("left_hand_root", "left_thumb1")
    assert (whole.keypoints[111], whole.keypoints[112]) == (
        "left_pinky_finger4",
        "right_hand_root",
    )
    # The middle of a face: chin, bridge and tip of the nose, middles of the lips.
    paired = {index - 23 for pair in whole.flip_pairs for index in pair if 23 <= index < 91}
    assert set(range(68)) - paired == {8, 27, 28, 29, 30, 33, 51, 57, 62, 66}
    for a, b in ((0, 16), (17, 26), (36, 45), (37, 44), (41, 46), (48, 54), (60, 64), (65, 67)):
        assert (23 + a, 23 + b) in whole.flip_pairs


def test_sigmas_are_the_published_ones() -> None:
    whole = KEYPOINT_SETS["coco-wholebody133"].sigmas
    assert whole[:17] == KEYPOINT_SETS["coco17"].sigmas
    assert whole[17:26] == (0.068, 0.066, 0.066, 0.092, 0.094, 0.094, 0.042, 0.043, 0.044)
    assert whole[88:96] == (0.008, 0.01, 0.008, 0.029, 0.022, 0.035, 0.037, 0.047)
    assert whole[91:112] == whole[112:] == KEYPOINT_SETS["hand21"].sigmas
    assert sum(whole[23:91]) == pytest.approx(1.137)
    assert KEYPOINT_SETS["halpe26"].sigmas[17:20] == (0.026, 0.026, 0.066)
    assert KEYPOINT_SETS["crowdpose14"].sigmas[-2:] == (0.079, 0.079)
    assert KEYPOINT_SETS["ap10k17"].sigmas[:3] == (0.025, 0.025, 0.026)


def test_the_106_points_of_a_face() -> None:
    face = KEYPOINT_SETS["face106"]
    paired = {index for pair in face.flip_pairs for index in pair}
    assert set(range(106)) - paired == {16, 51, 52, 53, 54, 60, 87, 93, 98, 102}
    published = (
        *((0, 32), (15, 17), (33, 46), (37, 42), (38, 50), (41, 47), (55, 65), (66, 79)),
        *((70, 75), (71, 82), (73, 80), (74, 83), (84, 90), (86, 88), (91, 95), (96, 100)),
        *((97, 99), (101, 103), (104, 105)),
    )
    assert set(published) <= set(face.flip_pairs)


@pytest.mark.parametrize(
    ("count", "name", "also"),
    [
        (17, "coco17", ("coco17", "ap10k17")),
        (14, "crowdpose14", ("AI Challenger",)),
        (16, "unnamed-16", ("no known set",)),
        (98, "unnamed-98", ("no known set",)),
    ],
)
def test_a_number_that_leaves_a_doubt_says_so(count: int, name: str, also: tuple[str, ...]) -> None:
    found, note = usual_set(count)
    assert found == name
    assert str(count) in note
    assert all(word in note for word in also)


@pytest.mark.parametrize(
    ("count", "name"), [(26, "halpe26"), (106, "face106"), (133, "coco-wholebody133")]
)
def test_a_number_that_one_set_alone_has_needs_no_word(count: int, name: str) -> None:
    assert usual_set(count) == (name, "")


@pytest.mark.parametrize("count", range(1, 140))
def test_the_usual_set_has_that_many_points(count: int) -> None:
    assert len(find_keypoint_set(usual_set(count)[0]).keypoints) == count


def test_a_set_that_a_model_brings_survives_json() -> None:
    own = KeypointSet("mpii16", ("a", "b", "c"), ((0, 1),), ((1, 2),), (0.1, 0.2, 0.3))
    assert read_keypoint_set("mpii16", json.loads(json.dumps(own.to_json()))) == own
    assert read_keypoint_set("x", {"keypoints": ["a"]}) == KeypointSet("x", ("a",), (), (), ())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"keypoints": []}, "1 to 2000 different names"),
        ({"keypoints": "abc"}, "different names"),
        ({"keypoints": ["a", "a"]}, "different names"),
        ({"keypoints": ["a", "b\x1b[2J"]}, "different names"),
        ({"keypoints": ["a", 3]}, "different names"),
        ({"keypoints": ["a", "b" * 81]}, "different names"),
        ({"skeleton": [[0, 2]]}, "own skeleton are pairs of indices below 2"),
        ({"skeleton": [[0, True]]}, "own skeleton"),
        ({"flip_pairs": [[0]]}, "own flip_pairs"),
        ({"flip_pairs": [[-1, 0]]}, "own flip_pairs"),
        ({"sigmas": [0.1]}, "own sigmas are 2 numbers"),
        ({"sigmas": [0.1, 0]}, "own sigmas"),
        ({"sigmas": [0.1, float("nan")]}, "own sigmas"),
        ({"sigmas": "ab"}, "own sigmas"),
        ({"colors": []}, "own keypoints are a table"),
    ],
)
def test_a_set_with_a_wrong_value_is_refused(change: Any, words: str) -> None:
    with pytest.raises(SpecError, match=words):
        read_keypoint_set("own", {"keypoints": ["a", "b"], **change})
