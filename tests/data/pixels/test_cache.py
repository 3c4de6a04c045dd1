import json
import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from lightpose.checkpoint import assemble
from lightpose.data.coco.dataset import CocoInstances, skeleton_of
from lightpose.data.pixels import cache
from lightpose.data.pixels.cache import PixelCache, cache_of, free_memory
from lightpose.errors import UserError
from lightpose.runtime.cores import MOST_WORKERS

CONF = Path(__file__).parents[3] / "conf"
FILES = ["a.jpg", "b.png", "c.jpg", "d.png"]
HW = (301, 403)
NEEDED = 4 * 3 * (301 * 403 + 151 * 202 + 76 * 101 + 38 * 51)


@pytest.fixture
def people(tmp_path):
    """Twelve people on two JPEGs and two PNGs, of 40 to 280 pixels; nobody is on a fifth image."""
    rng = np.random.default_rng(0)
    annotations = []
    for image, name in enumerate([*FILES, "nobody.png"]):
        pixels = cv2.resize(rng.integers(0, 255, (30, 40, 3), np.uint8), HW[::-1])
        cv2.imwrite(str(tmp_path / name), pixels)
        for height in (40, 140, 280) if name in FILES else ():
            x, y, width = 10 * image, 5, 0.75 * height
            points = [x + 0.3 * width, y + 0.2 * height, 2, x + 0.7 * width, y + 0.8 * height, 2]
            person = {"image_id": image, "bbox": [x, y, width, height], "area": width * height, "keypoints": points}
            annotations.append({"id": len(annotations), "category_id": 1, "num_keypoints": 2, "iscrowd": 0, **person})
    images = [
        {"id": image, "file_name": name, "height": HW[0], "width": HW[1]}
        for image, name in enumerate([*FILES, "nobody.png"])
    ]
    categories = [{"id": 1, "name": "person", "keypoints": ["top", "bottom"]}]
    path = tmp_path / "people.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path


def module(path, *overrides, data="topdown"):
    parts = ["+reader=coco", f"+data={data}", f"+augment={data}", "+dataset=custom"]
    parts += ["+input_hw=[64,48]", "+margin_grey=0"]
    given = [f"data.train={path}", f"data.val={path}", "data.batch_size=4", "data.num_workers=0", *overrides]
    with initialize_config_dir(str(CONF), version_base=None):
        config = compose(overrides=[*parts, "+grid=half_pixel", "+seed=0", *given])
    return assemble(OmegaConf.to_container(config, resolve=True)["data"], skeleton=skeleton_of(path))


def batches(module, epochs):
    module.setup("fit")
    train, val, found = module.train_dataloader(), module.val_dataloader(), []
    for epoch in range(epochs):
        train.sampler.set_epoch(epoch)
        found += [batch.inputs for batches in (train, val) for batch in batches]
    return torch.cat(found)


@pytest.mark.parametrize("data", ["topdown", "bottomup"])
def test_samples_are_the_same_with_a_cache(people, data):
    """At every reduction, from memory that other workers filled, too."""
    expected = batches(module(people, "data.cache_gb=0", data=data), 3)
    for workers in (0, 2):
        cached = module(people, f"data.num_workers={workers}", data=data)
        torch.testing.assert_close(batches(cached, 3), expected, atol=0, rtol=0)
        for split in ("train", "val"):
            factors = cached.dataset(split)._cache._factors
            assert factors[:4].any(-1).all()
            assert factors[[1, 3]].max() == 1  # PNGs are never reduced by their decoder
            assert factors[[0, 2]].max() >= 4


def test_images_are_decoded_once_for_all_workers(people):
    dataset = module(people, "data.num_workers=2")
    first = batches(dataset, 4)
    for name in FILES:
        (people.parent / name).unlink()
    dataset.dataset("train")._last = dataset.dataset("val")._last = None
    torch.testing.assert_close(batches(dataset, 4), first, atol=0, rtol=0)


def test_kept_pixels_can_not_be_written_to(people):
    dataset = CocoInstances(people)
    dataset.keep_decoded(1)
    image = dataset.load(0, np.random.default_rng(0)).image
    for reduction in (1, 2, 4, 8):
        for pixels in (image.decode(reduction)[0], dataset._cache.decoded(0, reduction, lambda _: 1 / 0)[0]):
            assert pixels.shape == (-(-HW[0] // reduction), -(-HW[1] // reduction), 3)
            with pytest.raises(ValueError, match="read-only"):
                pixels[0] = 0


def test_only_the_images_of_samples_count(people, caplog):
    caplog.set_level("INFO")
    dataset = CocoInstances(people)
    assert cache_of(dataset.index.image_hw, dataset.image_rows, NEEDED / 1e9)
    assert not caplog.text.count("decoded")
    assert cache_of(dataset.index.image_hw, dataset.image_rows, (NEEDED - 1) / 1e9) is None
    assert "the 4 images are decoded anew in each pass: decoded, they take 0.00 GB; to keep" in caplog.text
    assert caplog.text.strip().endswith("data.cache_gb=1")


def test_little_free_memory_is_left_alone(people, caplog, monkeypatch):
    caplog.set_level("INFO")
    monkeypatch.setattr(cache, "free_memory", lambda: 1.9 * NEEDED)
    dataset = CocoInstances(people)
    dataset.keep_decoded(4)
    assert dataset._cache is None
    assert "more than half of the free memory (0.00 GB) is not used for them" in caplog.text


def test_a_container_has_less_free_memory_than_its_machine(tmp_path, monkeypatch):
    assert free_memory() > 0
    (tmp_path / "memory.stat").write_text("anon 5\ninactive_file 300\n")
    (tmp_path / "memory.current").write_text("900\n")
    (tmp_path / "memory.max").write_text("1000\n")
    monkeypatch.setattr(cache, "_LIMITS", [(tmp_path, *cache._LIMITS[0][1:])])
    assert free_memory() == 400
    (tmp_path / "memory.max").write_text("max\n")
    assert free_memory() > 10**6


def test_workers_that_are_not_forked_do_without(people):
    dataset = CocoInstances(people)
    dataset.keep_decoded(1)
    assert isinstance(dataset._cache, PixelCache)
    copy = pickle.loads(pickle.dumps(dataset))
    assert copy._cache is None
    np.testing.assert_array_equal(copy[0].image, dataset[0].image)


def test_nothing_is_kept_where_it_would_be_of_no_use(people):
    for overrides in (["data.cache_gb=0"], ["data.decode=device"]):
        without = module(people, *overrides)
        without.train_dataloader()
        assert without.train_dataset._cache is None
    evaluation = module(people)
    evaluation.val_dataloader()
    assert evaluation.dataset("val")._cache is None


@pytest.mark.parametrize("value", ["-1", "nan"])
def test_a_limit_is_a_number_from_0(people, value):
    with pytest.raises(UserError, match=r"data\.cache_gb=\S+ must be at least 0"):
        module(people, f"data.cache_gb={value}")


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_there_are_no_more_workers_than_batches(people, monkeypatch):
    monkeypatch.setattr("lightpose.data.datamodule.CORES", 9)
    assert MOST_WORKERS > 9
    for size, count in ((1, 9), (4, 3), (5, 2), (12, 1), (64, 1)):
        assert (
            module(people, "data.num_workers=null", f"data.batch_size={size}").train_dataloader().num_workers == count
        )
    assert module(people, "data.num_workers=7").train_dataloader().num_workers == 7
