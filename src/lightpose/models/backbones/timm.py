"""Any model of the timm library as a backbone."""

import difflib
import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
from timm.models import build_model_with_cfg
from torch import Tensor, nn

from lightpose.errors import UserError
from lightpose.models.base import FeatureModule
from lightpose.models.weights import load_weights


class TimmBackbone(FeatureModule):
    """A timm model without its classifier: normalised (B, 3, H, W) images to a list of (B, C, h, w) maps.

    Layers behind the deepest map asked for don't exist.

    Args:
        model: timm's name, e.g. ``resnet50`` or ``resnet50.tv_in1k`` (the part behind the dot names the weights).
        pretrained: start from timm's weights. They are downloaded once.
        weights: start from this file instead, in timm's naming (`lightpose.models.weights.load_weights`).
        out_indices: which maps to give, as timm counts them; negative ones count from the end. None gives one for every
            stride from 4 on: the deepest.
        input_hw: input size, for models that are built for one (ViT, Swin).
        drop_path_rate: stochastic depth (arXiv:1603.09382); None leaves the model's own default, and is needed for
            models without it.
        final_norm: pass the deepest map (in plain transformers: every map) through the model's last norm layer, if it
            has one.
        model_args: further arguments of the timm model, but for those that say where weights come from.

    Raises:
        UserError: for an unknown model or argument, an index that isn't there, or weights that can't be had.
    """

    def __init__(
        self,
        model: str,
        *,
        pretrained: bool = False,
        weights: str | Path | None = None,
        out_indices: Sequence[int] | None = (-1,),
        input_hw: Sequence[int] | None = None,
        drop_path_rate: float | None = None,
        final_norm: bool = True,
        model_args: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        _check_name(model)
        _check_args(model_args or {})
        options = {"drop_path_rate": drop_path_rate, **(model_args or {})}
        if input_hw is not None and _has_fixed_size(model):
            options["img_size"] = tuple(input_hw)
        self.model = create_timm(model, pretrained=pretrained and weights is None, **options)
        if weights is not None:
            load_weights(self.model, weights)

        info = list(self.model.feature_info)
        self.out_indices = select_levels(out_indices, [level["reduction"] for level in info])
        self.out_channels = tuple(info[i]["num_chs"] for i in self.out_indices)
        self.strides = tuple(info[i]["reduction"] for i in self.out_indices)
        self.final_norm = final_norm
        self.model.prune_intermediate_layers(list(self.out_indices), prune_norm=not final_norm)
        if hasattr(self.model, "head"):  # some keep a norm layer in it, which DDP would find unused
            self.model.head = nn.Identity()

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) to the maps of ``out_indices``."""
        maps: list[Tensor] = self.model.forward_intermediates(
            images, indices=list(self.out_indices), norm=self.final_norm, intermediates_only=True
        )
        return maps


def create_timm(model: str, pretrained: bool = False, **options: Any) -> Any:
    """A timm model without classifier.

    Raises:
        UserError: for a name or an option that timm doesn't know, or weights that can't be downloaded.
    """
    try:
        return timm.create_model(model, pretrained=pretrained, num_classes=0, **options)
    except TypeError as error:
        raise UserError(
            f"timm's {model} was given {', '.join(options)} but refuses: {error}; remove the option "
            "(null leaves backbone.drop_path_rate out)"
        ) from error
    except Exception as error:  # the hub client passes on whatever its HTTP library raises
        if not pretrained:
            raise
        raise UserError(
            f"the pretrained weights of {model} can't be had: {type(error).__name__}: {str(error).splitlines()[0]}; "
            "connect this machine to the internet, or load a file with backbone.weights=FILE, or start from random "
            "weights with backbone.pretrained=false"
        ) from error


def select_levels(out_indices: Sequence[int] | None, strides: Sequence[int]) -> tuple[int, ...]:
    """Ascending, non-negative indices of the levels to give; None takes the deepest of every stride from 4 on.

    Raises:
        UserError: for an index that isn't there, or none at all.
    """
    count = len(strides)
    if out_indices is None:
        return tuple(i for i in range(count) if strides[i] >= 4 and (i == count - 1 or strides[i + 1] > strides[i]))
    chosen = sorted({i + count if i < 0 else i for i in out_indices})
    if not chosen or not 0 <= chosen[0] <= chosen[-1] < count:
        raise UserError(
            f"backbone.out_indices={list(out_indices)}, but there are {count} maps with strides {list(strides)}; "
            f"choose from 0 to {count - 1}, or null for all"
        )
    return tuple(chosen)


def _check_name(model: str) -> None:
    if ":" in model:
        raise UserError(
            f"backbone.model={model} would ask the network, or read a folder, whenever a checkpoint is loaded; give "
            "the name of a model of timm, and its weights as a file with backbone.weights=FILE"
        )
    if timm.is_model(model):
        return
    near = difflib.get_close_matches(model.partition(".")[0], timm.list_models(), n=4)
    hint = f"the nearest names are {', '.join(near)}" if near else "python -c 'import timm; print(timm.list_models())'"
    raise UserError(f"timm has no model {model!r}; {hint}")


def _check_args(model_args: Mapping[str, Any]) -> None:
    """Leave to timm's own options nothing that reads a file or asks the network."""
    own = {**inspect.signature(timm.create_model).parameters, **inspect.signature(build_model_with_cfg).parameters}
    refused = sorted((own.keys() - {"kwargs"}) & model_args.keys())
    if refused:
        raise UserError(
            f"backbone.model_args holds {', '.join(refused)}, but takes only what shapes the model; weights come from "
            "backbone.pretrained=true or backbone.weights=FILE"
        )


def _has_fixed_size(model: str) -> bool:
    config = timm.get_pretrained_cfg(model)
    return config is not None and bool(config.fixed_input_size)
