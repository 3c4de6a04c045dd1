"""What encoding and decoding cost next to a network: one table, on whatever device there is.

    python scripts/bench/codec.py --batch 256

The network is a ResNet-50 with the standard heatmap head, forward pass only, in bfloat16 on a GPU.
"""

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch
import torchvision

from lightpose.codecs.heatmap import HeatmapCodec
from lightpose.codecs.heatmap_offset import HeatmapOffsetCodec
from lightpose.models.heads.heatmap import HeatmapHead
from lightpose.models.losses.heatmap import KeypointMSE
from lightpose.skeleton import Skeleton
from lightpose.structures import Instances

INPUT_HW = (256, 192)


def milliseconds(work: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Median wall-clock time of one call."""
    times = []
    for _ in range(repeats + 2):
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(1000 * (time.perf_counter() - start))
    return median(times[2:])


def random_instances(batch: int, count: int) -> Instances:
    keypoints = torch.rand(batch, 1, count, 2) * torch.tensor([INPUT_HW[1] - 1.0, INPUT_HW[0] - 1.0])
    integers, ones = torch.zeros(batch, 1, dtype=torch.int64), torch.ones(batch, 1)
    visible = torch.full((batch, 1, count), 2.0)
    return Instances(keypoints, visible, torch.zeros(batch, 1, 4), ones, integers, integers, ones, ones.bool())


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--keypoints", type=int, default=17)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    device = torch.device(options.device)

    skeleton = Skeleton.build([f"point{i}" for i in range(options.keypoints)])
    instances = random_instances(options.batch, options.keypoints).to(device)
    codecs = {
        f"heatmap, refine={refine}": HeatmapCodec(skeleton, INPUT_HW, "half_pixel", refine=refine)
        for refine in ("dark", "quarter", "none")
    }
    codecs["heatmap_offset"] = HeatmapOffsetCodec(skeleton, INPUT_HW, "udp")

    spec = codecs["heatmap, refine=dark"].spec
    trunk = list(torchvision.models.resnet50().children())[:-2]
    network = torch.nn.Sequential(*trunk).to(device).eval()
    head = HeatmapHead((2048,), (32,), spec, KeypointMSE()).to(device).eval()
    images = torch.rand(options.batch, 3, *INPUT_HW, device=device)

    def forward() -> object:
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            return head([network(images)])

    net = milliseconds(forward, device, options.repeats)
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"{name}; batch {options.batch}, {options.keypoints} keypoints; ResNet-50 forward {net:.1f} ms\n")
    print(f"{'codec':24}{'encode ms':>10}{'decode ms':>11}{'encode / net':>14}{'decode / net':>14}")
    for title, codec in codecs.items():
        maps = codec.encode(instances).maps
        encode = milliseconds(lambda codec=codec: codec.encode(instances), device, options.repeats)
        decode = milliseconds(lambda codec=codec, maps=maps: codec.decode(maps), device, options.repeats)
        print(f"{title:24}{encode:10.2f}{decode:11.2f}{encode / net:14.1%}{decode / net:14.1%}")


if __name__ == "__main__":
    main()
