import pytest
import timm
import torch
from recorded import record, recorded_input, relative_error, weight

from lightpose.errors import UserError
from lightpose.models.backbones.hrnet import HRNet


@pytest.mark.parametrize("width", [32, 48])
def test_matches_the_published_network(width: int) -> None:
    case = record(f"hrnet_w{width}")
    net = HRNet(width).eval()
    state = {name: weight(f"backbone.{name}", tuple(value.shape)) for name, value in net.state_dict().items()}
    net.load_state_dict(state)
    with torch.inference_mode():
        (features,) = net(recorded_input(case["input"]))
    assert relative_error(features, case["features"][0]) < 1e-5
    assert sum(parameter.numel() for parameter in net.parameters()) == case["params"]


def test_takes_every_tensor_from_published_classification_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    published = timm.create_model("hrnet_w18", num_classes=0)
    monkeypatch.setattr(timm, "create_model", lambda model, pretrained, num_classes: published)
    ours, theirs = HRNet(18, out_indices=None, pretrained=True).state_dict(), published.state_dict()
    assert all(torch.equal(theirs[name], value) for name, value in ours.items())


@pytest.mark.parametrize("out_indices", [(0,), (-1,), (1, 2), None])
def test_shapes_and_no_unused_parameter(out_indices: tuple[int, ...] | None) -> None:
    net = HRNet(18, out_indices=out_indices)
    maps = net(torch.randn(2, 3, 64, 96))
    shapes = [tuple(feature.shape[1:]) for feature in maps]
    assert shapes == [(c, 64 // s, 96 // s) for c, s in zip(net.out_channels, net.strides, strict=True)]
    assert len(maps) == (4 if out_indices is None else len(out_indices))
    sum(feature.sin().sum() for feature in maps).backward()
    assert not [name for name, parameter in net.named_parameters() if parameter.grad is None]


def test_refuses_an_index_that_is_not_there_and_an_input_that_does_not_halve() -> None:
    with pytest.raises(UserError, match=r"there are 4 maps with strides \[4, 8, 16, 32\]"):
        HRNet(18, out_indices=(4,))
    with pytest.raises(UserError, match=r"input_hw=\[100, 96\] must divide by 32"):
        HRNet(18, input_hw=[100, 96])
