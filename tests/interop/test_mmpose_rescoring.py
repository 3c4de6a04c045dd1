"""DEKR's network that scores poses anew comes with a checkpoint that has it, for links that are known."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from torch import Tensor

import lightpose
from lightpose.interop.mmpose.build import build_like, resolved
from lightpose.interop.mmpose.config_names import config_of
from lightpose.interop.mmpose.configs import families, overrides, settings
from lightpose.interop.mmpose.convert import convert
from lightpose.interop.mmpose.rescoring import COCO, with_rescoring
from lightpose.interop.mmpose.settings import Settings
from lightpose.interop.mmpose.tested import differences

NAMES = {"coco": "dekr_hrnet-w32_8xb10-140e_coco-512x512", "crowdpose": "dekr_hrnet-w32_8xb10-300e_crowdpose-512x512"}


def first_layer(inputs: int) -> dict[str, Tensor]:
    return {"head.rescore_net.l1.weight": torch.zeros(256, inputs)}


@pytest.mark.parametrize(("data_set", "inputs", "norm"), [("coco", 74, [5, 6]), ("crowdpose", 59, [0, 1])])
def test_links_follow_from_keypoints_and_are_told_as_a_command_takes_them(
    data_set: str, inputs: int, norm: list[int]
) -> None:
    plain = config_of(NAMES[data_set])
    config = with_rescoring(plain, first_layer(inputs))
    [given] = [each for each in overrides(config) if each.startswith("head.rescoring=")]
    found: Any = OverridesParser.create().parse_override(given).value()
    assert found["norm"] == norm and 3 * len(found["links"]) + plain["model"]["head"]["num_keypoints"] == inputs
    assert not differences(config, settings(config))
    for other in (with_rescoring(plain, first_layer(inputs - 3)), with_rescoring(plain, {})):
        assert other is plain
    assert with_rescoring(config_of("td-hm_res50_8xb64-210e_coco-256x192"), first_layer(74))["model"]


def test_the_links_of_coco_stand_in_the_order_of_its_skeleton() -> None:
    skeleton = resolved(Settings({"skeleton": "coco17"}))["skeleton"]
    assert [[skeleton["keypoints"][end] for end in link] for link in COCO] == skeleton["links"]


def test_poses_of_a_converted_checkpoint_are_scored_anew_if_it_has_the_network(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = config_of(NAMES["coco"])
    config["model"]["backbone"] = {"type": "ResNet", "depth": 18}
    config["codec"] |= {"input_size": [64, 64], "heatmap_size": [16, 16]}
    parts, net = families(config), build_like(with_rescoring(config, first_layer(74))).net
    state = {
        f"{part}.{family.published(name)}": value
        for part, family in parts.items()
        for name, value in net.get_submodule(part).state_dict().items()
    }
    draw = torch.Generator().manual_seed(0)
    network = {name: torch.randn(each.shape, generator=draw) for name, each in state.items() if "rescore" in name}
    assert len(network) == 6
    outputs = {"heatmap": torch.rand(2, 18, 16, 16, generator=draw)}
    outputs["displacement"] = 5 * torch.randn(2, 17, 2, 16, 16, generator=draw)
    found, seen = [], []
    for tensors in ({**state, **network}, {name: each for name, each in state.items() if name not in network}):
        torch.save({"state_dict": tensors, "meta": {"cfg": config}}, tmp_path / "a.pth")
        convert(tmp_path / "a.pth", tmp_path / "a.ckpt", overwrite=True)
        assert ("MMPose scores them anew" in caplog.text) == bool(found)
        codec: Any = lightpose.load(tmp_path / "a.ckpt").codec
        if not found:
            codec.rescoring.register_forward_hook(lambda _, given, factors: seen.append(given))
        found.append(codec.candidates(outputs))
    (anew, plain), [(keypoints, scores)] = found, seen
    ways = torch.stack([keypoints[:, :, first] - keypoints[:, :, second] for first, second in COCO], 2)
    lengths = ways.norm(dim=-1)
    size = lengths[..., 5:7].mean(-1, keepdim=True).clamp_min(1)
    layer = torch.cat([ways.flatten(2) / size, lengths / size, scores], -1)
    for number in (1, 2, 3):
        weight, bias = (network[f"head.rescore_net.l{number}.{kind}"] for kind in ("weight", "bias"))
        layer = (layer @ weight.T + bias).clamp_min(0)
    assert torch.equal(anew["keypoints"], plain["keypoints"]) and torch.equal(anew["valid"], plain["valid"])
    torch.testing.assert_close(anew["keypoint_scores"], plain["keypoint_scores"] * layer, rtol=1e-3, atol=1e-3)
    assert not torch.equal(anew["keypoint_scores"], plain["keypoint_scores"])
