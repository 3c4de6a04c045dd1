"""People told apart by the colours along their skeletons."""

import numpy as np
import pytest

from lightpose.inference.tracking.looks import alike, colors_of, recognised
from lightpose.inference.tracking.oks import OKSTracker
from lightpose.skeleton import Skeleton
from lightpose.structures import Poses

FPS = 25.0
SHAPE = np.array([[-8, -20], [8, -20], [-8, 20], [8, 20]], float)
SKELETON = Skeleton.build(["a", "b", "c", "d"], links=[[0, 1], [1, 3], [3, 2], [2, 0]])
RED, GREEN, BLUE = (220, 40, 40), (40, 180, 60), (40, 60, 220)


def frame(people):
    """Pixels and poses of people, each a place and a colour."""
    image = np.full((200, 400, 3), 128, np.uint8)
    for (x, y), color in people:
        image[y - 25 : y + 25, x - 12 : x + 12] = color
    points = np.array([place for place, _ in people], np.float32).reshape(-1, 1, 2) + SHAPE.astype(np.float32)
    count = len(people)
    poses = Poses(points, np.ones((count, 4), np.float32), np.ones(count, np.float32), np.zeros(count, np.int64))
    return image, poses


def follow(tracker, frames):
    return [
        tracker(poses, number / FPS, image if tracker.needs_image else None).track_ids.tolist()
        for number, (image, poses) in enumerate(map(frame, frames))
    ]


def test_colors_are_those_under_the_links_and_none_outside_the_picture():
    image, poses = frame([((50, 60), RED), ((398, 60), BLUE)])
    colors, weights = colors_of(image, poses.keypoints, np.array([[1, 1, 1, 0.5], [1, 1, 1, 1]]), SKELETON.links)
    np.testing.assert_array_equal(colors[0], [RED] * 4)
    np.testing.assert_array_equal(weights, [[1, 0.25, 0.25, 1], [1, 0, 1, 1]])
    np.testing.assert_array_equal(colors[1, 3], BLUE)


def test_who_comes_back_elsewhere_is_known_again():
    """Red leaves on the left and comes back on the right, while green stays."""
    gone = [[((200, 100), GREEN)]] * 25
    frames = [[((30, 100), RED), ((200, 100), GREEN)]] * 5 + gone + [[((370, 100), RED), ((200, 100), GREEN)]] * 3
    assert follow(OKSTracker(SKELETON, FPS), frames)[-1] == [1, 2]
    assert follow(OKSTracker(SKELETON, FPS, looks=False), frames)[-1] == [3, 2]
    frames[-3:] = [[((370, 100), BLUE), ((200, 100), GREEN)]] * 3  # somebody else
    assert follow(OKSTracker(SKELETON, FPS), frames)[-1] == [3, 2]


@pytest.mark.parametrize("order", [(RED, GREEN), (GREEN, RED)])
def test_two_who_were_hidden_together_come_out_as_they_are(order):
    apart = [[((100 + 4 * step, 100), RED), ((180 - 4 * step, 100), GREEN)] for step in range(9)]
    out = [[((140 - 4 * step, 100), order[0]), ((140 + 4 * step, 100), order[1])] for step in range(4, 12)]
    frames = [*apart, *[[]] * 15, *out]
    assert follow(OKSTracker(SKELETON, FPS), frames)[-1] == [1 + (order[0] == GREEN), 1 + (order[0] == RED)]


def test_those_who_look_the_same_are_not_recognised():
    looks = np.array([[0.9, 0.9, 0.2], [0.6, 0.1, 0.1]])
    known = np.ones((2, 3), bool)
    np.testing.assert_array_equal(recognised(looks, known), [[0, 0.9, 0], [0, 0, 0]])
    np.testing.assert_array_equal(recognised(looks[:1], known[:1]), np.zeros((1, 3)))  # nobody to compare with
    assert recognised(np.zeros((0, 2)), np.zeros((0, 2), bool)).shape == (0, 2)


def test_likeness_falls_with_the_difference_and_says_nothing_without_colors():
    colors = np.array([[[100.0, 100, 100]]])
    others = np.array([[[100.0, 100, 100]], [[140.0, 100, 100]], [[0.0, 0, 0]]])
    weights, of_others = np.ones((1, 1)), np.array([[1.0], [1.0], [0.0]])
    np.testing.assert_allclose(alike(colors, weights, others, of_others), [[1, np.exp(-0.5), 1]])
