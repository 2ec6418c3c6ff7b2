"""The files that say where photographs were taken: one function a format, each gives a `Scene` or one `UserError`.

* `read_blender`: `transforms_train.json`, `transforms_val.json`, `transforms_test.json`, as of NeRF's synthetic scenes.
* `read_transforms`: one `transforms.json` with intrinsics, as instant-ngp and nerfstudio write it.
* `read_llff`: `poses_bounds.npy` beside `images` or `images_8`.
* `read_colmap`: the folder `sparse/0` of COLMAP, text or binary, beside `images`.
* `read_npz`: arrays `images`, `poses`, `focal`, as of tiny NeRF, or the same for each split.

`load_scene` finds out which it is.
"""

from __future__ import annotations

import json
import math
import pathlib
from typing import Any, NamedTuple

import numpy as np

from gen_jax.contracts import UserError
from gen_jax.data import colmap
from gen_jax.data.scene_images import find_image, read_image, shrink, straight
from gen_jax.data.scenes import Scene, Views, hold_out, make_scene, make_views
from gen_jax.files import BROKEN_NPZ

# Depths of the bounds of NeRF's synthetic scenes.
_BLENDER_BOUNDS = 2.0, 6.0


class Reading(NamedTuple):
    """How a scene is read, whatever its format.

    Attributes:
      factor: how many times smaller the images are made, by area; ready-made ones (`images_8`) are taken where LLFF and
        COLMAP have them.
      hold_out_every: of formats that have no split of their own, each so many-th view is for the test; 0 for none.
      near: the depth before which there is nothing; None for what the format says.
      far: the depth behind which there is nothing; None likewise.
      premultiplied: whether the colours in the files are multiplied by alpha.
    """

    factor: int = 1
    hold_out_every: int = 8
    near: float | None = None
    far: float | None = None
    premultiplied: bool = False

    def bounds(self, near: float, far: float) -> tuple[float, float]:
        """The depths asked for, or those that the format says."""
        return near if self.near is None else self.near, far if self.far is None else self.far


USUAL = Reading()


def load_scene(folder: str | pathlib.Path, reading: Reading = USUAL) -> Scene:
    """Reads a scene in whichever format it is.

    Args:
      folder: of the scene, or an .npz file.
      reading: how.

    Returns:
      The scene.

    Raises:
      UserError: where no known file is there, or what is there is broken, naming the file.
    """
    folder = pathlib.Path(folder)
    if reading.factor < 1:
        raise UserError(f"factor={reading.factor}; images are made so many times smaller, so expected 1 or more.")
    if folder.suffix == ".npz":
        return read_npz(folder, reading)
    if (folder / "transforms_train.json").is_file():
        return read_blender(folder, reading)
    if (folder / "poses_bounds.npy").is_file():
        return read_llff(folder, reading)
    if (folder / "transforms.json").is_file():
        return read_transforms(folder, reading)
    if colmap.find_model(folder) is not None:
        return read_colmap(folder, reading)
    if len(files := list(folder.glob("*.npz"))) == 1:
        return read_npz(files[0], reading)
    raise UserError(
        f"{folder} has no scene: expected transforms_train.json (Blender), transforms.json (instant-ngp, nerfstudio), "
        "poses_bounds.npy (LLFF), sparse/0 (COLMAP) or one .npz file in it."
    )


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
    near, far = reading.bounds(*_BLENDER_BOUNDS)
    return make_scene(*_splits(found, reading), near=near, far=far, origin=str(folder))


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
    train, val, test = _splits({split: views.take(part) for split, part in rows.items() if len(part)}, reading)
    distance = _distance_to_focus(views)
    near, far = reading.bounds(0.1 * distance, 4.0 * distance)
    return make_scene(train, val, test, near=near, far=far, origin=str(folder))


def _splits(found: dict[str, Views], reading: Reading) -> tuple[Views, Views, Views]:
    """Views to learn from, to watch and to judge by; where the last two are missing, some of the first are held out."""
    train, val, test = (found.get(split) for split in ("train", "val", "test"))
    assert train is not None
    if val is None and test is None:
        train, test = hold_out(train, reading.hold_out_every)
    judged = val if test is None else test
    assert judged is not None
    return train, judged if val is None else val, judged


def read_llff(folder: pathlib.Path, reading: Reading = USUAL) -> Scene:
    """A forward-facing scene: each pose a row of 17 numbers, with height, width, focal length and two depths in it.

    As in NeRF's code the world is scaled such that the nearest depth is 4/3, and turned and moved such that the mean
    camera is at the origin and looks along −z.

    See "Local Light Field Fusion", Mildenhall et al., 2019 (arXiv:1905.00889), and its code.

    Args:
      folder: of the scene.
      reading: how, with depths of the scaled world; they are 0.9 and 1.0 times the smallest and largest depth where it
        does not say otherwise.

    Returns:
      The scene.

    Raises:
      UserError: where a file is missing or broken.
    """
    path = folder / "poses_bounds.npy"
    try:
        table = np.load(path, allow_pickle=False)
    except (*BROKEN_NPZ, OSError) as error:
        raise UserError(f"{path} cannot be read ({error}); fetch it again.") from error
    numbers = np.issubdtype(table.dtype, np.number) and np.isrealobj(table)
    if table.ndim != 2 or table.shape[1] != 17 or not len(table) or not numbers or not np.all(np.isfinite(table)):
        raise UserError(f"{path} has the shape {table.shape}; expected rows of 17 finite numbers.")
    if not np.all(table[:, 14:] > 0):
        raise UserError(f"{path} has a focal length or a depth that is not positive; expected both to be.")
    images_folder, left = _images_folder(folder, reading.factor)
    if not images_folder.is_dir():
        raise UserError(
            f"{folder} has neither images_{reading.factor} nor images; expected the photographs of {path.name}."
        )
    files = sorted(p for p in images_folder.iterdir() if p.suffix.lower() in (".png", ".jpg", ".jpeg"))
    if len(files) != len(table):
        raise UserError(
            f"{images_folder} has {len(files)} images and {path.name} {len(table)} poses; expected one each."
        )
    images, sizes = _read_all(files, left, reading)

    matrices = table[:, :15].reshape(-1, 3, 5)
    height, width, focal = matrices[0, :, 4]
    down, right, back, place = (matrices[:, :, i] for i in range(4))
    poses = np.stack([right, -down, back, place], axis=-1)  # LLFF's axes are down, right, back.
    depths = table[:, 15:]
    scale = 1.0 / (0.75 * depths.min())
    poses[:, :, 3] *= scale
    poses, turn, middle = _recentered(poses)
    # What shrinking leaves out at the right and below moves nothing: the ratio is that of the files, times 1 / factor.
    ratio = sizes / np.array([width, height]) / left
    views = make_views(
        images,
        poses,
        focal * ratio,
        0.5 * sizes / left,
        np.zeros((len(files), 4)),
        [str(file) for file in files],
        str(path),
    )
    train, test = hold_out(views, reading.hold_out_every)
    frame = np.concatenate([turn, middle[:, None]], axis=1) / scale
    near, far = reading.bounds(0.9 * scale * depths.min(), scale * depths.max())
    return make_scene(train, test, test, near=near, far=far, forward_facing=True, origin=str(folder), frame=frame)


def read_colmap(folder: pathlib.Path, reading: Reading = USUAL) -> Scene:
    """A scene that COLMAP has found: `sparse/0` (or `sparse`) with cameras and images, beside the folder `images`.

    Args:
      folder: of the scene.
      reading: how, images in the order of their names; depths are around the points that COLMAP has found, or follow
        from the cameras' distances where there are none, where it does not say otherwise.

    Returns:
      The scene.

    Raises:
      UserError: where a file is missing or broken, or a camera has an unknown model.
    """
    model = colmap.read_model(folder)
    place, left = _images_folder(folder, reading.factor)
    files = [find_image(place, name, model.path) for name in model.names]
    images, sizes = _read_all(files, left, reading)
    ratio = sizes / model.size / left  # To the photographs that COLMAP saw.
    views = make_views(
        images,
        model.poses,
        model.focal * ratio,
        model.center * ratio,
        model.distortion,
        [str(file) for file in files],
        str(model.path),
    )
    train, test = hold_out(views, reading.hold_out_every)
    distance = _distance_to_focus(views)
    near, far = reading.bounds(*(model.bounds or (0.1 * distance, 4.0 * distance)))
    return make_scene(train, test, test, near=near, far=far, origin=str(folder))


def read_npz(path: pathlib.Path, reading: Reading = USUAL) -> Scene:
    """A scene in one file: `images` [N, H, W, 3 or 4], `poses` [N, 4, 4] and `focal`, or `images_train` and so on.

    Args:
      path: of the file.
      reading: how; depths are between 2 and 6 where it does not say otherwise.

    Returns:
      The scene.

    Raises:
      UserError: where the file is broken or an array is missing.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
    except (*BROKEN_NPZ, OSError) as error:
        raise UserError(f"{path} cannot be read ({error}); fetch it again.") from error
    splits = [split for split in ("train", "val", "test") if f"images_{split}" in arrays]
    if splits and "train" not in splits:
        raise UserError(f"{path} has images_{splits[0]} and no images_train; expected views to learn from.")
    found = {}
    for split in splits or ["train"]:
        ending = f"_{split}" if splits else ""
        for key in (f"images{ending}", f"poses{ending}", "focal"):
            if key not in arrays:
                raise UserError(f"{path} has no array '{key}'; expected images, poses and focal.")
        stored = _as_bytes(arrays[f"images{ending}"], f"{path}: images{ending}")
        if reading.premultiplied:
            stored = straight(stored, str(path))
        images, count = [shrink(image, reading.factor, str(path)) for image in stored], len(stored)
        focal, poses = arrays["focal"], arrays[f"poses{ending}"]
        numbers = all(np.issubdtype(array.dtype, np.number) for array in (focal, poses))
        if focal.size != 1 or poses.ndim != 3 or not numbers:
            raise UserError(f"{path} has focal or poses of another form; expected one number, and [N, 4, 4] of them.")
        found[split] = make_views(
            images,
            poses,
            np.full((count, 2), float(focal.reshape(())) / reading.factor),
            np.tile(0.5 / reading.factor * np.array(stored.shape[2:0:-1]), (count, 1)),
            np.zeros((count, 4)),
            [f"{path.name}:{split}{row}" for row in range(count)],
            str(path),
        )
    near, far = reading.bounds(*_BLENDER_BOUNDS)
    return make_scene(*_splits(found, reading), near=near, far=far, origin=str(path))


def _images_folder(folder: pathlib.Path, factor: int) -> tuple[pathlib.Path, int]:
    """Where the photographs are, ready-made of that size if possible, and how many times smaller they are yet to be."""
    ready = folder / f"images_{factor}"
    return (ready, 1) if factor > 1 and ready.is_dir() else (folder / "images", factor)


def _read_all(files: list[pathlib.Path], factor: int, reading: Reading) -> tuple[list[np.ndarray], np.ndarray]:
    """Images made so many times smaller, and the width and height [N, 2] that each file has."""
    images, sizes = [], []
    for file in files:
        image = read_image(file, premultiplied=reading.premultiplied)
        sizes.append(image.shape[1::-1])
        images.append(shrink(image, factor, str(file)))
    return images, np.array(sizes).reshape(-1, 2)


def _as_bytes(images: np.ndarray, where: str) -> np.ndarray:
    """Images [N, H, W, C] as bytes: bytes themselves, or numbers in [0, 1]."""
    if images.ndim != 4 or not len(images):
        raise UserError(f"{where} has the shape {images.shape}; expected [N, H, W, 3 or 4].")
    if images.dtype == np.uint8:
        return images
    if not np.issubdtype(images.dtype, np.floating) or not np.all((images >= 0) & (images <= 1)):
        raise UserError(
            f"{where} are {images.dtype} outside of [0, 1]; expected bytes, or floating-point numbers in it."
        )
    return np.rint(255.0 * images).astype(np.uint8)


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


def _distance_to_focus(views: Views) -> float:
    """The mean distance of the cameras from the point nearest to all of their optical axes."""
    axes, places = -views.poses[:, :, 2].astype(np.float64), views.poses[:, :, 3].astype(np.float64)
    across = np.eye(3) - axes[:, :, None] * axes[:, None]
    focus = np.linalg.lstsq(across.sum(axis=0), np.einsum("nij,nj->i", across, places), rcond=None)[0]
    return float(np.linalg.norm(places - focus, axis=1).mean())


def _recentered(poses: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Poses [N, 3, 4] in the coordinates of the mean camera, and that camera's axes and place in theirs."""
    back = poses[:, :, 2].sum(axis=0)
    back /= np.linalg.norm(back)
    right = np.cross(poses[:, :, 1].sum(axis=0), back)
    right /= np.linalg.norm(right)
    turn = np.stack([right, np.cross(back, right), back], axis=1)
    middle = poses[:, :, 3].mean(axis=0)
    moved = np.concatenate([poses[:, :, :3], poses[:, :, 3:] - middle[:, None]], axis=2)
    return np.einsum("ji,njk->nik", turn, moved), turn, middle
