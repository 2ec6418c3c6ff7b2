"""The files that say where photographs were taken: one function a format, each gives a `Scene` or one `UserError`.

* `read_blender`: `transforms_train.json`, `transforms_val.json`, `transforms_test.json`, as of NeRF's synthetic scenes.
* `read_transforms`: one `transforms.json` with intrinsics, as instant-ngp and nerfstudio write it.
* `read_llff`: `poses_bounds.npy` beside `images` or `images_8`.
* `read_colmap`: the folder `sparse/0` of COLMAP, text or binary, beside `images`.
* `read_npz`: arrays `images`, `poses`, `focal`, as of tiny NeRF, or the same for each split.

`load_scene` finds out which it is.
"""

from __future__ import annotations

import pathlib

import numpy as np

from gen_jax.contracts import UserError
from gen_jax.data import colmap
from gen_jax.data.scene_images import find_image, read_image, shrink, straight
from gen_jax.data.scene_json import BLENDER_BOUNDS, read_blender, read_transforms
from gen_jax.data.scenes import (
    USUAL,
    Reading,
    Scene,
    hold_out,
    make_scene,
    make_views,
    split_views,
    usual_bounds,
)
from gen_jax.files import BROKEN_NPZ
from gen_jax.poses import mean_axes


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
    near, far = reading.bounds(*(model.bounds or usual_bounds(views)))
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
    near, far = reading.bounds(*BLENDER_BOUNDS)
    return make_scene(*split_views(found, reading), near=near, far=far, origin=str(path))


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


def _recentered(poses: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Poses [N, 3, 4] in the coordinates of the mean camera, and that camera's axes and place in theirs."""
    turn, middle = mean_axes(poses), poses[:, :, 3].mean(axis=0)
    moved = np.concatenate([poses[:, :, :3], poses[:, :, 3:] - middle[:, None]], axis=2)
    return np.einsum("ji,njk->nik", turn, moved), turn, middle
