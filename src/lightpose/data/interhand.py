"""InterHand2.6M: images of one or two hands, their joints in space, and the cameras."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lightpose.data.base import PoseDataset
from lightpose.data.coco.json_values import read_json
from lightpose.data.pixels.decode import EncodedImage
from lightpose.data.pixels.image_files import image_folder
from lightpose.errors import UserError
from lightpose.structures import Annotations, Array, Sample

_END = "_data.json"
_COUNT = 42


class InterHand(PoseDataset):
    """A sample per annotation of InterHand2.6M (arXiv:2008.09309): x and y in image pixels, and depth in mm.

    Beside ``InterHand2.6M_train_data.json`` stand ``InterHand2.6M_train_camera.json`` and
    ``InterHand2.6M_train_joint_3d.json``, as published. Joints are projected by the camera of their image. Annotations
    without a labelled joint or with an empty box are left out.

    Args:
        annotations: the file that ends in ``_data.json``.
        images: their folder; None looks near the annotations.
        shared: see `PoseDataset`.

    Raises:
        ImagesNotFound: when the images are not where they should be.
        UserError: for files that are missing or wrong, and for a skeleton of other keypoints.
    """

    def __init__(self, annotations: Path | str, images: Path | str | None = None, **shared: Any) -> None:
        super().__init__(**shared)
        path = Path(annotations)
        if not path.name.endswith(_END):
            raise UserError(f"reader=interhand takes a file whose name ends in {_END}, got {path}; give that one")
        if self.skeleton.num_keypoints != _COUNT:
            raise UserError(
                f"InterHand2.6M has {_COUNT} keypoints, but skeleton {self.skeleton.name} has "
                f"{self.skeleton.num_keypoints}; set skeleton=interhand3d"
            )
        beside = {part: path.with_name(path.name.replace(_END, f"_{part}.json")) for part in ("camera", "joint_3d")}
        data = read_json(path, "the annotation file")
        cameras, joints = (read_json(other, f"the file of {part}s") for part, other in beside.items())
        try:
            self._read(data, cameras, joints)
        except (AttributeError, KeyError, TypeError, ValueError, IndexError) as error:
            raise UserError(
                f"{path} and the two files beside it are not as InterHand2.6M publishes them "
                f"({type(error).__name__}: {error}); download them again"
            ) from error
        if not self._names:
            raise UserError(f"{path} has no annotation with a box and a labelled joint; give another file")
        self.folder = image_folder(path, self._names[0], images)

    def _read(self, data: Any, cameras: Any, joints: Any) -> None:
        """Small columns of each sample; joints and cameras are shared by many."""
        image_of = {image["id"]: image for image in data["images"]}
        visible = np.array([entry["joint_valid"] for entry in data["annotations"]], bool).reshape(-1, _COUNT)
        boxes = np.array([entry["bbox"] for entry in data["annotations"]], np.float32).reshape(-1, 4)
        kept = np.flatnonzero(visible.any(1) & (boxes[:, 2:] > 0).all(1))
        entries = [data["annotations"][row] for row in kept.tolist()]
        of_entry = [image_of[entry["image_id"]] for entry in entries]
        self.visible, self.boxes_xywh = visible[kept], boxes[kept]
        self.ids = np.array([entry["id"] for entry in entries], np.int64)
        self.image_ids = np.array([image["id"] for image in of_entry], np.int64)
        self.image_hw = np.array([(image["height"], image["width"]) for image in of_entry], np.int64)
        self._names = [str(image["file_name"]) for image in of_entry]
        seen = [(str(image["capture"]), str(image["camera"])) for image in of_entry]
        frames = [(str(image["capture"]), str(image["frame_idx"])) for image in of_entry]
        cameras_of = {key: _camera(cameras[key[0]], key[1]) for key in dict.fromkeys(seen)}
        world_of = {key: np.asarray(joints[key[0]][key[1]]["world_coord"], float) for key in dict.fromkeys(frames)}
        self._views = [(cameras_of[one], world_of[other]) for one, other in zip(seen, frames, strict=True)]

    def __len__(self) -> int:
        return len(self._names)

    def load(self, index: int, rng: np.random.Generator) -> Sample:
        """The hands of an annotation before any transform, the image not yet decoded."""
        (rotation, position, focal, center), world = self._views[index]
        points = (world - position) @ rotation.T  # (K, 3) mm, before the camera
        depth = np.maximum(points[:, 2:], 1)
        left, top, width, height = self.boxes_xywh[index].tolist()
        hw = int(self.image_hw[index, 0]), int(self.image_hw[index, 1])
        matrix = np.array([[focal[0], 0, center[0]], [0, focal[1], center[1]], [0, 0, 1]], np.float32)
        labels = Annotations(
            keypoints=np.concatenate([points[:, :2] / depth * focal + center, depth], -1, dtype=np.float32)[None],
            visible=2 * self.visible[index : index + 1].astype(np.float32),
            boxes_xyxy=np.array([[left, top, left + width, top + height]], np.float32),
            areas=np.array([width * height], np.float32),
            categories=np.zeros(1, np.int64),
            ids=self.ids[index : index + 1],
            scores=np.ones(1, np.float32),
        )
        image = EncodedImage(self.folder / self._names[index], hw)
        return Sample(image, labels, np.eye(3), int(self.image_ids[index]), index, hw, camera=matrix)


def _camera(capture: Mapping[str, Any], name: str) -> tuple[Array, ...]:
    """Rotation (3, 3) and position (3,) mm in the world, focal lengths (2,) and centre (2,) in pixels."""
    parts = (("camrot", (3, 3)), ("campos", (3,)), ("focal", (2,)), ("princpt", (2,)))
    return tuple(np.asarray(capture[key][name], float).reshape(shape) for key, shape in parts)
