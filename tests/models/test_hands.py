"""InterNet's head and losses; tests/interop compares the whole network with recorded outputs."""

import torch

from lightpose.models.heads.hands import HandsHead
from lightpose.models.losses.hands import HandsLoss
from lightpose.structures import Spec, Targets

SPEC = Spec({"heatmap": (5, 6, 16, 12), "root_depth": (1,), "hands": (2,)}, (64, 48))


def head() -> HandsHead:
    torch.manual_seed(0)
    return HandsHead([8], [16], SPEC, HandsLoss(), channels=4, hidden=8, root_cells=10).eval()


def test_each_half_of_the_keypoints_has_its_own_layers():
    built, features = head(), [torch.randn(2, 8, 4, 3)]
    before = built(features)
    assert {name: tuple(output.shape) for name, output in before.items()} == {
        name: (2, *shape) for name, shape in SPEC.outputs.items()
    }
    torch.nn.init.ones_(built.left.final.bias)
    after = built(features)["heatmap"] - before["heatmap"]
    assert after[:, :3].abs().max() == 0
    torch.testing.assert_close(after[:, 3:], torch.ones_like(after[:, 3:]))


def test_root_depth_is_the_mean_place_in_a_softmax():
    built, features = head(), [torch.randn(1, 8, 4, 3)]
    last = built.root_depth[-1]
    torch.nn.init.zeros_(last.weight)
    last.bias.data = torch.log(torch.tensor([0, 0, 0, 0, 0, 0, 0, 0.25, 0, 0.75]) + 1e-12)
    torch.testing.assert_close(built(features)["root_depth"], torch.tensor([[0.35]]))  # 8.5 of 10 cells, less half


def test_losses_are_means_over_all_elements_of_what_has_a_weight():
    outputs = {
        "heatmap": torch.zeros(2, 5, 6, 16, 12),
        "root_depth": torch.tensor([[0.25], [0.1]]),
        "hands": torch.tensor([[0.0, 0.0], [9.0, 9.0]]),
    }
    maps = {
        "heatmap": torch.full((2, 5, 6, 16, 12), 3.0),
        "root_depth": torch.tensor([[-0.25], [0.0]]),
        "hands": torch.tensor([[1.0, 0.0], [0.0, 0.0]]),
    }
    first = torch.tensor([[1.0], [0.0]])
    weights = {"heatmap": first.expand(2, 5), "root_depth": first, "hands": first}
    losses = HandsLoss()(outputs, Targets(maps, weights))
    expected = {"heatmap": 4.5, "root_depth": 16.0, "hands": 0.5 * torch.log(torch.tensor(2.0)).item()}
    assert {name: round(value.item(), 5) for name, value in losses.items()} == {
        name: round(value, 5) for name, value in expected.items()
    }
