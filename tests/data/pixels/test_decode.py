import io
import logging
import os
import resource
import struct
import zlib

import cv2
import numpy as np
import pytest
from image_samples import jpeg_of_size, png_of_size, png_with, tiff
from PIL import Image

from lightpose.data.pixels import decode
from lightpose.data.pixels.crop import Warp
from lightpose.data.pixels.decode import EncodedImage, bits_used, decode_image, pixels_of, read_image, read_image_hw
from lightpose.data.pixels.image_header import MAX_BYTES, MAX_PIXELS, ImageError, read_header
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


def saved(image, format, **options):
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def half_transparent(image):
    image = image.convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image


MODES = {
    "1": lambda image: image.convert("1"),
    "L": lambda image: image.convert("L"),
    "LA": lambda image: half_transparent(image).convert("LA"),
    "P": lambda image: image.quantize(64),
    "RGB": lambda image: image,
    "RGBA": half_transparent,
}


@pytest.mark.parametrize(
    ("format", "options", "modes"),
    [
        ("PNG", {}, MODES),
        ("BMP", {}, ("1", "L", "P", "RGB")),
        ("WEBP", {"lossless": True, "exact": True}, MODES),
        ("TIFF", {}, MODES),
        ("TIFF", {"compression": "tiff_lzw"}, MODES),
        ("TIFF", {"compression": "packbits"}, ("L", "P", "RGB")),
        ("GIF", {}, ("1", "L", "P")),
        ("PPM", {}, ("1", "L", "RGB")),
        ("JPEG2000", {}, ("L", "RGB", "RGBA")),
    ],
)
def test_lossless_files_keep_their_colours_and_drop_their_opacity(pixels, format, options, modes):
    for mode in modes:
        image = MODES[mode](Image.fromarray(pixels))
        expected = np.asarray(image.convert("RGB") if image.mode != "RGBA" else Image.fromarray(pixels))
        np.testing.assert_array_equal(decode_image(saved(image, format, **options), mode), expected, err_msg=mode)


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_several_pictures_the_first_is_read(pixels, format):
    first = Image.fromarray(pixels).quantize(64)
    options = {"lossless": True} if format == "WEBP" else {}
    data = saved(first, format, save_all=True, append_images=[first.rotate(180)], **options)
    np.testing.assert_array_equal(decode_image(data, "film"), np.asarray(first.convert("RGB")))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_tiff_of_16_bits_loses_the_lower_8(pixels, order, channels):
    deep = np.concatenate([pixels, pixels[..., :1]], -1)[..., :channels].astype(np.uint16) * 257
    image = decode_image(tiff(deep, 1 if channels == 1 else 2, extra=2 if channels == 4 else None, order=order), "t")
    np.testing.assert_array_equal(image, pixels if channels > 1 else np.repeat(pixels[..., :1], 3, -1))


@pytest.mark.parametrize("extra", [1, 2])
def test_tiff_of_8_bits_and_other_arrangements(pixels, extra):
    np.testing.assert_array_equal(decode_image(tiff(pixels, 2, planar=2), "t"), pixels)
    grey = np.repeat(pixels[..., :1], 3, -1)
    np.testing.assert_array_equal(decode_image(tiff(255 - pixels[..., :1], 0), "t"), grey)
    opaque = np.concatenate([pixels, np.full_like(pixels[..., :1], 255)], -1)
    np.testing.assert_array_equal(decode_image(tiff(opaque, 2, extra=extra), "t"), pixels)


@pytest.mark.parametrize(
    ("type", "arguments"),
    [
        (np.float32, {"photometric": 1, "kind": 3}),
        (np.float64, {"photometric": 1, "kind": 3}),
        (np.float16, {"photometric": 1, "kind": 3}),
        (np.int16, {"photometric": 1, "kind": 2}),
        (np.uint32, {"photometric": 1}),
        (np.uint16, {"photometric": 0}),
        (np.uint16, {"photometric": 2, "planar": 2}),
        (np.uint16, {"photometric": 5}),
        (np.uint16, {"photometric": 8}),
    ],
)
def test_tiff_that_would_be_misread_is_refused_by_name(tmp_path, pixels, type, arguments):
    channels = {1: 1, 0: 1, 5: 4}.get(arguments["photometric"], 3)
    samples = np.repeat(pixels, 2, -1)[..., :channels].astype(type)
    (tmp_path / "deep.tif").write_bytes(tiff(samples, **arguments))
    for read in (read_image, read_image_hw):
        with pytest.raises(ImageError, match=r"deep\.tif"):
            read(tmp_path / "deep.tif")


def test_orientation_of_every_format(pixels):
    exif = Image.Exif()
    for format in ("JPEG", "PNG", "WEBP", "TIFF"):
        exif[0x0112] = 6
        options = {"quality": 95} if format == "JPEG" else {"lossless": True} if format == "WEBP" else {}
        data = saved(Image.fromarray(pixels), format, exif=exif.tobytes(), **options)
        assert read_header(data, format).hw == (56, 40)
        difference = np.abs(decode_image(data, format).astype(int) - np.rot90(pixels, -1))
        assert difference.mean() < (3 if format == "JPEG" else 1e-9)


def test_orientation_of_a_png_may_stand_behind_its_pixels(pixels):
    exif = Image.Exif()
    exif[0x0112] = 6
    plain = encode(pixels, "PNG")
    chunk = b"eXIf" + exif.tobytes()[6:]
    behind = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    np.testing.assert_array_equal(decode_image(plain[:-12] + behind + plain[-12:], "p"), np.rot90(pixels, -1))


def twelve_bits(pixels):
    return cv2.imencode(".png", pixels[..., ::-1].astype(np.uint16) * 16)[1].tobytes()


def test_values_of_few_bits_are_scaled_alike_or_said(tmp_path, pixels, caplog, monkeypatch):
    monkeypatch.setattr(decode, "_said_dark", [])
    path = tmp_path / "camera.png"
    path.write_bytes(twelve_bits(pixels))
    assert bits_used(path) == (16 * int(pixels.max())).bit_length() == 12
    np.testing.assert_array_equal(read_image(path, 12), pixels)
    np.testing.assert_array_equal(EncodedImage(path, bits=12).decode()[0], pixels)
    dim = tmp_path / "dim.png"
    dim.write_bytes(twelve_bits(pixels // 4))
    np.testing.assert_array_equal(read_image(dim, 12), pixels // 4)  # no brighter for being alone
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        np.testing.assert_array_equal(read_image(path), pixels // 16)
        read_image(path)
    assert [record.getMessage() for record in caplog.records] == [
        f"image {path} uses 12 of its 16 bits and is almost black as it is read; if this is so of all images, set "
        "image_bits=12 (reader.image_bits=12 in training)"
    ]
    with pytest.raises(UserError, match=r"camera\.png holds values of 12 bits; image_bits=10 must be 12"):
        read_image(path, 10)
    (tmp_path / "plain.png").write_bytes(encode(pixels, "PNG"))
    assert bits_used(tmp_path / "plain.png") is None
    np.testing.assert_array_equal(read_image(tmp_path / "plain.png", 12), pixels)


def test_pgm_says_itself_how_bright_its_values_are():
    levels = np.array([[0, 1000, 4095]], ">u2")
    image = decode_image(b"P5 3 1 4095\n" + levels.tobytes(), "p.pgm")
    np.testing.assert_allclose(image[0, :, 0], [0, 1000 / 4095 * 255, 255], atol=1)


HUGE = {
    "jpeg": lambda pixels: jpeg_of_size(encode(pixels, "JPEG"), (32767, 32767)),
    "turned jpeg": lambda pixels: jpeg_of_size(encode(pixels, "JPEG", 6), (32767, 32767)),
    "png": lambda pixels: png_of_size(encode(pixels, "PNG"), (30000, 30000)),
    "bmp": lambda pixels: (lambda d: d[:18] + struct.pack("<ii", 30000, 30000) + d[26:])(encode(pixels, "BMP")),
    "gif": lambda pixels: (lambda d: d[:6] + struct.pack("<HH", 30000, 30000) + d[10:])(encode(pixels, "GIF")),
    "ppm": lambda pixels: b"P6 30000 30000 255\n" + bytes(1000),
    "tiff": lambda pixels: (
        lambda d: d.replace(struct.pack("<HHII", 256, 4, 1, 56), struct.pack("<HHII", 256, 4, 1, 9_000_000))
    )(tiff(pixels, 2)),
}


@pytest.mark.parametrize("kind", HUGE)
def test_what_declares_too_many_pixels_is_refused_before_it_fills_the_memory(tmp_path, pixels, kind):
    path = tmp_path / "huge"
    path.write_bytes(HUGE[kind](pixels))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for read in (
        read_image,
        read_image_hw,
        EncodedImage,
        lambda path: EncodedImage(path, (32767, 32767)).decode(),
        lambda path: EncodedImage(path, (32767, 32767)).decode(8),
    ):
        with pytest.raises(ImageError, match=f"huge has .*at most {MAX_PIXELS} pixels"):
            read(path)
    if kind == "jpeg":
        with pytest.raises(ImageError, match="huge has"):
            EncodedImage(path, (32767, 32767)).plain_jpeg()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200e3  # in KB; decoded it is 3 GB


@pytest.mark.parametrize("make", [jpeg_of_size, png_of_size])
def test_a_few_bytes_that_declare_many_pixels_are_truncated(pixels, make):
    data = make(encode(pixels, "JPEG" if make is jpeg_of_size else "PNG"), (12000, 12000))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ImageError, match="truncated"):
        decode_image(data, "bomb")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200e3


def test_the_size_that_a_header_declares_is_the_size_that_is_decoded(pixels):
    with pytest.raises(ImageError, match="long"):
        decode_image(png_of_size(encode(pixels, "PNG"), (50, 56)), "long")
    first, second = (saved(Image.fromarray(pixels[:side]), "WEBP", exif=b"Exif\0\0MM\0*") for side in (40, 20))
    with pytest.raises(ImageError, match="canvas"):
        decode_image(first[:30] + second[30:], "canvas")


def test_a_jpeg_of_very_many_scans_is_not_waited_for():
    data = saved(Image.new("L", (8000, 8000), 128), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    assert decode_image(data, "few").shape == (8000, 8000, 3)
    with pytest.raises(ImageError, match="many has over 67 scans"):
        decode_image(data[:last] + data[last:-2] * 10_000 + data[-2:], "many")


def test_a_chunk_longer_than_the_file_makes_no_room_for_itself(pixels):
    data = encode(pixels, "PNG")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ImageError, match=r"p\.png .*truncated"):
        decode_image(data[:33] + b"\xff\xff\xff\xff" + data[37:], "p.png")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200e3


def test_texts_that_unfold_and_damaged_notes_do_no_harm(pixels):
    plain = encode(pixels, "PNG")
    bomb = png_with(plain, b"zTXt", b"note\0\0" + zlib.compress(bytes(200_000_000), 9))
    np.testing.assert_array_equal(decode_image(bomb, "bomb"), pixels)
    rng = np.random.default_rng(0)
    for start in (b"MM\0*\0\0\0\x08", b"II*\0\x08\0\0\0", b""):
        for _ in range(50):
            note = start + rng.bytes(60)
            for data in (
                png_with(plain, b"eXIf", note),
                encode(pixels, "JPEG").replace(
                    b"\xff\xdb", b"\xff\xe1\0\x4aExif\0\0" + note.ljust(66, b"\0") + b"\xff\xdb", 1
                ),
            ):
                assert sorted(decode_image(data, "note").shape) == [3, 40, 56]


@pytest.mark.parametrize("name", ["pipe", "/dev/zero", "folder", "a\0b", "n" * 5000, "sparse"])
def test_what_is_no_file_of_an_image_is_refused_and_never_waited_for(tmp_path, name):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    for read in (read_image, read_image_hw, EncodedImage):
        with pytest.raises(ImageError, match=r"no regular file|can't be read|at most"):
            read(tmp_path / name)


def test_pillow_images(pixels):
    image = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = Image.open(io.BytesIO(saved(image, "PNG", exif=exif)))
    np.testing.assert_array_equal(pixels_of(turned, "0"), pixels)  # as it stands
    np.testing.assert_array_equal(pixels_of(image.convert("L"), "0")[..., 2], np.asarray(image.convert("L")))
    np.testing.assert_array_equal(pixels_of(half_transparent(image), "0"), pixels)
    deep = Image.fromarray(pixels[..., 0].astype(np.uint16) * 16)
    np.testing.assert_array_equal(pixels_of(deep, "0", 12)[..., 1], pixels[..., 0])
    for mode in ("F", "I"):
        with pytest.raises(ImageError, match=f"image 7 has Pillow's mode {mode}"):
            pixels_of(image.convert("L").convert(mode), "7")
    with pytest.raises(ImageError, match="image 7 can't be loaded"):
        pixels_of(Image.open(io.BytesIO(saved(image, "PNG")[:300])), "7")
