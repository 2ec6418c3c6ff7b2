"""Pinhole cameras: from pixels to rays and from points to pixels. One pixel or point; mapped at the edge by `vmap`.

Conventions:
  pixel   (x, y), x to the right and y down; the upper left pixel covers [0, 1] × [0, 1], and its centre is (½, ½)
  camera  "opengl": x to the right, y up, z back, so that what is seen has z < 0 (NeRF, Blender, nerfstudio)
          "opencv": x to the right, y down, z forward (COLMAP)
  pose    [3, 4] camera to world: the columns are the camera's axes and its place, in world coordinates

A ray's direction has length 1 along the optical axis, as in NeRF; so t along it is the depth along that axis, z-depth.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gen_jax.contracts import Array

AXES = ("opengl", "opencv")

# Newton's steps of `undistort`; each doubles the number of right digits.
_NEWTON_STEPS = 8


class Camera(NamedTuple):
    """The intrinsics of a camera, in pixels.

    Attributes:
      focal: [2] f_x, f_y.
      center: [2] c_x, c_y, where the optical axis meets the image.
      distortion: [4] k_1, k_2 (radial), p_1, p_2 (tangential), as in OpenCV; zeros for none.
    """

    focal: Array
    center: Array
    distortion: Array


def exact_product(a: Array, b: Array) -> Array:
    """A product of matrices in all digits of its type: accelerators else multiply in fewer, pixels off in geometry.

    Args:
      a: [..., N].
      b: [N, ...].

    Returns:
      a @ b.
    """
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def pinhole(focal: float, height: int, width: int) -> Camera:
    """A camera without distortion whose axis meets the middle of the image.

    Args:
      focal: in pixels.
      height: of the image.
      width: of the image.

    Returns:
      The camera.
    """
    return Camera(jnp.full(2, focal), jnp.array([0.5 * width, 0.5 * height]), jnp.zeros(4))


def pixel_centers(height: int, width: int) -> np.ndarray:
    """The centres of an image's pixels.

    Args:
      height: H.
      width: W.

    Returns:
      [H, W, 2] float32: x in ½ … W − ½, y in ½ … H − ½.
    """
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    return np.stack([x, y], axis=-1).astype(np.float32)


def distort(point: Array, distortion: Array) -> Array:
    """Where a lens shows a point of the plane z = 1: x (1 + k_1 r² + k_2 r⁴) + (2 p_1 x y + p_2 (r² + 2 x²), …).

    See "Close-Range Camera Calibration", Brown, 1971 (Photogrammetric Engineering 37), pages 855 to 866; in OpenCV's
    order of the coefficients.

    Args:
      point: [2] (x, y), y down.
      distortion: [4] k_1, k_2, p_1, p_2.

    Returns:
      [2].
    """
    k1, k2, p1, p2 = distortion
    x, y = point
    r2 = x * x + y * y
    radial = 1.0 + r2 * (k1 + r2 * k2)
    tangential = jnp.array([2.0 * p1 * x * y + p2 * (r2 + 2.0 * x * x), p1 * (r2 + 2.0 * y * y) + 2.0 * p2 * x * y])
    return radial * point + tangential


def undistort(point: Array, distortion: Array) -> Array:
    """The inverse of `distort`, by Newton's method from the point itself.

    See "Close-Range Camera Calibration", Brown, 1971 (Photogrammetric Engineering 37), pages 855 to 866.

    Args:
      point: [2], where the lens shows it.
      distortion: [4].

    Returns:
      [2], such that `distort` of it is the point, where the lens is one to one.
    """

    def step(_: int, guess: Array) -> Array:
        error = distort(guess, distortion) - point
        (a, b), (c, d) = jax.jacfwd(distort)(guess, distortion)
        determinant = a * d - b * c
        return guess - jnp.array([d * error[0] - b * error[1], a * error[1] - c * error[0]]) / determinant

    return jax.lax.fori_loop(0, _NEWTON_STEPS, step, point)


def _signs(axes: str) -> np.ndarray:
    """What turns OpenCV's camera axes into those of a convention, and back."""
    if axes not in AXES:
        raise ValueError(f"axes={axes!r} is not known; expected one of {', '.join(AXES)}.")
    return np.array([1.0, -1.0, -1.0]) if axes == "opengl" else np.ones(3)


def ray(camera: Camera, pose: Array, pixel: Array, *, axes: str = "opengl") -> tuple[Array, Array]:
    """The ray r(t) = o + t d that a pixel sees; t is the depth along the optical axis.

    See "NeRF", Mildenhall et al., 2020 (arXiv:2003.08934), Section 4; its code takes pixel (i, j) to be at (i, j), the
    upper left corner, and not at the centre.

    Args:
      camera: the intrinsics.
      pose: [3, 4] camera to world.
      pixel: [2] (x, y).
      axes: of the pose, "opengl" or "opencv".

    Returns:
      o [3] and d [3] in the world; d is not of length 1.

    Raises:
      ValueError: where the convention is not known.
    """
    plane = undistort((pixel - camera.center) / camera.focal, camera.distortion)
    direction = jnp.concatenate([plane, jnp.ones_like(plane[:1])]) * _signs(axes)
    return pose[:3, 3], exact_product(pose[:3, :3], direction)


def project(camera: Camera, pose: Array, point: Array, *, axes: str = "opengl") -> tuple[Array, Array]:
    """The pixel in which a camera sees a point.

    See "Multiple View Geometry in Computer Vision", Hartley and Zisserman, 2004, Section 6.1.

    Args:
      camera: the intrinsics.
      pose: [3, 4] camera to world, a rotation and a place.
      point: [3] in the world.
      axes: of the pose.

    Returns:
      The pixel [2] (x, y), and the depth [] along the optical axis: the point is seen only where that is positive.

    Raises:
      ValueError: where the convention is not known.
    """
    x, y, z = exact_product(pose[:3, :3].T, point - pose[:3, 3]) * _signs(axes)
    plane = distort(jnp.array([x, y]) / z, camera.distortion)
    return plane * camera.focal + camera.center, z


def unproject(camera: Camera, pose: Array, pixel: Array, depth: Array | float, *, axes: str = "opengl") -> Array:
    """The point that a camera sees in a pixel at a depth: the inverse of `project`.

    See "Multiple View Geometry in Computer Vision", Hartley and Zisserman, 2004, Section 6.1.

    Args:
      camera: the intrinsics.
      pose: [3, 4] camera to world.
      pixel: [2] (x, y).
      depth: along the optical axis.
      axes: of the pose.

    Returns:
      [3] in the world.

    Raises:
      ValueError: where the convention is not known.
    """
    origin, direction = ray(camera, pose, pixel, axes=axes)
    return origin + depth * direction


def ndc_ray(origin: Array, direction: Array, focal: Array, size: Array, near: float = 1.0) -> tuple[Array, Array]:
    """A ray in normalised device coordinates, for scenes that are all before the camera and reach to infinity.

    The origin is moved to the plane z = −n first; then o' + t' d' runs from that plane (t' = 0) to infinity (t' = 1),
    with t' = 1 − o_z / (o_z + t d_z). Straight rays stay straight.

    See "NeRF", Mildenhall et al., 2020 (arXiv:2003.08934), Appendix C, Eq. 25 and 26.

    Args:
      origin: [3], in the coordinates of a camera that looks along −z.
      direction: [3], with d_z < 0.
      focal: [2] in pixels.
      size: [2] width and height in pixels.
      near: n > 0.

    Returns:
      o' [3] and d' [3].
    """
    origin = origin - (near + origin[2]) / direction[2] * direction
    scale = -2.0 * focal / size  # −f / (W / 2)
    slope = direction[:2] / direction[2] - origin[:2] / origin[2]
    start = jnp.concatenate([scale * origin[:2] / origin[2], 1.0 + 2.0 * near / origin[2:]])  # Eq. 25
    return start, jnp.concatenate([scale * slope, -2.0 * near / origin[2:]])  # Eq. 26


def ndc_depth(depth: Array, origin: Array, direction: Array, near: float = 1.0) -> Array:
    """The depth t along a ray in the world that is t' along the ray in normalised device coordinates.

    See "NeRF", Mildenhall et al., 2020 (arXiv:2003.08934), Appendix C, Eq. 15, solved for t.

    Args:
      depth: t' [...] in [0, 1); 1 is infinitely far away.
      origin: o [3] in the world, as `ndc_ray` was given it.
      direction: d [3].
      near: n > 0.

    Returns:
      t [...], from the ray's own origin on.
    """
    start = -(near + origin[2]) / direction[2]
    return start - near * depth / ((1.0 - depth) * direction[2])


def ndc_point(point: Array, focal: Array, size: Array, near: float = 1.0) -> Array:
    """A point in normalised device coordinates: (−f_x/(W/2) x/z, −f_y/(H/2) y/z, 1 + 2n/z).

    See "NeRF", Mildenhall et al., 2020 (arXiv:2003.08934), Appendix C, Eq. 9, with the constants of Eq. 21 to 24.

    Args:
      point: [3], in the coordinates of a camera that looks along −z.
      focal: [2] in pixels.
      size: [2] width and height in pixels.
      near: n > 0.

    Returns:
      [3]; what is between the near plane and infinity has its last coordinate in [−1, 1].
    """
    return jnp.concatenate([-2.0 * focal / size * point[:2] / point[2], 1.0 + 2.0 * near / point[2:]])
