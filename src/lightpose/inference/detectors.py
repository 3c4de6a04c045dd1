"""Where people are: callables that take RGB images and return boxes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torchvision

from lightpose.errors import UserError, in_short
from lightpose.inference.detections import Detections
from lightpose.inference.predictor import find_device
from lightpose.structures import Array


class Detector(Protocol):
    """Finds boxes."""

    def __call__(self, images: Sequence[Array]) -> list[Detections]:
        """For each (H, W, 3) uint8 RGB image its boxes (N, 4) xyxy in image pixels, and their scores (N,)."""
        ...


class WholeImage:
    """One box around each image."""

    def __call__(self, images: Sequence[Array]) -> list[Detections]:
        """Boxes (1, 4) and scores (1,) of 1."""
        return [
            (np.array([[0, 0, image.shape[1], image.shape[0]]], np.float32), np.ones(1, np.float32)) for image in images
        ]


class TorchvisionDetector:
    """A detection model of torchvision.

    Args:
        model: its name in torchvision.
        weights: a file with its state dict; None takes the published weights (COCO), downloaded once.
        category: label of the boxes to keep; 1 is a person in COCO.
        threshold: boxes below this score are left out.
        nms: of two boxes whose intersection over union exceeds this, the weaker is left out.
        batch_size: images that go through the model at once.
        device: None takes the accelerator if there is one.

    Raises:
        UserError: for an unknown model, and for weights that can't be had or don't fit.
    """

    def __init__(
        self,
        model: str = "fasterrcnn_mobilenet_v3_large_320_fpn",
        weights: str | Path | None = None,
        category: int = 1,
        threshold: float = 0.5,
        nms: float = 0.5,
        batch_size: int = 8,
        device: str | None = None,
    ) -> None:
        self.device = find_device(device)
        self.model = _build(model, weights).eval().to(self.device)
        self.category, self.threshold, self.nms, self.batch_size = category, threshold, nms, batch_size

    @torch.inference_mode()
    def __call__(self, images: Sequence[Array]) -> list[Detections]:
        """Boxes (N, 4) and scores (N,), best first."""
        found: list[Detections] = []
        for start in range(0, len(images), self.batch_size):
            tensors = [
                torch.from_numpy(image).to(self.device).permute(2, 0, 1).float() / 255
                for image in images[start : start + self.batch_size]
            ]
            found += [self._select(output) for output in self.model(tensors)]
        return found

    def _select(self, output: dict[str, torch.Tensor]) -> Detections:
        boxes, scores = output["boxes"], output["scores"]
        sides = boxes[:, 2:] - boxes[:, :2]
        keep = (output["labels"] == self.category) & (scores >= self.threshold) & (sides > 0).all(-1)
        boxes, scores = boxes[keep], scores[keep]
        best = torchvision.ops.nms(boxes, scores, self.nms)
        return boxes[best].cpu().numpy(), scores[best].cpu().numpy()


def _build(name: str, weights: str | Path | None) -> Any:
    names = torchvision.models.list_models(torchvision.models.detection)
    if name not in names:
        raise UserError(f"torchvision has no detector {name!r}; detector.model is one of {', '.join(names)}")
    ways = "give a file with detector.weights=FILE or boxes with boxes=FILE, or pose whole images: detector=whole_image"
    if weights is None:
        try:
            return torchvision.models.get_model(name, weights="DEFAULT", progress=False)
        except OSError as error:
            raise UserError(f"the published weights of {name} can't be fetched ({error}); {ways}") from error
    model = torchvision.models.get_model(name, weights=None, weights_backbone=None)
    try:
        model.load_state_dict(torch.load(Path(weights).expanduser(), map_location="cpu", weights_only=True))
    except Exception as error:  # a damaged file can end in any
        reason = in_short(error)
        raise UserError(f"detector.weights={weights} is no state dict of {name} ({reason}); {ways}") from error
    return model
