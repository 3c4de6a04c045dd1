"""Two real processes give the figures of one, though their samplers repeat samples."""

import math
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.multiprocessing
from metric_samples import annotation_file, batch_of, poses_of, skeleton
from torch import distributed
from torchmetrics import Metric

from lightpose.metrics.keypoints import EPE, PCK
from lightpose.metrics.matches import Matches
from lightpose.metrics.oks import OKS

IMAGE_IDS = [100, 101, 101, 102, 103]
ALONE = [[0, 1, 2], [3, 4]]
SHARED = [[[0, 2], [4]], [[1, 3], [0]]]  # by process; sample 0 is repeated


def update(metric: Metric, batches: list[list[int]]) -> None:
    generator = torch.Generator().manual_seed(0)
    truth = torch.rand(5, 5, 2, generator=generator) * 300
    predicted = truth + torch.randn(5, 5, 2, generator=generator) * 10
    scores = torch.rand(5, 5, generator=generator)
    for indices in batches:
        found = [index for index in indices if index != 4]  # sample 4 has no pose
        poses = poses_of(predicted[found], [indices.index(i) for i in found], keypoint_scores=scores[found])
        if found:  # what finds nobody may say nothing of the other fields
            poses = replace(poses, **further(found))
        metric.update(poses, batch_of(truth[indices], indices, [IMAGE_IDS[i] for i in indices]))


def ground_truth() -> dict[str, Any]:
    """The labels as annotations."""
    coco = annotation_file(np.random.default_rng(0), 5)
    truth = torch.rand(5, 5, 2, generator=torch.Generator().manual_seed(0)) * 300
    people = [
        {"id": i + 1, "image_id": IMAGE_IDS[i], "category_id": 3, "bbox": [0, 0, 300, 300], "area": 9e4, "iscrowd": 0}
        | {"num_keypoints": 5, "keypoints": torch.cat([points, torch.full((5, 1), 2)], -1).flatten().tolist()}
        for i, points in enumerate(truth)
    ]
    return {**coco, "annotations": people}


def further(indices: list[int]) -> dict[str, Any]:
    """What else is predicted of samples: optional fields and extras of several shapes."""
    number = torch.tensor(indices, dtype=torch.float32)
    return {
        "visibility": number[:, None].expand(-1, 5),
        "track_ids": number.long() + 40,
        "extras": {"age": number, "mesh": number.view(-1, 1, 1).expand(-1, 2, 3)},
    }


def metrics() -> dict[str, Metric]:
    oks = OKS(skeleton(), score_mode="keypoint")
    oks.keeps_all = True
    oks.set_ground_truth(ground_truth())
    return {"oks": oks, "pck": PCK(skeleton(), 0.05), "epe": EPE(skeleton()), "matches": Matches(skeleton())}


def figures(batches: list[list[int]]) -> dict[str, Any]:
    """Of each metric, and all that is written of each pose."""
    found = metrics()
    for metric in found.values():
        update(metric, batches)
    figures = {name: np.asarray(value) for metric in found.values() for name, value in metric.compute().items()}
    return {**figures, "written": found["oks"].predictions()}


def take_part(rank: int, folder: str) -> list[dict[str, Any]]:
    """Figures of one of two processes: with the batches shared out, without a pose or a batch in one of them, and
    without a pose in both.
    """
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2, timeout=timedelta(seconds=100)
    )
    try:
        shares = (SHARED[rank], ALONE if rank == 0 else [[4]], [[4]] if rank == 0 else ALONE, ALONE if rank else [])
        return [figures(batches) for batches in (*shares, [[4]])]
    finally:
        distributed.destroy_process_group()


def other_process(_: int, folder: str) -> None:
    torch.save(take_part(1, folder), f"{folder}/other.pt")


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_two_processes_give_the_figures_of_one(tmp_path: Path) -> None:
    single = figures(ALONE)
    assert 0 < single["AP"] < 1 and not any(math.isnan(single[name]) for name in ("PCK@0.05_bbox", "EPE_px"))
    other = torch.multiprocessing.spawn(other_process, (str(tmp_path),), nprocs=1, join=False)
    found = take_part(0, str(tmp_path))
    assert other is not None and other.join()
    assert [entry["track_id"] for entry in single["written"]] == [40, 41, 42, 43]
    assert single["written"][3]["mesh"] == [[3.0] * 3] * 2
    for of_process in (found, torch.load(tmp_path / "other.pt", weights_only=False)):
        for each in of_process[:-1]:
            np.testing.assert_equal(each, single)
        assert of_process[-1]["AP"] == 0 and of_process[-1]["written"] == []
