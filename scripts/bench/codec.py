"""What encoding, matching and decoding cost next to a network's steps: one table, on whatever device there is.

    python scripts/bench/codec.py --batch 256
    python scripts/bench/codec.py experiment=topdown_rtmpose_m
    python scripts/bench/codec.py --batch 32 --people 6 experiment=bottomup_rtmo_s

The network is that of experiment=topdown_hrnet (HRNet-w32 at 256x192) or of the overrides given, in bfloat16 on a GPU:
encoding is compared with its training step (forward, backward, optimizer), decoding with its prediction (both halves of
a flip test), as they run by default, with CUDA graphs on a GPU. A loss that matches predictions to people does so in
the training step. Decoding includes what makes people of an image's maps, here of random ones.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from timing import (
    best_device,
    compose,
    describe_device,
    milliseconds,
    print_table,
    random_batch,
    write_json,
)

from lightpose.cli.setup import make_estimator
from lightpose.codecs.heatmap import HeatmapCodec
from lightpose.codecs.heatmap_offset import HeatmapOffsetCodec
from lightpose.runtime.speed import speed_up
from lightpose.skeleton import Skeleton


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE", help="of lightpose-train")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--people", type=int, default=1, help="in each input")
    parser.add_argument("--keypoints", type=int, default=17)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    options = parser.parse_intermixed_args()
    config, device = compose(options.overrides or ["experiment=topdown_hrnet"]), best_device()
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high")
    skeleton = Skeleton.build([f"point{i}" for i in range(options.keypoints)])
    batch = random_batch(options.batch, options.keypoints, config["input_hw"], device, options.people)
    inputs, flips = batch.inputs, config["estimator"]["flip_test"]

    config["estimator"]["metrics"] = {}
    estimator = make_estimator(config, skeleton).to(device)
    targets = estimator.codec.encode(batch)
    optimizer = estimator.optimizer(estimator.parameters())
    speed_up(estimator.net, "auto", device)

    def autocast() -> torch.autocast:
        return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda", cache_enabled=False)

    def train() -> None:
        optimizer.zero_grad()
        with autocast():
            losses = estimator.net.head.loss(estimator.net.features(inputs), targets)
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()

    @torch.inference_mode()
    def predict() -> None:
        with autocast():
            estimator.net(torch.cat([inputs, inputs]) if flips else inputs)

    training = milliseconds(train, device, options.repeats)
    criterion, matched = getattr(estimator.net.head, "criterion", None), []
    if assigner := getattr(criterion, "assigner", None):
        criterion.assigner = lambda *given: (matched.append(given), assigner(*given))[1]
        train()
        criterion.assigner = assigner
    matching = milliseconds(lambda: assigner(*matched[0]), device, options.repeats) if matched else None
    estimator.eval()
    prediction = milliseconds(predict, device, options.repeats)

    with torch.inference_mode(), autocast():
        own = {name: output.float() for name, output in estimator.net(inputs).items()}
    codecs: dict[str, Any] = {"as configured": estimator.codec}
    if options.people == 1:
        codecs |= {
            f"heatmap, refine={refine}": HeatmapCodec(skeleton, config["input_hw"], "half_pixel", refine=refine)
            for refine in ("dark", "quarter", "none")
        }
        codecs["heatmap_offset"] = HeatmapOffsetCodec(skeleton, config["input_hw"], "udp")
    rows = []
    with torch.inference_mode():
        for title, codec in codecs.items():
            maps = own if codec is estimator.codec else codec.encode(batch).maps
            encode = milliseconds(lambda codec=codec: codec.encode(batch), device, options.repeats)
            decode = milliseconds(lambda codec=codec, maps=maps: codec.decode(maps), device, options.repeats)
            rows.append([title, encode, encode / training, decode, decode / prediction])
    print(f"{describe_device(device)}; {' '.join(options.overrides) or 'experiment=topdown_hrnet'}")
    print(f"batch {options.batch}, {options.people} x {options.keypoints} keypoints; medians of {options.repeats}")
    print(f"training step {training:.1f} ms, prediction {'with' if flips else 'without'} flip test {prediction:.1f} ms")
    print(f"matching {matching:.2f} ms, {matching / training:.1%} of the training step\n" if matching else "")
    columns = ["", "encode ms|.2f", "of the training step|.1%", "decode ms|.2f", "of the prediction|.1%"]
    print_table(columns, rows)
    steps = {"training_ms": training, "prediction_ms": prediction, "matching_ms": matching}
    write_json(options.json, {"batch": options.batch, **steps, "columns": columns, "rows": rows})


if __name__ == "__main__":
    main()
