"""What an export is proven on: pictures as the network sees them, or sequences of keypoints."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lightpose.checkpoint import eval_transforms, rebuild, section
from lightpose.data.base import PoseDataset
from lightpose.data.synthetic.generate import generate
from lightpose.data.transforms import Geometry
from lightpose.errors import UserError
from lightpose.estimators.base import PoseEstimator
from lightpose.inference.crops import Cropper, Job
from lightpose.inference.detections import NO_BOXES
from lightpose.inference.predictor import trained_image_bits
from lightpose.inference.sources import ImageFiles, open_source
from lightpose.structures import Array, Sample
from lightpose.trust import DATA, Trust

DRAWN_IMAGES = 10


def inputs_to_prove(
    estimator: PoseEstimator, count: int, annotations: str | None, images: str | None, trust: Trust = ()
) -> Array:
    """(count, H, W, 3) uint8, or (count, T, K, 3) float32 for a lifter; fewer come again.

    Args:
        estimator: of a configuration.
        count: how many.
        annotations: COCO JSON, or the ``.npz`` file of a lifter; None for drawn people, and for people who move at
            random.
        images: folder of the images.
        trust: see `lightpose.load`.

    Raises:
        UserError: for a file without people.
    """
    if estimator.takes_sequences:
        return _sequences(estimator, count, annotations, trust)
    cropper = cropper_of(estimator, trust)
    if annotations is not None:
        return _crops(cropper, count, annotations, images)
    with tempfile.TemporaryDirectory() as folder:
        return _crops(cropper, count, str(generate(Path(folder) / "people", images=DRAWN_IMAGES, seed=0)), None)


def cropper_of(estimator: PoseEstimator, trust: Trust = ()) -> Cropper:
    """What makes the estimator's inputs of images."""
    return Cropper(
        eval_transforms(estimator, trust),
        estimator.skeleton.num_keypoints,
        estimator.takes_boxes,
        trained_image_bits(estimator),
    )


def samples_of(cropper: Cropper, source: ImageFiles, most: int) -> list[Sample]:
    """The inputs of the first images, until there are ``most`` or more."""
    boxes = source.boxes or {}
    samples: list[Sample] = []
    for image_id, name in source.names.items():
        if len(samples) < most:
            samples += cropper.samples(Job(source.files[name], boxes.get(image_id, NO_BOXES), image_id))
    return samples


def _crops(cropper: Cropper, count: int, annotations: str, images: str | None) -> Array:
    source = open_source(annotations, images)
    if not isinstance(source, ImageFiles) or not source.has_ids:
        raise UserError(f"annotations={annotations} is no COCO JSON; give one, or leave it out for drawn people")
    found = [sample.image for sample in samples_of(cropper, source, count)]
    if not found:
        raise UserError(
            f"annotations={annotations} has no boxes of people to prove the export on; give a file with people, or "
            "leave it out for drawn ones"
        )
    return np.stack([found[row % len(found)] for row in range(count)])


def _sequences(estimator: PoseEstimator, count: int, annotations: str | None, trust: Trust) -> Array:
    reader = section(estimator.config, "data", "reader")
    frames, rng = int(reader["frames"]), np.random.default_rng(0)
    if annotations is None:
        start, speed = (
            rng.normal(0, spread, (count, 1, estimator.skeleton.num_keypoints, 2)) for spread in (0.2, 2e-3)
        )
        screen = start + speed * np.arange(frames)[:, None, None]
        return np.concatenate([screen, np.ones_like(screen[..., :1])], -1, dtype=np.float32)
    given = {"skeleton": estimator.skeleton, "annotations": annotations, "images": None}
    dataset = rebuild(reader, trust, DATA, **given)
    assert isinstance(dataset, PoseDataset)
    dataset.training = False
    places = np.linspace(0, len(dataset) - 1, count).round().astype(int).tolist()
    return np.stack([dataset.load(place, rng).image for place in places])


def of_one_size(estimator: PoseEstimator, trust: Trust = ()) -> bool:
    """Let images of any proportion fill the one input that a graph has; whether that is something new.

    Changes the configuration of an estimator whose images had inputs of their own sizes.
    """
    lists = section(estimator.config, "augment", "eval")
    steps = {name: step for name, step in (lists.get("geometry") or {}).items() if step is not None}
    built = eval_transforms(estimator, trust).geometry
    own = [name for name, step in zip(steps, built, strict=True) if isinstance(step, Geometry) and step.own_size]
    if own:
        whole: Mapping[str, Any] = {
            "_target_": "lightpose.data.transforms.CropImage",
            "input_hw": list(estimator.input_hw or ()),
            "grid": estimator.grid,
        }
        assert estimator.config is not None
        lists["geometry"] = {**steps, **dict.fromkeys(own, whole)}
        augment = {**estimator.config["augment"], "eval": lists}
        estimator.config = {**estimator.config, "augment": augment}
    return bool(own)
