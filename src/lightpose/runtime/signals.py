"""What Ctrl-C and SIGTERM do to a command: the first ends it in good order, the second kills it."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

PATIENCE_SECONDS = 60.0
"""How long a process waits for process 0."""
NAMES = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}


class Interrupted(BaseException):
    """A signal ended the command.

    Args:
        signum: of the signal.
        message: where the command was, what is left and how to go on; empty where another process says it.
    """

    def __init__(self, signum: int, message: str = "") -> None:
        super().__init__(message)
        self.signum = signum

    @property
    def exit_code(self) -> int:
        """128 plus the signal's number, as in shells.

        A process that Lightning started gives 0: if one failed, Lightning would kill the main process.
        """
        return 0 if is_started_by_lightning() else 128 + self.signum


def is_started_by_lightning() -> bool:
    """Whether Lightning started this process; the user has started only the first process of the run."""
    return int(os.environ.get("LOCAL_RANK", 0)) > 0 and not is_started_by_launcher()


def is_started_by_launcher() -> bool:
    """Whether torchrun or srun started this process beside others; they pass signals on, also twice."""
    return "TORCHELASTIC_RUN_ID" in os.environ or int(os.environ.get("SLURM_NTASKS", 1)) > 1


def _interrupt(signum: int) -> None:
    raise Interrupted(signum)


def leave_after(signum: int, done: Callable[[], bool] = lambda: False) -> None:
    """End this process, one of several, when its parent is gone or ``done()``: process 0 needs it no more then.

    Until then process 0 may be waiting for it, in a place where no signal reaches process 0.
    """
    parent, deadline = os.getppid(), time.monotonic() + PATIENCE_SECONDS

    def wait() -> None:
        try:
            while os.getppid() == parent and time.monotonic() < deadline and not done():
                time.sleep(0.05)
        finally:
            os._exit(Interrupted(signum).exit_code)

    threading.Thread(target=wait, daemon=True).start()


_state: dict[str, Any] = {"received": None, "react": _interrupt, "process": None}


def received() -> int | None:
    """The signal that ends this command, if one has come."""
    number: int | None = _state["received"]
    return number


def _handle(signum: int, frame: FrameType | None) -> None:
    if os.getpid() != _state["process"]:
        return  # a worker process that has just begun; its parent ends it
    if _state["received"] is None:
        _state["received"] = signum
        _state["react"](signum)
    elif not is_started_by_launcher() and not is_started_by_lightning():
        signal.signal(signum, signal.SIG_DFL)
        os.kill(os.getpid(), signum)


@contextmanager
def watched() -> Iterator[None]:
    """In here the first signal raises `Interrupted` in the main thread, and a second kills the process."""
    _state.update(received=None, process=os.getpid())
    react_by(None)
    main = threading.current_thread() is threading.main_thread()  # the only one that may
    before = {number: signal.getsignal(number) for number in NAMES} if main else {}
    before = {number: handler for number, handler in before.items() if handler != signal.SIG_IGN}  # such as by nohup
    for number in before:
        signal.signal(number, _handle)
    try:
        if hasattr(signal, "pthread_sigmask"):
            signal.pthread_sigmask(signal.SIG_UNBLOCK, NAMES)  # see `kept_back`
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def kept_back() -> Iterator[None]:
    """Hold signals back in here; a process that starts in here gets them once it is ready for them."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, NAMES)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def saying(message: str) -> Iterator[None]:
    """In here, `Interrupted` says ``message``, which tells how a signal leaves things."""
    try:
        yield
    except Interrupted as interruption:
        raise Interrupted(interruption.signum, message) from interruption


def react_by(react: Callable[[int], None] | None) -> None:
    """Let the first signal call ``react``, until this is called with None."""
    _state["react"] = react or (leave_after if is_started_by_lightning() else _interrupt)
