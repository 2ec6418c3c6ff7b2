"""A scene of our own, traced exactly: what any ray sees of it, and how far away, is known to the last digit.

A banded ball, a box with faces of six colours and a shining ball stand on a plate; z is up, and all of it is within 1.6
of the origin.
"""

from __future__ import annotations

import numpy as np

from gen_jax.data.scenes import Scene, Views, make_scene, make_views

NEAR, FAR = 2.0, 6.0

_LIGHT = np.array([0.48, 0.36, 0.8])  # Of length 1.
_BALLS = (  # Place, radius, how much they shine.
    (np.array([-0.45, -0.35, 0.5]), 0.5, 0.0),
    (np.array([0.55, -0.55, 0.35]), 0.35, 0.6),
)
_BOXES = (  # Middle, half the sides.
    (np.array([0.35, 0.55, 0.4]), np.array([0.35, 0.3, 0.4])),
    (np.array([0.0, 0.0, -0.06]), np.array([1.1, 1.1, 0.06])),
)
_FACES = np.array(  # −x, +x, −y, +y, −z, +z of the box.
    [[0.9, 0.3, 0.2], [0.2, 0.5, 0.9], [0.95, 0.8, 0.2], [0.3, 0.75, 0.35], [0.5, 0.5, 0.5], [0.7, 0.35, 0.8]]
)


def trace(origin: np.ndarray, direction: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What rays see.

    Args:
      origin: [R, 3].
      direction: [R, 3], of any length.

    Returns:
      Colours [R, 3] in [0, 1], black where nothing is, and distances [R] in units of the direction, ∞ where nothing is.
    """
    hits = [_ball(origin, direction, *ball[:2]) for ball in _BALLS]
    hits += [_box(origin, direction, *box) for box in _BOXES]
    distance = np.stack([t for t, _ in hits])
    first = distance.argmin(axis=0)
    t = distance.min(axis=0)
    seen = np.isfinite(t)
    color = np.zeros_like(direction)
    point = origin + np.where(seen, t, 0.0)[:, None] * direction
    view = -direction / np.linalg.norm(direction, axis=1, keepdims=True)
    for number, (_, normal) in enumerate(hits):
        rows = seen & (first == number)
        shine = _BALLS[number][2] if number < len(_BALLS) else 0.0
        color[rows] = _shade(_paint(number, point[rows], normal[rows]), normal[rows], view[rows], shine)
    return color, t


def render_view(pose: np.ndarray, focal: float, size: int, *, supersampling: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """A square photograph of the scene.

    Args:
      pose: [3, 4] camera to world, OpenGL's axes.
      focal: in pixels.
      size: its side in pixels.
      supersampling: how many rays a pixel in each direction.

    Returns:
      The image [S, S, 4] uint8 with straight alpha, and the depth [S, S] along the optical axis at pixels' centres, ∞
      where nothing is.
    """
    fine = (np.arange(size * supersampling) + 0.5) / supersampling
    color, t = _rays(pose, focal, size, fine)
    parts = (size, supersampling, size, supersampling)
    alpha = np.isfinite(t).reshape(parts).mean(axis=(1, 3))
    total = color.reshape(*parts, 3).mean(axis=(1, 3))
    image = np.concatenate([total / np.where(alpha > 0, alpha, 1.0)[..., None], alpha[..., None]], axis=-1)
    _, depth = _rays(pose, focal, size, np.arange(size) + 0.5)
    return np.rint(255.0 * image).astype(np.uint8), depth.reshape(size, size)


def analytic_scene(*, size: int = 64, num_train: int = 50, num_test: int = 8) -> Scene:
    """The scene from all sides above the plate.

    Args:
      size: the side of the images in pixels.
      num_train: how many views to learn from.
      num_test: how many to judge by, and as many others to watch.

    Returns:
      The scene.
    """
    splits = []
    for number, count in enumerate((num_train, num_test, num_test)):
        poses = np.stack([_pose(i, count, 0.37 * number) for i in range(count)])
        images = [render_view(pose, 1.2 * size, size)[0] for pose in poses]
        splits.append(_views(images, poses, 1.2 * size, ("train", "val", "test")[number]))
    return make_scene(*splits, near=NEAR, far=FAR, origin="traced by gen_jax.data.analytic_scene")


def _views(images: list[np.ndarray], poses: np.ndarray, focal: float, split: str) -> Views:
    count, size = len(images), len(images[0])
    return make_views(
        images,
        poses,
        np.full((count, 2), focal),
        np.full((count, 2), 0.5 * size),
        np.zeros((count, 4)),
        [f"{split} {row}" for row in range(count)],
        "the analytic scene",
    )


def _pose(i: int, count: int, turn: float) -> np.ndarray:
    """One of evenly spread places above the plate, 4 from the point looked at: a spiral of golden angles."""
    height = 0.1 + 0.85 * (i + 0.5) / count
    azimuth = np.pi * (3.0 - np.sqrt(5.0)) * i + 2 * np.pi * turn
    flat = np.sqrt(1.0 - height**2)
    back = np.array([flat * np.cos(azimuth), flat * np.sin(azimuth), height])
    right = np.array([-np.sin(azimuth), np.cos(azimuth), 0.0])
    return np.stack([right, np.cross(back, right), back, 4.0 * back + np.array([0.0, 0.0, 0.3])], axis=1)


def _rays(pose: np.ndarray, focal: float, size: int, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What is seen on a grid of places of the image."""
    x, y = np.meshgrid((at - 0.5 * size) / focal, (at - 0.5 * size) / focal)
    direction = np.stack([x, -y, -np.ones_like(x)], axis=-1).reshape(-1, 3) @ pose[:, :3].T
    return trace(np.broadcast_to(pose[:, 3], direction.shape), direction)


def _ball(
    origin: np.ndarray, direction: np.ndarray, middle: np.ndarray, radius: float
) -> tuple[np.ndarray, np.ndarray]:
    """Where rays meet a ball, and its normals there."""
    offset = origin - middle
    a, b, c = (np.einsum("rk,rk->r", *pair) for pair in ((direction, direction), (offset, direction), (offset, offset)))
    inside = b**2 - a * (c - radius**2)
    t = (-b - np.sqrt(np.maximum(inside, 0.0))) / a
    t = np.where((inside > 0) & (t > 0), t, np.inf)
    return t, (offset + np.where(np.isfinite(t), t, 0.0)[:, None] * direction) / radius


def _box(
    origin: np.ndarray, direction: np.ndarray, middle: np.ndarray, half: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Where rays meet a box with sides along the axes, and its normals there."""
    safe = np.where(np.abs(direction) < 1e-12, 1e-12, direction)
    one, other = ((middle + sign * half - origin) / safe for sign in (-1.0, 1.0))
    enter, leave = np.minimum(one, other), np.maximum(one, other)
    t = enter.max(axis=1)
    axis = enter.argmax(axis=1)
    t = np.where((t < leave.min(axis=1)) & (t > 0), t, np.inf)
    normal = np.zeros_like(direction)
    rows = np.arange(len(direction))
    normal[rows, axis] = -np.sign(safe[rows, axis])
    return t, normal


def _paint(number: int, point: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """The colours of points on the surface of a thing, before light."""
    if number == 0:  # Bands.
        wave = 0.5 + 0.5 * np.sin(14.0 * point[:, 2])[:, None]
        return wave * np.array([0.95, 0.45, 0.15]) + (1.0 - wave) * np.array([0.15, 0.3, 0.65])
    if number == 1:
        return np.broadcast_to(np.array([0.75, 0.1, 0.25]), point.shape)
    if number == 2:
        face = 2 * np.abs(normal).argmax(axis=1) + (normal.sum(axis=1) > 0)
        return _FACES[face]
    wave = 0.5 + 0.5 * (np.sin(5.0 * point[:, 0]) * np.sin(5.0 * point[:, 1]))[:, None]
    return wave * np.array([0.85, 0.85, 0.8]) + (1.0 - wave) * np.array([0.35, 0.4, 0.45])


def _shade(paint: np.ndarray, normal: np.ndarray, view: np.ndarray, shine: float) -> np.ndarray:
    """Light from one side and from everywhere, and a highlight that moves with the eye."""
    facing = normal @ _LIGHT
    mirrored = 2.0 * facing[:, None] * normal - _LIGHT
    highlight = np.maximum(np.einsum("rk,rk->r", mirrored, view), 0.0) ** 20 * (facing > 0)
    light = 0.45 + 0.55 * np.maximum(facing, 0.0)
    return np.clip(light[:, None] * paint + shine * highlight[:, None], 0.0, 1.0)
