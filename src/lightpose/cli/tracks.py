"""The parts of ``lightpose-predict`` that follow people over the frames of a video."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from lightpose.errors import UserError

if TYPE_CHECKING:
    from lightpose.inference.frames import Frame
    from lightpose.inference.sources import Source
    from lightpose.skeleton import Skeleton
    from lightpose.structures import Array, Poses

log = logging.getLogger(__name__)

Results = Iterable[tuple["Frame", "Poses[Array]"]]
FILES_FPS = 30.0
"""Image files don't say how many there are in a second."""


def tracking_of(
    config: Mapping[str, Any], source: "Source", skeleton: "Skeleton"
) -> "Callable[[Results], Iterator[tuple[Frame, Poses[Array]]]] | None":
    """What gives results their identities; None where nobody asks for them.

    Raises:
        UserError: for a tracker that can't be built.
    """
    from lightpose.checkpoint import assemble
    from lightpose.cli.options import check_options, preparing
    from lightpose.inference.sources import ImageFiles
    from lightpose.inference.tracking.base import tracked

    if config.get("tracker") is None:
        return None
    of_files = isinstance(source, ImageFiles)
    fps = FILES_FPS if isinstance(source, ImageFiles) else source.fps
    if of_files:
        log.info("the pictures of each folder are taken for a video of %g frames a second, in their order", fps)
    make = partial(assemble, config["tracker"], skeleton=skeleton, fps=fps)
    with preparing("tracker"):
        check_options(config["tracker"], "tracker")
        make()  # refuses before the work what can't be
    return partial(tracked, make=make, fps=fps, of_files=of_files)


def check_detect_every(config: Mapping[str, Any], source: "Source", takes_boxes: bool) -> None:
    """Refuse to detect people in some frames only, where that can't be.

    Raises:
        UserError: for images, models of whole images, and boxes that no detector finds.
    """
    from lightpose.inference.sources import ImageFiles

    every = config["detect_every"]
    if every == 1:
        return
    if isinstance(source, ImageFiles):
        why = "in pictures that are no video nobody can be followed from one to the next"
    elif not takes_boxes:
        why = "the checkpoint's model takes whole images, and no boxes"
    elif config.get("detector") is None:
        why = "there is no detector that could be asked less often; choose one, such as detector=torchvision, or"
    else:
        return
    raise UserError(f"detect_every={every}: {why}{'' if why.endswith('or') else ';'} leave detect_every= out")
