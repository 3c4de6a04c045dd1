"""Write docs/model_zoo.md: the experiments, and every published MMPose model that lightpose has, with size and cost.

    python scripts/model_zoo.py            counts all anew
    python scripts/model_zoo.py --check    writes nothing, and fails where the page or the published figures differ
    python scripts/model_zoo.py --keep     counts what the page lacks, and takes the rest from it

GMACs are half of what torch counts as floating point operations, of one input through backbone, neck and head, without
the flip test and without decoding. ``scripts/mmpose_published.csv`` has what MMPose's own networks were counted to have
in the same way, and the main score of each configuration.
"""

import csv
import gzip
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/model_zoo.md"
PUBLISHED = Path(__file__).with_name("mmpose_published.csv")
RECORDS = ROOT / "tests/data_files/parity/architectures.json.gz"
EXPERIMENTS = "Experiments"
TOLERANCE = 0.01
"""How far, relatively, counts may be from the published ones."""
ROUNDING = 0.0006
"""In millions and thousands of millions, of published counts."""
TASKS = {
    "animal_2d_keypoint": "Animals",
    "body_2d_keypoint": "Bodies",
    "body_3d_keypoint": "Bodies in space",
    "face_2d_keypoint": "Faces",
    "fashion_2d_keypoint": "Clothes",
    "hand_2d_keypoint": "Hands",
    "hand_3d_keypoint": "Hands in space",
    "wholebody_2d_keypoint": "Whole bodies",
}
APART = {
    "hourglass": "MMPose's network has layers behind its last stage, which nothing reads",
    "litehrnet": "MMPose's network computes twice what its fusions add twice",
}
"""Pattern of configurations whose counts are not the published ones → why."""
ABSENT = {
    "edpose": "lightpose has no ED-Pose",
    "alexnet": "its maps have cells that are no squares of whole pixels",
}
"""Pattern of configurations that can't be converted → why."""
ROUNDED = ("td-hm_resnest269_8xb16-210e_coco-384x288",)
"""Configurations whose recorded outputs hang on how sums are rounded, see tests/interop/test_mmpose_networks.py."""


INTRO = """# Model zoo

`python scripts/model_zoo.py` writes this page. Parameters and GMACs are counted on lightpose's networks: backbone, neck
and head, one input, no flip test, no decoding. A multiplication with its addition is one MAC; only convolutions and
products of matrices count. Inputs are height x width. Scores are those published for the recipe or the checkpoint; what
lightpose itself was measured to reach is in [figures.md](figures.md).
"""
CONVERTED = """## Published MMPose checkpoints

lightpose reads {found} of the {total} configurations that MMPose publishes: [mmpose.md](mmpose.md) tells how. The last
column says how far each is known to compute the same:

- `compared` ({compared}): with weights that follow from the names of tensors, outputs are within 1e-3 of what MMPose
  was recorded to compute (`tests/interop/test_mmpose_networks.py`). That is of backbone, neck and head. What is before
  them, such as the crop and how inputs are normalised, follows from the configuration; what is after them, decoding, is
  compared for each kind of codec (`tests/interop/test_mmpose_codecs.py`). No published weights were run.
- `same` ({same}): the network is that of a compared one.
- `family` ({family}): no outputs were recorded. The tables that read its compared siblings read it, and its parameters
  and GMACs are the published ones, but for those [below](#counts-apart).
- `rounding` ({rounding}): all tensors fit, but outputs were recorded with random weights, which make its layers raise
  errors of rounding past any tolerance.
"""
COUNTED = """## Counts apart

For all others, parameters and GMACs are within 1 % of those of MMPose's own network, counted in the same way.
"""
REFUSED = """## What can't be converted
"""


@dataclass(frozen=True, slots=True)
class Counts:
    """Of a network, as the page has them.

    Attributes:
        params: its parameters, in millions.
        macs: its multiplications, each with an addition, for an input, in thousands of millions.
    """

    params: str
    macs: str


@dataclass(frozen=True, slots=True)
class Experiment:
    """What the files of an experiment say.

    Attributes:
        name: its option.
        parts: options of backbone, neck and head.
        input: size, or number of frames.
        reference: of the published recipe.
    """

    name: str
    parts: tuple[str, ...]
    input: str
    reference: dict[str, Any]


def published() -> dict[str, dict[str, str]]:
    """Configuration → its row in the file of what MMPose publishes."""
    with PUBLISHED.open() as file:
        return {row["config"]: row for row in csv.DictReader(file)}


def count(estimator: Any) -> Counts:
    """Count a network, without computing anything."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from lightpose.interop.mmpose.outputs import flattened
    from lightpose.models.net import _QuickNorms

    net, params = estimator.net, sum(parameter.numel() for parameter in estimator.parameters())
    if estimator.input_hw is None:
        own = getattr(net.backbone, "frames", None)  # elsewhere embeddings
        frames = own if isinstance(own, int) else estimator.config["reader"]["frames"]
        shape = frames, estimator.skeleton.num_keypoints, 3
    else:
        shape = 3, *estimator.input_hw
    formulas: dict[Any, Callable[..., int]] = {torch.ops.torchvision.deform_conv2d: _deformable}
    net.backbone.to("meta")
    net.neck.to("meta")
    counter = FlopCounterMode(display=False, custom_mapping=formulas)
    with torch.no_grad(), counter:
        with _QuickNorms():
            features = net.necked(net.backbone(torch.zeros(1, *shape, device="meta")))
        flattened(net.head, [torch.zeros(each.shape) for each in features])  # heads don't run on meta
    return Counts(f"{params / 1e6:.2f}", f"{counter.get_total_flops() / 2e9:.3g}")


def _deformable(inputs: Any, weight: Any, *rest: Any, out_shape: Any = None, **options: Any) -> int:
    """As many as a plain convolution has; the sampling is not counted."""
    batch, _, height, width = out_shape
    filters, channels, *kernel = weight
    return int(2 * batch * height * width * filters * channels * kernel[0] * kernel[1])


def build_experiment(name: str) -> Any:
    """The estimator of an experiment, with fresh weights."""
    from lightpose.checkpoint import Sketch, assemble, build
    from lightpose.interop.mmpose.build import resolved
    from lightpose.interop.mmpose.settings import Settings

    plain = resolved(Settings({"experiment": name}))
    option = (
        plain["skeleton"] if "_target_" in plain["skeleton"] else resolved(Settings({"skeleton": "coco17"}))["skeleton"]
    )
    skeleton = assemble(option)
    plain = {**plain, "skeleton": {"_target_": "lightpose.skeleton.Skeleton.from_dict", "data": skeleton.to_dict()}}
    with Sketch():
        return build(plain, skeleton, training=True).eval()


def build_published(name: str) -> Any:
    """The estimator of a published configuration, with fresh weights."""
    from lightpose.interop.mmpose.build import build_like
    from lightpose.interop.mmpose.config_names import config_of

    return build_like(config_of(name))


def experiments() -> Iterator[Experiment]:
    """Those with a published recipe, from their files alone."""
    for path in sorted((ROOT / "conf/experiment").glob("*.yaml")):
        files = list(_files(path.stem))
        choices: dict[str, Any] = {"/backbone": "hrnet_w32", "/neck": "identity", "/head": "heatmap"}
        values: dict[str, Any] = {"input_hw": [256, 192], "reader": {}, "reference": {}}
        for content in files:
            for each in content.get("defaults", []):
                if isinstance(each, Mapping):
                    choices |= {str(key).removeprefix("override "): option for key, option in each.items()}
            for key in values:
                new = content.get(key, values[key])
                if key == "reference" and new:  # scores are its own
                    values[key] = {each: value for each, value in values[key].items() if each in ("paper", "recipe")}
                values[key] = {**values[key], **new} if isinstance(new, Mapping) else new or {}
        if values["reference"]:
            frames = choices.get("/data") == "sequences"
            size = _frames(values["reader"]["frames"]) if frames else _size(values["input_hw"])
            yield Experiment(path.stem, _parts(choices, "/"), size, values["reference"])


def _files(name: str) -> Iterator[dict[str, Any]]:
    """What an experiment is built on, and then its own file."""
    content = yaml.safe_load((ROOT / f"conf/experiment/{name}.yaml").read_text()) or {}
    for each in content.get("defaults", []):
        if isinstance(each, str) and each != "_self_":
            yield from _files(each)
    yield content


def _parts(choices: Mapping[str, Any], prefix: str = "") -> tuple[str, ...]:
    found = [str(choices.get(f"{prefix}{part}", "identity")) for part in ("backbone", "neck", "head")]
    return tuple(each for each in found if each != "identity")


def _size(hw: Any) -> str:
    return f"{hw[0]}x{hw[1]}"


def _frames(count: int) -> str:
    return f"{count} frame{'s' if count > 1 else ''}"


@cache
def _fingerprints() -> dict[str, str]:
    from lightpose.interop.mmpose.zoo import FILE

    return {name: key for key, _, name in map(str.split, FILE.read_text().splitlines())}


@cache
def parity() -> dict[str, str]:
    """Published configuration → what is known of whether outputs are MMPose's."""
    with gzip.open(RECORDS, "rt") as file:
        records = json.load(file)
    names = {record["name"] for record in records}
    same = {name for record in records for name in record["also"]} - names
    recorded = {_network(name) for name in _fingerprints() if name in names}
    found = {}
    for name in _fingerprints():
        if name in names:
            found[name] = "rounding" if name.rpartition("/")[2] in ROUNDED else "compared"
        else:
            found[name] = "same" if name in same or _network(name) in recorded else "family"
    return found


@cache
def _network(name: str) -> tuple[str, ...]:
    """What tells networks apart: their tensors, and the options of their parts."""
    from lightpose.interop.mmpose.config_names import config_of
    from lightpose.interop.mmpose.configs import overrides

    options = [each for each in overrides(config_of(name)) if each.startswith(("backbone", "neck", "head"))]
    return _fingerprints()[name], *(each for each in options if not each.startswith("head.criterion"))


def cells(counts: Mapping[str, Counts]) -> dict[str, list[tuple[str, ...]]]:
    """Heading → rows, whose first column names the model, and whose fourth and fifth have its counts."""
    from lightpose.interop.mmpose.config_names import config_of
    from lightpose.interop.mmpose.configs import settings
    from lightpose.interop.mmpose.parts_of_names import read_name

    found: dict[str, list[tuple[str, ...]]] = {EXPERIMENTS: []}
    for each in experiments():
        known, own = counts[each.name], dict(each.reference)
        recipe, paper = own.pop("recipe"), own.pop("paper", "")
        own.pop("protocol", None)
        source = recipe.removeprefix("mmpose ").partition(" (")[0] if recipe.startswith("mmpose ") else paper
        scores = ", ".join(f"{key} {value}" for key, value in own.items() if value is not None)
        row = (each.name, " ".join(each.parts), each.input, known.params, known.macs, scores, source)
        found[EXPERIMENTS].append(row)
    for name in parity():
        chosen = settings(config_of(name))
        hw = read_name(name).input_hw
        size = _frames(chosen.values.get("reader.frames", 1)) if hw is None else _size(hw)
        folder, _, short = name.rpartition("/")
        known, score = counts[name], published()[name]["score"]
        row = (short, " ".join(_parts(chosen.groups)), size, known.params, known.macs, score, parity()[name])
        found.setdefault(TASKS[folder.partition("/")[0]], []).append(row)
    return found


def differences(counts: Mapping[str, Counts]) -> dict[str, str]:
    """Published configuration → counts that are not the published ones."""
    found = {}
    for name in parity():
        row, known = published()[name], counts[name]
        pairs = {"M parameters": (known.params, row["params_M"]), "GMACs": (known.macs, row["GMACs"])}
        texts = [
            f"{ours} for {theirs} {unit}"
            for unit, (ours, theirs) in pairs.items()
            if theirs and abs(float(ours) - float(theirs)) > max(TOLERANCE * float(theirs), ROUNDING)
        ]
        if texts:
            found[name] = ", ".join(texts)
    return found


def page(counts: Mapping[str, Counts]) -> str:
    """The whole page."""
    tables = cells(counts)
    heads = ("parameters (M)", "GMACs", "published score")
    lines = [
        INTRO,
        f"## {EXPERIMENTS}\n",
        *_table(("experiment", "model", "input", *heads, "recipe"), tables.pop(EXPERIMENTS)),
    ]
    states = list(parity().values())
    numbers = {state: states.count(state) for state in ("compared", "same", "family", "rounding")}
    lines.append(f"\n{CONVERTED.format(total=len(published()), found=len(states), **numbers)}")
    for heading, rows in tables.items():
        lines += [f"\n### {heading}\n", *_table(("config", "model", "input", *heads, "parity"), rows)]
    lines += [f"\n{COUNTED}", *_table(("configs", "ours for the published", "why"), _apart(counts))]
    absent = [name for name in published() if name not in parity()]
    lines += [
        f"\n{REFUSED}",
        *_table(("config", "why"), [(name.rpartition("/")[2], _why(ABSENT, name)) for name in absent]),
    ]
    return "\n".join(lines) + "\n"


def _apart(counts: Mapping[str, Counts]) -> list[tuple[str, ...]]:
    """Per reason the configurations and, of the first, the counts."""
    found: dict[str, list[str]] = {}
    texts = differences(counts)
    for name in texts:
        found.setdefault(_why(APART, name), []).append(name)
    shorts = {why: [name.rpartition("/")[2] for name in names] for why, names in found.items()}
    return [
        (shorts[why][0] + (f" and {len(names) - 1} more" if names[1:] else ""), texts[names[0]], why)
        for why, names in found.items()
    ]


def _why(reasons: Mapping[str, str], name: str) -> str:
    """The reason for a configuration.

    Raises:
        SystemExit: where none is known.
    """
    for pattern, why in reasons.items():
        if re.search(pattern, name):
            return why
    raise SystemExit(f"no reason is known for {name}; add it to scripts/model_zoo.py, or mend the model")


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (head, ("---",) * len(head), *rows)]


def counts_in(text: str) -> dict[str, Counts]:
    """The counts on a page, by the names of experiments and configurations."""
    shorts = {name.rpartition("/")[2]: name for name in published()}
    found = {}
    for line in text.splitlines():
        row = line.strip("| ").split(" | ")
        if len(row) > 5 and row[3][0].isdigit():
            found[shorts.get(row[0], row[0])] = Counts(row[3], row[4])
    return found


def count_all(known: Mapping[str, Counts]) -> dict[str, Counts]:
    """Of every experiment and every published configuration, but for those that are known."""
    from lightpose.interop.mmpose.parts_of_names import read_name

    found: dict[str, Counts] = {}
    networks = {(_network(name), read_name(name).input_hw): known[name] for name in parity() if name in known}
    for name in (*(each.name for each in experiments()), *parity()):
        if name in known:
            found[name] = known[name]
        elif "/" not in name:
            found[name] = count(build_experiment(name))
        else:
            key = _network(name), read_name(name).input_hw
            if key not in networks:
                networks[key] = count(build_published(name))
            found[name] = networks[key]
    return found


def main() -> None:
    options = set(sys.argv[1:])
    if options - {"--check", "--keep"}:
        raise SystemExit(__doc__)
    counts = count_all(counts_in(PAGE.read_text()) if "--keep" in options else {})
    text = page(counts)
    if "--check" in options and text != PAGE.read_text():
        raise SystemExit(f"{PAGE} is stale; write it anew with python scripts/model_zoo.py")
    if "--check" not in options:
        PAGE.write_text(text)
    print(f"{len(counts)} models, {len(differences(counts))} of them counted otherwise than published")


if __name__ == "__main__":
    main()
