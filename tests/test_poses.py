"""What is computed of many cameras, against cameras that are known."""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

from gen_jax import poses

MEAN = Rotation.from_euler("xyz", [0.4, -1.1, 0.7]).as_matrix()


def test_the_mean_camera_of_known_ones():
    """Cameras turned both ways about each axis of a known one; then any, whose mean up no camera is nearer to."""
    turns = Rotation.from_euler("xyz", [[s * 0.3 * (i == k) for i in range(3)] for k in range(3) for s in (-1, 1)])
    around = np.concatenate([MEAN @ turns.as_matrix(), np.ones((6, 3, 1))], axis=2)
    np.testing.assert_allclose(poses.mean_axes(around), MEAN, atol=1e-12)

    some = Rotation.from_rotvec(np.random.default_rng(0).normal(0, 0.4, (7, 3))).as_matrix() @ MEAN
    right, up, back = poses.mean_axes(np.concatenate([some, np.zeros((7, 3, 1))], axis=2)).T
    np.testing.assert_allclose(np.cross(some[:, :, 2].mean(axis=0), back), 0, atol=1e-12)
    assert some[:, :, 2].mean(axis=0) @ back > 0
    angles = np.linspace(0, 2 * np.pi, 1001)[:, None]
    others = np.cos(angles) * up + np.sin(angles) * right  # All that are across the view.
    assert np.argmax(others @ some[:, :, 1].mean(axis=0)) in (0, 1000)
    np.testing.assert_allclose(np.linalg.det([right, up, back]), 1, atol=1e-12)


def test_the_focus_is_where_optical_axes_meet():
    random, focus = np.random.default_rng(1), np.array([0.3, -2.0, 1.0])
    turns = Rotation.random(5, random_state=2).as_matrix()
    places = focus + turns[:, :, 2] * random.uniform(1, 4, (5, 1))
    np.testing.assert_allclose(poses.focus_of(np.concatenate([turns, places[..., None]], axis=2)), focus, atol=1e-9)
