"""Metrics gather rows without waiting for the device."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from metric_samples import batch_of, poses_of, skeleton

from lightpose.metrics.base import PoseMetric
from lightpose.metrics.keypoints import AUC, EPE, NME, PCK
from lightpose.metrics.matches import Matches
from lightpose.metrics.oks import OKS


@pytest.mark.parametrize("build", [OKS, PCK, AUC, EPE, NME, Matches, partial(NME, normalizer=["joint0", "joint3"])])
def test_update_reads_no_value(build: Callable[..., PoseMetric]) -> None:
    """On the meta device there are no values: whatever would wait for one fails."""
    metric = build(skeleton(5))
    keypoints = torch.rand(6, 5, 2) * 100
    metric.update(poses_of(keypoints).to("meta"), batch_of(keypoints, list(range(6))).to("meta"))
    column = metric.sample_keys[-1]
    assert column.shape == (6, 2)
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        int(column.sum())
