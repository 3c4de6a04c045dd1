"""From a checkpoint to an ONNX file that is proven to give the same."""

import logging
import os
from dataclasses import replace
from pathlib import Path

from lightpose.checkpoint import load
from lightpose.errors import UserError
from lightpose.export.inputs import cropper_of, inputs_to_prove, of_one_size
from lightpose.export.precision import NAMES, check_precision, find_people, measure, reduced
from lightpose.export.proof import BATCHES, PLACES, Columns, Difference, prove
from lightpose.inference.predictor import trained_image_bits
from lightpose.interop.onnx.description import NAME, describe, written
from lightpose.interop.onnx.graph import check_exportable, to_graph, without_head
from lightpose.interop.onnx.packages import LARGEST, WRITING, is_onnx, packages
from lightpose.interop.onnx.session import find_provider, open_session
from lightpose.runtime.aside import written_aside
from lightpose.trust import Trust

log = logging.getLogger(__name__)


def export(
    checkpoint: str | Path,
    out: str | Path,
    flip_test: bool = False,
    annotations: str | None = None,
    images: str | None = None,
    tolerance_px: float = 0.02,
    trust: Trust = (),
    precision: str = "32",
    device: str = "cpu",
    people: int = 200,
    most_loss_px: float = 1.0,
    most_loss_ap: float = 0.01,
) -> Difference:
    """Write the model of a checkpoint as an ONNX file, from uint8 pixels to keypoints in input pixels.

    A lifter's goes from sequences of keypoints to joints in space. Before the file is there, people go through PyTorch
    and through ONNX Runtime, in batches of 1, 2 and 7.

    Args:
        checkpoint: a ``.ckpt`` file that lightpose-train wrote.
        out: the file, which appears whole or not at all.
        flip_test: let the graph average with the mirror image, as `PoseEstimator.outputs` does.
        annotations: COCO JSON of the people to compare on, or a lifter's ``.npz`` file; None for drawn ones.
        images: folder of its images.
        tolerance_px: most input pixels, or mm of a lifter, between the keypoints of the two.
        trust: see `lightpose.load`.
        precision: ``32``, ``16`` or ``int8``, of the network; the last two need ``annotations``. What they lose against
            the file of float32, once that is proven, is measured.
        device: what runs the file, see `lightpose.interop.onnx.session.open_session`.
        people: how many, about, that ``int8`` is calibrated and the loss measured on.
        most_loss_px: most input pixels that lower precision may move keypoints by, on average.
        most_loss_ap: most that it may take from AP.

    Returns:
        The differences.

    Raises:
        UserError: when the model can't be exported, or the two differ by more; nothing is written.
    """
    onnx, *_ = packages(WRITING)
    out = Path(out)
    if is_onnx(checkpoint):
        raise UserError(f"{checkpoint} is exported already; give the .ckpt file that it was made from")
    if not is_onnx(out):
        raise UserError(f"out={out} doesn't end in .onnx, by which lightpose knows such files; give another name")
    if out.is_dir():
        raise UserError(f"out={out} is a folder; give the path of a file, such as {out / 'model.onnx'}")
    if not out.parent.is_dir():
        raise UserError(f"out={out} is in a folder that isn't there; make {out.parent} first")
    if not tolerance_px > 0:
        raise UserError(f"tolerance_px={tolerance_px} must be a positive number of pixels, such as 0.02")
    check_precision(precision, annotations)
    find_provider(device)
    if people < 1:
        raise UserError(f"people={people} must be at least 1")
    estimator = load(checkpoint, trust)
    check_exportable(estimator)
    trained_with = estimator.flip_test
    if flip_test and not estimator.skeleton.mirrors:
        raise UserError(
            "the skeleton says that nothing is mirrored, so there is no flip test; leave out flip_test=true"
        )
    if precision != "32" and not estimator.one_person:
        raise UserError(
            f"the loss of precision={precision} is measured on models of one person per input, which this is not; "
            "leave precision at 32"
        )
    estimator.flip_test = flip_test
    squeezed = of_one_size(estimator, trust)
    given = inputs_to_prove(estimator, sum(BATCHES), annotations, images, trust)
    measured = None
    if precision != "32":
        assert annotations is not None
        measured = find_people(cropper_of(estimator, trust), estimator.skeleton, annotations, images, people)
    graph = to_graph(estimator)
    about = describe(estimator, trained_image_bits(estimator))
    onnx.helper.set_model_props(graph, {NAME: written(about)})
    graph.producer_name = NAME
    kept = without_head(graph)
    if kept.ByteSize() > LARGEST:
        raise UserError(
            f"the file would have {kept.ByteSize() / 2**30:.1f} GiB, and ONNX files end at 2; choose a smaller backbone"
        )
    onnx.checker.check_model(kept)
    content = kept.SerializeToString()
    with_head = graph.SerializeToString()
    del kept
    first, second = open_session(content, device, out), open_session(with_head, device, out)

    def run(inputs: Columns) -> Columns:
        """What the file gives, beside the head's outputs."""
        names = [[output.name for output in session.get_outputs()] for session in (second, first)]
        return {
            name: value
            for session, listed in zip((second, first), names, strict=True)
            for name, value in zip(listed, session.run(listed, dict(inputs)), strict=True)
        }

    difference = prove(estimator, run, given, tolerance_px)
    if measured is not None:
        lower = without_head(reduced(graph, precision, measured))
        onnx.helper.set_model_props(lower, {NAME: written(replace(about, precision=NAMES[precision]))})
        lower.producer_name = NAME
        content = lower.SerializeToString()
        loss = measure(first, open_session(content, device, out), measured, most_loss_px, most_loss_ap)
        difference = replace(difference, loss=loss)
    with written_aside(out) as part, part.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    if trained_with and not flip_test:
        log.info("without the flip test, which the checkpoint predicts with; flip_test=true puts it into the file")
    if squeezed:
        log.info(
            "images are scaled into %d x %d, the one size that the file takes; the checkpoint gives each an input of "
            "its own proportion, so that figures of the two differ",
            *(estimator.input_hw or ()),
        )
    return difference


def told(difference: Difference) -> list[str]:
    """The differences in lines."""
    lines = [f"the file against PyTorch, batches of {', '.join(map(str, BATCHES))}:"]
    for name, largest in difference.largest.items():
        unit = f" {difference.unit}" if name in PLACES else ""
        lines.append(f"  {name:<16} largest {largest:.2g}{unit}, mean {difference.mean[name]:.2g}{unit}")
    if not difference.keypoints:
        lines.append(
            "  nobody was found, so that only the network's outputs were compared; give people in annotations="
        )
    if difference.undecided:
        lines.append(
            f"  {difference.undecided} of {difference.keypoints} keypoints are left out: two cells of their maps are "
            "equally high, and rounding decides"
        )
    if loss := difference.loss:
        lines.append(
            f"lower precision against float32, {loss.people} people: keypoints move by {loss.px:.2g} px of the input "
            f"on average, AP {loss.before:.4f} becomes {loss.after:.4f}"
        )
    return lines
