import json
import pickle
from dataclasses import fields, replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from PIL import Image

from lightpose.checkpoint import assemble
from lightpose.data.coco.boxes import unlabelled
from lightpose.data.coco.dataset import skeleton_of
from lightpose.data.pixels import device
from lightpose.data.pixels.crop import DeferWarp, Warp
from lightpose.data.pixels.decode import EncodedImage, ImageError, read_image
from lightpose.data.pixels.device import to_batch
from lightpose.data.pixels.raw import RawBatch, gather
from lightpose.errors import UserError
from lightpose.geometry import crop_matrix
from lightpose.structures import Sample

CONF = Path(__file__).parents[3] / "conf"
SAMPLES = Path(__file__).parents[3] / "../shared/samples/coco"
NAMES = ["head", "left_hand", "right_hand", "left_foot", "right_foot"]
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.fixture
def photographs(tmp_path):
    """Six people on three files of different size: two JPEGs, of which one shrinks a lot in its crops, and a PNG."""
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for image_id, (name, hw) in enumerate({"a.jpg": (120, 161), "b.jpg": (701, 513), "c.png": (90, 80)}.items(), 1):
        # As in photographs, what is fine is grey: nvJPEG interpolates colours less smoothly than libjpeg.
        layers = [
            cv2.resize(rng.uniform(-1, 1, (n, n, channels)), hw[::-1], interpolation=cv2.INTER_CUBIC).reshape(*hw, -1)
            for n, channels in ((3, 3), (9, 1), (40, 1))
        ]
        Image.fromarray((128 + 50 * sum(layers)).clip(0, 255).astype(np.uint8)).save(tmp_path / name)
        images.append({"id": image_id, "file_name": name, "height": hw[0], "width": hw[1]})
        for x, y in ((0.3, 0.4), (0.6, 0.55)):  # the crop of the second one leaves the image
            box = [hw[1] * (x - 0.25), hw[0] * (y - 0.3), hw[1] * 0.5, hw[0] * 0.6]
            points = [value for dx in (0.1, 0.4, 0.5, 0.6, 0.9) for value in (box[0] + dx * box[2], box[1] + 9, 2)]
            entry = {"id": len(annotations) + 1, "image_id": image_id, "category_id": 1, "iscrowd": 0}
            annotations.append({**entry, "bbox": box, "area": box[2] * box[3], "keypoints": points})
    categories = [{"id": 1, "name": "person", "keypoints": NAMES}]
    path = tmp_path / "train.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path


def module(path, decode, *overrides, augment="topdown", data="topdown", hw="[128,96]", grey=0):
    parts = [
        "+reader=coco",
        f"+data={data}",
        f"+augment={augment}",
        f"+input_hw={hw}",
        "+dataset=custom",
        "+grid=half_pixel",
        f"+margin_grey={grey}",
        "+seed=0",
    ]
    files = [f"data.train={path}", f"data.val={path}", "data.num_workers=0", f"data.decode={decode}"]
    with initialize_config_dir(str(CONF), version_base=None):
        config = compose(overrides=[*parts, *files, *overrides])
    return assemble(OmegaConf.to_container(config, resolve=True)["data"], skeleton=skeleton_of(path))


def gathered(module, epoch=0):
    dataset = module.train_dataset
    return gather([dataset[epoch, index] for index in range(len(dataset))])


def difference(first, second):
    """(B,) mean absolute difference, in grey levels."""
    return (first.inputs.cpu().int() - second.inputs.cpu().int()).abs().float().mean((1, 2, 3))


@pytest.mark.parametrize("place", ["cpu", pytest.param("cuda", marks=needs_cuda)])
@pytest.mark.parametrize("chunk_bytes", [2**28, 2**21])  # all in one, some in each
def test_the_device_crops_what_the_workers_would(photographs, place, chunk_bytes, monkeypatch):
    monkeypatch.setattr(device, "_BUFFER_BYTES", chunk_bytes)
    mirrored = reductions = 0
    here, there = module(photographs, "cpu"), module(photographs, "device")
    for epoch in range(6):
        expected = to_batch(gathered(here, epoch))
        deferred = gathered(there, epoch).to(place)
        found = to_batch(deferred)
        torch.testing.assert_close(found.image_from_input.cpu(), expected.image_from_input, atol=0, rtol=0)
        assert found.inputs.shape == (6, 3, 128, 96)
        assert found.inputs.dtype == torch.uint8
        assert found.inputs.is_contiguous(memory_format=torch.channels_last)
        whole = torch.tensor(deferred.images.reductions) == 1
        error = difference(found, expected)
        # Alike but for rounding; libjpeg's reduction is not quite a mean, and nvJPEG not quite libjpeg.
        assert (error[whole] < (0.01 if place == "cpu" else 1)).all()
        assert (error < 1).all()
        mirrored += (torch.linalg.det(expected.image_from_input) < 0).sum()
        reductions |= sum(set(deferred.images.reductions))
    assert 0 < mirrored < 36
    assert reductions >= 4  # both kinds were among them


@pytest.mark.parametrize("place", ["cpu", pytest.param("cuda", marks=needs_cuda)])
def test_photographs_differ_by_less_than_a_grey_level(place):
    if not SAMPLES.exists():
        pytest.skip("no sample photographs here")
    for epoch in range(2):
        expected, found = (
            to_batch(gathered(module(SAMPLES / "test_coco.json", decode, hw="[256,192]"), epoch).to(place))
            for decode in ("cpu", "device")
        )
        assert difference(found, expected).max() < 1


@pytest.mark.parametrize("hw", [(1, 1), (1, 7), (2, 300), (700, 510)])
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_images_of_any_kind_and_size(photographs, hw, suffix):
    """The largest is four times as large as its crop, the others are smaller."""
    pixels = cv2.resize(read_image(photographs.parent / "b.jpg"), hw[::-1])
    path = photographs.parent / f"any.{suffix}"
    Image.fromarray(pixels).save(path)
    matrix = crop_matrix(np.array([hw[1] - 1, hw[0] - 1]) / 2, np.array([192, 256]), (64, 48), "half_pixel", degrees=20)
    nobody = unlabelled(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), 5)
    sample = Sample(EncodedImage(path, hw), nobody, matrix, 1, 0, hw)
    rng = np.random.default_rng(0)
    expected = to_batch(gather([Warp((64, 48))(sample, rng)]))
    found = to_batch(gather([DeferWarp((64, 48))(sample, rng)]))
    assert difference(found, expected).max() < 1


@pytest.mark.parametrize("place", ["cpu", pytest.param("cuda", marks=needs_cuda)])
@pytest.mark.parametrize("grey", [0, 114])
def test_whole_images_too_in_a_margin_of_one_grey(photographs, grey, place):
    first, second = (
        to_batch(gathered(module(photographs, decode, data="bottomup", augment="bottomup", grey=grey)).to(place))
        for decode in ("cpu", "device")
    )
    assert difference(first, second).max() < 1
    assert len(first) == 3
    beside = (first.inputs == grey).all(1)
    assert beside.float().mean() > 0.2
    assert (second.inputs == grey).all(1)[beside].float().mean() > 0.95


@pytest.mark.parametrize("grey", [-1, 256, 0.5, True, "grey"])
def test_a_margin_of_no_grey_is_refused(grey):
    for warp in (Warp, DeferWarp):
        with pytest.raises(UserError, match="whole number from 0"):
            warp((64, 48), grey)


def test_a_batch_carries_each_file_once(photographs):
    batch = gathered(module(photographs, "device"))
    images = batch.images
    assert images.image_rows == (0, 0, 1, 1, 2, 2)
    assert images.jpeg == (True, True, False)
    jpegs = [(photographs.parent / name).read_bytes() for name in ("a.jpg", "b.jpg")]
    assert images.sizes == (len(jpegs[0]), len(jpegs[1]), 90 * 80 * 3)
    assert images.data.numpy().tobytes() == b"".join(jpegs) + read_image(photographs.parent / "c.png").tobytes()
    assert len(batch) == 6
    assert len(pickle.dumps(batch.images)) < images.data.numel() + 5000


def test_files_stay_on_the_cpu_and_are_not_pinned(photographs, monkeypatch):
    batch = gathered(module(photographs, "device"))
    assert batch.to("meta").images.data is batch.images.data
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: torch.empty(0))
    assert batch.pin_memory().images.data is batch.images.data


def cut(path):
    path.write_bytes(path.read_bytes()[:-700])


def turn(path):
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.open(path).save(path, exif=exif)


def convert(path):
    Image.open(path).convert("CMYK").save(path)


@pytest.mark.parametrize("change", [turn, convert])
def test_what_only_the_cpu_reads_is_decoded_by_the_workers(photographs, change):
    change(photographs.parent / "a.jpg")
    batch = gathered(module(photographs, "device"))
    assert batch.images.jpeg == (False, True, False)
    assert difference(to_batch(batch), to_batch(gathered(module(photographs, "cpu"))))[:2].max() < 0.01


def test_bad_files_are_found_by_the_workers(photographs):
    cut(photographs.parent / "a.jpg")
    with pytest.raises(ImageError, match=r"a\.jpg .*truncated"):
        module(photographs, "device").train_dataset[0]
    skipping = module(photographs, "device", "reader.on_bad_image=skip")
    batch = gathered(skipping)
    assert 1 not in batch.image_ids
    assert skipping.train_dataset.bad_images == ["a.jpg"]
    assert to_batch(batch).inputs.shape == (6, 3, 128, 96)


def test_a_file_of_another_size_is_refused(photographs):
    Image.new("RGB", (60, 48)).save(photographs.parent / "a.jpg")
    with pytest.raises(UserError, match=r"a\.jpg is 60x48 .* annotated as 161x120"):
        module(photographs, "device").train_dataset[0]


@pytest.mark.parametrize("place", ["cpu", pytest.param("cuda", marks=needs_cuda)])
def test_a_file_that_only_shows_to_be_bad_when_decoded_is_named(photographs, place):
    batch = gathered(module(photographs, "device")).to(place)
    data = batch.images.data.clone()
    data[100 : batch.images.sizes[0] - 2] = 0xFF  # all of the first file but its beginning and its end
    broken = replace(batch, images=replace(batch.images, data=data))
    with pytest.raises(ImageError, match=r"a\.jpg"):
        to_batch(broken)
    assert to_batch(batch).inputs.device.type == place


class Inverted:
    """A step that reads pixels."""

    def __call__(self, sample, rng):
        return replace(sample, image=255 - sample.image)


def test_what_needs_pixels_is_refused(photographs):
    user = f"{{_target_: {__name__}.Inverted}}"
    module(photographs, "cpu", f"+augment.train.pixels.user={user}").setup("fit")
    with pytest.raises(
        UserError,
        match=r"Inverted needs pixels, which data\.decode=device doesn't give.*; use data\.decode=cpu, or",
    ):
        module(photographs, "device", f"+augment.train.pixels.user={user}").setup("fit")
    with pytest.raises(UserError, match="input_hw=null has none"):
        module(photographs, "device", "data.input_hw=null")
    with pytest.raises(UserError, match="use cpu or device"):
        module(photographs, "gpu")


def test_loaders_give_finished_batches(photographs):
    for decode in ("cpu", "device"):
        data = module(photographs, decode, "data.batch_size=6", augment="topdown_photometric")
        for loader in (data.train_dataloader(), data.val_dataloader()):
            (batch,) = loader
            assert batch.inputs.shape == (6, 3, 128, 96)
            assert not isinstance(batch, RawBatch)


@needs_cuda
def test_batches_are_prepared_one_ahead_on_the_device(photographs):
    from lightpose.data.pixels.loader import EpochLoader

    dataset = module(photographs, "device", augment="topdown_photometric").train_dataset
    prepared = []

    def noted(raw):
        prepared.append(len(prepared))
        return to_batch(raw)

    options = {"batch_size": 2, "collate_fn": gather}
    expected = list(EpochLoader(dataset, torch.device("cpu"), to_batch, **options))
    loader = EpochLoader(dataset, torch.device("cuda", 0), noted, pin_memory=True, **options)
    for number, batch in enumerate(loader):
        assert number + 1 <= len(prepared) <= min(number + 2, 3)
        assert all(getattr(batch.instances, field.name).is_cuda for field in fields(batch.instances))
        torch.cuda._sleep(10**8)  # the inputs must survive while they wait for their turn
        copy = batch.inputs * 1
        assert difference(replace(batch, inputs=copy), expected[number]).max() < 1.5
    assert number == 2
