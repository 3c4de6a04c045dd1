import json
from typing import Any

import pytest

from lightpose.errors import UserError
from lightpose.skeleton import DEFAULT_SIGMA, Skeleton, infer_swap_pairs

FACE = ("nose", "left_eye", "right_eye")


def face(**changes: Any) -> Skeleton:
    data = Skeleton.build(FACE, links=[("nose", "left_eye")], sigmas=[0.03, 0.02, 0.02]).to_dict()
    return Skeleton.from_dict({**data, **changes})


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("left_eye", "right_eye"),
        ("eye_left", "eye_right"),
        ("Left Eye", "Right Eye"),
        ("LEFT-EYE", "RIGHT-EYE"),
        ("l_eye", "r_eye"),
        ("l-eye", "r-eye"),
        ("eye.l", "eye.r"),
        ("L_eye", "R_eye"),
        ("LEye", "REye"),
        ("EyeL", "EyeR"),
        ("eye_L", "eye_R"),
    ],
)
def test_swap_pairs_follow_from_names(left: str, right: str):
    assert infer_swap_pairs(["nose", right, left]) == [(left, right)]
    assert Skeleton.build(["nose", right, left]).swap == (0, 2, 1)


@pytest.mark.parametrize(
    "names", [["lip", "rip"], ["tail", "tair"], ["left_eye", "nose"], ["Lip", "Rip"], ["a1", "a2"]]
)
def test_names_without_a_side_are_their_own_mirror_images(names: list[str]):
    assert infer_swap_pairs(names) == []
    assert Skeleton.build(names).swap == (0, 1)


def test_given_pairs_replace_inferred_ones():
    assert Skeleton.build(["left_a", "right_a", "b", "c"], swap_pairs=[("b", "c")]).swap == (0, 1, 3, 2)
    assert Skeleton.build(FACE, swap_pairs=[]).swap == (0, 1, 2)


def test_names_become_indices_and_lists_become_defaults():
    skeleton = Skeleton.build(FACE, links=[("nose", "left_eye"), (0, 2)], upper=["right_eye"])
    assert skeleton.num_keypoints == 3
    assert skeleton.links == ((0, 1), (0, 2))
    assert skeleton.upper == (2,)
    assert skeleton.weights == (1.0, 1.0, 1.0)
    assert skeleton.sigmas == (DEFAULT_SIGMA,) * 3
    assert not skeleton.sigmas_known
    assert len(set(skeleton.colors)) == 3


def test_given_sigmas_are_known():
    assert face().sigmas_known
    assert face().sigmas == (0.03, 0.02, 0.02)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"keypoints": ()}, "has no keypoints; list their names"),
        ({"keypoints": ("nose", "eye", "eye")}, "names eye twice"),
        ({"sigmas": (0.1,)}, "has 3 keypoints but 1 sigmas"),
        ({"weights": (1.0,) * 4}, "has 3 keypoints but 4 weights"),
        ({"colors": ((0, 0, 0),)}, "has 3 keypoints but 1 colors"),
        ({"swap": (0, 1)}, "has 3 keypoints but 2 swap"),
        ({"sigmas": (0.1, -0.1, 0.1)}, "must be positive and finite"),
        ({"sigmas": (0.1, 0.0, 0.1)}, "must be positive and finite"),
        ({"sigmas": (0.1, float("nan"), 0.1)}, "must be positive and finite"),
        ({"sigmas": (0.1, float("inf"), 0.1)}, "must be positive and finite"),
        ({"swap": (1, 2, 0)}, "to its mirror image and back"),
        ({"swap": (0, 1, 1)}, "to its mirror image and back"),
        ({"swap": (0, 1, 3)}, "to its mirror image and back"),
        ({"links": ((0, 3),)}, "points past its 3 keypoints"),
        ({"links": ((-1, 0),)}, "points past its 3 keypoints"),
    ],
)
def test_a_skeleton_that_would_give_wrong_numbers_is_refused(changes: dict[str, Any], message: str):
    with pytest.raises(UserError, match=message):
        face(**changes)


@pytest.mark.parametrize(
    "options", [{"links": [("nose", "ear")]}, {"upper": ["ear"]}, {"swap_pairs": [("nose", "ear")]}]
)
def test_an_unknown_name_is_refused_with_the_known_ones(options: dict[str, Any]):
    with pytest.raises(UserError, match="has no keypoint 'ear'; it has nose, left_eye, right_eye"):
        Skeleton.build(FACE, **options)


def test_a_coco_category_counts_links_from_one():
    category = {"name": "cat", "keypoints": list(FACE), "skeleton": [[1, 2], [1, 3]]}
    skeleton = Skeleton.from_coco_category(category)
    assert skeleton.name == "cat"
    assert skeleton.keypoints == FACE
    assert skeleton.links == ((0, 1), (0, 2))
    assert skeleton.swap == (0, 2, 1)
    assert not skeleton.sigmas_known


def test_sigmas_of_a_coco_category_yield_to_given_ones():
    category = {"keypoints": list(FACE), "sigmas": [0.1, 0.2, 0.3]}
    assert Skeleton.from_coco_category(category).sigmas == (0.1, 0.2, 0.3)
    assert Skeleton.from_coco_category(category, sigmas=[0.3, 0.2, 0.1]).sigmas == (0.3, 0.2, 0.1)


def test_a_coco_category_that_counts_links_from_zero_or_lists_no_keypoints_is_refused():
    with pytest.raises(UserError, match="links count from 0"):
        Skeleton.from_coco_category({"keypoints": list(FACE), "skeleton": [[0, 1]]})
    with pytest.raises(UserError, match="category 'dog' lists no `keypoints`"):
        Skeleton.from_coco_category({"name": "dog"})


def test_plain_data_gives_the_skeleton_back():
    skeleton = face()
    assert Skeleton.from_dict(json.loads(json.dumps(skeleton.to_dict()))) == skeleton
