from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision

from lightpose.errors import UserError
from lightpose.inference.detectors import TorchvisionDetector, WholeImage

MODEL = "ssdlite320_mobilenet_v3_large"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of the smallest detector."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("detector") / "ssdlite.pth"
    torch.save(torchvision.models.get_model(MODEL, weights=None, weights_backbone=None).state_dict(), path)
    return path


def test_whole_image():
    ((boxes, scores),) = WholeImage()([np.zeros((30, 40, 3), np.uint8)])
    assert boxes.tolist() == [[0, 0, 40, 30]]
    assert scores.tolist() == [1]


def test_torchvision_detector_gives_boxes_of_each_image(weights, images):
    detector = TorchvisionDetector(MODEL, weights, threshold=0.0, batch_size=2, device="cpu")
    found = detector(images)
    assert len(found) == 5
    for image, (boxes, scores) in zip(images, found, strict=True):
        assert boxes.dtype == scores.dtype == np.float32
        assert boxes.shape == (len(scores), 4)
        assert (boxes[:, 2:] > boxes[:, :2]).all()
        assert boxes.max(initial=0) <= max(image.shape)


def test_torchvision_detector_selects_by_category_score_and_overlap(weights, images):
    detector = TorchvisionDetector(MODEL, weights, category=3, threshold=0.5, nms=0.5, device="cpu")
    output = {
        "boxes": torch.tensor(
            [[0.0, 0, 10, 10], [0, 0, 10, 9], [50, 50, 60, 60], [0, 0, 10, 10], [5, 5, 5, 9], [20, 0, 30, 5]]
        ),
        "scores": torch.tensor([0.8, 0.9, 0.6, 1.0, 0.9, 0.4]),
        "labels": torch.tensor([3, 3, 3, 1, 3, 3]),
    }
    detector.model = lambda tensors: [output for _ in tensors]
    ((boxes, scores),) = detector(images[:1])
    assert boxes.tolist() == [[0, 0, 10, 9], [50, 50, 60, 60]]
    assert np.allclose(scores, [0.9, 0.6])


def test_no_network_names_the_ways_out(monkeypatch):
    def fails(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(torchvision.models, "get_model", fails)
    with pytest.raises(UserError, match=r"(?s)no route.*detector.weights=FILE.*boxes=FILE.*detector=whole_image"):
        TorchvisionDetector(MODEL)


def test_unknown_model_and_bad_weights(tmp_path):
    with pytest.raises(UserError, match="no detector 'yolo'"):
        TorchvisionDetector("yolo")
    (tmp_path / "bad.pth").write_text("nothing")
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pth")
    for name in ("bad.pth", "other.pth", "missing.pth"):
        with pytest.raises(UserError, match=f"{name} is no state dict"):
            TorchvisionDetector(MODEL, tmp_path / name)
