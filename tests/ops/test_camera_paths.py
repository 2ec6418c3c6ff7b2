"""Paths of cameras: rigid, closed, and looking at what they should."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from gen_jax.ops import camera_paths, cameras
from gen_jax.ops.camera_paths import Outlook

AROUND = Outlook(np.eye(3), np.zeros(3), np.array([1.0, -2.0, 0.5]), 4.0, 0.5, np.zeros(3))
TURN = Rotation.from_euler("xyz", [0.2, -0.5, 0.3]).as_matrix()
BEFORE = Outlook(np.eye(3), np.zeros(3), np.array([0.0, 0.0, -5.0]), 5.0, 0.0, np.array([1.0, 0.5, 0.2]))


@pytest.mark.parametrize(("name", "outlook"), [("orbit", AROUND), ("spiral", BEFORE)])
def test_paths_are_rigid_closed_and_look_at_the_focus(name, outlook):
    camera, project = cameras.pinhole(100.0, 64, 64), jax.jit(cameras.project)
    poses = camera_paths.path_poses(name, outlook, 7)
    assert poses.shape == (7, 3, 4)
    for pose in poses:
        np.testing.assert_allclose(pose[:, :3].T @ pose[:, :3], np.eye(3), atol=1e-6)
        np.testing.assert_allclose(np.linalg.det(pose[:, :3]), 1, atol=1e-6)
        pixel, depth = project(camera, jnp.asarray(pose), jnp.asarray(outlook.focus, jnp.float32))
        np.testing.assert_allclose(pixel, [32, 32], atol=1e-3)
        assert depth > 0
    at = jax.jit(camera_paths.pose_at(name, outlook))
    np.testing.assert_allclose(at(jnp.float32(1.0)), at(jnp.float32(0.0)), atol=1e-5)


def test_the_orbit_has_its_radius_and_elevation():
    for pose in camera_paths.path_poses("orbit", AROUND, 5):
        offset = pose[:, 3] - AROUND.focus
        np.testing.assert_allclose(np.linalg.norm(offset), 4, rtol=1e-6)
        np.testing.assert_allclose(np.arcsin(offset[2] / 4), 0.5, rtol=1e-5)
        assert pose[2, 1] > 0, "upright"
    quarter = camera_paths.pose_at("orbit", AROUND._replace(elevation=0.0))(jnp.float32(0.25))
    np.testing.assert_allclose(quarter[:, 3], [1, 2, 0.5], atol=1e-6)


def test_the_outlook_of_an_orbit_is_found_from_its_cameras():
    """Whatever the axes of the world: cameras of one orbit, turned and moved."""
    poses = camera_paths.path_poses("orbit", AROUND, 9).astype(np.float64)
    turn = Rotation.from_euler("xyz", [0.9, 0.7, -0.4]).as_matrix()
    moved = np.einsum("ij,njk->nik", turn, poses)
    moved[:, :, 3] += [3.0, 1.0, 2.0]
    for cameras_seen, focus, up in (
        (poses, AROUND.focus, np.array([0.0, 0.0, 1.0])),
        (moved, turn @ AROUND.focus + [3.0, 1.0, 2.0], turn[:, 2]),
    ):
        found = camera_paths.orbit_outlook(cameras_seen)
        np.testing.assert_allclose(found.focus, focus, atol=1e-5)
        np.testing.assert_allclose(found.axes[:, 2], up, atol=1e-5)
        np.testing.assert_allclose(found.axes.T @ found.axes, np.eye(3), atol=1e-9)
        np.testing.assert_allclose(np.linalg.det(found.axes), 1, atol=1e-9)
        np.testing.assert_allclose([found.radius, found.elevation], [4, 0.5], rtol=1e-5)


def test_the_outlook_of_a_spiral_is_found_from_its_cameras():
    random = np.random.default_rng(0)
    poses = np.tile(np.eye(3, 4), (500, 1, 1))
    poses[:, :, 3] = [1.0, 2.0, 3.0] + random.uniform(-1, 1, (500, 3)) * [1.0, 0.5, 0.1]
    found = camera_paths.spiral_outlook(poses, 1.0, 4.0)
    np.testing.assert_allclose(found.radii, [0.9, 0.45, 0.09], rtol=0.05)
    np.testing.assert_allclose(found.focus, found.middle - [0, 0, 1 / (0.25 + 0.75 / 20)], atol=1e-9)


def test_a_turned_world_has_the_turned_spiral():
    turned = BEFORE._replace(axes=TURN, focus=TURN @ BEFORE.focus)
    plain, other = (camera_paths.path_poses("spiral", outlook, 6) for outlook in (BEFORE, turned))
    np.testing.assert_allclose(other, np.einsum("ij,njk->nik", TURN, plain), atol=1e-5)


def test_a_spiral_around_something_goes_around_its_first_camera():
    poses = camera_paths.path_poses("orbit", AROUND, 9)
    outlook = camera_paths.one_sided_outlook(poses, camera_paths.orbit_outlook(poses))
    spiral = camera_paths.path_poses("spiral", outlook, 12)
    distance = np.linalg.norm(spiral[:, :, 3] - poses[0, :, 3], axis=1)
    assert np.all((distance > 0.2) & (distance < 1.3)) and np.ptp(spiral[:, :, 3], axis=0).max() > 1
    camera = cameras.pinhole(100.0, 64, 64)
    for pose in spiral:
        pixel, _ = cameras.project(camera, jnp.asarray(pose), jnp.asarray(AROUND.focus, jnp.float32))
        np.testing.assert_allclose(pixel, [32, 32], atol=1e-2)


def test_a_pose_can_be_drawn_inside_of_a_program():
    at = jax.jit(camera_paths.pose_at("orbit", AROUND))
    np.testing.assert_allclose(at(0.3), camera_paths.pose_at("orbit", AROUND)(jnp.float32(0.3)), atol=1e-6)


def test_an_unknown_path_is_refused():
    with pytest.raises(ValueError, match="'circle' is not known; expected one of orbit, spiral"):
        camera_paths.pose_at("circle", AROUND)


def test_places_of_a_spiral():
    """In its first turn of two: right at its beginning, down and forth after a quarter, left after a half."""
    places = {0.0: [1, 0, 0], 0.125: [0, -0.5, -0.2 * np.sqrt(0.5)], 0.25: [-1, 0, -0.2]}
    for time, place in places.items():
        pose = camera_paths.spiral_pose(jnp.float32(time), BEFORE)
        np.testing.assert_allclose(pose[:, 3], place, atol=1e-6)
        toward = (np.array([0, 0, -5.0]) - place) / np.linalg.norm(np.array([0, 0, -5.0]) - place)
        np.testing.assert_allclose(-pose[:, 2], toward, atol=1e-6)
