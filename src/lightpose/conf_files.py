"""Where the files of all options stand."""

from pathlib import Path


def conf_dir() -> Path:
    """The folder of configuration groups: inside the installed package, or at the top of a checkout."""
    package = Path(__file__).resolve().parent
    inside = package / "conf"
    return inside if inside.is_dir() else package.parents[1] / "conf"
