"""Paths of cameras around a scene and before it: one pose at one moment; mapped over moments by `vmap`.

Poses are [3, 4], camera to world, with OpenGL's axes, as in `ops.cameras`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gen_jax.contracts import Array
from gen_jax.ops.cameras import exact_product
from gen_jax.poses import focus_of, mean_axes, unit

PATHS = ("orbit", "spiral")


class Outlook(NamedTuple):
    """Where the photographs of a scene were taken from, on the whole, and what they look at.

    Attributes:
      axes: [3, 3], columns: those that a circle lies in, and what is up, for an orbit; the mean camera's axes for a
        spiral.
      middle: [3], the mean place of the cameras.
      focus: [3], what a path's cameras look at.
      radius: of an orbit.
      elevation: of an orbit above its plane through the focus, in radians.
      radii: [3], of a spiral, along the axes.
    """

    axes: np.ndarray
    middle: np.ndarray
    focus: np.ndarray
    radius: float
    elevation: float
    radii: np.ndarray


def look_at(eye: Array, target: Array, up: Array) -> Array:
    """The pose of a camera that looks at a point.

    Args:
      eye: [3] where the camera is.
      target: [3] what it looks at.
      up: [3] what is up in the image; not along the view.

    Returns:
      [3, 4] camera to world.
    """
    back = (eye - target) / jnp.linalg.norm(eye - target)
    right = jnp.cross(up, back)
    right = right / jnp.linalg.norm(right)
    return jnp.stack([right, jnp.cross(back, right), back, eye], axis=1)


def orbit_pose(time: Array, outlook: Outlook) -> Array:
    """The camera of a circle around a scene, as of the videos of Blender scenes.

    Args:
      time: [] from 0 to 1, once around.
      outlook: the scene's.

    Returns:
      [3, 4] camera to world.
    """
    azimuth, elevation = 2 * jnp.pi * time, outlook.elevation
    flat = jnp.cos(elevation)
    offset = jnp.stack([flat * jnp.cos(azimuth), flat * jnp.sin(azimuth), jnp.sin(elevation)])
    axes, focus = jnp.asarray(outlook.axes), jnp.asarray(outlook.focus)
    return look_at(focus + outlook.radius * exact_product(axes, offset), focus, axes[:, 2])


def spiral_pose(time: Array, outlook: Outlook, *, turns: int = 2, rate: float = 0.5) -> Array:
    """The camera of a spiral before a scene, as of the videos of forward-facing scenes.

    The camera of turn angle θ is (r_x cos θ, −r_y sin θ, −r_z sin(rate θ)) from the middle, along the outlook's axes.

    See "Local Light Field Fusion", Mildenhall et al., 2019 (arXiv:1905.00889), and its code.

    Args:
      time: [] from 0 to 1, all turns.
      outlook: the scene's.
      turns: of θ by 2π.
      rate: of the movement back and forth.

    Returns:
      [3, 4] camera to world.
    """
    theta = 2 * jnp.pi * turns * time
    offset = jnp.stack([jnp.cos(theta), -jnp.sin(theta), -jnp.sin(rate * theta)]) * outlook.radii
    axes, middle = jnp.asarray(outlook.axes), jnp.asarray(outlook.middle)
    return look_at(middle + exact_product(axes, offset), jnp.asarray(outlook.focus), axes[:, 1])


def pose_at(name: str, outlook: Outlook) -> Callable[[Array], Array]:
    """A path as a function of time.

    Args:
      name: one of `PATHS`.
      outlook: of `orbit_outlook` or `spiral_outlook`.

    Returns:
      `time [] -> pose [3, 4]`, time from 0 to 1; at 1 the path is where it began.

    Raises:
      ValueError: where the path is not known.
    """
    if name not in PATHS:
        raise ValueError(f"path={name!r} is not known; expected one of {', '.join(PATHS)}.")
    one = orbit_pose if name == "orbit" else spiral_pose
    return lambda time: one(time, outlook)


def path_poses(name: str, outlook: Outlook, num: int) -> np.ndarray:
    """Evenly spaced poses of a path, the last one before the first.

    Args:
      name: one of `PATHS`.
      outlook: of `orbit_outlook` or `spiral_outlook`.
      num: how many.

    Returns:
      [num, 3, 4] float32.

    Raises:
      ValueError: where the path is not known.
    """
    return np.asarray(jax.vmap(pose_at(name, outlook))(jnp.arange(num) / num))


def orbit_outlook(poses: np.ndarray) -> Outlook:
    """What an orbit needs to know of cameras that stand around something.

    They look at the point nearest to all of their optical axes. What is up is the mean of their own; an axis of the
    world that is within 20° of it is taken for it.

    Args:
      poses: [N, 3, 4], camera to world, OpenGL's axes.

    Returns:
      The outlook; the radius and the elevation are the cameras' mean ones.
    """
    poses = np.asarray(poses, np.float64)
    places, focus = poses[:, :, 3], focus_of(poses)
    up = unit(poses[:, :, 1].mean(axis=0))
    nearest = np.abs(up).argmax()
    if abs(up[nearest]) > np.cos(np.deg2rad(20.0)):
        up = np.sign(up[nearest]) * np.eye(3)[nearest]
    first = unit(np.cross(np.eye(3)[(np.abs(up).argmax() + 2) % 3], up))
    axes = np.stack([first, np.cross(up, first), up], axis=1)
    offsets = (places - focus) @ axes
    radius = np.linalg.norm(offsets, axis=1)
    elevation = float(np.arcsin(np.clip(offsets[:, 2] / radius, -1.0, 1.0)).mean())
    return Outlook(axes, places.mean(axis=0), focus, float(radius.mean()), elevation, np.zeros(3))


def spiral_outlook(poses: np.ndarray, near: float, far: float) -> Outlook:
    """What a spiral needs to know of cameras that look the same way, as in the code of NeRF.

    Args:
      poses: [N, 3, 4], camera to world, OpenGL's axes.
      near: the depth before which there is nothing.
      far: the depth behind which there is nothing.

    Returns:
      The outlook; the focus lies at the depth whose inverse is a quarter of 1/near and three quarters of 1/(5 far) and
      each radius is one that nine in ten cameras are within.
    """
    poses = np.asarray(poses, np.float64)
    axes, middle = mean_axes(poses), poses[:, :, 3].mean(axis=0)
    depth = 1.0 / (0.25 / near + 0.75 / (5.0 * far))
    radii = np.percentile(np.abs((poses[:, :, 3] - middle) @ axes), 90, axis=0)
    return Outlook(axes, middle, middle - depth * axes[:, 2], depth, 0.0, radii)


def one_sided_outlook(poses: np.ndarray, orbit: Outlook) -> Outlook:
    """What a spiral needs to know of cameras that stand around something: it goes around the first of them.

    Args:
      poses: [N, 3, 4], camera to world, OpenGL's axes.
      orbit: of `orbit_outlook`.

    Returns:
      The outlook; the radii are a fifth, a fifth and a tenth of the orbit's.
    """
    first = np.asarray(poses[0], np.float64)
    radii = orbit.radius * np.array([0.2, 0.2, 0.1])
    return orbit._replace(axes=first[:, :3], middle=first[:, 3], radii=radii)
