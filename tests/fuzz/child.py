"""Reads damaged files in a process of its own, where a crash of a decoder is seen: ``child.py images|videos FILES...``.

Prints one JSON line per file.
"""

import json
import logging
import re
import sys
import time
import traceback
from pathlib import Path

from lightpose.data.pixels.decode import EncodedImage, read_image, read_image_hw
from lightpose.errors import UserError
from lightpose.inference.sources import open_source

said: list[str] = []


class Listener(logging.Handler):
    """Keeps what is said."""

    def emit(self, record: logging.LogRecord) -> None:
        said.append(record.getMessage())


def image(path: Path) -> dict[str, object]:
    """Read a picture in every way in which a command does."""
    for read in (read_image_hw, read_image, lambda path: EncodedImage(path).plain_jpeg()):
        read(path)
    encoded = EncodedImage(path)
    for reduction in (8, 1):
        pixels, factor = encoded.decode(reduction)
        assert pixels.shape == (*(-(-side // factor) for side in encoded.hw), 3)
        assert pixels.dtype == "uint8"
    return {}


def video(path: Path) -> dict[str, object]:
    """Read a video, and count its frames."""
    source = open_source(str(path))
    announced, numbers = len(source.image_ids), []
    try:
        numbers = [frame.image_id for frame in source.frames()]
    except UserError as error:
        if "gives no frame" not in str(error):
            raise
        return {"announced": announced, "predicted": 0, "named": announced}
    named = [int(match[1]) for text in said if (match := re.search(r": (\d+) of \d+ frames can't be read", text))]
    assert numbers == sorted(set(numbers))
    return {"announced": announced, "predicted": len(numbers), "named": sum(named)}


def peak_mb() -> int:
    """The most memory that this process has had; what getrusage gives includes that of its parent."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) // 1024


def main() -> None:
    """Read every file that the command line names."""
    logging.getLogger("lightpose").addHandler(Listener())
    read = {"images": image, "videos": video}[sys.argv[1]]
    for name in sys.argv[2:]:
        said.clear()
        start = time.perf_counter()
        result: dict[str, object] = {"file": name}
        try:
            result |= {**read(Path(name)), "outcome": "read"}
        except UserError as error:
            result |= {"outcome": "refused", "named": Path(name).name in str(error)}
        except BaseException:
            result |= {"outcome": "traceback", "text": traceback.format_exc()}
        result["seconds"] = time.perf_counter() - start
        result["peak_mb"] = peak_mb()
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
