"""The one LightningModule behind every paradigm: it joins a network and a codec and holds every hook."""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Self, cast

import lightning as L
import numpy as np
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import Metric, SumMetric

import lightpose
from lightpose.codecs.base import Codec, check_codec
from lightpose.errors import UserError
from lightpose.estimators.contracts import check_poses, figures_of, total
from lightpose.estimators.optim import CLOCK_STEPS, check_restored, freeze, parameter_groups, time_share
from lightpose.geometry import Grid, check_grid
from lightpose.metrics.base import NeedsGroundTruth
from lightpose.models.base import FeatureModule, Head
from lightpose.models.net import PoseNet
from lightpose.runtime.graphs import expect_calls
from lightpose.runtime.processes import share_buffers
from lightpose.runtime.steps import GraphedStep
from lightpose.skeleton import Skeleton
from lightpose.structures import Batch, Poses

log = logging.getLogger(__name__)


class PoseEstimator(L.LightningModule):
    """Network and codec under Lightning's hooks. A paradigm says how poses return to the image (`to_image`).

    Args:
        skeleton: the keypoints.
        input_hw: network input size.
        grid: pixel grid shared by crop and codec.
        preprocessor: pixels to network pixels.
        backbone: image to features.
        neck: builds the neck from ``in_channels`` and ``strides``.
        head: builds the head from ``in_channels``, ``strides``, ``stages`` and ``spec``.
        codec: builds the codec from ``skeleton``, ``input_hw`` and ``grid``.
        optimizer: builds the optimizer from parameter groups.
        scheduler: builds the schedule from the optimizer and ``total_steps``; it steps once per optimizer step.
        metrics: name → builds a metric from ``skeleton``.
        flip_test: average the outputs with those of the mirrored input when validating, testing and predicting, unless
            the skeleton says that nothing is mirrored.
        layer_decay: factor on the learning rate per backbone layer, from the last to the first; 1 for none.
        decay_norm_and_bias: apply weight decay to norms and biases too.
        lr_factors: pattern of names in the network, such as ``backbone`` → factor on the learning rate; 0 leaves that
            part as it is, statistics of batch norms included. Of several patterns for a weight the last counts.
        base_batch: batch size that the optimizer's ``lr`` is meant for; the rate is scaled to the effective batch
            (all devices, accumulation included). None leaves it alone.

    Attributes:
        takes_boxes: True where a sample is one box of an image, False where it is the whole image.
        one_person: True where a sample has one person, in a box or in a whole image.
        takes_sequences: True where a sample is no image, but a sequence of keypoints.
    """

    takes_boxes: ClassVar[bool] = False
    one_person: ClassVar[bool] = False
    takes_sequences: ClassVar[bool] = False

    def __init__(
        self,
        skeleton: Skeleton,
        input_hw: Sequence[int] | None,
        grid: Grid,
        preprocessor: nn.Module,
        backbone: FeatureModule,
        neck: Callable[..., FeatureModule],
        head: Callable[..., Head],
        codec: Callable[..., Codec],
        optimizer: Callable[..., Optimizer],
        scheduler: Callable[..., LRScheduler],
        metrics: Mapping[str, Callable[..., Metric]],
        flip_test: bool = True,
        layer_decay: float = 1.0,
        decay_norm_and_bias: bool = False,
        lr_factors: Mapping[str, float] | None = None,
        base_batch: int | None = None,
    ) -> None:
        super().__init__()
        check_grid(grid)
        self.skeleton = skeleton
        self.input_hw = None if input_hw is None else (int(input_hw[0]), int(input_hw[1]))
        self.grid: Grid = grid
        self.codec = check_codec(codec(skeleton=skeleton, input_hw=self.input_hw, grid=grid))
        net = PoseNet(preprocessor, backbone, neck, head, self.codec.spec)
        self.net = net.to(memory_format=torch.channels_last)  # as inputs come; faster on CPUs and tensor cores
        net.head.hand_over(self.codec)
        # Other strategies for NaN wait for the device at every step, and with this one MeanMetric knows no weights.
        self.val_loss, self.val_samples = SumMetric(nan_strategy="disable"), SumMetric(nan_strategy="disable")
        self.metrics = nn.ModuleList(metric(skeleton=skeleton) for metric in metrics.values())
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.flip_test = flip_test and skeleton.mirrors
        self.layer_decay = layer_decay
        self.decay_norm_and_bias = decay_norm_and_bias
        self.lr_factors = dict(lr_factors or {})
        self._frozen = freeze(net, self.lr_factors)
        self.base_batch = base_batch
        self.distillation: nn.Module | None = None
        """What gives the losses of training in place of the head, set by whoever has a teacher; see
        `lightpose.estimators.distillation`. Its weights train, too, and nothing needs them to predict."""
        self.graphed_step: GraphedStep | None = None
        """What may do whole training steps, see `lightpose.callbacks.acceleration`."""
        self._logged_at, self._losses_watched = float("-inf"), False
        self.config: dict[str, Any] | None = None
        """The resolved configuration, set by whoever composed it; `lightpose.load` rebuilds the estimator from it."""

    @property
    def flip_test(self) -> bool:
        """Whether inputs are validated, tested and predicted together with their mirror images.

        Raises:
            UserError: when set, for a codec that can't join the two.
        """
        return self._flip_test

    @flip_test.setter
    def flip_test(self, wanted: bool) -> None:
        if wanted and not self.codec.flips:
            raise UserError(
                f"{type(self.codec).__name__} can't join what is found in an input with what is found in its mirror "
                "image; set estimator.flip_test=false"
            )
        self._flip_test = wanted

    # -- what a paradigm may change ------------------------------------------------------------------------------

    def to_image(self, poses: Poses, batch: Batch) -> Poses:
        """Poses from input pixels to where the user wants them."""
        raise NotImplementedError

    def mirror(self, inputs: Tensor) -> Tensor:
        """Inputs mirrored left to right so that ``codec.flip`` undoes it."""
        mirrored = inputs.flip(-1)
        lag = self.codec.mirror_lag
        if lag > 0:
            mirrored = torch.cat([mirrored[..., lag:], mirrored[..., -1:].expand(*mirrored.shape[:-1], lag)], -1)
        elif lag < 0:
            mirrored = torch.cat([mirrored[..., :1].expand(*mirrored.shape[:-1], -lag), mirrored[..., :lag]], -1)
        return mirrored

    # -- training ------------------------------------------------------------------------------------------------

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The losses of the head, or of distillation, by name; before them their sum as ``loss``."""
        targets, head = self.codec.encode(batch), self.net.head
        features = self.net.features(batch.inputs)
        if self.distillation is None:
            losses = head.loss(features, targets)
        else:
            losses = self.distillation(batch.inputs, features, targets, head, self._share_done())
        loss = total(losses, f"head {type(head).__name__}")
        if not loss.requires_grad:
            raise UserError(
                f"the loss of head {type(head).__name__} depends on no weight that trains; leave out "
                ".detach(), and freeze fewer parts"
            )
        return {"loss": loss, **losses}

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """The sum of the head's losses; the terms stand beside it for callbacks."""
        losses = self.losses(batch) if self._replayed is None else self._replayed.replay()
        if self._logs_losses():
            self.log_dict({f"train/{name}": value for name, value in losses.items()}, batch_size=len(batch))
        return {"loss": losses.pop("loss"), "losses": losses}

    def _logs_losses(self) -> bool:
        """Whether losses are logged at this step: for loggers and monitors, and once a second for the bar."""
        trainer: Any = self.trainer
        last = trainer.is_last_batch or 0 <= trainer.max_steps <= trainer.global_step + 1
        due = last or self._losses_watched or trainer._logger_connector.should_update_logs
        if not due and time.monotonic() - self._logged_at < 1:
            return False
        self._logged_at = time.monotonic()
        return True

    @property
    def _replayed(self) -> GraphedStep | None:
        """What does all of this step at once, backward pass and optimizer included; None where hooks do it."""
        step = self.graphed_step
        return step if step is not None and step.taken is not None else None

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """As Lightning's, unless the step is a replay."""
        if self._replayed is None:
            super().backward(loss, *args, **kwargs)

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Optimizer) -> None:
        """As Lightning's, unless the step is a replay."""
        if self._replayed is None:
            super().optimizer_zero_grad(epoch, batch_idx, optimizer)

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Callable[[], Any] | None = None
    ) -> None:
        """As Lightning's, unless the step is a replay, which the closure begins and ends."""
        if self._replayed is None:
            super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        elif optimizer_closure is not None:
            optimizer_closure()

    def train(self, mode: bool = True) -> Self:
        """Training mode, in which frozen parts stay in evaluation mode."""
        super().train(mode)
        for name in self._frozen:
            self.net.get_submodule(name).eval()
        return self

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Optimizer over parameter groups, and a schedule that steps once per optimizer step."""
        options = getattr(self.optimizer, "keywords", {})
        if "lr" not in options:
            raise UserError("the optimizer has no learning rate; give lr=..., from Python in a functools.partial")
        lr = options["lr"] * self._lr_scale()
        groups = parameter_groups(
            self.net,
            lr=lr,
            weight_decay=options.get("weight_decay", 0.0),
            layer_decay=self.layer_decay,
            decay_norm_and_bias=self.decay_norm_and_bias,
            lr_factors=self.lr_factors,
        )
        if self.distillation is not None and (weights := list(self.distillation.parameters())):
            decay = options.get("weight_decay", 0.0)
            groups.append({"name": "distillation", "lr": lr, "weight_decay": decay, "params": weights})
        optimizer = self.optimizer(groups)
        # Fused optimizers say that they undo loss scaling, for which Lightning refuses to clip their gradients. Without
        # the mark Lightning undoes it, as for any other optimizer.
        optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]
        schedule = self.scheduler(optimizer, total_steps=self._schedule_steps())
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _schedule_steps(self) -> int:
        """Length of the run, as schedules count it."""
        steps = self.trainer.estimated_stepping_batches
        if steps != float("inf"):
            return int(steps)
        if time_share(self.trainer) is None:
            raise UserError(
                "the schedule needs the length of the run; give trainer.max_epochs, trainer.max_steps or "
                "trainer.max_time"
            )
        return CLOCK_STEPS

    def _share_done(self) -> float:
        """How much of the run is done by its schedule: of its steps, or of its time if ``trainer.max_time`` ends it."""
        schedule = cast(LRScheduler, self.lr_schedulers())
        return min(schedule.last_epoch / self._schedule_steps(), 1.0)

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        """One step further, or as far as the run is by the clock where ``trainer.max_time`` may end it."""
        share = time_share(self.trainer)
        if share is not None:
            endless = self.trainer.estimated_stepping_batches == float("inf")
            place = int(share * self._schedule_steps())
            scheduler.last_epoch = (place if endless else max(place, scheduler.last_epoch + 1)) - 1
        scheduler.step()

    def on_train_start(self) -> None:
        """Look at what a checkpoint brought before the first step uses it."""
        monitors = [getattr(callback, "monitor", None) for callback in self.trainer.callbacks]  # type: ignore[attr-defined]
        self._losses_watched = any(str(monitor).startswith("train/") for monitor in monitors)
        if self.trainer.ckpt_path:
            for optimizer, schedule in zip(self.trainer.optimizers, self.trainer.lr_scheduler_configs, strict=True):
                check_restored(optimizer, schedule.scheduler)

    def _lr_scale(self) -> float:
        if self.base_batch is None:
            return 1.0
        self.trainer.fit_loop.setup_data()  # which cuts batches to the samples there are
        per_device: int = self.trainer.datamodule.batch_size  # type: ignore[attr-defined]
        effective = per_device * self.trainer.world_size * self.trainer.accumulate_grad_batches
        log.info("learning rate scaled by %d / %d (effective batch / base_batch)", effective, self.base_batch)
        return effective / self.base_batch

    # -- evaluation and prediction -------------------------------------------------------------------------------

    def outputs(self, inputs: Tensor) -> dict[str, Tensor]:
        """The head's outputs by name, together with those of the mirrored input if `flip_test`."""
        return self._outputs(inputs)[1]

    def _outputs(self, inputs: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The head's outputs in float32: of the inputs alone, and if `flip_test` joined with those of mirror images."""
        count = inputs.shape[0]
        features = self.net.features(torch.cat([inputs, self.mirror(inputs)]) if self.flip_test else inputs)
        own = [feature[:count] for feature in features]
        plain = {name: output.float() for name, output in self.net.head(own).items()}
        if not self.flip_test:
            return plain, plain
        mirrored = [feature[count:] for feature in features]
        return plain, self.net.head.flip_tested(plain, own, mirrored, self.codec)

    def warm_up(self, batch_size: int, batches: int) -> None:
        """Load a GPU's kernels before the first batch is there, and capture a graph if it pays.

        Args:
            batch_size: of the largest batch to come.
            batches: how many come.
        """
        if self.device.type != "cuda" or self.input_hw is None or not batch_size:
            return
        expect_calls(self.net, batches)
        images = torch.zeros(batch_size, *self.input_hw, 3, dtype=torch.uint8, device=self.device)
        self.outputs(images.permute(0, 3, 1, 2))

    def _poses(self, outputs: dict[str, Tensor], batch: Batch) -> Poses:
        """Decoded and back-projected, in float32 under autocast: coordinates have more digits than bfloat16."""
        with torch.autocast(self.device.type, enabled=False):
            return self.to_image(check_poses(self.codec.decode(outputs), self.codec, self.skeleton), batch)

    def predict_step(self, batch: Batch, batch_idx: int) -> Poses:
        """Poses where `to_image` puts them."""
        return self._poses(self.outputs(batch.inputs), batch)

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Logs the validation loss, updates the metrics, returns the poses; backbone and head run once."""
        plain, outputs = self._outputs(batch.inputs)
        poses = self._poses(outputs, batch)
        losses = self.net.head.compare(plain, self.codec.encode(batch))
        labels = batch.instances
        counted = (labels.visible > 0).flatten(1).any(1) | ~labels.valid.any(1)  # not where a detector gives the boxes
        samples = counted.sum()
        self.val_loss.update(total(losses, f"head {type(self.net.head).__name__}") * samples)
        self.val_samples.update(samples)
        for metric in cast(Iterable[Metric], self.metrics):
            metric.update(poses, batch)
        return {"poses": poses}

    def on_validation_start(self) -> None:
        """Start the metrics afresh."""
        self.val_loss.reset()
        self.val_samples.reset()
        for metric in cast(Iterable[Metric], self.metrics):
            metric.reset()

    def on_validation_epoch_start(self) -> None:
        """Validate what is saved: process 0's buffers. After the callbacks' hook, where averaged weights come in."""
        share_buffers(self.net)

    def on_validation_epoch_end(self) -> None:
        """Log the loss, and every figure of every metric."""
        if self.trainer.sanity_checking:
            return
        self._give_ground_truth()
        self.log("val/loss", self.val_loss.compute() / self.val_samples.compute().clamp_min(1), prog_bar=True)
        self._log_figures()

    def _give_ground_truth(self) -> None:
        """Metrics that score against the annotation file get its content.

        That they get it before anything waits for the device lets a GPU compute the last batches meanwhile.
        """
        dataset = self.trainer.val_dataloaders.dataset  # type: ignore[union-attr]
        for metric in cast(Iterable[Any], self.metrics):
            if isinstance(metric, NeedsGroundTruth):
                metric.set_ground_truth(dataset.ground_truth())

    def _log_figures(self) -> None:
        for metric in cast(Iterable[Metric], self.metrics):
            for name, value in self._figures(metric):
                self.log(f"val/{name}", value, prog_bar=name in ("AP", "EPE_px", "MPJPE_mm"))

    def _figures(self, metric: Metric) -> Iterator[tuple[str, Any]]:
        """What a metric computes; a figure of K numbers becomes one of each keypoint, as ``NAME/KEYPOINT``."""
        for name, value in figures_of(metric).items():
            shape, keypoints = tuple(np.shape(value)), self.skeleton.keypoints
            if shape == (len(keypoints),):
                yield from ((f"{name}/{keypoint}", value[place]) for place, keypoint in enumerate(keypoints))
            elif shape in ((), (1,)):
                yield name, value
            else:
                raise UserError(
                    f"{type(metric).__name__} computes a figure {name} of shape {shape}; expected a number, or one for "
                    f"each of the {len(keypoints)} keypoints"
                )

    # -- checkpoints ---------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Write what `lightpose.load` needs besides the weights: configuration and skeleton, as plain data."""
        checkpoint["lightpose"] = {
            "version": lightpose.__version__,
            "config": self.config,
            "skeleton": self.skeleton.to_dict(),
        }
