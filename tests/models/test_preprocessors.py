"""Preprocessors of keypoints; those of pixels are tested with the networks."""

import pytest
import torch

from lightpose.errors import UserError
from lightpose.models.preprocessors import StandardizeKeypoints


def test_places_are_standardised_and_confidences_stay() -> None:
    made = StandardizeKeypoints([[1.0, 2.0], [3.0, 4.0]], [[1.0, 2.0], [1.0, 4.0]])
    inputs = torch.tensor([[[[2.0, 4.0, 0.5], [3.0, 0.0, 0.25]]]])
    torch.testing.assert_close(made(inputs), torch.tensor([[[[1.0, 1.0, 0.5], [0.0, -1.0, 0.25]]]]))


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [([[0.0, 0.0]], [[1.0, 0.0]], "must be positive"), ([[0.0, 0.0]], [[1.0]], "two numbers for each keypoint")],
)
def test_bad_statistics_are_refused(mean: list[list[float]], std: list[list[float]], message: str) -> None:
    with pytest.raises(UserError, match=message):
        StandardizeKeypoints(mean, std)
