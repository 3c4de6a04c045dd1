"""``lightpose-convert``: checkpoints of others as checkpoints of lightpose."""

import logging
import sys

from omegaconf import DictConfig

from lightpose.cli import app
from lightpose.runtime.imports import quick_imports
from lightpose.runtime.signals import saying

log = logging.getLogger(__name__)

USAGE = """lightpose-convert: checkpoints of others as checkpoints of lightpose.

  lightpose-convert mmpose src=MODEL.pth out=MODEL.ckpt     name=CONFIG where the file doesn't say

It takes --help."""


def main() -> None:
    """Entry point of the console script."""
    tasks = {"mmpose": mmpose}
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "--help"):
        print(USAGE)
        return
    if name not in tasks:
        app.stop(f"lightpose-convert has no command {name!r}; use {', '.join(tasks)}")
    del sys.argv[1]
    app.run(f"convert_{name}", tasks[name])


def mmpose(composed: DictConfig) -> None:
    """Write a checkpoint of lightpose from one of MMPose."""
    with quick_imports():
        from lightpose.interop.mmpose.convert import convert

    src, out, name = (composed[key] for key in ("src", "out", "name"))
    with saying(f"nothing was written to out={out}"):
        estimator = convert(src, out, name, composed.trust, composed.overwrite)
    count = sum(parameter.numel() for parameter in estimator.parameters())
    log.info("%d keypoints, %.1f million parameters: %s", estimator.skeleton.num_keypoints, count / 1e6, out)


if __name__ == "__main__":
    main()
