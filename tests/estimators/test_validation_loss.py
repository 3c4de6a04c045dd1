from functools import partial

import pytest
import torch

from lightpose import testing
from lightpose.codecs.regression import RegressionCodec
from lightpose.models.heads.regression import RegressionHead
from lightpose.models.losses.regression import SmoothL1


@torch.inference_mode()
def test_batches_count_by_how_many_people_they_have():
    estimator = testing.model(partial(RegressionHead, criterion=SmoothL1()), RegressionCodec, flip_test=False).eval()
    batches = [testing.random_batch(estimator, people) for people in ((1, 1, 1), (1,))]
    expected = 0.0
    for batch in batches:
        losses = estimator.net.head.compare(estimator.outputs(batch.inputs), estimator.codec.encode(batch))
        expected += len(batch) * float(sum(losses.values())) / 4
        estimator.validation_step(batch, 0)
    assert float(estimator.val_loss.compute() / estimator.val_samples.compute()) == pytest.approx(expected)
