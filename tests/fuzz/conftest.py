import hashlib
import os
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "inference"))  # videos.py

HARM = {
    *("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.startfile", "pty.spawn"),
    *("socket.connect", "socket.getaddrinfo", "socket.bind", "urllib.Request", "webbrowser.open"),
    *("shutil.rmtree", "shutil.move", "shutil.copyfile", "os.remove", "os.rmdir", "os.mkdir", "os.rename", "os.link"),
    *("os.symlink", "os.chmod", "os.chown", "os.truncate", "tempfile.mkstemp", "tempfile.mkdtemp"),
}
"""Audit events of whatever changes something, or talks to somebody."""


class Watch:
    """What the interpreter does while it is switched on, as far as it could do harm.

    Attributes:
        on: whether to look.
        allowed: folders that may be written to.
        seen: the events.
    """

    def __init__(self) -> None:
        self.on, self.allowed, self.seen = False, (), []
        sys.addaudithook(self._hook)

    def _hook(self, event, args):
        if not self.on:
            return
        if event == "open":
            path, mode, flags = args
            changing = os.O_WRONLY | os.O_RDWR | os.O_CREAT
            if (set(mode or "") & set("wax+") or flags & changing) and not self._is_allowed(path):
                self.seen.append((event, str(path)))
        elif (event == "os.mkdir" and Path(args[0]).is_dir()) or (event in ("os.rmdir", "os.remove") and args[1] >= 0):
            return
        elif event in HARM and not self._is_allowed(args[0]):
            self.seen.append((event, str(args)[:200]))
        elif event == "import" and not args[0].startswith("lightpose"):
            self.seen.append((event, args[0]))

    def _is_allowed(self, path) -> bool:
        if not isinstance(path, (str, bytes, Path)):
            return isinstance(path, int)  # a file that has been opened by its name
        real = os.path.realpath(os.fsdecode(path))
        return real == os.devnull or any(real == folder or real.startswith(f"{folder}/") for folder in self.allowed)

    @contextmanager
    def during(self, *allowed):
        """Collect what happens inside; gives the list of events."""
        self.allowed, self.seen = tuple(os.path.realpath(folder) for folder in allowed), []
        self.on = True
        try:
            yield self.seen
        finally:
            self.on = False


@pytest.fixture(scope="session")
def watch():
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    yield Watch()
    sys.dont_write_bytecode = before


@pytest.fixture
def victim(tmp_path):
    """A folder of the user's that must stay as it is, which is checked afterwards."""
    folder = tmp_path / "victim"
    (folder / "sub").mkdir(parents=True)
    (folder / "thesis.txt").write_text("years of work")
    (folder / "sub" / "best.ckpt").write_bytes(b"another run's")
    before = fingerprint(folder)
    yield folder
    assert fingerprint(folder) == before


def fingerprint(folder: Path) -> dict[str, str]:
    return {
        str(path): hashlib.md5(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in sorted(folder.rglob("*"))
    }
