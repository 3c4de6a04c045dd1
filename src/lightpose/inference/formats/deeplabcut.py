"""DeepLabCut's tables of poses: CSV and HDF5."""

import logging
from pathlib import Path

import numpy as np

from lightpose.inference.formats.found import Found

log = logging.getLogger(__name__)

SCORER = "lightpose"
FILES = ("predictions_dlc.csv", "predictions_dlc.h5")
_MOST_NUMBERS = 10**8
"""In a table; pandas has it in memory several times."""


def write_deeplabcut(folder: Path, found: Found) -> None:
    """Write a row for each frame, and x, y and likelihood of each keypoint of each individual; NaN for no pose.

    Of a video the rows are called by the frame's number from 0, and frames that couldn't be read are rows without a
    pose; of pictures, by their names. With more than one individual the header has a line for them, as in DeepLabCut's
    multi-animal projects; `Found.individuals` names them. The HDF5 file has the key ``df_with_missing``.
    """
    import pandas as pd

    places, individuals = found.individuals()
    keypoints = found.skeleton.keypoints
    rows = np.arange(len(found.names)) if found.fps is None else found.image_ids - 1
    index = found.names if found.fps is None else np.arange(rows.max(initial=-1) + 1)
    several = len(individuals) > 1
    individuals = individuals if several else ["single"]
    if len(index) * len(individuals) * len(keypoints) * 3 > _MOST_NUMBERS:
        log.warning(
            "%s are left out: a table of %d frames of %d individuals is too large; formats=[slp] has no such limit",
            " and ".join(FILES),
            len(index),
            len(individuals),
        )
        return
    table = np.full((len(index), len(individuals), len(keypoints), 3), np.nan)
    values = np.concatenate([found.keypoints, found.keypoint_scores[..., None]], -1, dtype=np.float64)
    table[rows[found.frames], places] = values.round(4)
    levels = [[SCORER], individuals, keypoints, ["x", "y", "likelihood"]]
    names = ["scorer", "individuals", "bodyparts", "coords"]
    if not several:
        del levels[1], names[1]
    columns = pd.MultiIndex.from_product(levels, names=names)
    frame = pd.DataFrame(table.reshape(len(index), -1), columns=columns, index=index)
    frame.to_csv(folder / FILES[0], na_rep="NaN")  # pandas takes a first row of blanks for part of the header
    frame.to_hdf(folder / FILES[1], key="df_with_missing", mode="w")
