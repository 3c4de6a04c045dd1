from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch

from lightpose.errors import UserError
from lightpose.geometry import (
    Grid,
    apply_affine,
    check_grid,
    crop_matrix,
    expand_boxes,
    input_from_map,
    mirror_lag,
    mirror_matrix,
)

GRIDS = get_args(Grid)
RECORD = Path(__file__).parent / "data_files" / "parity" / "crop_matrix.npz"
INPUT_HW = (256, 192)


def test_crop_matrices_match_the_record():
    record = np.load(RECORD)
    width, height = record["input_wh"].tolist()
    centers, sizes = expand_boxes(record["bbox_xyxy"], (height, width), float(record["padding"]))
    np.testing.assert_allclose(centers, record["center"], atol=1e-4)
    np.testing.assert_allclose(sizes, record["scale_wh"], atol=1e-4)
    for row, degrees in enumerate(record["rotation_degrees"]):
        stride = crop_matrix(centers[row], sizes[row], (height, width), "stride", degrees)
        np.testing.assert_allclose(stride[:2], record["input_from_image_stride_grid"][row], atol=1e-4)
        # On this grid the record turns the other way: one angle means two things there, and one thing here.
        udp = crop_matrix(centers[row], sizes[row], (height, width), "udp", -degrees)
        np.testing.assert_allclose(udp[:2], record["input_from_image_udp_grid"][row], atol=1e-4)


@pytest.mark.parametrize(
    ("grid", "first", "last"),
    [("stride", 0.0, 192.0), ("half_pixel", -0.5, 191.5), ("udp", 0.0, 191.0)],
)
def test_a_box_fills_the_input_as_its_grid_says(grid: Grid, first: float, last: float):
    center, size_wh = np.array([300.0, 200.0]), np.array([150.0, 200.0])
    matrix = crop_matrix(center, size_wh, INPUT_HW, grid)
    left, right = (matrix @ [300 + side * 75, 200, 1] for side in (-1, 1))
    assert left[0] == pytest.approx(first, abs=1e-9)
    assert right[0] == pytest.approx(last, abs=1e-9)
    assert left[1] == right[1] == pytest.approx(last / 2 * 256 / 192 if grid == "stride" else 255 / 2, abs=1e-9)


def test_positive_degrees_turn_the_content_counter_clockwise():
    matrix = crop_matrix(np.zeros(2), np.array([192.0, 256.0]), INPUT_HW, "half_pixel", degrees=90.0)
    origin, right = matrix @ [0, 0, 1], matrix @ [10, 0, 1]
    np.testing.assert_allclose((right - origin)[:2], [0, -10], atol=1e-9)  # what was on the right is on top


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("degrees", [0.0, 37.0, -170.0])
def test_back_projection_gives_image_points_back(grid: Grid, mirrored: bool, degrees: float):
    points = np.random.default_rng(0).uniform(0, 4000, (1, 500, 2))
    centers, sizes = expand_boxes(np.array([[1800.0, 900.0, 2300.0, 1900.0]]), INPUT_HW, 1.25)
    input_from_image = crop_matrix(centers[0], sizes[0], INPUT_HW, grid, degrees)
    if mirrored:
        input_from_image = mirror_matrix(INPUT_HW[1]) @ input_from_image
    forth = torch.from_numpy(input_from_image)[None].float()
    back = torch.from_numpy(np.linalg.inv(input_from_image))[None].float()
    returned = apply_affine(back, apply_affine(forth, torch.from_numpy(points).float()))
    assert (returned - torch.from_numpy(points)).abs().max() <= 1e-3


@pytest.mark.parametrize("grid", GRIDS)
def test_cells_of_a_map_stand_where_the_table_says(grid: Grid):
    scale, offset = input_from_map(grid, INPUT_HW, (64, 48))
    cells = torch.tensor([[0.0, 0.0], [47.0, 63.0]])
    expected = {
        "stride": [[0.0, 0.0], [188.0, 252.0]],
        "udp": [[0.0, 0.0], [191.0, 255.0]],
        "half_pixel": [[1.5, 1.5], [189.5, 253.5]],
    }[grid]
    torch.testing.assert_close(cells * torch.tensor(scale) + torch.tensor(offset), torch.tensor(expected))


def test_one_cell_and_maps_finer_than_the_input_have_finite_places_and_no_lag():
    assert input_from_map("udp", (8, 8), (1, 1)) == ((7, 7), (0, 0))
    assert mirror_lag("stride", (256, 192), (512, 384)) == 0


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("stride", [1, 2, 4, 8])
def test_a_mirrored_input_moved_by_the_lag_has_a_mirrored_map(grid: Grid, stride: int):
    map_w = 192 // stride
    scale, offset = (value[0] for value in input_from_map(grid, INPUT_HW, (256 // stride, map_w)))
    cells = torch.arange(map_w)
    pixels = cells * scale + offset
    moved = 191 - pixels - mirror_lag(grid, INPUT_HW, (256 // stride, map_w))
    torch.testing.assert_close((moved - offset) / scale, (map_w - 1 - cells).float(), atol=1e-4, rtol=0)


def test_expanded_boxes_hold_the_padded_box_at_the_aspect_of_the_input():
    corners = np.random.default_rng(1).uniform(0, 500, (100, 2, 2))
    boxes = np.concatenate([corners.min(1), corners.max(1)], -1)
    centers, sizes = expand_boxes(boxes, INPUT_HW, padding=1.25)
    given = boxes[:, 2:] - boxes[:, :2]
    np.testing.assert_allclose(centers, corners.mean(1))
    np.testing.assert_allclose(sizes[:, 0] / sizes[:, 1], 192 / 256)
    assert (sizes >= given * 1.25 - 1e-9).all()
    np.testing.assert_allclose((sizes / given).min(1), 1.25)  # one side is padded and no more


def test_affines_move_x_and_y_only():
    points = torch.rand(2, 5, 3)
    matrices = torch.eye(3).repeat(2, 1, 1)
    matrices[1, :2, 2] = torch.tensor([3.0, -4.0])
    moved = apply_affine(matrices, points)
    torch.testing.assert_close(moved[0], points[0])
    torch.testing.assert_close(moved[1], points[1] + torch.tensor([3.0, -4.0, 0.0]))
    assert apply_affine(matrices[:0], points[:0]).shape == (0, 5, 3)


def test_an_unknown_grid_is_refused_with_the_known_ones():
    with pytest.raises(UserError, match="'pixel' is unknown; use one of stride, udp, half_pixel"):
        check_grid("pixel")
