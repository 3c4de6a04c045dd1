"""How crowded an image is, as CrowdPose says it."""

import json

import numpy as np

from lightpose.data.coco.index import read_coco


def test_a_crowd_index_comes_back_and_anything_else_is_none(tmp_path):
    given = [0.33, "0.5", None, "much"]
    content = {
        "images": [
            {"id": number, "file_name": f"{number}.png", "width": 9, "height": 9, "crowdIndex": crowding}
            for number, crowding in enumerate(given)
        ],
        "annotations": [{"id": 1, "image_id": 0, "category_id": 1, "bbox": [1, 1, 5, 5], "keypoints": [2, 2, 2]}],
        "categories": [{"id": 1, "name": "person", "keypoints": ["head"]}],
    }
    path = tmp_path / "crowds.json"
    path.write_text(json.dumps(content))
    index = read_coco(path)
    assert index.crowding[0] == 0.33
    assert np.isnan(index.crowding[[2, 3]]).all()
    images = index.ground_truth()["images"]
    assert images[0]["crowdIndex"] == 0.33
    assert not {"crowdIndex"} & (images[2].keys() | images[3].keys())
