"""The same labelled animals as files of each tool, written by the tool's own library where there is one."""

import csv
import json

import av
import cv2
import numpy as np

NAMES = ("nose", "left_ear", "right_ear", "tail")
LINKS = ((0, 1), (0, 2), (0, 3))
HW = (96, 128)
COUNT = 3
"""Pictures; the first shows two animals, the others one."""


def pictures():
    """(3, H, W, 3) uint8 RGB, each of another colour and smooth."""
    rng = np.random.default_rng(0)
    return [cv2.resize(rng.integers(0, 256, (4, 6, 3), np.uint8), HW[::-1]) for _ in range(COUNT)]


def animals():
    """For each picture, (K, 3) of each animal: x, y and visibility 0, 1 or 2."""
    rng = np.random.default_rng(1)
    found = []
    for number in range(COUNT):
        listed = []
        for row in range(2 if number == 0 else 1):
            points = rng.uniform([4 + 60 * row, 4], [60 + 60 * row, 90], (4, 2)).round(2)
            visible = np.full(4, 2)
            visible[(number + row) % 4] = 0
            listed.append(np.concatenate([points, visible[:, None]], -1))
        found.append(listed)
    return found


def boxes(animal):
    """x, y, w, h around an animal's labelled keypoints."""
    points = animal[animal[:, 2] > 0, :2]
    low, high = points.min(0) - 2, points.max(0) + 2
    return [*low, *(high - low)]


def write_pictures(folder, names=None):
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / (names[number] if names else f"img{number}.png") for number in range(COUNT)]
    for file, image in zip(files, pictures(), strict=True):
        cv2.imwrite(str(file), image[..., ::-1])
    return files


def write_yolo(folder, **changes):
    """train: the first two pictures; val: the third."""
    for split, numbers in (("train", [0, 1]), ("val", [2])):
        (folder / "labels" / split).mkdir(parents=True)
        (folder / "images" / split).mkdir(parents=True)
        for number in numbers:
            cv2.imwrite(str(folder / "images" / split / f"img{number}.png"), pictures()[number][..., ::-1])
            lines = []
            for animal in animals()[number]:
                left, top, width, height = boxes(animal)
                box = [(left + width / 2) / HW[1], (top + height / 2) / HW[0], width / HW[1], height / HW[0]]
                rows = [value for x, y, v in animal for value in ((x / HW[1], y / HW[0], int(v)) if v else (0, 0, 0))]
                lines.append(" ".join(f"{value:.8g}" for value in [0, *box, *rows]))
            (folder / "labels" / split / f"img{number}.txt").write_text("\n".join(lines) + "\n")
    content = {"path": "/home/somebody/data", "train": "images/train", "val": "images/val", "names": {0: "mouse"}}
    content |= {"kpt_shape": [4, 3], "flip_idx": [0, 2, 1, 3], "kpt_names": {0: list(NAMES)}} | changes
    (folder / "data.yaml").write_text(json.dumps(content))  # YAML, too
    return folder / "data.yaml"


def write_dlc(folder, several=False, names=NAMES, video="mice"):
    """A project: its configuration, and a table as pandas writes it for DeepLabCut."""
    import pandas as pd

    place = folder / "labeled-data" / video
    write_pictures(place)
    individuals = ["mouse1", "mouse2"] if several else [None]
    table = np.full((COUNT, len(individuals), len(names), 2), np.nan)
    for number, listed in enumerate(animals()):
        for row, animal in enumerate(listed[: len(individuals)]):
            table[number, row] = np.where(animal[:, 2:] > 0, animal[:, :2], np.nan)
    levels = [["somebody"], *([individuals] if several else []), names, ["x", "y"]]
    titles = ["scorer", *(["individuals"] if several else []), "bodyparts", "coords"]
    index = pd.MultiIndex.from_tuples([("labeled-data", video, f"img{number}.png") for number in range(COUNT)])
    columns = pd.MultiIndex.from_product(levels, names=titles)
    pd.DataFrame(table.reshape(COUNT, -1), columns=columns, index=index).to_csv(place / "CollectedData_somebody.csv")
    config = {"Task": "mouse", "scorer": "somebody", "skeleton": [[names[i], names[j]] for i, j in LINKS]}
    config |= {"multianimalbodyparts" if several else "bodyparts": list(names)}
    (folder / "config.yaml").write_text(json.dumps(config))
    return folder / "config.yaml"


def write_video(path):
    """A video whose frames 0, 2 and 4 are the pictures, without loss."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = HW[1], HW[0], "bgr0"
        images = pictures()
        for number in range(6):
            frame = av.VideoFrame.from_ndarray(
                images[number // 2] if number % 2 == 0 else images[0] * 0, format="rgb24"
            )
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def sleap_labels(files=None, video=None):
    """Labels of SLEAP: of image files, or of the frames 0, 2 and 4 of a video."""
    import sleap_io

    skeleton = sleap_io.Skeleton(list(NAMES), edges=list(LINKS), symmetries=[("left_ear", "right_ear")], name="mouse")
    tracks = [sleap_io.Track("one"), sleap_io.Track("two")]
    source = sleap_io.Video.from_filename([str(file) for file in files] if files else str(video))
    frames = []
    for number, listed in enumerate(animals()):
        people = []
        for row, animal in enumerate(listed):
            points = np.where(animal[:, 2:] > 0, animal[:, :2], np.nan)
            people.append(sleap_io.Instance.from_numpy(points, skeleton, track=tracks[row]))
        guess = sleap_io.PredictedInstance.from_numpy(np.ones((4, 2)), skeleton, score=0.5)
        place = number if files else 2 * number
        frames.append(
            sleap_io.LabeledFrame(video=source, frame_idx=place, instances=[*people, *([guess] * (number == 1))])
        )
    frames[1].instances[0].from_predicted = None
    return sleap_io.Labels(frames, videos=[source], skeletons=[skeleton], tracks=tracks)


def write_label_studio(path, files, relations=False):
    """Boxes with keypoints, joined by the parent of the region or by relations, as its interface writes either."""
    tasks = []
    for number, (file, listed) in enumerate(zip(files, animals(), strict=True), start=1):
        result = []
        for row, animal in enumerate(listed):
            about = {"original_width": HW[1], "original_height": HW[0], "image_rotation": 0, "to_name": "image"}
            left, top, width, height = boxes(animal)
            value = {"x": 100 * left / HW[1], "y": 100 * top / HW[0], "width": 100 * width / HW[1]}
            value |= {"height": 100 * height / HW[0], "rotation": 0, "rectanglelabels": ["mouse"]}
            result.append({**about, "id": f"box{row}", "type": "rectanglelabels", "from_name": "box", "value": value})
            for place, (x, y, v) in enumerate(animal):
                if v:
                    value = {"x": 100 * x / HW[1], "y": 100 * y / HW[0], "width": 0.5, "keypointlabels": [NAMES[place]]}
                    point = {
                        **about,
                        "id": f"p{row}{place}",
                        "type": "keypointlabels",
                        "from_name": "kp",
                        "value": value,
                    }
                    result.append(point | ({} if relations else {"parentID": f"box{row}"}))
                    if relations:
                        ends = {"from_id": f"p{row}{place}", "to_id": f"box{row}", "direction": "right"}
                        result.append({**ends, "type": "relation"})
        cancelled = {"result": [], "was_cancelled": True}
        data = {"image": f"/data/upload/1/0a1b2c3d-{file.name}"}
        tasks.append({"id": number, "data": data, "annotations": [cancelled, {"result": result}], "predictions": []})
    tasks.append({"id": 9, "data": {"image": "/data/upload/1/none.png"}, "annotations": []})
    path.write_text(json.dumps(tasks))
    return path


def _skeleton_xml(animal, frame=""):
    points = "".join(
        f'<points label="{NAMES[place]}" occluded="{int(v == 1)}" outside="{int(v == 0)}" points="{x:.2f},{y:.2f}"/>'
        for place, (x, y, v) in enumerate(animal)
    )
    return f'<skeleton label="mouse" {frame} source="manual" z_order="0">{points}</skeleton>'


def write_cvat(path, files, video=None):
    """CVAT for images, or for a video, with the drawing of the skeleton among the labels."""
    circles = "".join(
        f'<circle r="1" cx="{n}" cy="{n}" data-type="element node" data-node-id="{n + 1}" data-label-name="{name}"/>'
        for n, name in enumerate(NAMES)
    )
    lines = "".join(
        f'<line x1="0" data-type="edge" data-node-from="{i + 1}" data-node-to="{j + 1}"/>' for i, j in LINKS
    )
    svg = (lines + circles).replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")
    labels = f"<label><name>mouse</name><type>skeleton</type><svg>{svg}</svg></label>"
    labels += "".join(f"<label><name>{name}</name><type>points</type><parent>mouse</parent></label>" for name in NAMES)
    body = ""
    if video is None:
        for number, (file, listed) in enumerate(zip(files, animals(), strict=True)):
            subset = 'subset="Validation"' if number == 2 else 'subset="Train"'
            shapes = "".join(map(_skeleton_xml, listed)) + '<box label="mouse" xtl="1" ytl="1" xbr="9" ybr="9"/>'
            body += f'<image id="{number}" name="{file.name}" {subset} width="128" height="96">{shapes}</image>'
    else:
        for row in range(2):
            shapes = ""
            for number, listed in enumerate(animals()):
                if row < len(listed):
                    key = f'frame="{2 * number}" keyframe="1" outside="0"'
                    between = f'frame="{2 * number + 1}" keyframe="0" outside="0"'
                    shapes += _skeleton_xml(listed[row], key) + _skeleton_xml(listed[row], between)
            body += f'<track id="{row}" label="mouse" source="manual">{shapes}</track>'
    source = f"<source>{video.name}</source>" if video else ""
    meta = f"<meta><task><labels>{labels}</labels>{source}</task></meta>"
    path.write_text(
        f'<?xml version="1.0" encoding="utf-8"?><annotations><version>1.1</version>{meta}{body}</annotations>'
    )
    return path


def write_lightning(path, visible=False):
    """One table beside its pictures, as Lightning Pose has it, of the first animal of each picture."""
    coords = ["x", "y", "visible"] if visible else ["x", "y"]
    rows = [["scorer", *["somebody"] * (len(coords) * 4)]]
    rows.append(["bodyparts", *[name for name in NAMES for _ in coords]])
    rows.append(["coords", *coords * 4])
    for number, (animal, *_) in enumerate(animals()):
        cells = [[x, y, int(v > 0)][: len(coords)] if v else [""] * len(coords) for x, y, v in animal]
        rows.append([f"labeled-data/mice/img{number}.png", *[cell for each in cells for cell in each]])
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path
