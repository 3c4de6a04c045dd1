"""Write which published MMPose configurations have which tensors: src/lightpose/interop/mmpose/zoo.txt.

    python scripts/mmpose_zoo.py names.txt    names of configurations, one a line; without it those in the file now

Configurations that lightpose has no model for are left out.
"""

import re
import sys
from pathlib import Path

from lightpose.errors import UserError
from lightpose.interop.mmpose.build import build_like
from lightpose.interop.mmpose.config_names import config_of
from lightpose.interop.mmpose.configs import codec_of, families, overrides
from lightpose.interop.mmpose.heads import keypoint_count
from lightpose.interop.mmpose.zoo import FILE, of_estimator

SIZELESS = r"skeleton|grid|estimator|head\.criterion|codec\.(?!stride)"
"""Choices that change no tensor."""


def line(name: str, known: dict[object, str]) -> str | None:
    """What the file says of a configuration; ``known`` has what was found for those before it."""
    try:
        config = config_of(name)
        chosen = frozenset(each for each in overrides(config) if not re.match(SIZELESS, each))
        key = chosen, keypoint_count(config["model"]["head"], codec_of(config))
        if key not in known:
            estimator = build_like(config)
            count = sum(each.numel() for each in estimator.parameters())
            known[key] = f"{of_estimator(estimator, families(config))} {count}"
    except UserError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return None
    return f"{known[key]} {name}"


def main() -> None:
    given = Path(sys.argv[1]).read_text() if len(sys.argv) > 1 else FILE.read_text()
    names = [each.split()[-1] for each in given.splitlines() if each.strip()]
    known: dict[object, str] = {}
    lines = [found for name in names if (found := line(name, known))]
    FILE.write_text("".join(f"{each}\n" for each in lines))
    print(f"{len(lines)} of {len(names)} configurations in {FILE}")


if __name__ == "__main__":
    main()
