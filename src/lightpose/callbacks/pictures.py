"""Pictures of what the model predicts, while it learns."""

import logging
from pathlib import Path
from typing import Any

import cv2
import lightning as L
import torch
from lightning.pytorch.loggers import TensorBoardLogger

from lightpose.draw import draw_poses, grid
from lightpose.estimators.base import PoseEstimator
from lightpose.geometry import apply_affine
from lightpose.structures import Batch, Poses

log = logging.getLogger(__name__)


class Pictures(L.Callback):
    """Draws predictions on the first inputs of every validation, to a PNG file and to TensorBoard.

    Args:
        folder: where ``epoch_000.png`` and so on go.
        count: how many inputs.
        threshold: keypoints of a lower score are left out.
    """

    def __init__(self, folder: str, count: int = 16, threshold: float = 0.3) -> None:
        self.folder = Path(folder)
        self.count = count
        self.threshold = threshold

    def on_validation_batch_end(  # type: ignore[override]
        self,
        trainer: L.Trainer,
        pl_module: PoseEstimator,
        outputs: dict[str, Poses],
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Draw the first batch of the first process."""
        if batch_idx or not trainer.is_global_zero or trainer.sanity_checking or batch.inputs.dtype != torch.uint8:
            return
        image = self._draw(pl_module, outputs["poses"], batch)
        path = self.folder / f"epoch_{trainer.current_epoch:03d}.png"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            path.write_bytes(cv2.imencode(".png", image[..., ::-1])[1].tobytes())
        except OSError as error:
            log.warning("The picture %s can't be written (%s); training goes on", path, error.strerror or error)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image("val/predictions", image, trainer.global_step, dataformats="HWC")

    def _draw(self, estimator: PoseEstimator, poses: Poses, batch: Batch) -> Any:
        input_from_image = torch.linalg.inv(batch.image_from_input.float())[poses.batch_index]
        keypoints = apply_affine(input_from_image, poses.keypoints[..., :2]).cpu().numpy()
        scores, rows = poses.keypoint_scores.cpu().numpy(), poses.batch_index.cpu().numpy()
        visibility = None if poses.visibility is None else poses.visibility.cpu().numpy()
        pictures = []
        for row, image in enumerate(batch.inputs[: self.count].permute(0, 2, 3, 1).cpu().numpy()):
            here = rows == row
            pictures.append(
                draw_poses(
                    image,
                    keypoints[here],
                    scores[here],
                    estimator.skeleton,
                    threshold=self.threshold,
                    visibility=None if visibility is None else visibility[here],
                )
            )
        return grid(pictures, columns=8)
