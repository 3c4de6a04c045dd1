import json
from dataclasses import replace
from typing import Any

import pytest

from lightpose.errors import UserError
from lightpose.skeleton import DEFAULT_SIGMA, Skeleton, coco_links, infer_swap_pairs

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
        ("leftear", "rightear"),
        ("Ankle_Left ", "Ankle_Right"),
        ("L1", "R1"),
        ("l1", "r1"),
        ("forelegL1", "forelegR1"),
        ("paw_L_top", "paw_R_top"),
        ("paw.l.top", "paw.r.top"),
        ("eyeL_top", "eyeR_top"),
        ("L_F_Paw", "R_F_Paw"),
        ("LH", "RH"),
        ("LF", "RF"),
        ("FL", "FR"),
        ("LSHO", "RSHO"),
        ("pawHL", "pawHR"),
        ("paw_lf", "paw_rf"),
        ("paw_fl", "paw_fr"),
        ("paw1LH_top", "paw1RH_top"),
        ("linkes Ohr", "rechtes Ohr"),
        ("Pfote_links", "Pfote_rechts"),
        ("patte_gauche", "patte_droite"),
        ("Oeil gauche", "Oeil droit"),
        ("oreja_izquierda", "oreja_derecha"),
        ("pata_izq", "pata_der"),
        ("zampa_sinistra", "zampa_destra"),
        ("olho_esquerdo", "olho_direito"),
        ("左眼", "右眼"),
    ],
)
def test_swap_pairs_follow_from_names(left: str, right: str):
    assert infer_swap_pairs(["nose", right, left]) == [(left, right)]
    assert Skeleton.build(["nose", right, left]).swap == (0, 2, 1)


@pytest.mark.parametrize(
    "names",
    [["lip", "rip"], ["tail", "tair"], ["left_eye", "nose"], ["Lip", "Rip"], ["a1", "a2"], ["p1LH", "p4RH"]],
)
def test_names_without_a_side_are_their_own_mirror_images(names: list[str]):
    assert infer_swap_pairs(names) == []
    assert Skeleton.build(names).swap == (0, 1)


def test_four_paws_in_letters_are_told_apart():
    assert infer_swap_pairs(["LF", "RF", "LH", "RH"]) == [("LF", "RF"), ("LH", "RH")]
    assert infer_swap_pairs(["FL", "FR", "RL", "RR"]) == [("FL", "FR"), ("RL", "RR")]
    assert infer_swap_pairs(["LF", "RF", "LR", "RR"]) == [("LF", "RF"), ("LR", "RR")]


def test_a_name_with_two_other_halves_is_left_alone():
    assert infer_swap_pairs(["patte_gauche", "patte_droite", "patte_droit", "left_eye", "right_eye"]) == [
        ("left_eye", "right_eye")
    ]


def test_what_has_no_pairs_mirrors_only_when_told_so():
    assert Skeleton.build(FACE).mirrors
    middle = Skeleton.build(["nose", "chin"])
    assert not middle.mirrors and not Skeleton.build(["left_eye"]).mirrors
    assert middle.changed(swap_pairs=[]).mirrors and Skeleton.build(["nose"], swap_pairs=[]).mirrors
    assert not middle.changed(weights=[1, 2]).mirrors
    assert not Skeleton.from_dict(middle.to_dict()).mirrors
    older = {key: value for key, value in middle.to_dict().items() if key != "mirrors"}
    assert Skeleton.from_dict(older).mirrors


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


def test_a_coco_category_that_lists_no_keypoints_is_refused():
    with pytest.raises(UserError, match="category 'dog' lists no `keypoints`"):
        Skeleton.from_coco_category({"name": "dog"})


@pytest.mark.parametrize(
    ("given", "links", "left_out"),
    [
        (None, [], []),
        ([[1, 2], [1, 3]], [(0, 1), (0, 2)], []),
        ([[0, 1], [1, 2]], [(0, 1), (1, 2)], []),  # a 0 anywhere means from 0
        ([[1, 2], [2, 0]], [(1, 2), (2, 0)], []),
        ([["nose", "left_eye"], ["1", 3]], [(0, 1), (0, 2)], []),
        ([[3, 4], [1, 2]], [(0, 1)], [[3, 4]]),
        ([[0, 3], [0, 1]], [(0, 1)], [[0, 3]]),
        ([[1.0, 2], [1.5, 2]], [(0, 1)], [[1.5, 2]]),
        ([1, 2, 2, 3], [], [1, 2, 2, 3]),
        ("nose", [], ["nose"]),
        ([[1, 2, 3], None, [], [True, 2], [-1, 1], [[1], 2], ["ear", 1], [10**400, 1], [{}, 1]], [], None),
    ],
)
def test_links_of_a_coco_category_are_understood_or_left_out(given: Any, links: list[Any], left_out: Any):
    category = {"keypoints": list(FACE), "skeleton": given}
    assert coco_links(given, FACE) == (links, given if left_out is None else left_out)
    assert Skeleton.from_coco_category(category).links == tuple(links)


def test_numbered_keypoints_are_linked_by_place():
    assert coco_links([[1, 2], ["1", 2]], ["0", "1", "2"]) == ([(0, 1), (1, 1)], [])


@pytest.mark.parametrize(
    "sigmas", [[0.1], "0.1", 3, {}, [0.1, "0.1", 0.1], [0.1, None, 0.1], [True] * 3, [10**400] * 3]
)
def test_sigmas_of_a_coco_category_that_cannot_be_used_are_refused(sigmas: Any):
    with pytest.raises(UserError, match="sigmas"):
        Skeleton.from_coco_category({"keypoints": list(FACE), "sigmas": sigmas})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keypoints": "nose"}, "keypoints of skeleton 'custom' must be a list, got 'nose'"),
        ({"upper": "nose"}, "upper of skeleton 'custom' must be a list"),
        ({"swap_pairs": ["nose", "left_eye"]}, "swap_pairs of skeleton 'custom' must be a list, got 'nose'"),
        ({"swap_pairs": [["nose"]]}, "must be pairs of keypoints, got one of 1"),
        ({"swap_pairs": [["nose", 3]]}, "has no keypoint 3; it has nose"),
        ({"swap_pairs": [["nose", "left_eye"], ["left_eye", "right_eye"]]}, "each keypoint in one of them at most"),
        ({"links": [[0, -1]]}, "has no keypoint -1"),
        ({"weights": [1, "2", 3]}, "weights of skeleton 'custom' must be numbers"),
    ],
)
def test_options_that_cannot_be_used_are_refused(options: dict[str, Any], message: str):
    with pytest.raises(UserError, match=message):
        Skeleton.build(**{"keypoints": FACE, **options})


def test_a_change_leaves_the_rest_as_it_was():
    before = Skeleton.build(FACE, name="face", links=[(0, 1)], sigmas=[0.03, 0.02, 0.02], upper=["nose"])
    assert before.changed() == before
    after = before.changed(swap_pairs=[[0, 1]], weights=[2, 1, 1])
    assert (after.swap, after.weights) == ((1, 0, 2), (2.0, 1.0, 1.0))
    assert replace(after, swap=before.swap, weights=before.weights) == before
    assert not Skeleton.build(FACE).changed(swap_pairs=[]).sigmas_known
    assert before.changed(sigmas=[0.1] * 3, name="other").sigmas == (0.1,) * 3
    with pytest.raises(UserError, match="skeleton has no key swap_pair; name, swap_pairs, links"):
        before.changed(swap_pair=[[0, 1]])


def test_plain_data_gives_the_skeleton_back():
    skeleton = face()
    assert Skeleton.from_dict(json.loads(json.dumps(skeleton.to_dict()))) == skeleton
