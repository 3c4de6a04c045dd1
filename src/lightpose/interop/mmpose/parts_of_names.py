"""What the name of an MMPose configuration says of data and input."""

import re
from dataclasses import dataclass

from lightpose.errors import UserError

EXAMPLE = "body_2d_keypoint/topdown_heatmap/coco/td-hm_hrnet-w32_8xb64-210e_coco-256x192"
SMALLEST = 32
"""Of the sides of inputs: the cell of a backbone."""

DATA_SETS: tuple[tuple[str, str, int], ...] = (
    (r"wholebody[-_]face", "face68", 68),
    (r"wholebody[-_]hand|onehand10k|rhd2d|freihand2d|hand5", "hand21", 21),
    (r"halpe26", "halpe26", 26),
    (r"wholebody|ubody|cocktail14|dwpose|rtmpose_x_dis_l", "coco_wholebody", 133),
    (r"crowd?pose", "crowdpose", 14),
    (r"coco-aic.*combine|cspnext.*aic-coco", "coco_aic", 19),
    (r"coco-aic|aic-coco|body[78]|humanart|posetrack18", "coco17", 17),
    (r"aic", "aic", 14),
    (r"exlpose", "exlpose", 14),
    (r"mpii", "mpii", 16),
    (r"jhmdb", "jhmdb", 15),
    (r"h36m", "h36m", 17),
    (r"interhand3d", "interhand3d", 42),
    (r"300wl?p?", "face68", 68),
    (r"face6|lapa", "lapa", 106),
    (r"wflw", "wflw", 98),
    (r"aflw", "aflw", 19),
    (r"cofw", "cofw", 29),
    (r"deepfashion_full", "deepfashion_full", 8),
    (r"deepfashion_lower", "deepfashion_lower", 4),
    (r"deepfashion_upper", "deepfashion_upper", 6),
    (r"deepfas?h?ion2", "deepfashion2", 294),
    (r"animalpose", "animalpose", 20),
    (r"animalkingdom", "animalkingdom", 23),
    (r"ap10k", "ap10k", 17),
    (r"locust", "locust", 35),
    (r"zebra", "zebra", 9),
    (r"coco", "coco17", 17),
)
"""Pattern of a name → skeleton and K; the first that is found counts."""


@dataclass(frozen=True, slots=True)
class Named:
    """What a name says.

    Attributes:
        name: as given.
        data_set: what `DATA_SETS` calls its keypoints.
        count: K.
        input_hw: height and width of the input; None for sequences.
    """

    name: str
    data_set: str
    count: int
    input_hw: tuple[int, int] | None

    @property
    def words(self) -> set[str]:
        """Of the name, between its dashes and underscores."""
        return set(re.split(r"[-_]", self.name))

    @property
    def input_wh(self) -> list[int]:
        """As codecs of MMPose have it.

        Raises:
            UserError: for a name without a size.
        """
        if self.input_hw is None:
            raise UserError(f"name={self.name!r} has no size of inputs; expected a name such as {EXAMPLE}")
        return [self.input_hw[1], self.input_hw[0]]


def read_name(name: str) -> Named:
    """The parts of a configuration's name, which may be a path and end in ``.py``.

    Raises:
        UserError: for a name without a data set that is known, or without a size.
    """
    short = name.removesuffix(".py").rpartition("/")[2]
    found = next(((kind, count) for pattern, kind, count in DATA_SETS if re.search(pattern, short)), None)
    if found is None:
        raise UserError(f"name={name!r} names no data set of MMPose's; expected a name such as {EXAMPLE}")
    sizes = re.findall(r"(?<!\d)(\d{3,4})x(\d{3,4})(?!\d)", short) or [
        (side,) * 2 for side in re.findall(r"-(\d{3})$", short)
    ]
    if not sizes and found[0] != "h36m":
        raise UserError(f"name={name!r} has no size of inputs; expected a name such as {EXAMPLE}")
    hw = (int(sizes[-1][0]), int(sizes[-1][1])) if sizes else None
    if hw is not None and min(hw) < SMALLEST:
        raise UserError(f"name={name!r} has inputs of {hw[0]}x{hw[1]}; expected {SMALLEST} or more of each")
    return Named(short, *found, hw)
