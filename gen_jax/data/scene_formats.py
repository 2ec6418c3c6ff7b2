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
from typing import Any

import numpy as np
from PIL import Image

from gen_jax.contracts import UserError
from gen_jax.data import colmap
from gen_jax.data.scenes import Scene, Views, hold_out, make_scene, make_views, shrink
from gen_jax.files import BROKEN_IMAGE, BROKEN_NPZ

_ENDINGS = ("", ".png", ".jpg", ".jpeg", ".JPG", ".PNG")
# Depths of the bounds of NeRF's synthetic scenes.
_BLENDER_BOUNDS = 2.0, 6.0


def load_scene(
    folder: str | pathlib.Path,
    *,
    factor: int = 1,
    hold_out_every: int = 8,
    near: float | None = None,
    far: float | None = None,
) -> Scene:
    """Reads a scene in whichever format it is.

    Args:
      folder: of the scene, or an .npz file.
      factor: how many times smaller the images are made, by area; LLFF's ready-made `images_8` are taken where they
        are there.
      hold_out_every: of formats that have no split of their own, each so many-th view is for the test.
      near: the depth before which there is nothing; None for what the format says.
      far: the depth behind which there is nothing; None likewise.

    Returns:
      The scene.

    Raises:
      UserError: where no known file is there, or what is there is broken, naming the file.
    """
    folder = pathlib.Path(folder)
    if factor < 1:
        raise UserError(f"factor={factor}; images are made so many times smaller, so expected 1 or more.")
    bounds = near, far
    if folder.suffix == ".npz":
        return read_npz(folder, factor, hold_out_every, bounds)
    if (folder / "transforms_train.json").is_file():
        return read_blender(folder, factor, bounds)
    if (folder / "poses_bounds.npy").is_file():
        return read_llff(folder, factor, hold_out_every, bounds)
    if (folder / "transforms.json").is_file():
        return read_transforms(folder, factor, hold_out_every, bounds)
    if colmap.find_model(folder) is not None:
        return read_colmap(folder, factor, hold_out_every, bounds)
    raise UserError(
        f"{folder} has no scene: expected transforms_train.json (Blender), transforms.json (instant-ngp, nerfstudio), "
        "poses_bounds.npy (LLFF) or sparse/0 (COLMAP) in it, or an .npz file."
    )


Bounds = tuple[float | None, float | None]


def read_blender(folder: pathlib.Path, factor: int = 1, bounds: Bounds = (None, None)) -> Scene:
    """A scene with one JSON file a split; a split without a file has the test views, or those learned from.

    Args:
      folder: of the scene.
      factor: as in `load_scene`.
      bounds: near and far; None for 2 and 6.

    Returns:
      The scene.

    Raises:
      UserError: where a file is missing or broken.
    """
    found = {
        split: _views_of(folder / f"transforms_{split}.json", factor)
        for split in ("train", "val", "test")
        if (folder / f"transforms_{split}.json").is_file()
    }
    train = found["train"]
    test = found.get("test", found.get("val", train))
    near, far = (given if given is not None else usual for given, usual in zip(bounds, _BLENDER_BOUNDS, strict=True))
    return make_scene(train, found.get("val", test), test, near=near, far=far, origin=str(folder))


def read_transforms(
    folder: pathlib.Path, factor: int = 1, hold_out_every: int = 8, bounds: Bounds = (None, None)
) -> Scene:
    """A scene with one JSON file with intrinsics; its lists of file names by split are kept to where it has them.

    Args:
      folder: of the scene.
      factor: as in `load_scene`.
      hold_out_every: as in `load_scene`.
      bounds: near and far; None for what the places of the cameras suggest: a tenth of, and four times, how far they
        are from their common focus.

    Returns:
      The scene.

    Raises:
      UserError: where a file is missing or broken.
    """
    path = folder / "transforms.json"
    views = _views_of(path, factor)
    lists = {split: _json(path).get(f"{split}_filenames") for split in ("train", "val", "test")}
    if lists["train"]:
        parts = {split: views.take(_rows(views, names or [], path)) for split, names in lists.items()}
        train, test = parts["train"], parts["test"] if len(parts["test"]) else parts["val"]
        if not len(test):
            train, test = hold_out(train, hold_out_every)
        val = parts["val"] if len(parts["val"]) else test
    else:
        train, test = hold_out(views, hold_out_every)
        val = test
    distance = _distance_to_focus(views)
    near, far = (
        given if given is not None else usual
        for given, usual in zip(bounds, (0.1 * distance, 4.0 * distance), strict=True)
    )
    return make_scene(train, val, test, near=near, far=far, origin=str(folder))


def read_llff(folder: pathlib.Path, factor: int = 1, hold_out_every: int = 8, bounds: Bounds = (None, None)) -> Scene:
    """A forward-facing scene: each pose a row of 17 numbers, with height, width, focal length and two depths in it.

    As in NeRF's code the world is scaled such that the nearest depth is 4/3, and turned and moved such that the mean
    camera is at the origin and looks along −z.

    See "Local Light Field Fusion", Mildenhall et al., 2019 (arXiv:1905.00889), and its code.

    Args:
      folder: of the scene.
      factor: as in `load_scene`.
      hold_out_every: as in `load_scene`.
      bounds: near and far in the scaled world; None for 0.9 and 1.0 times the smallest and largest depth.

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
    ready = folder / f"images_{factor}"
    images_folder, left = (ready, 1) if factor > 1 and ready.is_dir() else (folder / "images", factor)
    if not images_folder.is_dir():
        raise UserError(f"{folder} has neither images_{factor} nor images; expected the photographs of {path.name}.")
    files = sorted(p for p in images_folder.iterdir() if p.suffix.lower() in (".png", ".jpg", ".jpeg"))
    if len(files) != len(table):
        raise UserError(
            f"{images_folder} has {len(files)} images and {path.name} {len(table)} poses; expected one each."
        )
    read = [_read_rgba(file) for file in files]
    first_shape, images = read[0].shape, [shrink(image, left) for image in read]

    matrices = table[:, :15].reshape(-1, 3, 5)
    height, width, focal = matrices[0, :, 4]
    down, right, back, place = (matrices[:, :, i] for i in range(4))
    poses = np.stack([right, -down, back, place], axis=-1)  # LLFF's axes are down, right, back.
    depths = table[:, 15:]
    scale = 1.0 / (0.75 * depths.min())
    poses[:, :, 3] *= scale
    poses, turn, middle = _recentered(poses)
    # What shrinking leaves out at the right and below moves nothing: the ratio is that of the files, times 1 / factor.
    file_height, file_width = first_shape[:2]
    ratio = np.array([file_width / width, file_height / height]) / left
    sizes = np.array([file_width, file_height]) / left
    count = len(files)
    views = make_views(
        images,
        poses,
        np.tile(focal * ratio, (count, 1)),
        np.tile(0.5 * sizes, (count, 1)),
        np.zeros((count, 4)),
        [str(file) for file in files],
        str(path),
    )
    train, test = hold_out(views, hold_out_every)
    frame = np.concatenate([turn, middle[:, None]], axis=1) / scale
    usual = 0.9 * scale * depths.min(), scale * depths.max()
    near, far = (given if given is not None else value for given, value in zip(bounds, usual, strict=True))
    return make_scene(train, test, test, near=near, far=far, forward_facing=True, origin=str(folder), frame=frame)


def read_colmap(folder: pathlib.Path, factor: int = 1, hold_out_every: int = 8, bounds: Bounds = (None, None)) -> Scene:
    """A scene that COLMAP has found: `sparse/0` (or `sparse`) with cameras and images, beside the folder `images`.

    Args:
      folder: of the scene.
      factor: as in `load_scene`.
      hold_out_every: as in `load_scene`; of the images in the order of their names.
      bounds: near and far; None for what is around the points that COLMAP has found, or for the cameras' distances
        where there are none.

    Returns:
      The scene.

    Raises:
      UserError: where a file is missing or broken, or a camera has an unknown model.
    """
    model = colmap.read_model(folder)
    ready = folder / f"images_{factor}"
    place, left = (ready, 1) if factor > 1 and ready.is_dir() else (folder / "images", factor)
    files = [_image_file(place, name, model.path) for name in model.names]
    read = [_read_rgba(file) for file in files]
    # Of each file to the photographs that COLMAP saw.
    ratio = np.array([image.shape[1::-1] for image in read]).reshape(-1, 2) / model.size / left
    views = make_views(
        [shrink(image, left) for image in read],
        model.poses,
        model.focal * ratio,
        model.center * ratio,
        model.distortion,
        [str(file) for file in files],
        str(model.path),
    )
    train, test = hold_out(views, hold_out_every)
    distance = _distance_to_focus(views)
    usual = model.bounds or (0.1 * distance, 4.0 * distance)
    near, far = (given if given is not None else value for given, value in zip(bounds, usual, strict=True))
    return make_scene(train, test, test, near=near, far=far, origin=str(folder))


def read_npz(path: pathlib.Path, factor: int = 1, hold_out_every: int = 8, bounds: Bounds = (None, None)) -> Scene:
    """A scene in one file: `images` [N, H, W, 3 or 4], `poses` [N, 4, 4] and `focal`, or `images_train` and so on.

    Args:
      path: of the file.
      factor: as in `load_scene`.
      hold_out_every: as in `load_scene`.
      bounds: near and far; None for 2 and 6.

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
    splits = [split for split in ("train", "val", "test") if f"images_{split}" in arrays] or [""]
    found = {}
    for split in splits:
        ending = f"_{split}" if split else ""
        for key in (f"images{ending}", f"poses{ending}", "focal"):
            if key not in arrays:
                raise UserError(f"{path} has no array '{key}'; expected images, poses and focal.")
        stored = _as_bytes(arrays[f"images{ending}"], f"{path}: images{ending}")
        images, count = [shrink(image, factor) for image in stored], len(stored)
        focal, poses = arrays["focal"], arrays[f"poses{ending}"]
        if focal.size != 1 or not all(np.issubdtype(array.dtype, np.number) for array in (focal, poses)):
            raise UserError(f"{path} has a focal or poses that are no numbers; expected one number, and [N, 4, 4].")
        found[split] = make_views(
            images,
            poses,
            np.full((count, 2), float(focal.reshape(())) / factor),
            np.tile(0.5 / factor * np.array(stored.shape[2:0:-1]), (count, 1)),
            np.zeros((count, 4)),
            [f"{path.name}:{split or 'image'}{row}" for row in range(count)],
            str(path),
        )
    if splits == [""]:
        train, test = hold_out(found[""], hold_out_every)
        val = test
    else:
        train = found.get("train") or found[splits[0]]
        test = found.get("test", found.get("val", train))
        val = found.get("val", test)
    near, far = (given if given is not None else usual for given, usual in zip(bounds, _BLENDER_BOUNDS, strict=True))
    return make_scene(train, val, test, near=near, far=far, origin=str(path))


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
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise UserError(f"{path} has {name}={value!r}; expected a finite number.")
    return float(value)


def _json(path: pathlib.Path) -> dict[str, Any]:
    """A JSON file that holds an object with frames."""
    try:
        data = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as JSON ({error}); fetch it again.") from error
    if not isinstance(data, dict) or not isinstance(data.get("frames"), list):
        raise UserError(f"{path} has no list 'frames'; expected one entry an image.")
    return data


def _views_of(path: pathlib.Path, factor: int) -> Views:
    """The views that a JSON file names, with the intrinsics of the file or of each frame."""
    data = _json(path)
    images, poses, intrinsics, names = [], [], [], []
    for frame in data["frames"]:
        if not isinstance(frame, dict) or "file_path" not in frame or "transform_matrix" not in frame:
            raise UserError(f"A frame of {path} has no file_path or no transform_matrix; expected both.")
        file = _image_file(path.parent, str(frame["file_path"]), path)
        try:
            pose = np.asarray(frame["transform_matrix"], np.float64)
        except (ValueError, TypeError) as error:
            raise UserError(f"The pose of {file} in {path} is no matrix of numbers; expected (4, 4).") from error
        if pose.shape not in ((3, 4), (4, 4)):
            raise UserError(f"The pose of {file} in {path} has the shape {pose.shape}; expected (4, 4).")
        image = _read_rgba(file)
        intrinsics.append(_intrinsics(data | frame, image, path))
        images.append(shrink(image, factor))
        poses.append(pose[:3])
        names.append(str(file))
    focal, center, distortion = (
        (np.array(part) for part in zip(*intrinsics, strict=True)) if intrinsics else ([], [], [])
    )
    return make_views(
        images,
        np.array(poses),
        np.array(focal) / factor,
        np.array(center) / factor,
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


def _image_file(folder: pathlib.Path, name: str, where: pathlib.Path) -> pathlib.Path:
    """The file of an image, whose ending may be left out."""
    for ending in _ENDINGS:
        file = folder / f"{name}{ending}"
        if file.is_file():
            return file
    raise UserError(f"{where} names the image {name}, and {folder / name} is not there; fetch it or take it out.")


def _read_rgba(file: pathlib.Path) -> np.ndarray:
    """An image as [H, W, 3], or [H, W, 4] where it has transparency."""
    try:
        with Image.open(file) as image:
            clear = "A" in image.getbands() or "transparency" in image.info
            return np.asarray(image.convert("RGBA" if clear else "RGB"), np.uint8)
    except BROKEN_IMAGE as error:
        raise UserError(
            f"{file} cannot be read as an image ({error}); it is corrupt or truncated; replace it."
        ) from error


def _rows(views: Views, names: list[str], path: pathlib.Path) -> np.ndarray:
    """The numbers of the views with these file names."""
    numbers = {str(pathlib.Path(name)): row for row, name in enumerate(views.names)}
    rows = []
    for name in names:
        full = str(_image_file(path.parent, name, path))
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
