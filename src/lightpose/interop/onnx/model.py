"""An exported file in the place of an estimator: for `Predictor`, and for evaluation."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import lightning as L
import numpy as np
import torch
from torch import Tensor, nn
from torchmetrics import Metric

from lightpose.checkpoint import rebuild, section
from lightpose.codecs.base import Codec, check_codec
from lightpose.errors import UserError, in_short
from lightpose.estimators.base import PoseEstimator
from lightpose.estimators.bottomup import BottomUp
from lightpose.estimators.contracts import check_poses
from lightpose.estimators.lifter import PoseLifter
from lightpose.estimators.topdown import TopDown, WholeImage
from lightpose.interop.onnx.columns import finds_many, poses_of
from lightpose.interop.onnx.description import NAME, Description, read
from lightpose.interop.onnx.running import checked_outputs, run
from lightpose.interop.onnx.session import Content, content_of, open_session
from lightpose.skeleton import Skeleton
from lightpose.structures import Batch, Poses
from lightpose.trust import Trust


class OnnxModel(PoseEstimator):
    """What `Predictor` and evaluation use of an estimator, computed by ONNX Runtime; it doesn't train.

    Args:
        session: of ONNX Runtime.
        description: of the file.
        skeleton: of the description.
        codec: of which the graph leaves a part to do; None where it leaves none.
        metrics: for evaluation.
        path: of the file, for messages.
    """

    def __init__(
        self,
        session: Any,
        description: Description,
        skeleton: Skeleton,
        codec: Codec | None,
        metrics: Mapping[str, Metric],
        path: Any,
    ) -> None:
        L.LightningModule.__init__(self)  # there is no net to build
        self.session, self.path = session, path
        self.skeleton, self.grid, self.config = skeleton, description.grid, description.config
        sides = description.input_hw
        self.input_hw, self.frames = None if sides is None else (sides[0], sides[1]), description.frames
        self.causal, self.codec = description.causal, cast(Codec, codec)
        self.metrics = nn.ModuleList(metrics.values())
        self._flip_test, self._frozen = description.flip_test, []
        per_frame = self.takes_sequences and codec is not None and codec.every_frame
        self.output_shapes = checked_outputs(session, description, skeleton.num_keypoints, path, per_frame)

    @property
    def flip_test(self) -> bool:
        """Whether the graph has the flip test.

        Raises:
            UserError: when set to another value.
        """
        return self._flip_test

    @flip_test.setter
    def flip_test(self, wanted: bool) -> None:
        if wanted != self._flip_test:
            raise UserError(
                f"{self.path} was exported with flip_test={str(self._flip_test).lower()}, which stays; export again"
            )

    def outputs(self, inputs: Tensor) -> dict[str, Tensor]:
        """What the file gives, by name.

        Raises:
            UserError: when it gives something else than it promises.
        """
        given = inputs.cpu() if self.takes_sequences else inputs.cpu().permute(0, 2, 3, 1)
        found = run(self.session, self.output_shapes, np.ascontiguousarray(given.numpy()), self.path)
        return {name: torch.from_numpy(value) for name, value in found.items()}

    def predict_step(self, batch: Batch, batch_idx: int) -> Poses:
        """Poses where `to_image` puts them."""
        outputs = self.outputs(batch.inputs)
        try:
            poses = poses_of(outputs, self)
        except Exception as error:  # of whatever a stranger's graph gives
            reason = f"{type(error).__name__}: {in_short(error)}"
            raise UserError(
                f"no poses can be made of what {self.path} gives ({reason}); give a file that lightpose-export wrote"
            ) from error
        if finds_many(self):
            check_poses(poses, self.codec, self.skeleton)
        return self.to_image(poses, batch)

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Updates the metrics, returns the poses; there is no loss."""
        poses = self.predict_step(batch, batch_idx)
        for metric in cast(Iterable[Metric], self.metrics):
            metric.update(poses, batch)
        return {"poses": poses}

    def on_validation_start(self) -> None:
        """Start the metrics afresh."""
        for metric in cast(Iterable[Metric], self.metrics):
            metric.reset()

    def on_validation_epoch_start(self) -> None:
        """There are no buffers to share."""

    def on_validation_epoch_end(self) -> None:
        """Log every figure of every metric."""
        self._give_ground_truth()
        self._log_figures()


class OnnxTopDown(OnnxModel, TopDown):
    """One pose for each box."""


class OnnxWholeImage(OnnxModel, WholeImage):
    """One pose for each image."""


class OnnxBottomUp(OnnxModel, BottomUp):
    """All poses of each image."""


class OnnxLifter(OnnxModel, PoseLifter):
    """One pose for each sequence of keypoints, or for each of its frames."""


KINDS: Mapping[str, type[OnnxModel]] = {
    "topdown": OnnxTopDown,
    "whole_image": OnnxWholeImage,
    "bottomup": OnnxBottomUp,
    "lifter": OnnxLifter,
}


def load_onnx(
    path: str | Path,
    device: str | None = None,
    trust: Trust = (),
    metrics: bool = False,
    content: Content | None = None,
) -> OnnxModel:
    """The model in a file that lightpose-export wrote, ready to predict.

    Nothing in the file is executed but its graph, and nothing outside it is read.

    Args:
        path: an ``.onnx`` file.
        device: see `open_session`.
        trust: see `lightpose.load`.
        metrics: build the metrics, too.
        content: of the file, see `lightpose.interop.onnx.session.content_of`; None reads it.

    Raises:
        UserError: for a file that can't be used, and for a device that can't be had.
    """
    data, metadata = content_of(path) if content is None else content
    description, skeleton = read(metadata.get(NAME), path)
    built: dict[str, Metric] = {}
    if metrics:
        parts = section(description.config, "estimator", "metrics")
        built = {name: rebuild(part, trust, skeleton=skeleton) for name, part in parts.items() if part}
    kind, codec = KINDS[description.estimator], None
    if not kind.one_person:
        part = section(description.config, "estimator", "codec")
        given: dict[str, Any] = {"skeleton": skeleton, "input_hw": description.input_hw, "grid": description.grid}
        codec = check_codec(rebuild(part, trust, **given))
    return kind(open_session(data, device, path), description, skeleton, codec, built, path)
