import io

import cv2
import numpy as np
import pytest
from PIL import Image

from lightpose.data.decode import EncodedImage, ImageError, decode_image, read_image, read_image_hw
from lightpose.data.transforms import Warp
from lightpose.errors import UserError
from lightpose.geometry import crop_matrix, reduction
from lightpose.structures import Sample

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


def photograph(hw, seed=0):
    """Smooth colours and texture of every size, as RGB."""
    rng = np.random.default_rng(seed)
    layers = [
        cv2.resize(
            rng.uniform(-1, 1, (-(-hw[0] // size), -(-hw[1] // size), 3)), hw[::-1], interpolation=cv2.INTER_CUBIC
        )
        for size in (2, 5, 13, 40, 150)
    ]
    return (128 + 30 * np.sum(layers, 0)).clip(0, 255).astype(np.uint8)


def area_averaged(image, input_from_image, input_hw, fine=8):
    """The warp of which every pixel is the mean of ``fine`` x ``fine`` points, its reference."""
    finer = np.diag([fine, fine, 1.0]) @ input_from_image
    finer[:2, 2] += (fine - 1) / 2
    large = cv2.warpAffine(image, finer[:2], (input_hw[1] * fine, input_hw[0] * fine))
    return cv2.resize(large, input_hw[::-1], interpolation=cv2.INTER_AREA)


def shift(image, reference):
    """By how many pixels (x, y) an image is displaced, to first order in the gradient."""
    image, reference = (cv2.GaussianBlur(each.astype(np.float64), (0, 0), 1.5) for each in (image, reference))
    gradient = np.stack([np.gradient(reference, axis=axis).ravel() for axis in (1, 0)], -1)
    return -np.linalg.lstsq(gradient, (image - reference).ravel(), rcond=None)[0]


@pytest.mark.parametrize("shrink", [2.1, 3.9, 4.6, 8.5])
@pytest.mark.parametrize("kind", ["JPEG", "turned JPEG", "PNG", "array"])
def test_a_small_crop_of_a_large_image_is_averaged_and_not_shifted(tmp_path, shrink, kind):
    hw, input_hw = (853, 1283), (64, 96)  # no multiples of 8
    format, orientation = "PNG" if kind in ("PNG", "array") else "JPEG", 3 if kind == "turned JPEG" else None
    (tmp_path / "large").write_bytes(encode(photograph(hw), format, orientation, quality=92))
    pixels = read_image(tmp_path / "large")
    image = pixels if kind == "array" else EncodedImage(tmp_path / "large", hw)
    center, size = np.array([640.0, 427.0]), np.array([input_hw[1], input_hw[0]]) * shrink
    matrix = crop_matrix(center, size, input_hw, "half_pixel", degrees=20)
    factor = max(factor for factor in (2, 4, 8) if factor <= shrink)
    assert reduction(matrix) == factor
    if kind == "JPEG":
        assert image.decode(factor)[0].shape[:2] == tuple(-(-side // factor) for side in hw)
    elif kind != "array":
        assert image.decode(factor)[1] == 1
    sample = Sample(image, None, matrix, 1, 0, hw)
    warped = Warp(input_hw)(sample, np.random.default_rng(0)).image
    reference = area_averaged(pixels, matrix, input_hw)
    assert np.abs(shift(warped, reference)).max() < 0.05
    if factor > 2:  # at 2, four pixels enter a bilinear sample anyway
        aliased = cv2.warpAffine(pixels, matrix[:2], input_hw[::-1])
        error, without = (np.abs(each.astype(int) - reference).mean() for each in (warped, aliased))
        assert error < 0.6 * without


def test_a_damaged_orientation_is_none(tmp_path):
    text = b"Exif\0\0MM\0*\0\0\0\x08\0\1\1\x12\0\2\0\0\0\3ab\0\0\0\0\0\0"  # letters for a number
    image = Image.fromarray(photograph((64, 96)))
    image.save(tmp_path / "plain.jpg")
    image.save(tmp_path / "odd.jpg", exif=text)
    np.testing.assert_array_equal(read_image(tmp_path / "odd.jpg"), read_image(tmp_path / "plain.jpg"))
    assert EncodedImage(tmp_path / "odd.jpg", (64, 96)).plain_jpeg()


def test_what_is_decoded_does_not_depend_on_what_was_before(tmp_path):
    (tmp_path / "a.jpg").write_bytes(encode(photograph((64, 96)), "JPEG"))
    image = EncodedImage(tmp_path / "a.jpg", (64, 96))
    small, full = image.decode(2)[0], image.decode()[0]
    assert full.shape == (64, 96, 3)
    np.testing.assert_array_equal(image.decode(2)[0], small)
    assert image.decode(2)[0] is image.decode(2)[0]


def test_a_truncated_jpeg_is_refused_at_every_size(tmp_path):
    data = encode(photograph((64, 96)), "JPEG")
    (tmp_path / "a.jpg").write_bytes(data[: len(data) * 2 // 3])
    for factor in (1, 2, 8):
        with pytest.raises(ImageError, match=r"a\.jpg .*truncated"):
            EncodedImage(tmp_path / "a.jpg", (64, 96)).decode(factor)


@pytest.mark.parametrize("factor", [1, 4])
def test_a_file_of_another_size_is_refused_at_every_size(tmp_path, factor):
    (tmp_path / "a.jpg").write_bytes(encode(photograph((64, 96)), "JPEG"))
    with pytest.raises(UserError, match=r"a\.jpg is 96x64 .* annotated as 96x63"):
        EncodedImage(tmp_path / "a.jpg", (63, 96)).decode(factor)


@pytest.mark.parametrize("name", ["plain.jpg", "turned.jpg", "picture.png"])
def test_encoded_image_knows_its_own_upright_size(tmp_path, name):
    exif = Image.Exif()
    if name == "turned.jpg":
        exif[0x0112] = 6
    Image.fromarray(np.zeros((40, 64, 3), np.uint8)).save(tmp_path / name, exif=exif)
    image = EncodedImage(tmp_path / name)
    assert image.hw == image.decode()[0].shape[:2] == ((64, 40) if name == "turned.jpg" else (40, 64))
