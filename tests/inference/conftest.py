from pathlib import Path

import cv2
import numpy as np
import pytest
from tiny_checkpoint import config, save


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("checkpoint") / "tiny.ckpt", config())


@pytest.fixture(scope="session")
def images() -> list[np.ndarray]:
    """Five pictures of different sizes, smooth enough to survive JPEG."""
    rng = np.random.default_rng(0)
    sizes = [(90, 120), (100, 80), (64, 64), (150, 90), (70, 200)]
    return [
        cv2.resize(rng.integers(0, 256, (8, 8, 3), np.uint8), (width, height), interpolation=cv2.INTER_CUBIC)
        for height, width in sizes
    ]


@pytest.fixture()
def folder(tmp_path: Path, images: list[np.ndarray]) -> Path:
    """The pictures as PNG files 0.png to 4.png, next to a file that is no picture."""
    path = tmp_path / "photos"
    path.mkdir()
    for number, image in enumerate(images):
        cv2.imwrite(str(path / f"{number}.png"), image[..., ::-1])
    (path / "notes.txt").write_text("no picture")
    return path


@pytest.fixture()
def video(tmp_path: Path) -> Path:
    """Forty frames of 64 x 48 at 12 frames per second; frame n is grey 5 n."""
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 12, (64, 48))
    for number in range(40):
        writer.write(np.full((48, 64, 3), 5 * number, np.uint8))
    writer.release()
    return path
