from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from lightpose.errors import UserError
from lightpose.models.weights import load_weights


class Net(nn.Module):
    def __init__(self, keypoints: int) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.head = nn.Conv2d(4, keypoints, 1)


def test_a_head_of_another_width_is_left_alone_and_reported(tmp_path: Path) -> None:
    source, net = Net(17), Net(5)
    before = net.head.weight.clone()
    torch.save(
        {"state_dict": {f"net.{name}": value for name, value in source.state_dict().items()}}, tmp_path / "a.ckpt"
    )
    report = load_weights(net, tmp_path / "a.ckpt")
    assert torch.equal(net.backbone[0].weight, source.backbone[0].weight)
    assert torch.equal(net.head.weight, before)
    assert report.missing == ("head.weight", "head.bias")
    assert report.skipped["net.head.bias"] == "shape (17,) in the file, (5,) in the model"
    assert str(report).splitlines() == [
        f"loaded 7 of 9 tensors from {tmp_path / 'a.ckpt'}",
        "  2 keep their initial values: head.weight, head.bias",
        "  2 in the file skipped: net.head.weight (shape (17, 4, 1, 1) in the file, (5, 4, 1, 1) in the model), "
        "net.head.bias (shape (17,) in the file, (5,) in the model)",
    ]


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"model": state, "epoch": 3},
        lambda state: {"state_dict": {f"module.{name}": value for name, value in state.items()}},
        lambda state: {"module": {f"backbone.{name}": value for name, value in state.items()}},
        lambda state: (
            {f"net.backbone.{name}": value for name, value in state.items()} | {"net.head.bias": torch.ones(2)}
        ),
    ],
)
def test_usual_wrappers_and_prefixes(tmp_path: Path, wrap: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    source, target = Net(2).backbone, Net(2).backbone
    torch.save(wrap(source.state_dict()), tmp_path / "a.pth")
    report = load_weights(target, tmp_path / "a.pth")
    assert not report.missing
    assert all(torch.equal(value, source.state_dict()[name]) for name, value in target.state_dict().items())


def test_a_given_prefix_is_the_only_one_tried(tmp_path: Path) -> None:
    state = {f"student.{name}": value for name, value in Net(2).state_dict().items()}
    torch.save(state, tmp_path / "a.pth")
    assert not load_weights(Net(2), tmp_path / "a.pth", prefix="student.").missing
    with pytest.raises(UserError, match="no tensor of"):
        load_weights(Net(2), tmp_path / "a.pth", prefix="teacher.")


def test_safetensors(tmp_path: Path) -> None:
    source = Net(2)
    save_file(source.state_dict(), tmp_path / "a.safetensors")
    assert not load_weights(Net(2), tmp_path / "a.safetensors").missing


def test_nothing_fits_names_both_sides(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "a.pth")
    with pytest.raises(UserError, match=r"the file has weight, bias, the model backbone.0.weight, .*same architecture"):
        load_weights(Net(2), tmp_path / "a.pth")


class Code:
    pass


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: None, "does not exist"),
        (lambda path: path.write_bytes(b"<html>not found</html>"), "damaged or holds more than plain data"),
        (lambda path: path.write_bytes(b""), "can't be read"),
        (lambda path: torch.save({"state_dict": {}, "meta": Code()}, path), "could run code"),
        (lambda path: torch.save({"epoch": 3}, path), "holds no named tensors"),
        (lambda path: torch.save(torch.ones(2), path), "holds no named tensors"),
    ],
)
def test_unusable_files(tmp_path: Path, write: Callable[[Path], None], message: str) -> None:
    path = tmp_path / "a.pth"
    write(path)
    with pytest.raises(UserError, match=message):
        load_weights(Net(2), path)
    save = tmp_path / "a.safetensors"
    save.write_bytes(b"broken")
    with pytest.raises(UserError, match="can't be read"):
        load_weights(Net(2), save)


class Wrapped(nn.Module):
    """A backbone that wraps another library's, as those of timm are."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Module()
        self.backbone.model = Net(2).backbone
        self.head = nn.Conv2d(4, 2, 1)


@pytest.mark.parametrize("start", ["", "module.", "backbone.", "model.", "module.backbone.", "student._orig_mod.net."])
def test_prefixes_of_the_file_and_of_the_model_may_differ(tmp_path: Path, start: str) -> None:
    """Weights of a backbone go into a backbone that is wrapped, alone or inside a whole network, and come out again."""
    source, whole = Net(2).backbone, Wrapped()
    torch.save(
        {"model": {"state_dict": {start + name: value for name, value in source.state_dict().items()}}},
        tmp_path / "a.pth",
    )
    report = load_weights(whole, tmp_path / "a.pth")
    assert report.missing == ("head.weight", "head.bias") and not report.skipped
    assert torch.equal(whole.backbone.model[0].weight, source[0].weight)  # type: ignore[index]
    torch.save(whole.state_dict(), tmp_path / "b.pth")
    bare = Net(2).backbone
    assert not load_weights(bare, tmp_path / "b.pth").missing
    assert torch.equal(bare[0].weight, source[0].weight)
