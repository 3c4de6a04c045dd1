"""What is in a COCO keypoint file, what of it would be used, and what is wrong with it."""

from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from lightpose.data.coco.box_formats import box_mistakes
from lightpose.data.coco.dataset import check_trainable, skeleton_of, skeleton_remarks
from lightpose.data.coco.frames import without_boxes
from lightpose.data.coco.index import CocoIndex, read_coco
from lightpose.data.coco.onto import mapping_remarks, onto
from lightpose.data.coco.parse import BAD_BOX, MISTAKES, USABLE
from lightpose.data.coco.places import check_places, outside_remarks
from lightpose.data.pixels.decode import FEW_BITS, bits_used, read_image, read_image_hw
from lightpose.data.pixels.image_files import check_image_hw, image_folder
from lightpose.errors import UserError
from lightpose.skeleton import Skeleton, mirror_remarks

_SHOWN = 5
_DECODED = 16  # images, to see how bright they are


@dataclass(frozen=True)
class Report:
    """What `check` found.

    Attributes:
        annotations: the file.
        images: number of images it lists.
        total: number of annotations.
        usable: number of those that can be trained on.
        dropped: reason, with the first that is damaged so → number of those that can't.
        skeleton: the one given, or that of the file; None where there is none.
        labelled: (K,) share of the usable people on which each keypoint is labelled.
        errors: what must be mended before training.
        warnings: what is worth a look.
    """

    annotations: Path
    images: int = 0
    total: int = 0
    usable: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    skeleton: Skeleton | None = None
    labelled: tuple[float, ...] = ()
    errors: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def has_errors(self) -> bool:
        """Whether training on the file would fail, or go wrong."""
        return bool(self.errors)

    def __str__(self) -> str:
        lines = [f"{self.annotations}: {self.images} images, {self.total} annotations"]
        lines += [f"  {self.usable:>7} usable"]
        lines += [f"  {count:>7} dropped: {reason}" for reason, count in self.dropped.items()]
        if self.skeleton is not None:
            lines += ["", *_describe(self.skeleton, self.labelled)]
        lines += [""] if self.warnings or self.errors else ["", "nothing is wrong"]
        lines += [f"warning: {text}" for text in self.warnings] + [f"error: {text}" for text in self.errors]
        return "\n".join(lines)


def _describe(skeleton: Skeleton, labelled: tuple[float, ...]) -> list[str]:
    known = "known" if skeleton.sigmas_known else "a default: AP is not comparable with published figures"
    width = max(map(len, skeleton.keypoints))
    lines = [f"skeleton {skeleton.name}: {skeleton.num_keypoints} keypoints; OKS sigmas are {known}"]
    for name, swap, share, sigma in zip(skeleton.keypoints, skeleton.swap, labelled, skeleton.sigmas, strict=True):
        mirror = skeleton.keypoints[swap] if skeleton.keypoints[swap] != name else "itself"
        mirror = mirror if skeleton.mirrors else "unknown"
        lines.append(f"  {name:<{width}}  labelled {share:4.0%}  sigma {sigma:.3f}  mirrored is {mirror}")
    return lines


def check(
    annotations: Path | str, images: Path | str | None = None, skeleton: Skeleton | None = None, decode: bool = False
) -> Report:
    """Look for everything in a data set that would make training fail or its figures wrong.

    Args:
        annotations: COCO keypoint file.
        images: folder of the images; None looks for it near the file.
        skeleton: None takes it from the file.
        decode: decode every image; else only the headers are read.
    """
    path = Path(annotations)
    try:
        index = read_coco(path)
    except UserError as error:
        return Report(path, errors=(str(error),))
    boxless = not (index.status == USABLE).any() and (index.status == BAD_BOX).any()
    if boxless:
        index = without_boxes(index)
    errors, warnings = _annotation_mistakes(index)
    warnings += box_mistakes(index)
    if boxless and (several := int((np.bincount(index.image_rows[index.status == USABLE]) > 1).sum())):
        errors.append(f"no annotation has a box, and {several} images show several subjects; add `bbox` to each")
    elif boxless:
        warnings.append("no annotation has a box; experiment=single_animal needs none, with one subject in each image")
    try:
        check_trainable(index)
        skeleton = skeleton or skeleton_of(path)
        read, index = index, onto(index, skeleton)
        warnings += [*skeleton_remarks(path), *mapping_remarks(read, skeleton)]
    except UserError as error:
        errors.append(str(error))
        skeleton = None
    if skeleton and not skeleton.sigmas_known:
        warnings.append("OKS sigmas are a default; give measured ones as `sigmas` of the category, or in a skeleton")
    warnings += mirror_remarks(skeleton) if skeleton else []
    if index.other_keypoints:
        found = ", ".join(f"{name} ({length} numbers)" for name, length in index.other_keypoints.items())
        warnings.append(f"only `keypoints` are trained on, and not what else the annotations have: {found}")
    try:
        if len(index.image_ids):
            folder = image_folder(path, index.file_name(0), images)
            errors += _image_mistakes(index, folder, decode)
            warnings += _dark_images(index, folder)
    except UserError as error:
        errors.append(str(error))
    usable = index.status == USABLE
    labelled = (index.visible[usable] > 0).mean(0) if usable.any() else np.zeros(index.num_keypoints)
    return Report(
        annotations=path,
        images=len(index.image_ids),
        total=len(index.ids) + sum(index.dropped.values()),
        usable=int(usable.sum()),
        dropped={index.with_example(reason): count for reason, count in index.reasons().items()},
        skeleton=skeleton,
        labelled=tuple(labelled.tolist()),
        errors=tuple(errors),
        warnings=tuple(warnings),
    )


def _annotation_mistakes(index: CocoIndex) -> tuple[list[str], list[str]]:
    errors, warnings = [], [*index.remarks, *(f"{count} annotations: {what}" for what, count in index.mended.items())]
    if not (index.status == USABLE).any():
        errors.append("no annotation is usable")
    for reason, count in index.reasons().items():
        if reason in MISTAKES:
            errors.append(f"{count} annotations are dropped: {index.with_example(reason)}")
    usable = np.flatnonzero(index.status == USABLE)
    far, near = outside_remarks(index)
    warnings += [*far, *near]
    try:
        check_places(index)
    except UserError as error:
        errors.append(str(error))
    unlabelled = np.flatnonzero(~(index.visible[usable] > 0).any(0))
    if len(usable) and len(unlabelled):
        more = ", ..." if len(unlabelled) > 20 else ""
        warnings.append(f"keypoints [{', '.join(map(str, unlabelled[:20]))}{more}] (from 0) are never labelled")
    return errors, warnings


def _image_mistakes(index: CocoIndex, folder: Path, decode: bool) -> list[str]:
    bad: list[str] = []
    for row, expected_hw in enumerate(index.image_hw.tolist()):
        path = folder / index.file_name(row)
        try:
            actual_hw = read_image(path).shape[:2] if decode else read_image_hw(path)
            check_image_hw(path, actual_hw, expected_hw)
        except UserError as error:
            bad.append(str(error))
    more = [f"{len(bad) - _SHOWN} more images are missing, corrupt or of another size"] if len(bad) > _SHOWN else []
    return bad[:_SHOWN] + more


def _dark_images(index: CocoIndex, folder: Path) -> list[str]:
    """A warning where 16-bit images use few of their bits; some are decoded, spread over the file."""
    some = np.unique(np.linspace(0, len(index.image_ids) - 1, _DECODED).astype(int)).tolist()
    used: list[int] = []
    for row in some:
        with suppress(UserError):  # said elsewhere
            used.append(bits_used(folder / index.file_name(row)) or 0)
    bits = max(used, default=0)
    if not 0 < bits <= FEW_BITS:
        return []
    return [
        f"the images have 16 bits and their values {bits}, so they are read almost black; set "
        f"reader.image_bits={max(bits, 8)}, or as many bits as the camera has"
    ]
