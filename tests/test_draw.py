import numpy as np
import pytest

from lightpose.draw import draw_poses, grid, identity_color
from lightpose.skeleton import Skeleton

TRIANGLE = Skeleton.build(["top", "left_foot", "right_foot"], links=[["top", "left_foot"], ["top", "right_foot"]])
POINTS = np.array([[[240.0, 60.0], [360.0, 320.0], [120.0, 320.0]]])
IMAGE = np.full((400, 480, 3), 128, np.uint8)


def test_draws_marks_and_links_in_their_colors_on_a_copy() -> None:
    before = IMAGE.copy()
    drawn = draw_poses(IMAGE, POINTS, np.ones((1, 3)), TRIANGLE)
    assert drawn.shape == IMAGE.shape and drawn.dtype == np.uint8
    np.testing.assert_array_equal(IMAGE, before)
    for (x, y), color in zip(POINTS[0].astype(int), TRIANGLE.colors, strict=True):
        np.testing.assert_array_equal(drawn[y, x], color)
    quarter = (0.75 * POINTS[0, 1] + 0.25 * POINTS[0, 0]).round().astype(int)
    np.testing.assert_array_equal(drawn[quarter[1], quarter[0]], TRIANGLE.colors[1])
    np.testing.assert_array_equal(drawn[320, 240], IMAGE[320, 240])  # the feet aren't linked


def test_low_scores_are_hollow_and_unlinked() -> None:
    drawn = draw_poses(IMAGE, POINTS, np.array([[0.9, 0.2, 0.0]]), TRIANGLE, threshold=0.3)
    changed = (drawn != IMAGE).any(-1)
    assert changed[60, 240] and not changed[320, 360] and changed[310:330, 350:370].any()
    assert not changed[310:330, 110:130].any()
    assert not changed[160:220].any()


def test_zero_poses_change_nothing() -> None:
    drawn = draw_poses(IMAGE, np.zeros((0, 3, 2)), np.zeros((0, 3)), TRIANGLE, boxes_xyxy=np.zeros((0, 4)), names=True)
    np.testing.assert_array_equal(drawn, IMAGE)
    assert drawn is not IMAGE and not np.shares_memory(drawn, IMAGE)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e30, -1e9])
def test_unusable_coordinates_are_left_out(bad: float) -> None:
    points = np.concatenate([POINTS, POINTS])
    points[0, 0] = bad
    boxes = np.array([[bad, 20, 400, 360], [80, 20, 400, 360]])
    drawn = draw_poses(IMAGE, points, np.ones((2, 3)), TRIANGLE, boxes_xyxy=boxes, names=True)
    assert (drawn[320, 360] == TRIANGLE.colors[1]).all()
    draw_poses(IMAGE, np.full((1, 3, 2), bad), np.full((1, 3), np.nan), TRIANGLE)


def test_points_outside_lead_links_out_of_the_picture() -> None:
    points = POINTS.copy()
    points[0, 1] = 720, 320
    drawn = draw_poses(IMAGE, points, np.ones((1, 3)), TRIANGLE)
    assert (drawn[:, -1] != IMAGE[:, -1]).any()


def test_boxes_and_names() -> None:
    plain = draw_poses(IMAGE, POINTS, np.ones((1, 3)), TRIANGLE)
    framed = draw_poses(IMAGE, POINTS, np.ones((1, 3)), TRIANGLE, boxes_xyxy=np.array([[20.0, 20.0, 440.0, 380.0]]))
    assert (framed[200, 20] > 200).all() and (framed[380, 200] > 200).all()
    named = draw_poses(IMAGE, np.repeat(POINTS, 2, 0), np.ones((2, 3)), TRIANGLE, names=True)
    assert (named != plain).any(-1).sum() > 50


def test_many_keypoints_get_small_marks() -> None:
    rng = np.random.default_rng(0)
    image = np.full((400, 400, 3), 128, np.uint8)
    share = []
    for count in (17, 133):
        skeleton = Skeleton.build([f"point{i}" for i in range(count)])
        drawn = draw_poses(image, rng.uniform(50, 350, (1, count, 2)), np.ones((1, count)), skeleton)
        share.append((drawn != image).any(-1).sum() / count)
    assert 0 < share[1] < 0.5 * share[0]


def test_grid_tiles_row_by_row() -> None:
    tiles = [np.full((2, 3, 3), value, np.uint8) for value in (10, 20, 30)]
    tiled = grid(tiles, columns=2)
    assert tiled.shape == (4, 6, 3)
    np.testing.assert_array_equal(tiled[::2, ::3, 0], [[10, 20], [30, 0]])
    np.testing.assert_array_equal(tiled[:2, 3:], tiles[1])


def test_keypoints_that_are_likely_hidden_are_black_inside() -> None:
    visibility = np.array([[0.9, 0.1, 0.1]])
    drawn = draw_poses(IMAGE, POINTS, np.array([[0.9, 0.9, 0.2]]), TRIANGLE, visibility=visibility)
    plain = draw_poses(IMAGE, POINTS, np.array([[0.9, 0.9, 0.2]]), TRIANGLE)
    assert (drawn[60, 240] == TRIANGLE.colors[0]).all() and not drawn[320, 360].any()
    changed = np.argwhere((drawn != plain).any(-1))
    assert (abs(changed - (320, 360)) < 10).all()  # the third one isn't found, and stays a ring


def test_who_it_is_gives_links_box_number_and_tail_their_color():
    image = np.zeros((120, 160, 3), np.uint8)
    points = np.array([[[40, 60], [80, 90]]], float)
    skeleton = Skeleton.build(["a", "b"], links=[("a", "b")])
    tails = {7: np.array([[100, 20], [150, 20]], float)}
    given = (image, points, np.ones((1, 2)), skeleton, np.array([[30, 50, 90, 100]], float))
    picture = draw_poses(*given, track_ids=np.array([7]), tails=tails)
    color = np.array(identity_color(7))
    for x, y in ((60, 75), (30, 80), (125, 20)):  # link, box, tail
        assert np.abs(picture[y, x].astype(int) - color).max() < 40, (x, y)
    without = draw_poses(*given, track_ids=np.array([-1]))
    assert np.array_equal(without, draw_poses(*given))
    changed = (picture != without).any(-1)[:48, 25:80]  # above the box
    assert changed.sum() > 10
    assert len({identity_color(number) for number in range(1, 30)}) == 29
