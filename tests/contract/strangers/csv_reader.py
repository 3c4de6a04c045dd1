"""A stranger's reader: one person a line, `file,x1,y1,x2,y2` and then `x,y` of each keypoint."""

import csv
from pathlib import Path

import numpy as np

from lightpose.data.base import PoseDataset
from lightpose.data.pixels.decode import EncodedImage
from lightpose.data.pixels.image_files import image_folder
from lightpose.structures import Annotations, Sample


class CsvPeople(PoseDataset):
    def __init__(self, annotations, images=None, **shared):
        super().__init__(**shared)
        with Path(annotations).open() as file:
            self.lines = list(csv.reader(file))
        self.folder = image_folder(Path(annotations), self.lines[0][0], images)
        self.files = sorted({line[0] for line in self.lines})

    def __len__(self):
        return len(self.lines)

    def load(self, index, rng):
        name, *numbers = self.lines[index]
        image, numbers = EncodedImage(self.folder / name), np.array(numbers, np.float32)
        box, points = numbers[None, :4], numbers[4:].reshape(1, -1, 2)
        area, one = (box[:, 2:] - box[:, :2]).prod(-1), np.ones(1, np.float32)
        seen = np.full(points.shape[:2], 2, np.float32)
        labels = Annotations(points, seen, box, area, np.zeros(1, np.int64), np.array([index]), one)
        return Sample(image, labels, np.eye(3), self.files.index(name), index, image.hw)
