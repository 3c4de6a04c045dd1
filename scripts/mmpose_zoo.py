"""Write which published MMPose configurations have which tensors: src/lightpose/interop/mmpose/zoo.txt.

    python scripts/mmpose_zoo.py names.txt    names of configurations, one a line; without it those in the file now

Configurations that lightpose has no model for are left out.
"""

import sys
from pathlib import Path

import torch

from lightpose.errors import UserError
from lightpose.interop.mmpose.build import build_like
from lightpose.interop.mmpose.config_names import config_of
from lightpose.interop.mmpose.configs import families
from lightpose.interop.mmpose.zoo import FILE, of_estimator


def line(name: str) -> str | None:
    try:
        config = config_of(name)
        with torch.device("meta"):
            estimator = build_like(config)
    except UserError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return None
    count = sum(each.numel() for each in estimator.parameters())
    return f"{of_estimator(estimator, families(config))} {count} {name}"


def main() -> None:
    given = Path(sys.argv[1]).read_text() if len(sys.argv) > 1 else FILE.read_text()
    names = [each.split()[-1] for each in given.splitlines() if each.strip()]
    lines = [found for name in names if (found := line(name))]
    FILE.write_text("".join(f"{each}\n" for each in lines))
    print(f"{len(lines)} of {len(names)} configurations in {FILE}")


if __name__ == "__main__":
    main()
