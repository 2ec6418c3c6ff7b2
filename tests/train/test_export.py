"""Meshes and flights as files, read back by other libraries."""

from __future__ import annotations

import numpy as np
import trimesh
from PIL import Image

from gen_jax.contracts import Mesh, Shot
from gen_jax.train import export

VERTICES = np.array([[0.0, 0.0, 0.0], [1.5, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 2.5]], np.float32)
FACES = np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]], np.int32)
NORMALS = np.array([[-1.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], np.float32)
COLORS = np.array([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [0.2, 0.4, 0.6]], np.float32)


def test_a_mesh_is_the_same_as_ply_and_as_obj(tmp_path):
    paths = export.write_mesh(Mesh(VERTICES, FACES, NORMALS, COLORS), tmp_path / "mesh")
    assert [path.name for path in paths] == ["mesh.ply", "mesh.obj"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mesh.obj", "mesh.ply"]
    for path in paths:
        found = trimesh.load(path, process=False, force="mesh")
        np.testing.assert_allclose(found.vertices, VERTICES, atol=1e-6)
        np.testing.assert_array_equal(found.faces, FACES)
        np.testing.assert_array_equal(found.visual.vertex_colors[:, :3], np.rint(255 * COLORS))
        np.testing.assert_allclose(found.volume, 1.5 * 2 * 2.5 / 6, rtol=1e-5)


def test_a_flight_is_written_as_images_arrays_and_videos(tmp_path):
    random = np.random.default_rng(0)
    shots = [Shot(random.random((8, 6, 3)), random.random((8, 6)), np.full((8, 6, 3), 0.1 * i)) for i in range(3)]
    written = export.write_shots(iter(shots), 3, tmp_path / "orbit")
    assert [path.name for path in written] == ["orbit.mp4", "orbit_depth.mp4", "orbit"]
    assert all(path.exists() for path in written)
    assert len(list((tmp_path / "orbit").iterdir())) == 9
    for i, shot in enumerate(shots):
        image = np.asarray(Image.open(tmp_path / "orbit" / f"{i:04d}.png"))
        np.testing.assert_array_equal(image, np.rint(255 * shot.color))
        np.testing.assert_array_equal(np.load(tmp_path / "orbit" / f"{i:04d}_depth.npy"), shot.depth)
