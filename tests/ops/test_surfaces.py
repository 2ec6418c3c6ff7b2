"""Marching cubes against an ellipsoid that is known exactly."""

from __future__ import annotations

import numpy as np
import pytest

from gen_jax.ops.surfaces import grid_points, marching_cubes

MIDDLE, RADII = np.array([0.3, -0.2, 0.5]), np.array([0.8, 0.5, 0.6])
LOW, HIGH = np.array([-1.0, -1.0, -0.5]), np.array([1.5, 0.6, 1.5])


def ellipsoid(points: np.ndarray) -> np.ndarray:
    """Above 0 inside, and nearly the distance to the surface near it."""
    q = (points - MIDDLE) / RADII
    k0, k1 = np.linalg.norm(q, axis=-1), np.linalg.norm(q / RADII, axis=-1)
    return k0 * (1.0 - k0) / np.maximum(k1, 1e-9)


def test_an_ellipsoid_off_the_middle_is_found_within_a_tenth_of_a_voxel():
    points = grid_points(LOW, HIGH, 64)
    mesh, step = marching_cubes(ellipsoid(points), points, 0.0), 2.5 / 63
    assert np.abs(ellipsoid(mesh.vertices)).max() < 0.1 * step
    # All of it: the vertices reach its ends, and it has no hole (Euler's number of a sphere).
    np.testing.assert_allclose(mesh.vertices.min(0), MIDDLE - RADII, atol=0.5 * step)
    np.testing.assert_allclose(mesh.vertices.max(0), MIDDLE + RADII, atol=0.5 * step)
    edges = np.sort(mesh.faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1)
    assert len(mesh.vertices) - len(np.unique(edges, axis=0)) + len(mesh.faces) == 2


def test_the_front_of_the_triangles_and_the_normals_point_outside():
    points = grid_points(LOW, HIGH, 40)
    mesh = marching_cubes(ellipsoid(points), points, 0.0)
    gradient = (mesh.vertices - MIDDLE) / RADII**2
    gradient /= np.linalg.norm(gradient, axis=1, keepdims=True)
    assert np.sum(mesh.normals * gradient, axis=1).min() > 0.95
    a, b, c = np.moveaxis(mesh.vertices[mesh.faces].astype(np.float64) - MIDDLE, 1, 0)
    volume = np.einsum("fk,fk->f", a, np.cross(b, c)).sum() / 6
    np.testing.assert_allclose(volume, 4 / 3 * np.pi * RADII.prod(), rtol=0.02)


def test_a_grid_has_one_step_in_all_directions_and_covers_the_box():
    points = grid_points(LOW, HIGH, 26)
    step = 0.1
    assert points.shape == (26, 17, 21, 3)
    np.testing.assert_allclose(points[0, 0, 0], LOW)
    np.testing.assert_allclose(points[1, 2, 3] - points[0, 0, 0], [step, 2 * step, 3 * step])
    assert np.all(np.abs(points[-1, -1, -1] - HIGH) <= step / 2 + 1e-9)


@pytest.mark.parametrize("values", [np.zeros((3, 3, 3)), np.ones((3, 3, 3))])
def test_without_a_crossing_there_is_no_surface(values):
    mesh = marching_cubes(values, grid_points(np.zeros(3), np.ones(3), 3), 0.5)
    assert mesh.vertices.shape == (0, 3) and mesh.faces.shape == (0, 3)
