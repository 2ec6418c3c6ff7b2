"""Scenes whose cameras are in JSON files, as of Blender, instant-ngp and nerfstudio: each frame has image and pose."""

from __future__ import annotations

import json
import math
import pathlib
from typing import Any

import numpy as np

from gen_jax.contracts import UserError
from gen_jax.data import colmap
from gen_jax.data.scene_images import find_image, read_image, shrink
from gen_jax.data.scenes import USUAL, Reading, Scene, Views, make_scene, make_views, split_views, usual_bounds

# Depths of the bounds of NeRF's synthetic scenes.
BLENDER_BOUNDS = 2.0, 6.0


def read_blender(folder: pathlib.Path, reading: Reading = USUAL) -> Scene:
    """A scene with one JSON file a split; where there is one for training alone, some of its views are held out.

    Args:
      folder: of the scene.
      reading: how; depths are between 2 and 6 where it does not say otherwise.

    Returns:
      The scene.

    Raises:
      UserError: where a file is missing or broken.
    """
    found = {
        split: _views_of(folder / f"transforms_{split}.json", reading)
        for split in ("train", "val", "test")
        if (folder / f"transforms_{split}.json").is_file()
    }
    near, far = reading.bounds(*BLENDER_BOUNDS)
    return make_scene(*split_views(found, reading), near=near, far=far, origin=str(folder))


def read_transforms(folder: pathlib.Path, reading: Reading = USUAL) -> Scene:
    """A scene with one JSON file with intrinsics; its lists of file names by split are kept to where it has them.

    Args:
      folder: of the scene.
      reading: how; depths are between a tenth of, and four times, the distance of the cameras from their common focus
        where it does not say otherwise.

    Returns:
      The scene.

    Raises:
      UserError: where a file is missing or broken.
    """
    path = folder / "transforms.json"
    views = _views_of(path, reading)
    data = _json(path)
    rows = {split: _rows(views, data.get(f"{split}_filenames") or [], path) for split in ("train", "val", "test")}
    named = np.concatenate([*rows.values(), np.zeros(0, int)])
    judged = np.concatenate([rows["val"], rows["test"]])
    if len(both := np.intersect1d(rows["train"], judged)):
        raise UserError(f"{path} lists {views.names[both[0]]} for training and for judging; take it out of one list.")
    if not len(rows["train"]):
        rows["train"] = np.setdiff1d(np.arange(len(views)), named)
    train, val, test = split_views({split: views.take(part) for split, part in rows.items() if len(part)}, reading)
    near, far = reading.bounds(*usual_bounds(views))
    return make_scene(train, val, test, near=near, far=far, origin=str(folder))


def _number(value: Any, name: str, path: pathlib.Path) -> float:
    """A finite number of a JSON file."""
    try:
        number = math.nan if isinstance(value, bool | str) else float(value)
    except (TypeError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        shown = repr(value) if len(repr(value)) < 40 else "a thing too long to show"
        raise UserError(f"{path} has {name}={shown}; expected a finite number.")
    return number


def _json(path: pathlib.Path) -> dict[str, Any]:
    """A JSON file that holds an object with frames."""
    try:
        data = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as JSON ({error}); fetch it again.") from error
    if not isinstance(data, dict) or not isinstance(data.get("frames"), list):
        raise UserError(f"{path} has no list 'frames'; expected one entry an image.")
    return data


def _views_of(path: pathlib.Path, reading: Reading) -> Views:
    """The views that a JSON file names, with the intrinsics of the file or of each frame."""
    data = _json(path)
    images, poses, intrinsics, names = [], [], [], []
    for frame in data["frames"]:
        if not isinstance(frame, dict) or "file_path" not in frame or "transform_matrix" not in frame:
            raise UserError(f"A frame of {path} has no file_path or no transform_matrix; expected both.")
        file = find_image(path.parent, str(frame["file_path"]), path)
        try:
            pose = np.asarray(frame["transform_matrix"], np.float64)
        except (ValueError, TypeError) as error:
            raise UserError(f"The pose of {file} in {path} is no matrix of numbers; expected (4, 4).") from error
        if pose.shape not in ((3, 4), (4, 4)):
            raise UserError(f"The pose of {file} in {path} has the shape {pose.shape}; expected (4, 4).")
        image = read_image(file, premultiplied=reading.premultiplied)
        intrinsics.append(_intrinsics(data | frame, image, path))
        images.append(shrink(image, reading.factor, str(file)))
        poses.append(pose[:3])
        names.append(str(file))
    focal, center, distortion = (
        (np.array(part) for part in zip(*intrinsics, strict=True)) if intrinsics else ([], [], [])
    )
    return make_views(
        images,
        np.array(poses),
        np.array(focal) / reading.factor,
        np.array(center) / reading.factor,
        np.array(distortion),
        names,
        str(path),
    )


def _intrinsics(data: dict[str, Any], image: np.ndarray, path: pathlib.Path) -> tuple[list[float], ...]:
    """Focal lengths, principal point and distortion, in pixels of the image as it is."""
    model = data.get("camera_model", "OPENCV")
    if model not in colmap.MODELS:
        raise UserError(f"{path} has the camera_model {model!r}; expected one of {', '.join(colmap.MODELS)}.")
    if data.get("is_fisheye") or any(data.get(key) for key in ("k3", "k4")):
        raise UserError(
            f"{path} is of a fisheye lens, or has k3 or k4; expected k1, k2, p1, p2: undistort the images first."
        )

    def number(key: str, default: float | None = None) -> float:
        value = data.get(key)
        return default if value is None and default is not None else _number(value, key, path)

    height, width = image.shape[:2]
    given_width, given_height = number("w", width), number("h", height)
    if not (given_width > 0 and given_height > 0):
        raise UserError(f"{path} has w={given_width:g} and h={given_height:g}; expected the size of the images.")
    ratio_x, ratio_y = width / given_width, height / given_height
    if "fl_x" in data:
        focal = [number("fl_x") * ratio_x, number("fl_y", number("fl_x")) * ratio_y]
    elif "camera_angle_x" in data:
        angle, angle_y = number("camera_angle_x"), number("camera_angle_y", 0.0)
        if not 0 < angle < math.pi:
            raise UserError(f"{path} has camera_angle_x={angle:g}; expected radians between 0 and π.")
        focal_x = 0.5 * width / math.tan(0.5 * angle)
        focal = [focal_x, 0.5 * height / math.tan(0.5 * angle_y) if angle_y else focal_x]
    else:
        raise UserError(f"{path} has neither fl_x nor camera_angle_x; expected a focal length or an angle of view.")
    center = [number("cx", 0.5 * given_width) * ratio_x, number("cy", 0.5 * given_height) * ratio_y]
    bends = () if model in ("PINHOLE", "SIMPLE_PINHOLE") else ("k1", "k2", "p1", "p2")
    return focal, center, [number(key, 0.0) for key in bends] or [0.0] * 4


def _rows(views: Views, names: Any, path: pathlib.Path) -> np.ndarray:
    """The numbers of the views with these file names."""
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"{path} has a split that is no list of file names; expected one, or none.")
    numbers = {str(pathlib.Path(name)): row for row, name in enumerate(views.names)}
    rows = []
    for name in names:
        full = str(find_image(path.parent, name, path))
        if full not in numbers:
            raise UserError(f"{path} lists {name} in a split and has no frame of it; add the frame or take it out.")
        rows.append(numbers[full])
    return np.array(rows, int)
