"""What the optimizer gets: parameter groups, and learning rates that change with every step."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatch
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Timer
from timm.models import group_parameters
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from lightpose.errors import UserError


def parameter_groups(
    net: nn.Module,
    lr: float,
    weight_decay: float,
    layer_decay: float = 1.0,
    decay_norm_and_bias: bool = False,
    lr_factors: Mapping[str, float] | None = None,
) -> list[dict[str, Any]]:
    """Groups of a network's trainable parameters, each with ``name``, ``lr``, ``weight_decay`` and ``params``.

    Position embeddings and tokens never decay, nor does what a part of the network lists in ``no_weight_decay()``.

    Args:
        net: with ``backbone`` as one of its parts.
        lr: learning rate of the head; without layer decay, of all parameters.
        weight_decay: of the weights.
        layer_decay: factor on the learning rate from one layer of the backbone to the one before (arXiv:2106.08254):
            of L layers, layer l learns with ``lr * layer_decay ** (L - l)``, the stem being layer 0.
        decay_norm_and_bias: let norms, biases and other one-dimensional parameters decay, too.
        lr_factors: pattern → one more factor on the learning rate of the parameters that it names, see
            `freeze`; of several patterns the last counts.

    Raises:
        UserError: when layer decay is asked for, but the backbone doesn't say what its layers are; and when nothing is
            left to train.
    """
    exempt = _exempt_names(net)
    layers = _layers(net) if layer_decay != 1 else {}
    last = max(layers.values(), default=-1) + 1
    factors = lr_factors or {}
    patterns = ["", *factors]
    groups: dict[tuple[int, int, bool], dict[str, Any]] = {}
    for name, parameter in net.named_parameters():
        if not parameter.requires_grad:
            continue
        decays = not any(fnmatch(name, pattern) for pattern in exempt) and (decay_norm_and_bias or parameter.ndim > 1)
        layer = layers.get(name, last)
        pattern = _last_pattern(name, factors)
        key = (layer, patterns.index(pattern), decays)
        if key not in groups:
            where = "" if not layers else "head/" if layer == last else f"layer{layer}/"
            where += f"{pattern}/" if pattern else ""
            groups[key] = {
                "name": f"{where}{'decay' if decays else 'no_decay'}",
                "lr": lr * layer_decay ** (last - layer) * factors.get(pattern, 1.0),
                "weight_decay": weight_decay if decays else 0.0,
                "params": [],
            }
        groups[key]["params"].append(parameter)
    if not groups:
        raise UserError("no weight is left to train; give fewer parts the factor 0 in estimator.lr_factors")
    return [groups[key] for key in sorted(groups)]


def _names(pattern: str, name: str) -> bool:
    """Whether a pattern, such as ``backbone`` or ``*.bias``, means a parameter or module, or one that holds it."""
    return fnmatch(name, pattern) or fnmatch(name, f"{pattern}.*")


def _last_pattern(name: str, patterns: Iterable[str]) -> str:
    """The last pattern that means a parameter or module; empty if none does."""
    return ([""] + [pattern for pattern in patterns if _names(pattern, name)])[-1]


def freeze(net: nn.Module, lr_factors: Mapping[str, float]) -> list[str]:
    """Let parameters whose factor is 0 be, and put modules of which nothing else is left into evaluation mode.

    Args:
        net: changed in place.
        lr_factors: pattern → factor on the learning rate. A pattern is the name of a parameter, or of a module that
            holds it, and may have wildcards as file names do.

    Returns:
        Names of the modules to keep in evaluation mode, so that statistics of batch norms stay as they are.

    Raises:
        UserError: for a pattern that names neither parameter nor module, and for a factor below 0.
    """
    parameters = [name for name, _ in net.named_parameters()]
    named = {*parameters, *(name for name, _ in net.named_modules() if name)}  # such as a neck without weights
    for pattern, factor in lr_factors.items():
        if not factor >= 0:
            raise UserError(f"estimator.lr_factors gives {pattern} the factor {factor}; give 0 or more")
        if not any(_names(pattern, name) for name in named):
            first = dict.fromkeys(".".join(name.split(".")[:2]) for name in parameters)
            raise UserError(
                f"estimator.lr_factors: {pattern} names no weight; the network's begin with {', '.join([*first][:12])}"
            )

    factors = {"": 1.0, **lr_factors}
    for name, parameter in net.named_parameters():
        if not factors[_last_pattern(name, lr_factors)]:
            parameter.requires_grad_(False)
    still = [
        name
        for name, part in net.named_modules()
        if not factors[_last_pattern(name, lr_factors)] and not any(each.requires_grad for each in part.parameters())
    ]
    for name in still:
        net.get_submodule(name).eval()
    return still


def _exempt_names(net: nn.Module) -> list[str]:
    """Patterns of the parameters that never decay."""
    exempt = ["*pos_embed", "*cls_token"]
    for prefix, part in net.named_modules():
        listed = getattr(part, "no_weight_decay", None)
        if listed is not None:
            exempt += [f"{prefix}.{name}".lstrip(".") for name in listed()]
    return exempt


def _layers(net: nn.Module) -> dict[str, int]:
    """Parameter of the backbone → its layer, counted from the stem."""
    for prefix, part in net.named_modules():
        matcher = getattr(part, "group_matcher", None)
        if matcher is not None and prefix.split(".")[0] == "backbone":
            grouped: dict[str, int] = group_parameters(part, matcher(coarse=False), reverse=True)
            return {f"{prefix}.{name}": layer for name, layer in grouped.items()}
    raise UserError(
        f"estimator.layer_decay needs a backbone that knows its layers, and {type(net.backbone).__name__} doesn't; use "
        "backbone=vit_base or one of backbone=timm/..., or set estimator.layer_decay=1"
    )


def check_restored(optimizer: Optimizer, scheduler: LRScheduler) -> None:
    """Refuse a checkpoint's states if they don't fit: a fused optimizer would read past the end of a tensor.

    Raises:
        UserError: naming what doesn't fit.
    """
    advice = "start a new run from it with init_from="
    misfits = [
        f"{key} of shape {tuple(value.shape)} for a parameter of shape {tuple(parameter.shape)}"
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
        if isinstance(value, Tensor) and value.shape != (() if key == "step" else parameter.shape)
    ]
    if misfits and any(group.get("fused") for group in optimizer.param_groups):
        raise UserError(f"the checkpoint's optimizer holds a {misfits[0]}; {advice}")
    settings = [("optimizer", {**group, "params": None}) for group in optimizer.param_groups]
    for owner, values in [*settings, ("schedule", scheduler.state_dict())]:
        odd = [key for key, value in values.items() if not _is_setting(value)]
        if odd:
            raise UserError(f"the checkpoint's {owner} holds something else than numbers as {odd[0]}; {advice}")


def _is_setting(value: Any) -> bool:
    """Whether a value is a number, text or flag, or several of them, as options of optimizers and schedules are."""
    if isinstance(value, dict):
        return all(map(_is_setting, value.values()))
    if isinstance(value, (list, tuple)):
        return all(map(_is_setting, value))
    return value is None or isinstance(value, (bool, int, float, str))


CLOCK_STEPS = 10_000
"""Steps that a schedule counts in a run of which only the time is known."""


def time_share(trainer: L.Trainer) -> float | None:
    """Share of ``trainer.max_time`` that has gone, the same in all processes; None for a run without."""
    seconds = seconds_gone_and_left(trainer)
    if seconds is None:
        return None
    gone, left = seconds
    share: float = trainer.strategy.broadcast(min(gone / max(gone + left, 1e-9), 1.0))
    return share


def seconds_gone_and_left(trainer: L.Trainer) -> tuple[float, float] | None:
    """Of ``trainer.max_time``, by the clock of this process; None for a run without."""
    timer = next((each for each in trainer.callbacks if isinstance(each, Timer)), None)  # type: ignore[attr-defined]
    left = None if timer is None else timer.time_remaining()
    return None if timer is None or left is None else (timer.time_elapsed(), left)


def warmup_multistep(
    optimizer: Optimizer,
    total_steps: int,
    warmup_steps: int = 500,
    warmup_start: float = 0.001,
    max_warmup_share: float = 0.1,
    milestones: Sequence[float] = (170 / 210, 200 / 210),
    gamma: float = 0.1,
) -> LRScheduler:
    """Linear warm-up, then a constant rate that drops at milestones; step it once per optimizer step.

    Args:
        optimizer: its groups' learning rates are the peaks.
        total_steps: length of the run.
        warmup_steps: length of the warm-up.
        warmup_start: factor on the learning rate at the first step.
        max_warmup_share: the warm-up takes at most this share of the run.
        milestones: shares of the run after which the learning rate drops.
        gamma: factor of a drop.
    """
    _check_shares("milestones", milestones)
    drops = [round(share * total_steps) for share in milestones]

    def curve(step: int, warmup: int) -> float:
        return gamma ** sum(step >= drop for drop in drops)

    return _after_warmup(optimizer, total_steps, warmup_steps, warmup_start, max_warmup_share, curve)


def warmup_cosine(
    optimizer: Optimizer,
    total_steps: int,
    warmup_steps: int = 500,
    warmup_start: float = 0.001,
    max_warmup_share: float = 0.1,
    final: float = 0.0,
) -> LRScheduler:
    """Linear warm-up, then half a cosine over the rest of the run; step it once per optimizer step.

    Args:
        optimizer: its groups' learning rates are the peaks.
        total_steps: length of the run.
        warmup_steps: length of the warm-up.
        warmup_start: factor on the learning rate at the first step.
        max_warmup_share: the warm-up takes at most this share of the run.
        final: factor on the learning rate at the end.
    """

    def curve(step: int, warmup: int) -> float:
        done = min(max(step - warmup, 0) / max(total_steps - warmup, 1), 1.0)
        return final + (1 - final) * (1 + math.cos(math.pi * done)) / 2

    return _after_warmup(optimizer, total_steps, warmup_steps, warmup_start, max_warmup_share, curve)


def quadratic_warmup_cosines(
    optimizer: Optimizer,
    total_steps: int,
    warmup: float = 1 / 60,
    ends: Sequence[float] = (14 / 15,),
    peaks: Sequence[float] = (1.0,),
    final: float = 0.05,
) -> LRScheduler:
    """Quadratic warm-up, one half cosine after another, then a constant rate; step it once per optimizer step.

    So YOLOX learns (arXiv:2107.08430), and RTMO with a second cosine (arXiv:2312.07526).

    Args:
        optimizer: its groups' learning rates are the peaks.
        total_steps: length of the run.
        warmup: share of the run.
        ends: of the cosines, as shares of the run.
        peaks: factor on the learning rate where each begins.
        final: factor where each ends, and until the end of the run.
    """
    _check_shares("ends", ends)
    _check_shares("warmup", [warmup])
    if len(ends) != len(peaks) or list(ends) != sorted(ends):
        raise UserError(
            f"scheduler.ends={list(ends)} must increase and have one of scheduler.peaks={list(peaks)} each, such as "
            "ends=[0.47,0.97] peaks=[1,0.125]"
        )

    def factor(step: int) -> float:
        done, start = step / max(total_steps, 1), warmup
        if done < warmup:
            return peaks[0] * min((step + 1) / (warmup * total_steps), 1.0) ** 2
        for end, peak in zip(ends, peaks, strict=True):
            if done < end:
                return final + (peak - final) * (1 + math.cos(math.pi * (done - start) / (end - start))) / 2
            start = end
        return final

    return LambdaLR(optimizer, factor)


def exponential(optimizer: Optimizer, total_steps: int, final: float = 0.0174) -> LRScheduler:
    """A rate that falls by the same factor in each step; step it once per optimizer step.

    Args:
        optimizer: its groups' learning rates are those of the first step.
        total_steps: length of the run.
        final: factor on the learning rate at the end.
    """
    if not 0 < final <= 1:
        raise UserError(f"scheduler.final={final} must be above 0, and 1 at most; 0.0174 is the published value")
    return LambdaLR(optimizer, lambda step: final ** (step / max(total_steps, 1)))


def _after_warmup(
    optimizer: Optimizer,
    total_steps: int,
    warmup_steps: int,
    warmup_start: float,
    max_warmup_share: float,
    curve: Callable[[int, int], float],
) -> LRScheduler:
    """Learning rates of ``curve(step, length of the warm-up)``, times a factor that rises linearly to 1 at first."""
    _check_shares("max_warmup_share", [max_warmup_share])
    length = min(warmup_steps, int(total_steps * max_warmup_share))

    def factor(step: int) -> float:
        rise = 1.0 if step >= length else warmup_start + (1 - warmup_start) * step / length
        return rise * curve(step, length)

    return LambdaLR(optimizer, factor)


def _check_shares(option: str, shares: Sequence[float]) -> None:
    if not all(0 <= share <= 1 for share in shares):
        raise UserError(
            f"scheduler.{option} is {list(shares)}, but counts in shares of the run; give numbers from 0 to 1"
        )
