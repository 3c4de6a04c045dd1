from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from lightpose.checkpoint import assemble
from lightpose.data.coco.boxes import unlabelled
from lightpose.data.coco.dataset import CocoImages, CocoInstances, skeleton_of
from lightpose.data.pipeline import Pipeline
from lightpose.data.pixels.crop import Warp
from lightpose.data.pixels.device import collate
from lightpose.data.transforms import Geometry
from lightpose.errors import UserError
from lightpose.structures import Sample

CONF = Path(__file__).parents[2] / "conf"


@pytest.fixture
def make(write_coco, person):
    """A data module of the composed configuration, over six people on three images."""
    path = write_coco([person(id, 1 + id % 3) for id in range(6)], images=3)

    def build(*overrides, data="topdown", augment="topdown", skeleton=None):
        parts = [
            "+reader=coco",
            f"+data={data}",
            f"+augment={augment}",
            "+dataset=custom",
            "+input_hw=[64,48]",
            "+grid=udp",
            "+margin_grey=0",
            "+seed=0",
        ]
        with initialize_config_dir(str(CONF), version_base=None):
            config = compose(overrides=[*parts, "data.num_workers=0", *overrides])
        data = OmegaConf.to_container(config, resolve=True)["data"]
        data = {key: str(path) if value == "FILE" else value for key, value in data.items()}
        return assemble(data, skeleton=skeleton or skeleton_of(path))

    return build


def test_topdown_batches(make):
    module = make("data.train=FILE", "data.val=FILE", "data.batch_size=4")
    module.setup("fit")
    train, val = list(module.train_dataloader()), list(module.val_dataloader())
    assert [len(batch) for batch in train] == [4]
    assert [len(batch) for batch in val] == [4, 2]
    assert torch.cat([batch.indices for batch in val]).tolist() == list(range(6))
    batch = train[0]
    assert batch.inputs.shape == (4, 3, 64, 48)
    assert batch.inputs.dtype == torch.uint8
    assert batch.instances.keypoints.shape == (4, 1, 5, 2)
    assert isinstance(module.train_dataset, CocoInstances)


def test_evaluation_crops_are_plain(make):
    module = make("data.val=FILE")
    first, second = list(module.val_dataloader()), list(module.val_dataloader())
    torch.testing.assert_close(first[0].inputs, second[0].inputs)
    center = first[0].instances.boxes_xyxy.unflatten(-1, (2, 2)).mean(-2)
    torch.testing.assert_close(center, torch.tensor([23.5, 31.5]).expand_as(center), atol=1e-3, rtol=0)


def test_bottom_up_batches_are_padded(make, write_coco, person):
    path = write_coco([person(1), person(2), person(3, 2)], images=3, name="several.json")
    module = make(f"data.train={path}", f"data.val={path}", "data.batch_size=2", data="bottomup", augment="bottomup")
    assert isinstance(module.train_dataset, CocoImages)
    (batch,) = module.train_dataloader()
    assert sorted(batch.instances.valid.sum(-1).tolist()) == [1, 2]
    assert [len(batch) for batch in module.val_dataloader()] == [2, 1]  # evaluation visits every image


@pytest.mark.parametrize("split", ["train", "val"])
def test_crops_of_one_person_are_not_made_of_whole_images(make, split):
    module = make("data.train=FILE", "data.val=FILE", data="bottomup", augment="topdown")
    with pytest.raises(UserError, match="CropBox is for samples of one person, but a sample of CocoImages is a whole"):
        module.dataset(split)


@pytest.mark.parametrize(
    ("data", "given", "said"),
    [
        ("bottomup", ["augment.train.geometry.crop=${augment.eval.geometry.crop}"], "a batch to train on has one size"),
        ("bottomup", ["+augment.late=${augment.eval}", "data.late_epochs=1"], "ResizeImage under augment.eval alone"),
        ("topdown", [], "models of one person don't take; use CropBox"),
    ],
)
def test_sizes_of_their_own_are_for_whole_images_that_are_evaluated(make, data, given, said):
    module = make("data.train=FILE", "data.val=FILE", *given, data=data, augment="bottomup_published")
    with pytest.raises(UserError, match=f"ResizeImage gives each image an input of its own size, .*{said}"):
        module.setup("fit")


def test_sizes_change_in_training_alone_and_of_whole_images_alone(make):
    given = ("data.train=FILE", "data.val=FILE", "input_hw=[64,96]", "data.batch_size=1")
    module = make(*given, "data.input_scale=[0.5,1.5]", data="bottomup", augment="bottomup")
    module.setup("fit")
    drawn = set()
    for epoch in range(4):
        loader = module.train_dataloader()
        loader.sampler.set_epoch(epoch)
        drawn |= {batch.inputs.shape[-2:] for batch in loader}
    assert drawn == {(32, 64), (64, 96), (96, 128)}
    assert {batch.inputs.shape[-2:] for batch in module.val_dataloader()} == {(64, 96)}
    with pytest.raises(UserError, match=r"a sample of CocoInstances is one person; set data.input_scale=null"):
        make(*given, "+data.input_scale=[0.5,1.5]").setup("fit")


@pytest.mark.parametrize("augment", sorted({path.stem for path in (CONF / "augment").glob("*.yaml")} - {"lifting"}))
def test_every_augmentation_is_deterministic(make, augment):
    data = "bottomup" if augment == "onestage" else "topdown"  # which mixes whole images
    modules = [make("data.train=FILE", data=data, augment=augment) for _ in range(2)]
    first, second = (collate([module.train_dataset[i] for i in range(3)]) for module in modules)
    torch.testing.assert_close(first.inputs, second.inputs, atol=0, rtol=0)
    assert first.inputs.shape == (3, 3, 64, 48)


def test_one_transform_can_be_changed_or_left_out(make):
    geometry = "augment.train.geometry"
    module = make("data.train=FILE", f"{geometry}.affine.rotate_degrees=40", f"{geometry}.flip=null")
    steps = module.train_dataset.transforms.geometry
    assert [type(step).__name__ for step in steps] == ["CropBox", "HalfBody", "RandomAffine"]
    assert steps[2].rotate_degrees == 40


FLIP = "{_target_: lightpose.data.transforms.RandomFlip, _partial_: true, input_hw: [64, 48], probability: 1}"
LIGHT = "{_target_: lightpose.data.pixels.photometric.BrightnessContrast, probability: 0}"


@pytest.mark.parametrize("decode", ["cpu", "device"])
def test_what_a_user_adds_comes_last_in_the_list_that_it_names(make, decode):
    given = ("data.train=FILE", f"data.decode={decode}", "augment.train.geometry.affine=null")
    plain = make(*given, "augment.train.geometry.half_body=null", "augment.train.geometry.flip=null")
    module = make(
        *given,
        "augment.train.geometry.half_body=null",
        "augment.train.geometry.flip=null",
        f"+augment.train.geometry.mine={FLIP}",
        f"+augment.train.pixels.light={LIGHT}",
    )
    pipeline = module.train_dataset.transforms
    assert [type(step).__name__ for step in pipeline.geometry] == ["CropBox", "RandomFlip"]
    assert [type(step).__name__ for step in pipeline.pixels] == ["BrightnessContrast"]
    pixels = [collate([one.train_dataset[0]]).inputs for one in (plain, module)]
    drawn = module.train_dataset[0].photometric
    assert ("color" in drawn) or (
        pixels[0].flip(-1).int() - pixels[1].int()
    ).abs().max() <= 1  # pixels are mirrored, too


@pytest.mark.parametrize(
    ("place", "step", "message"),
    [
        ("pixels", FLIP, "pixels lists RandomFlip, which would move keypoints and no pixel there"),
        ("geometry", LIGHT, "geometry lists BrightnessContrast, which is no .*Geometry; list it under pixels"),
        ("others", LIGHT, "no list others; its lists are mix, geometry, pixels"),
    ],
)
def test_a_step_in_the_wrong_list_is_refused(make, place, step, message):
    with pytest.raises(UserError, match=message):
        make("data.train=FILE", f"+augment.train.{place}.mine={step}").setup("fit")


@pytest.mark.parametrize("of", ["matrix", "keypoints"])
def test_a_step_of_pixels_that_moves_keypoints_alone_is_refused(of):
    def shift(sample, rng):
        if of == "matrix":
            return replace(sample, input_from_image=np.diag([2.0, 2.0, 1.0]))
        return replace(sample, instances=replace(sample.instances, keypoints=sample.instances.keypoints + 1))

    nobody = unlabelled(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), 5)
    sample = Sample(np.zeros((8, 8, 3), np.uint8), nobody, np.eye(3), 1, 0, (8, 8))
    with pytest.raises(UserError, match="function changes input_from_image or keypoints and moves no pixel"):
        Pipeline(warp=Warp((8, 8)), pixels=[shift])(sample, np.random.default_rng(0))


def test_a_step_of_geometry_that_changes_pixels_is_refused():
    class Inverted(Geometry):
        def __call__(self, sample, rng):
            return replace(sample, image=255 - sample.image)

    nobody = unlabelled(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), 5)
    sample = Sample(np.zeros((8, 8, 3), np.uint8), nobody, np.eye(3), 1, 0, (8, 8))
    with pytest.raises(UserError, match="Inverted is geometry and changes pixels; list it under pixels"):
        Pipeline([Inverted()], Warp((8, 8)))(sample, np.random.default_rng(0))


def test_an_epoch_is_never_empty(make):
    assert [len(batch) for batch in make("data.train=FILE", "data.batch_size=100").train_dataloader()] == [6]


def test_people_of_one_image_can_share_a_batch(make):
    module = make("data.train=FILE", "data.batch_size=2", "data.group_by_image=true")
    assert all(len(set(batch.image_ids.tolist())) == 1 for batch in module.train_dataloader())


def test_detected_boxes_are_for_evaluation_only(make, tmp_path):
    (tmp_path / "det.json").write_text('[{"image_id": 1, "category_id": 1, "bbox": [9, 9, 20, 20], "score": 0.5}]')
    module = make("data.train=FILE", "data.val=FILE", f"data.boxes={tmp_path / 'det.json'}")
    assert len(module.train_dataset) == 6
    assert len(module.dataset("val")) == 1


def test_files_that_are_not_given(make):
    module = make("data.train=FILE")
    module.setup("fit")
    assert module.val_dataloader() == []
    with pytest.raises(UserError, match=r"no annotation file to validate on; give one as `val`"):
        module.setup("validate")
    with pytest.raises(UserError, match=r"no annotation file to train on; give one as `train`"):
        make().setup("fit")


def test_validation_images_are_looked_for_near_their_annotations_first(make, tmp_path):
    for folder in ("there", "elsewhere"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "val.json").write_text((tmp_path / "train.json").read_text())
    for name in ("1.jpg", "2.jpg", "3.jpg"):
        (tmp_path / "there" / name).write_bytes((tmp_path / name).read_bytes())
        (tmp_path / name).rename(tmp_path / "elsewhere" / name)
    elsewhere = f"data.images={tmp_path / 'elsewhere'}"

    def folder(name, *overrides):
        module = make("data.train=FILE", f"data.val={tmp_path / name}", elsewhere, *overrides)
        module.setup("fit")
        assert module.train_dataset.folder == tmp_path / "elsewhere"
        return module.dataset("val").folder.name

    assert folder("there/val.json") == "there"
    assert folder("train.json") == "elsewhere"  # no images near it
    assert folder("train.json", f"data.val_images={tmp_path / 'there'}") == "there"
    with pytest.raises(UserError, match=r"not in .*nowhere; say where they are with `images`"):
        folder("there/val.json", f"data.val_images={tmp_path / 'nowhere'}")
    with pytest.raises(UserError, match=r"train\.json, e\.g\. 1\.jpg, are not in"):
        make("data.val=FILE").setup("validate")


@pytest.mark.parametrize("split", ["train", "val"])
def test_missing_images_are_counted_before_anything_is_computed(make, tmp_path, split):
    module = make("data.train=FILE", "data.val=FILE")
    gone = module.dataset(split).index.file_name(2)
    (tmp_path / gone).unlink()
    again = make("data.train=FILE", "data.val=FILE", f"data.images={tmp_path}")
    with pytest.raises(UserError, match=rf"1 of the \d images of .* are not in .*, such as {gone}; say where"):
        again.dataset(split)
    make("data.train=FILE", "data.val=FILE", "reader.on_bad_image=skip").dataset(split)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_image_is_named_without_a_traceback(make, tmp_path, workers):
    module = make("data.train=FILE", f"data.num_workers={workers}")
    (tmp_path / "2.jpg").write_bytes(b"junk")
    with pytest.raises(UserError, match=r"^image \S*/2\.jpg \(4 bytes\) is truncated or not an image; .*$"):
        list(module.train_dataloader())


def test_skipped_images_are_reported(make, tmp_path, caplog):
    module = make("data.train=FILE", "reader.on_bad_image=skip")
    (tmp_path / "2.jpg").unlink()
    assert all(2 not in batch.image_ids for batch in module.train_dataloader())
    module.teardown("fit")
    assert "1 unreadable images were skipped, e.g. 2.jpg" in caplog.text


def test_coco_paths():
    with initialize_config_dir(str(CONF), version_base=None):
        config = compose("train", ["dataset=coco", "dataset.root=/x", "output_dir=out"])
    assert config.data.train == "/x/annotations/person_keypoints_train2017.json"
    assert config.data.val_images == "/x/val2017"
    assert config.skeleton.name == "coco17"
