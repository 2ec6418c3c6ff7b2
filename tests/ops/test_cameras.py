"""Cameras against geometry: the inverse of projection, known faces of a cube, device coordinates, paths."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from gen_jax.ops import cameras
from gen_jax.ops.cameras import Camera

# By itself each operation would be compiled alone.
project, unproject, ray = (
    jax.jit(function, static_argnames="axes") for function in (cameras.project, cameras.unproject, cameras.ray)
)
ndc_ray, ndc_point, ndc_depth = map(jax.jit, (cameras.ndc_ray, cameras.ndc_point, cameras.ndc_depth))
distort, undistort = map(jax.jit, (cameras.distort, cameras.undistort))
LENS = [0.1, -0.05, 0.003, -0.002]


def some_camera(distortion):
    """Not square, off centre, with two focal lengths."""
    return Camera(jnp.array([310.0, 290.0]), jnp.array([270.3, 121.7]), jnp.array(distortion))


def some_pose(seed):
    random = np.random.default_rng(seed)
    turn = Rotation.random(random_state=random).as_matrix()
    return jnp.asarray(np.concatenate([turn, random.normal(size=(3, 1))], axis=1))


@pytest.mark.parametrize("axes", cameras.AXES)
@pytest.mark.parametrize("distortion", [[0.0] * 4, LENS])
def test_project_and_unproject_are_inverses_to_a_millionth_of_a_pixel(axes, distortion):
    with jax.enable_x64(True):
        camera, pose = some_camera(distortion), some_pose(0)
        random = np.random.default_rng(1)
        pixels, depths = random.uniform([0, 0], [540, 240], (200, 2)), random.uniform(0.5, 9.0, 200)
        points = jax.vmap(lambda p, z: unproject(camera, pose, p, z, axes=axes))(pixels, depths)
        back, z = jax.vmap(lambda x: project(camera, pose, x, axes=axes))(points)
        np.testing.assert_allclose(back, pixels, rtol=0, atol=1e-6)
        np.testing.assert_allclose(z, depths, rtol=0, atol=1e-9)


def test_distortion_is_opencvs_formula():
    x, y = 0.3, -0.2
    k1, k2, p1, p2 = LENS
    r2 = x**2 + y**2
    expected = [
        x * (1 + k1 * r2 + k2 * r2**2) + 2 * p1 * x * y + p2 * (r2 + 2 * x**2),
        y * (1 + k1 * r2 + k2 * r2**2) + p1 * (r2 + 2 * y**2) + 2 * p2 * x * y,
    ]
    found = distort(jnp.array([x, y]), jnp.array(LENS))
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_allclose(undistort(found, jnp.array(LENS)), [x, y], atol=1e-6)


def test_pixels_of_a_camera_of_ninety_degrees_see_the_known_places_of_a_cubes_face():
    # At the origin, unturned, a field of view of 90°: the face z = −1 of the cube [−1, 1]³ fills the image.
    camera, pose = cameras.pinhole(2.0, 4, 4), jnp.eye(3, 4)
    assert cameras.pixel_centers(4, 4)[0, 0].tolist() == [0.5, 0.5]
    for pixel, place in (
        ((0.5, 0.5), (-0.75, 0.75, -1)),  # upper left: left and up
        ((3.5, 0.5), (0.75, 0.75, -1)),
        ((0.5, 3.5), (-0.75, -0.75, -1)),
        ((2.0, 2.0), (0, 0, -1)),
        ((4.0, 2.0), (1, 0, -1)),  # the right edge
    ):
        origin, direction = ray(camera, pose, jnp.array(pixel))
        np.testing.assert_allclose(origin + direction, place, atol=1e-6)
        _, direction = ray(camera, pose, jnp.array(pixel), axes="opencv")
        np.testing.assert_allclose(direction, np.array(place) * [1, -1, -1], atol=1e-6)


def test_known_places_are_seen_in_their_pixels():
    """The cube's face once more, from its places to the pixels; and a point through a lens, by hand."""
    camera, pose = cameras.pinhole(2.0, 4, 4), jnp.eye(3, 4)
    for place, pixel in (((-0.75, 0.75, -1), (0.5, 0.5)), ((1.5, 1.5, -2), (3.5, 0.5)), ((0, -3, -4), (2.0, 3.5))):
        found, depth = project(camera, pose, jnp.array(place, jnp.float32))
        np.testing.assert_allclose(found, pixel, atol=1e-6)
        assert depth == -place[2]
    # At (0.3, 0.4) on the plane before the camera r² is 0.25: 1 + 0.1 r² − 0.05 r⁴ = 1.021875.
    lens = Camera(jnp.array([310.0, 290.0]), jnp.array([270.3, 121.7]), jnp.array([0.1, -0.05, 0.0, 0.0]))
    found, _ = project(lens, pose, jnp.array([0.6, -0.8, -2.0]))
    np.testing.assert_allclose(found, [270.3 + 310 * 0.3 * 1.021875, 121.7 + 290 * 0.4 * 1.021875], rtol=1e-6)


def test_a_turned_camera_in_a_turned_scene_sees_the_same():
    camera, pose, turn = some_camera(LENS), some_pose(2), jnp.asarray(Rotation.random(random_state=3).as_matrix())
    point = pose[:, 3] - 3.0 * pose[:, 2] + jnp.array([0.1, 0.2, 0.3])
    one, depth = project(camera, pose, point)
    other, other_depth = project(camera, turn @ pose, turn @ point)
    np.testing.assert_allclose(one, other, rtol=1e-4)
    np.testing.assert_allclose(depth, other_depth, rtol=1e-5)


def test_unknown_axes_are_refused():
    with pytest.raises(ValueError, match="expected one of opengl, opencv"):
        cameras.ray(some_camera(LENS), some_pose(4), jnp.array([3.0, 4.0]), axes="blender")


def test_a_ray_in_device_coordinates_is_the_perspective_divide_of_the_ray():
    focal, size, near = jnp.array([310.0, 290.0]), jnp.array([540.0, 240.0]), 1.5
    origin, direction = jnp.array([0.2, -0.1, 0.3]), jnp.array([0.3, 0.2, -1.0])
    start, along = ndc_ray(origin, direction, focal, size, near)
    moved = origin + (-near - origin[2]) / direction[2] * direction
    for t in (0.0, 0.5, 2.0, 10.0, 1000.0):
        point = moved + t * direction
        s = 1 - moved[2] / point[2]
        np.testing.assert_allclose(start + s * along, ndc_point(point, focal, size, near), atol=2e-6, err_msg=str(t))
    np.testing.assert_allclose([start[2], (start + along)[2]], [-1, 1], atol=1e-6)


def test_a_depth_in_device_coordinates_is_that_of_the_same_point():
    """A point of the world is a share of the way along the ray in device coordinates; that share gives its depth back.

    What is on the near plane's upper right corner is (1, 1, −1), and what is far beyond it on the same line (1, 1, 1).
    """
    focal, size, near = jnp.array([310.0, 290.0]), jnp.array([540.0, 240.0]), 1.5
    corner = jnp.array([270 / 310, 120 / 290, -1.0])
    np.testing.assert_allclose(ndc_point(near * corner, focal, size, near), [1, 1, -1], atol=1e-6)
    np.testing.assert_allclose(ndc_point(1e6 * corner, focal, size, near), [1, 1, 1], atol=1e-5)

    origin, direction = jnp.array([0.2, -0.1, 0.3]), jnp.array([0.3, 0.2, -1.0])
    start, along = ndc_ray(origin, direction, focal, size, near)
    for t in (1.9, 2.5, 7.0, 100.0):
        share = (ndc_point(origin + t * direction, focal, size, near) - start)[2] / along[2]
        np.testing.assert_allclose(ndc_depth(share, origin, direction, near), t, rtol=2e-5)
