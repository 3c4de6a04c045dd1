from dataclasses import fields

import numpy as np
import torch

from lightpose.data.pixels.device import collate
from lightpose.geometry import crop_matrix, mirror_matrix, transform_boxes, transform_points
from lightpose.structures import Annotations, Batch, Poses, Sample


def annotations(count: int, keypoints: int = 4, dims: int = 2) -> Annotations:
    rng = np.random.default_rng(count)
    corners = rng.uniform(0, 100, (count, 2, 2)).astype(np.float32)
    return Annotations(
        keypoints=rng.uniform(0, 100, (count, keypoints, dims)).astype(np.float32),
        visible=rng.integers(0, 3, (count, keypoints)).astype(np.float32),
        boxes_xyxy=np.concatenate([corners.min(1), corners.max(1)], -1),
        areas=rng.uniform(1, 100, count).astype(np.float32),
        categories=np.zeros(count, np.int64),
        ids=np.arange(count) + 7,
        scores=np.ones(count, np.float32),
    )


def sample(count: int, matrix: np.ndarray | None = None, index: int = 0) -> Sample:
    image = np.full((64, 48, 3), index, np.uint8)
    return Sample(image, annotations(count), np.eye(3) if matrix is None else matrix, 100 + index, index, (90, 120))


def test_collate_pads_to_the_most_instances():
    batch = collate([sample(count, index=index) for index, count in enumerate((2, 0, 3))])
    instances = batch.instances
    assert len(batch) == 3
    assert instances.keypoints.shape == (3, 3, 4, 2)
    assert instances.valid.tolist() == [[True, True, False], [False, False, False], [True, True, True]]
    assert instances.ids.tolist() == [[7, 8, -1], [-1, -1, -1], [7, 8, 9]]
    padded = ~instances.valid
    for name in ("keypoints", "visible", "boxes_xyxy", "areas", "categories", "scores"):
        assert not getattr(instances, name)[padded].any(), name
    assert batch.image_ids.tolist() == [100, 101, 102]
    assert batch.indices.tolist() == [0, 1, 2]
    assert batch.image_hw.tolist() == [[90, 120]] * 3
    assert batch.ignore is None


def test_a_batch_of_empty_images_keeps_one_padded_row():
    instances = collate([sample(0), sample(0)]).instances
    assert instances.keypoints.shape == (2, 1, 4, 2)
    assert not instances.valid.any()


def test_collate_maps_labels_to_input_pixels_and_hands_back_the_inverse():
    turned = crop_matrix(np.array([50.0, 60.0]), np.array([24.0, 32.0]), (64, 48), "half_pixel", degrees=30.0)
    matrix = mirror_matrix(48) @ turned
    given = sample(2, matrix)
    batch = collate([given])
    labels = given.instances
    homogeneous = np.concatenate([labels.keypoints, np.ones((2, 4, 1))], -1) @ matrix.T
    np.testing.assert_allclose(batch.instances.keypoints[0], homogeneous[..., :2], atol=1e-4)
    np.testing.assert_allclose(batch.instances.areas[0], labels.areas * 4, rtol=1e-6)
    np.testing.assert_allclose(batch.image_from_input[0], np.linalg.inv(matrix), atol=1e-6)
    x1, y1, x2, y2 = batch.instances.boxes_xyxy[0].T
    corners = transform_points(matrix, labels.boxes_xyxy[:, [0, 1, 0, 3, 2, 1, 2, 3]].reshape(2, 4, 2))
    np.testing.assert_allclose(torch.stack([x1, y1], -1), corners.min(1), atol=1e-4)
    np.testing.assert_allclose(torch.stack([x2, y2], -1), corners.max(1), atol=1e-4)


def test_boxes_stay_ordered_when_mirrored():
    boxes = transform_boxes(mirror_matrix(101), np.array([[10.0, 20.0, 30.0, 40.0]], np.float32))
    assert boxes.tolist() == [[70, 20, 90, 40]]
    assert boxes.dtype == np.float32


def test_images_stay_bytes_and_channels_last():
    batch = collate([sample(1, index=3), sample(1, index=4)])
    assert batch.inputs.dtype == torch.uint8
    assert batch.inputs.shape == (2, 3, 64, 48)
    assert batch.inputs.is_contiguous(memory_format=torch.channels_last)
    assert batch.inputs[:, 0, 0, 0].tolist() == [3, 4]


def test_sequences_keep_their_shape_and_depth():
    matrix = mirror_matrix(1)
    sequence = np.random.default_rng(0).normal(size=(9, 4, 2)).astype(np.float32)
    label = annotations(1, dims=3)
    batch = collate([Sample(sequence, label, matrix, 0, 0, (1, 1))] * 2)
    assert batch.inputs.dtype == torch.float32
    assert batch.inputs.shape == (2, 9, 4, 2)
    keypoints = batch.instances.keypoints[0].numpy()
    np.testing.assert_allclose(keypoints, label.keypoints * [-1, 1, 1], rtol=1e-6)


def test_collate_allocates_ordinary_memory():
    batch = collate([sample(1)])
    assert not batch.inputs.is_pinned()
    assert all(not getattr(batch.instances, field.name).is_pinned() for field in fields(batch.instances))


def test_structures_move_as_one():
    batch = collate([sample(2), sample(1)])
    doubled = batch.map(lambda tensor: tensor * 2)
    assert isinstance(doubled, Batch)
    torch.testing.assert_close(doubled.instances.keypoints, batch.instances.keypoints * 2)
    assert doubled.ignore is None
    moved = batch.to("meta")
    assert moved.inputs.is_meta
    assert moved.instances.ids.is_meta
    assert batch.inputs.device.type == "cpu"  # the original stays
    assert batch.to("cpu").inputs is batch.inputs


def test_pinning_reaches_every_tensor(monkeypatch):
    pinned: list[int] = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: pinned.append(id(tensor)) or tensor)
    batch = collate([sample(1)])
    assert batch.pin_memory().inputs is batch.inputs
    assert len(pinned) == len(fields(batch.instances)) + 5


def test_no_poses_are_an_ordinary_case():
    poses = Poses(torch.empty(0, 4, 2), torch.empty(0, 4), torch.empty(0), torch.empty(0, dtype=torch.int64))
    assert len(poses) == 0
    assert poses.to("cpu").boxes_xyxy is None


def some_poses(count: int, **further: torch.Tensor) -> Poses:
    numbers = torch.arange(count, dtype=torch.float32)
    keypoints = numbers[:, None, None].expand(-1, 3, 2)
    return Poses(keypoints, keypoints[..., 0], numbers, torch.arange(count), **further)


def test_poses_are_selected_and_joined_field_by_field():
    poses = some_poses(4, visibility=torch.rand(4, 3), extras={"age": torch.arange(4)})
    first, last = poses.select(slice(1)), poses.select(torch.tensor([3, 1]))
    joined = Poses.cat([first, some_poses(0), last])
    assert joined.scores.tolist() == joined.extras["age"].tolist() == [0, 3, 1]
    assert torch.equal(joined.visibility, poses.visibility[[0, 3, 1]])
    assert joined.boxes_xyxy is None
    assert len(Poses.cat([some_poses(0), some_poses(0)])) == 0


def test_poses_in_numpy_are_the_same():
    poses = some_poses(2, extras={"age": torch.tensor([1.5, 2.5], dtype=torch.bfloat16)})
    arrays = poses.numpy()
    assert arrays.keypoints.tolist() == poses.keypoints.tolist()
    assert arrays.extras["age"].tolist() == [1.5, 2.5]
    assert Poses.cat([arrays, arrays.select([1])]).batch_index.tolist() == [0, 1, 1]
