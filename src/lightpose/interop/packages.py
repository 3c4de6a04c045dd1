"""Packages that only files of other tools need. Imports nothing heavy."""

from collections.abc import Iterable
from importlib.util import find_spec

from lightpose.errors import UserError


def need(packages: Iterable[str], what: str) -> None:
    """Refuse to begin what packages lack for.

    Args:
        packages: names of modules.
        what: needs them, for the message.

    Raises:
        UserError: naming those that aren't installed.
    """
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        raise UserError(
            f"{what} needs {' and '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed; "
            'run pip install "lightpose[formats]"'
        )
