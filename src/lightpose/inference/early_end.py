"""What becomes of results that end before their video does: at an error, at Ctrl-C, or where the disk is full."""

import logging
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NoReturn, cast

from lightpose.errors import UserError
from lightpose.inference.frames import Frame
from lightpose.runtime.signals import Interrupted
from lightpose.structures import Array, Poses

log = logging.getLogger(__name__)


class EarlyEnd:
    """Whether results ended early, and why. Those before are worth keeping, if there are any.

    Attributes:
        cause: the error or the `Interrupted`; None while all is well.
        place: the folder in which the results are at last.
    """

    def __init__(self) -> None:
        self.cause: BaseException | None = None
        self.place: Path | None = None
        self._signum: int | None = None

    def stop(self, signum: int) -> None:
        """End the results after the one that comes next: what a signal does."""
        self._signum = signum

    def guarded(self, results: Iterable[tuple[Frame, Poses[Array]]]) -> Iterator[tuple[Frame, Poses[Array]]]:
        """The results up to the first error or signal, which is kept as the cause.

        Raises:
            Exception: the error, or `Interrupted`, where there is no result before.
        """
        some = False
        with closing(cast("Generator[tuple[Frame, Poses[Array]]]", iter(results))) as given:
            try:
                for result in given:
                    if self._signum is not None:
                        raise Interrupted(self._signum)
                    some = True
                    yield result
            except (Exception, Interrupted) as error:
                if not some:
                    raise
                self.cause = error

    @contextmanager
    def kept(self) -> Iterator[None]:
        """In here an error or a signal is only kept as the cause: what was done before is worth more."""
        try:
            yield
        except (Exception, Interrupted) as error:
            self.cause = self.cause or error

    def tell(self, images: int) -> NoReturn:
        """Say what there is.

        Args:
            images: frames whose predictions are written.

        Raises:
            UserError: for any error.
            Interrupted: for a signal.
        """
        assert self.cause is not None
        left = f"the predictions of the first {images} frames that could be read are in {self.place}"
        if isinstance(self.cause, Interrupted):
            raise Interrupted(self.cause.signum, left) from self.cause
        if isinstance(self.cause, UserError):
            raise UserError(f"{self.cause}. {left[0].upper()}{left[1:]}") from self.cause
        log.warning("%s", left)
        raise self.cause
