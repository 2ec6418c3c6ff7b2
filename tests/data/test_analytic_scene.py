"""The scene of our own against geometry by hand."""

from __future__ import annotations

import numpy as np

from gen_jax.data import analytic_scene as scene
from gen_jax.data.analytic_scene import analytic_scene, render_view, trace


def look_down(height: float) -> np.ndarray:
    """A camera above the origin that looks along −z."""
    return np.array([[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, height]])


def test_distances_are_those_to_the_surfaces():
    """From above: the tops of ball, box and plate; beside them nothing."""
    places = {(-0.45, -0.35): 1.0, (0.55, -0.55): 0.7, (0.35, 0.55): 0.8, (-0.8, 0.8): 0.0}
    origin = np.array([[x, y, 5.0] for x, y in places])
    color, t = trace(origin, np.tile([0.0, 0, -1], (4, 1)))
    np.testing.assert_allclose(t, [5.0 - top for top in places.values()], atol=1e-12)
    assert np.all((color >= 0) & (color <= 1)) and np.all(color.max(axis=1) > 0.1)
    _, doubled = trace(origin, np.tile([0.0, 0, -2], (4, 1)))
    np.testing.assert_allclose(2 * doubled, t)
    color, t = trace(np.array([[2.0, 2.0, 5.0]]), np.array([[0.0, 0, -1]]))
    assert np.isinf(t[0]) and np.all(color == 0)


def test_each_side_of_the_box_has_its_colour():
    """A camera before each face sees that face, and at the distance where it is."""
    middle, half = np.array([0.35, 0.55, 0.4]), np.array([0.35, 0.3, 0.4])
    for axis, sign, face in ((0, 1, 1), (1, 1, 3), (2, 1, 5), (0, -1, 0)):
        out = sign * np.eye(3)[axis]
        color, t = trace((middle + 3.0 * out)[None], -out[None])
        np.testing.assert_allclose(t, 3.0 - half[axis])
        light = 0.45 + 0.55 * max(out @ scene._LIGHT, 0.0)
        np.testing.assert_allclose(color[0], light * scene._FACES[face], atol=1e-12)


def test_a_photograph_has_straight_alpha_and_exact_depths():
    image, depth = render_view(look_down(4.0), 1.2 * 32, 32)
    assert image.shape == (32, 32, 4) and depth.shape == (32, 32)
    inside = image[..., 3] == 255
    assert np.all(np.isfinite(depth[inside])) and np.all(np.isinf(depth[image[..., 3] == 0]))
    assert 0 < inside.mean() < 1 and np.all(image[inside][:, :3].max(axis=1) > 40)
    # The plate's corner in the picture: 1.1 wide at depth 4 is 1.1 · 38.4 / 4 = 10.56 pixels from the middle.
    row = image[16, :, 3] / 255.0
    np.testing.assert_allclose(row.sum(), 2 * 10.56, atol=0.3)
    np.testing.assert_allclose(depth[16 - 8, 16 - 8], 4.0, atol=1e-9)  # The plate's top is z = 0.


def test_views_differ_and_the_digest_is_stable():
    first, again = (analytic_scene(size=12, num_train=4, num_test=2) for _ in range(2))
    assert first.fingerprint == again.fingerprint and len(first.train) == 4 and len(first.test) == 2
    poses = np.concatenate([first.train.poses, first.val.poses, first.test.poses])
    assert len(np.unique(poses.reshape(len(poses), -1), axis=0)) == 8, "no test view is learned from"
    assert np.all(poses[:, 2, 3] > 0.3), "above the plate"
    assert first.near == 2 and first.far == 6
