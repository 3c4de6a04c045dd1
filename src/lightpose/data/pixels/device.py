"""From what workers ship to a batch, on its device: decode and warp the images, change colours and light."""

import functools
import warnings
from collections.abc import Sequence
from dataclasses import fields

import torch
from torch import Tensor
from torch.nn import functional

from lightpose.data.pixels.decode import decode_image
from lightpose.data.pixels.packed import Packed
from lightpose.data.pixels.photometric import apply_photometric
from lightpose.data.pixels.raw import RawBatch, UnwarpedImages, gather
from lightpose.structures import Batch, BatchLabels, Sample

_BUFFER_BYTES = 256 * 2**20


def collate(samples: Sequence[Sample]) -> Batch:
    """Join samples of the CPU into a finished batch there.

    Raises:
        ImageError: for an image that can't be decoded.
    """
    return to_batch(gather(samples))


def unpacked(packed: Packed) -> Batch:
    """`to_batch` of what workers ship."""
    return to_batch(packed.unpack())


def to_batch(raw: RawBatch) -> Batch:
    """The batch with its inputs as the network takes them, on the device where it is.

    Raises:
        ImageError: for an image that can't be decoded.
    """
    inputs, device = raw.images, raw.image_from_input.device
    if isinstance(inputs, UnwarpedImages):
        images = decode(inputs, device)
        inputs = warp(images, inputs, raw.image_from_input)
        if device.type == "cuda":
            torch.cuda.current_stream(device).synchronize()  # before the memory of `images` is written again
    if raw.photometric:
        inputs = apply_photometric(inputs, raw.photometric)
    return Batch(inputs=inputs, **{each.name: getattr(raw, each.name) for each in fields(BatchLabels)})


def decode(images: UnwarpedImages, device: torch.device) -> list[Tensor]:
    """The images as (3, H, W) uint8 RGB on ``device``: JPEGs decoded there if it is a CUDA device, else on the CPU.

    Raises:
        ImageError: naming the file, for one that can't be decoded.
    """
    files = images.data.split(images.sizes)
    jpegs = [row for row, jpeg in enumerate(images.jpeg) if jpeg]
    decoded = dict(zip(jpegs, _decode_jpegs([files[row] for row in jpegs], device), strict=False))
    for row, (file, (height, width)) in enumerate(zip(files, images.image_hw, strict=True)):
        if row not in decoded:
            pixels = file.view(height, width, 3) if not images.jpeg[row] else _decode_here(file, images.names[row])
            decoded[row] = pixels.permute(2, 0, 1).to(device, non_blocking=True)
    return [decoded[row] for row in range(len(files))]


def _decode_here(file: Tensor, name: str) -> Tensor:
    return torch.from_numpy(decode_image(file.numpy().tobytes(), name))


def _decode_jpegs(files: list[Tensor], device: torch.device) -> list[Tensor]:
    """All files as nvJPEG decodes them; an empty list if there is no nvJPEG, or if it fails at one of them."""
    if device.type != "cuda" or not files:
        return []
    from torchvision.io import ImageReadMode, decode_jpeg

    # nvJPEG writes in a stream of its own, which doesn't wait for earlier users of the memory that it is given. Memory
    # from this pool never has any.
    pool = stream(device, "decode")
    try:
        with torch.cuda.stream(pool):
            decoded: list[Tensor] = decode_jpeg(files, mode=ImageReadMode.RGB, device=device)
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        warnings.warn(f"nvJPEG failed ({reason}); the images of the batch are decoded on the CPU", stacklevel=2)
        return []
    torch.cuda.current_stream(device).wait_stream(pool)
    return decoded


@functools.cache
def stream(device: torch.device, use: str) -> torch.cuda.Stream:
    """The stream for one use; memory that it has used is kept for it alone. Its work goes before the network's."""
    return torch.cuda.Stream(device, priority=-1)


def warp(images: Sequence[Tensor], unwarped: UnwarpedImages, image_from_input: Tensor) -> Tensor:
    """The crops of a batch, bilinear, in one grey outside, as `lightpose.data.pixels.crop.Warp` makes them.

    Args:
        images: (3, H, W) uint8 each, on the device.
        unwarped: says which image each sample is of, and by how much to reduce that first.
        image_from_input: (B, 3, 3) float32.

    Returns:
        (B, 3, h, w) uint8, channels last in memory.
    """
    device = image_from_input.device
    rows, factors, grey = unwarped.image_rows, unwarped.reductions, unwarped.margin_grey
    sources = [
        _reduced(images[row], factor) if factor > 1 else images[row] for row, factor in zip(rows, factors, strict=True)
    ]
    high, wide = (max(2, *(source.shape[axis] for source in sources)) for axis in (1, 2))  # the grid has no step of 0
    points = _image_points(image_from_input, unwarped.input_hw)
    if max(factors) > 1:
        points = (points + 0.5) / _without_sync(torch.tensor(factors), device)[:, None, None, None] - 0.5
    grid = points * _without_sync(2 / torch.tensor([wide - 1, high - 1]), device) - 1
    at_once = max(1, _BUFFER_BYTES // (3 * high * wide * 4))
    parts = []
    for start in range(0, len(sources), at_once):
        some = sources[start : start + at_once]
        padded = torch.zeros(len(some), 3, high, wide, device=device)
        places = [padded[i, :, : source.shape[1], : source.shape[2]] for i, source in enumerate(some)]
        # All copies in one call: after each call another thread may run, and this one waits until it is let in again.
        torch._foreach_copy_(places, some)
        if grey:
            torch._foreach_sub_(places, grey)  # sampling puts 0 outside, which then stands for the grey
        crops = functional.grid_sample(
            padded, grid[start : start + at_once], mode="bilinear", padding_mode="zeros", align_corners=True
        )
        crops = crops.add_(grey) if grey else crops
        parts.append(crops.round_().to(torch.uint8))
    return torch.cat(parts).contiguous(memory_format=torch.channels_last)


def _reduced(image: Tensor, factor: int) -> Tensor:
    return functional.avg_pool2d(image[None].float(), factor, ceil_mode=True, count_include_pad=False)[0]


def _image_points(image_from_input: Tensor, input_hw: tuple[int, int]) -> Tensor:
    """(n, h, w, 2): where in the image each pixel of the input comes from."""
    rows, columns = (torch.arange(side, dtype=torch.float32, device=image_from_input.device) for side in input_hw)
    along_x, along_y, origin = image_from_input[:, None, None, :2].unbind(-1)  # each (n, 1, 1, 2)
    return along_x * columns[:, None] + along_y * rows[:, None, None] + origin


def _without_sync(tensor: Tensor, device: torch.device) -> Tensor:
    """The small CPU tensor on ``device``; nothing waits for the transfer."""
    return (tensor.pin_memory() if device.type == "cuda" else tensor).to(device, non_blocking=True)
