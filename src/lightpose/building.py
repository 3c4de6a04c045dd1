"""Builds what the configuration in a file describes, once it is known to name nothing but parts."""

from collections.abc import Mapping, Sequence
from typing import Any

from lightpose.data.pipeline import LISTS, Pipeline
from lightpose.data.pixels.crop import Warp
from lightpose.errors import UserError, in_short
from lightpose.trust import NETWORK, TRANSFORMS, Trust, check_targets, plain


def section(config: Any, *keys: str) -> dict[str, Any]:
    """The mapping under ``keys`` in a checkpoint's configuration.

    Raises:
        UserError: when there is none.
    """
    for depth, key in enumerate(keys, 1):
        config = config.get(key) if isinstance(config, Mapping) else None
        if not isinstance(config, Mapping):
            raise UserError(
                f"the checkpoint's configuration has no {'.'.join(keys[:depth])}, which lightpose-train always writes; "
                "get the checkpoint again"
            )
    return dict(config)


def rebuild(config: Any, trust: Trust = (), rooms: Sequence[str] = NETWORK, **given: Any) -> Any:
    """Instantiate a part of a checkpoint's configuration, once it is known to name nothing but parts.

    Args:
        config: nested plain data with a ``_target_``.
        trust: see `lightpose.trust.check_targets`.
        rooms: likewise.
        given: objects that are not configuration, such as the skeleton.

    Raises:
        UserError: when it names something else, or the parts refuse their options.
    """
    config = plain(config, "the checkpoint's configuration")
    check_targets(config, trust, rooms)
    try:
        return assemble(config, **given)
    except UserError:
        raise
    except Exception as error:  # a part that is given nonsense raises whatever that leads to
        reason = in_short(error.__cause__ or error)
        raise UserError(
            f"the checkpoint's configuration can't be built ({type(error).__name__}: {reason}); it is damaged, or of a "
            "version of lightpose that had other options"
        ) from error


def assemble(config: Any, **given: Any) -> Any:
    """Instantiate a configuration with objects that are not configuration, such as the skeleton.

    Hydra would turn a dataclass passed to ``instantiate`` into a config node, hence the detour over a partial.

    Raises:
        UserError: that of the part that refused its options.
    """
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate

    try:
        return instantiate(config, _partial_=True, _convert_="all")(**given)
    except InstantiationException as error:
        if isinstance(error.__cause__, UserError):  # what a part says of its options, out of Hydra's wrapping
            raise error.__cause__ from None
        raise


def margin_grey(config: Mapping[str, Any]) -> int:
    """What inputs show beside an image, see `lightpose.data.pixels.crop.Warp`: black, if an older file doesn't say."""
    data = config.get("data")
    grey: int = data.get("margin_grey", 0) if isinstance(data, Mapping) else 0
    return grey


def eval_transforms(estimator: Any, trust: Trust = ()) -> Pipeline:
    """The transforms that a loaded estimator was validated with, from its configuration.

    Raises:
        UserError: when they name what is not trusted.
    """
    lists = section(estimator.config, "augment", "eval")
    given = {"skeleton": estimator.skeleton}
    steps = {
        name: [
            rebuild(step, trust, TRANSFORMS, **(given if isinstance(step, Mapping) and step.get("_partial_") else {}))
            for step in (section(lists, name) if name in lists else {}).values()
            if step is not None
        ]
        for name in LISTS
    }
    warp = None if estimator.input_hw is None else Warp(estimator.input_hw, margin_grey(estimator.config))
    return Pipeline(steps["geometry"], warp, steps["pixels"])
