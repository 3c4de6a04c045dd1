"""VideoPose3D with a part of the sequences labelled: targets, losses, and learning from where keypoints are seen."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import nn

from lightpose import testing
from lightpose.codecs.trajectory import TrajectoryCodec
from lightpose.data.pixels.device import collate
from lightpose.data.sequences import MirrorSequence, PoseSequences
from lightpose.data.synthetic.sequences import PARENTS, generate_sequences
from lightpose.estimators.lifter import PoseLifter
from lightpose.models.backbones.tcn import PoseAndTrajectory
from lightpose.models.heads.trajectory import TrajectoryHead
from lightpose.models.losses.lifting import HalfSupervised
from lightpose.models.necks.identity import AllLevels
from lightpose.structures import Batch, Targets

H36M = instantiate(OmegaConf.load(Path(__file__).parents[2] / "conf/skeleton/h36m.yaml"))


def lifter(frames: int = 9) -> PoseLifter:
    made = testing.model(
        partial(TrajectoryHead, criterion=HalfSupervised(PARENTS)),
        TrajectoryCodec,
        input_hw=None,
        skeleton=H36M,
        kind=PoseLifter,
        backbone=partial(PoseAndTrajectory, frames=frames, width=64, dropout=0.0),
        neck=AllLevels,
        preprocessor=nn.Identity(),
    )
    assert isinstance(made, PoseLifter)
    return made


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> dict[str, PoseSequences]:
    """A labelled file, and one with the labels of which only the test is told."""
    folder = tmp_path_factory.mktemp("moving")
    found = {}
    for name, seed, count in (("labelled", 0, 2), ("others", 1, 6)):
        path = generate_sequences(folder / name, count, seed)
        found["truth" if name == "others" else name] = PoseSequences(path, frames=9, skeleton=H36M)
        if name == "others":
            with np.load(path) as file:
                np.savez(path, imgname=file["imgname"], part=file["part"])
            found[name] = PoseSequences(path, frames=9, skeleton=H36M)
    return found


def batch_of(dataset: PoseSequences, rows: np.ndarray) -> Batch:
    return collate([dataset[int(row)] for row in rows])


def joined(labelled: Batch, others: Batch) -> Batch:
    columns = iter(others.leaves())
    return labelled.map(lambda column: torch.cat([column, next(columns)]))


def test_targets_say_where_the_keypoints_of_unlabelled_samples_are_seen(clips):
    codec = lifter().codec
    batch = joined(batch_of(clips["labelled"], np.arange(3)), batch_of(clips["others"], np.arange(4)))
    targets = codec.encode(batch)
    assert (targets.weights["joints"].amax(1) > 0).tolist() == [True] * 3 + [False] * 4
    assert (targets.weights["points"].amin(1) > 0).tolist() == [False] * 3 + [True] * 4
    assert (targets.weights["root"] > 0).tolist() == [True] * 3 + [False] * 4
    focal, center = targets.maps["camera"][:, None].split(2, -1)
    joints = targets.maps["joints"] + targets.maps["root"][:, None]
    seen = focal * joints[..., :2] / joints[..., 2:] + center
    torch.testing.assert_close(seen[:3], targets.maps["points"][:3], atol=1e-4, rtol=0)
    distance = batch.instances.keypoints[:3, 0, 0, 2] / 1000
    torch.testing.assert_close(targets.weights["root"][:3], 1 / distance)
    without = codec.encode(replace(batch, cameras=None))
    assert not without.weights["points"].any() and not without.weights["camera"].any()


def test_the_truth_has_no_loss_mirrored_or_not(clips):
    """With the joints of unlabelled samples in place of predicted ones, nothing is left to learn but bone lengths."""
    codec, criterion = lifter().codec, HalfSupervised(PARENTS)
    for mirrored in (0.0, 1.0):
        mirror, draw = MirrorSequence(H36M, mirrored), np.random.default_rng(0)
        known, asked, truth = (
            collate([mirror(clips[name][row], draw) for row in range(0, 100, 20)])
            for name in ("labelled", "others", "truth")
        )
        exact = codec.encode(joined(known, truth)).maps
        targets = codec.encode(joined(known, asked))
        losses = criterion({name: exact[name] for name in ("joints", "root")}, targets)
        assert losses["joints"] == 0 and losses["root"] == 0
        assert losses["projection"] < 1e-4
        assert 0 < losses["bone"] < 0.1  # two builds


def targets_of(labelled: list[bool]) -> tuple[dict, Targets]:
    draw = torch.Generator().manual_seed(0)
    count = len(labelled)
    known = torch.tensor(labelled, dtype=torch.float64)
    outputs = {
        "joints": torch.randn(count, 17, 3, generator=draw, dtype=torch.float64).requires_grad_(),
        "root": (torch.randn(count, 3, generator=draw, dtype=torch.float64) + torch.tensor([0, 0, 4])).requires_grad_(),
    }
    maps = {name: torch.randn(each.shape, generator=draw, dtype=torch.float64) for name, each in outputs.items()}
    maps["points"] = torch.randn(count, 17, 2, generator=draw, dtype=torch.float64)
    maps["camera"] = torch.tensor([[2.2, 2.2, 0.01, 0.02]], dtype=torch.float64).expand(count, 4)
    weights = {
        "joints": known[:, None].expand(count, 17),
        "root": known / 4,
        "points": 1 - known[:, None].expand(count, 17),
        "camera": torch.ones_like(known),
    }
    return outputs, Targets(maps, weights)


@pytest.mark.parametrize("labelled", [[True, True], [False, False], [True, False, False]])
def test_each_loss_is_for_its_samples(labelled):
    outputs, targets = targets_of(labelled)
    losses = HalfSupervised(PARENTS).double()(outputs, targets)
    for name, of_labelled in (("joints", True), ("root", True), ("projection", False)):
        (gradient,) = torch.autograd.grad(
            losses[name], outputs["root" if name == "root" else "joints"], retain_graph=True
        )
        assert (gradient.flatten(1).abs().sum(1) > 0).tolist() == [each is of_labelled for each in labelled]
    assert (losses["bone"] > 0) == (len(set(labelled)) == 2)
    mean = (outputs["joints"] - targets.maps["joints"])[labelled].norm(dim=-1).mean() if any(labelled) else 0
    assert float(losses["joints"].detach()) == pytest.approx(
        float(torch.as_tensor(mean).detach())
    )  # whatever the share of unlabelled samples


def test_the_gradient_is_that_of_finite_differences():
    outputs, targets = targets_of([True, False, False])

    def losses(joints, root):
        return sum(HalfSupervised(PARENTS).double()({"joints": joints, "root": root}, targets).values())

    assert torch.autograd.gradcheck(losses, (outputs["joints"], outputs["root"]), fast_mode=True)


def test_behind_the_camera_a_gradient_is_finite():
    outputs, targets = targets_of([True, False])
    near = {name: output.detach() * 0 for name, output in outputs.items()}
    near = {name: output.requires_grad_() for name, output in near.items()}
    sum(HalfSupervised(PARENTS).double()(near, targets).values()).backward()
    assert all(output.grad.isfinite().all() for output in near.values())


def test_unlabelled_sequences_are_learnt_from(clips):
    """Their loss falls, and so does the error of their joints, which nobody told: more than with labels alone."""
    draw = np.random.default_rng(0)
    batches = [
        joined(
            batch_of(clips["labelled"], draw.integers(0, 200, 32)), batch_of(clips["others"], draw.integers(0, 600, 32))
        )
        for _ in range(20)
    ]
    asked, truth = (batch_of(clips[name], np.arange(0, 600, 7)) for name in ("others", "truth"))
    errors, unlabelled = {}, {}
    for kind in ("labels", "both"):
        estimator = lifter()
        optimizer = torch.optim.Adam(estimator.parameters(), 3e-3)
        if kind == "labels":
            estimator.net.head.criterion = HalfSupervised(PARENTS, projection=0, bone=0)
        measure = HalfSupervised(PARENTS)
        for step in range(161):
            if step in (0, 160):
                estimator.eval()
                with torch.no_grad():
                    outputs = estimator.outputs(asked.inputs)
                    loss = measure(outputs, estimator.codec.encode(asked))["projection"]
                    found = 1000 * (outputs["joints"] - outputs["joints"][:, :1])
                    wanted = truth.instances.keypoints[:, 0] - truth.instances.keypoints[:, 0, :1]
                    errors[kind, step] = float((found - wanted).norm(dim=-1).mean())
                    unlabelled[kind, step] = float(loss)
                estimator.train()
            optimizer.zero_grad()
            estimator.losses(batches[step % 20])["loss"].backward()
            optimizer.step()
    assert unlabelled["both", 160] < 0.2 * unlabelled["both", 0]
    assert unlabelled["both", 160] < 0.5 * unlabelled["labels", 160]
    assert errors["both", 160] < 0.9 * errors["labels", 160]
