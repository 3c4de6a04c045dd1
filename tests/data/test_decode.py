import io

import cv2
import numpy as np
import pytest
from PIL import Image

from lightpose.data.decode import ImageError, decode_image, read_image, read_image_hw

UPRIGHT = {
    1: lambda image: image,
    2: lambda image: image[:, ::-1],
    3: lambda image: image[::-1, ::-1],
    4: lambda image: image[::-1],
    5: lambda image: image.transpose(1, 0, 2),
    6: lambda image: np.rot90(image, -1),
    7: lambda image: np.rot90(image, 2).transpose(1, 0, 2),
    8: lambda image: np.rot90(image, 1),
}


@pytest.fixture
def pixels():
    """(40, 56, 3) RGB, smooth, so that JPEG keeps it within a few grey levels."""
    rng = np.random.default_rng(0)
    return cv2.resize(rng.integers(0, 255, (3, 4, 3), np.uint8), (56, 40))


def encode(pixels, format, orientation=None, **options):
    exif = Image.Exif()
    if orientation:
        exif[0x0112] = orientation
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format, exif=exif, **options)
    return file.getvalue()


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, pixels, format, orientation):
    path = tmp_path / "image"
    path.write_bytes(encode(pixels, format, orientation, **({"quality": 95} if format == "JPEG" else {})))
    expected = UPRIGHT[orientation](pixels)
    image = read_image(path)
    assert image.shape == expected.shape
    assert np.abs(image.astype(int) - expected).mean() < (3 if format == "JPEG" else 1e-9)
    assert read_image_hw(path) == expected.shape[:2]


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "I;16"])
def test_every_mode_becomes_rgb_of_8_bits(pixels, mode):
    if mode == "I;16":
        data = cv2.imencode(".png", pixels[..., 0].astype(np.uint16) * 256)[1].tobytes()
    else:
        data = encode(np.asarray(Image.fromarray(pixels).convert("L")) if mode == "L" else pixels, "PNG")
        if mode in ("P", "RGBA"):
            file = io.BytesIO()
            Image.fromarray(pixels).convert(mode).save(file, "PNG")
            data = file.getvalue()
    image = decode_image(data, "image")
    assert image.shape == pixels.shape
    assert image.dtype == np.uint8
    if mode == "RGBA":
        np.testing.assert_array_equal(image, pixels)
    if mode == "I;16":
        np.testing.assert_array_equal(image, np.repeat(pixels[..., :1], 3, -1))


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_jpeg_of_other_colour_spaces(pixels, mode):
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, "JPEG")
    assert decode_image(file.getvalue(), "image").shape == pixels.shape


def test_jpeg_and_opencv_agree(pixels):
    data = encode(pixels, "JPEG")
    reference = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert np.abs(decode_image(data, "image").astype(int) - reference).max() <= 1


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_truncated_file_is_refused_by_name(pixels, format):
    data = encode(pixels, format)
    with pytest.raises(ImageError, match=r"holiday\.jpg .*truncated"):
        decode_image(data[: len(data) * 2 // 3], "holiday.jpg")


@pytest.mark.parametrize("data", [b"", b"not an image", b"\xff\xd8\xff"])
def test_what_is_no_image_is_refused(tmp_path, data):
    path = tmp_path / "a.jpg"
    path.write_bytes(data)
    for read in (read_image, read_image_hw):
        with pytest.raises(ImageError, match=r"a\.jpg"):
            read(path)


def test_missing_file_is_named(tmp_path):
    for read in (read_image, read_image_hw):
        with pytest.raises(ImageError, match=r"gone\.jpg can't be read \(No such file"):
            read(tmp_path / "gone.jpg")
