import numpy as np
import pytest
import torch

from lightpose.interop.supervision import to_supervision
from lightpose.structures import Poses

supervision = pytest.importorskip("supervision")


def poses(count: int = 2) -> Poses:
    generator = torch.Generator().manual_seed(0)
    keypoints = 40 + 50 * torch.rand(count, 5, 2, generator=generator)
    scores = torch.rand(count, 5, generator=generator)
    return Poses(
        keypoints,
        scores,
        scores.mean(-1),
        torch.zeros(count, dtype=torch.int64),
        boxes_xyxy=torch.tensor([[30.0, 30, 100, 100]] * count).reshape(count, 4),
        track_ids=torch.arange(count) - 1,
        extras={"depth_mm": torch.ones(count, 5)},
    )


@pytest.mark.parametrize("as_arrays", [False, True])
def test_every_field_is_there(as_arrays):
    given = poses()
    found = to_supervision(given.numpy() if as_arrays else given, threshold=0.5)
    assert np.array_equal(found.xy, given.keypoints) and np.array_equal(
        found.keypoint_confidence, given.keypoint_scores
    )
    assert np.array_equal(found.detection_confidence, given.scores) and found.class_id.tolist() == [0, 0]
    assert np.array_equal(found.visible, given.keypoint_scores >= 0.5)
    assert found.data["tracker_id"].tolist() == [-1, 0] and found.data["depth_mm"].shape == (2, 5)
    assert found[1].data["tracker_id"].tolist() == [0]  # it filters what comes with the poses, too


def test_it_draws_and_boxes_them():
    found = to_supervision(poses(), threshold=0.0)
    picture = np.zeros((120, 120, 3), np.uint8)
    drawn = supervision.VertexAnnotator(radius=3).annotate(picture.copy(), found)
    x, y = found.xy[0, 0].astype(int)
    assert drawn[y, x].any() and not np.array_equal(drawn, picture)
    boxes = found.as_detections().xyxy
    assert np.allclose(boxes[0], [*found.xy[0].min(0), *found.xy[0].max(0)], atol=1)


def test_nobody():
    found = to_supervision(poses(0))
    assert len(found) == 0 and found.visible is None
