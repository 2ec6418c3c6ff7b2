"""Scenes: photographs, where each was taken and with which camera, whatever the files that say so.

Every format comes to the same record. Poses are camera to world with OpenGL's axes (x right, y up, z back); pixels are
as in `ops.cameras`: the centre of the upper left one is (½, ½).
"""

from __future__ import annotations

import dataclasses
import hashlib
from typing import NamedTuple

import numpy as np

from gen_jax.contracts import UserError
from gen_jax.poses import focus_of

# How far RᵀR may be from the identity.
_RIGID = 1e-3


@dataclasses.dataclass(frozen=True)
class Views:
    """Photographs of one size and their cameras.

    Attributes:
      images: [N, H, W, 3] uint8, or [N, H, W, 4] with straight alpha.
      poses: [N, 3, 4] float32, camera to world, OpenGL's axes.
      focal: [N, 2] float32, pixels.
      center: [N, 2] float32, pixels.
      distortion: [N, 4] float32, k_1, k_2, p_1, p_2.
      names: where each was found.
    """

    images: np.ndarray
    poses: np.ndarray
    focal: np.ndarray
    center: np.ndarray
    distortion: np.ndarray
    names: tuple[str, ...]

    def __len__(self) -> int:
        """How many there are."""
        return len(self.images)

    def take(self, rows: np.ndarray) -> Views:
        """Some of the views, in the order of their numbers."""
        arrays = {field.name: getattr(self, field.name)[rows] for field in dataclasses.fields(self)[:-1]}
        return Views(**arrays, names=tuple(self.names[row] for row in rows))


@dataclasses.dataclass(frozen=True)
class Scene:
    """The views of a scene, and between which depths it is.

    Attributes:
      train: to learn from.
      val: to watch.
      test: to judge by.
      near: the depth before which there is nothing.
      far: the depth behind which there is nothing.
      forward_facing: whether all cameras look the same way and the scene reaches to infinity, as in LLFF.
      fingerprint: a hexadecimal digest of images and cameras.
      origin: where the scene was found.
      frame: [3, 4] float64, from the coordinates of the poses here to those of the files, where a reader has scaled,
        turned and moved the world: x_file = frame[:, :3] x + frame[:, 3]; the identity else.
    """

    train: Views
    val: Views
    test: Views
    near: float
    far: float
    forward_facing: bool
    fingerprint: str
    origin: str
    frame: np.ndarray = dataclasses.field(default_factory=lambda: np.eye(3, 4))


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


def make_views(
    images: list[np.ndarray],
    poses: np.ndarray,
    focal: np.ndarray,
    center: np.ndarray,
    distortion: np.ndarray,
    names: list[str],
    where: str,
) -> Views:
    """Checks photographs and cameras and puts them together.

    Args:
      images: of [H, W, 3 or 4] uint8 each.
      poses: [N, 3 or 4, 4], camera to world, OpenGL's axes.
      focal: [N, 2].
      center: [N, 2].
      distortion: [N, 4].
      names: of the images' files.
      where: the file that names them, for messages.

    Returns:
      The views.

    Raises:
      UserError: where there is no image, images differ in size, a pose is no rotation and place, or a focal length is
        not positive.
    """
    if not images:
        raise UserError(f"{where} names no images; expected one or more.")
    if images[0].ndim != 3 or images[0].shape[-1] not in (3, 4) or 0 in images[0].shape:
        raise UserError(f"{names[0]} has the shape {images[0].shape}; expected [H, W, 3 or 4], no side of them 0.")
    for name, array in (("poses", poses), ("focal", focal), ("center", center), ("distortion", distortion)):
        if len(array) != len(images):
            raise UserError(f"{where} has {len(images)} images and {len(array)} of {name}; expected one each.")
        if not np.all(np.isfinite(np.asarray(array, np.float64))):
            raise UserError(f"{where} has a number that is not finite among the {name}; export it again.")
    if np.asarray(poses).shape[1:] not in ((3, 4), (4, 4)):
        raise UserError(f"{where} has poses of the shape {np.asarray(poses).shape[1:]}; expected (3, 4) or (4, 4).")
    for image, name in zip(images, names, strict=True):
        if image.shape != images[0].shape:
            raise UserError(
                f"{name} is {_size(image)}, and {names[0]} is {_size(images[0])}; the images of {where} must be of one "
                "size: make them so, or take them out of the file."
            )
    for pose, name in zip(poses, names, strict=True):
        turn = np.asarray(pose, np.float64)[:3, :3]
        if np.abs(turn.T @ turn - np.eye(3)).max() > _RIGID or np.linalg.det(turn) < 0:
            raise UserError(
                f"The pose of {name} in {where} is not rigid; expected a rotation (orthogonal columns of length 1, no "
                "mirror) and a place."
            )
    if not np.all(np.asarray(focal) > 0):
        raise UserError(f"{where} has a focal length that is not positive; expected pixels.")
    return Views(
        np.stack(images),
        np.asarray(poses, np.float32)[:, :3],
        np.asarray(focal, np.float32),
        np.asarray(center, np.float32),
        np.asarray(distortion, np.float32),
        tuple(names),
    )


def make_scene(
    train: Views,
    val: Views,
    test: Views,
    *,
    near: float,
    far: float,
    forward_facing: bool = False,
    origin: str,
    frame: np.ndarray | None = None,
) -> Scene:
    """Checks what concerns a whole scene.

    Args:
      train: to learn from.
      val: to watch.
      test: to judge by.
      near: t_n.
      far: t_f.
      forward_facing: as in `Scene`.
      origin: as in `Scene`.
      frame: as in `Scene`; None for the identity.

    Returns:
      The scene.

    Raises:
      UserError: where there are fewer than two views to learn from or all of them are wholly transparent, where none is
        there to judge by, splits have images of different sizes, or near is not before far.
    """
    if len(train) < 2:
        raise UserError(f"{origin} has {len(train)} training view(s); a scene needs two or more.")
    if np.ptp(train.poses[:, :, 3], axis=0).max() <= 0:
        raise UserError(f"All training views of {origin} are from one place; a scene is seen from several.")
    if not len(test):
        raise UserError(
            f"{origin} has no test views; name some, or give config.data.hold_out_every where it splits none."
        )
    for other in (val, test):
        if len(other) and other.images.shape[1:] != train.images.shape[1:]:
            raise UserError(
                f"{other.names[0]} is {_size(other.images[0])}, and {train.names[0]} is {_size(train.images[0])}; all "
                f"images of {origin} must be of one size."
            )
    if train.images.shape[-1] == 4 and not train.images[..., 3].any():
        raise UserError(f"Every training image of {origin} is wholly transparent; expected something to see.")
    if not 0 <= near < far:
        raise UserError(f"{origin}: near={near:g} and far={far:g}; expected 0 ≤ near < far.")
    digest = hashlib.sha256()
    for views in (train, val, test):
        for array in (views.images, views.poses, views.focal, views.center, views.distortion):
            digest.update(str(array.shape).encode() + array.tobytes())
    frame = np.eye(3, 4) if frame is None else frame
    return Scene(train, val, test, float(near), float(far), forward_facing, digest.hexdigest(), origin, frame)


def hold_out(views: Views, every: int) -> tuple[Views, Views]:
    """Splits views as LLFF does: each so many-th, from the first on, is held out.

    Args:
      views: all of them.
      every: 8 in the papers; 0 to hold none out, and judge by those learned from.

    Returns:
      Those to learn from, and those held out.
    """
    rows = np.arange(len(views))
    if every < 1:
        return views, views
    return views.take(rows[rows % every != 0]), views.take(rows[rows % every == 0])


def split_views(found: dict[str, Views], reading: Reading) -> tuple[Views, Views, Views]:
    """Views to learn from, to watch and to judge by.

    Args:
      found: by split, "train" and as many of "val" and "test" as there are; one stands for the other.
      reading: how many are held out where both are missing.

    Returns:
      The three.
    """
    train, val, test = (found.get(split) for split in ("train", "val", "test"))
    assert train is not None
    if val is None and test is None:
        train, test = hold_out(train, reading.hold_out_every)
    judged = val if test is None else test
    assert judged is not None
    return train, judged if val is None else val, judged


def usual_bounds(views: Views) -> tuple[float, float]:
    """Depths for a scene that says none: a tenth of, and four times, the distance of its cameras from their focus.

    Args:
      views: all of them.

    Returns:
      near and far.
    """
    distance = float(np.linalg.norm(views.poses[:, :, 3] - focus_of(views.poses), axis=1).mean())
    return 0.1 * distance, 4.0 * distance


def _size(image: np.ndarray) -> str:
    """A size for people."""
    height, width, channels = image.shape
    return f"{width}x{height} with {channels} channels"
