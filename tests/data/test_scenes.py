"""Every format of scenes against a synthetic scene of known cameras, written by hand and read back."""

from __future__ import annotations

import numpy as np
import pytest
from scene_files import (
    CENTER,
    COUNT,
    FOCAL,
    HEIGHT,
    HELD_OUT,
    KEPT,
    POINTS,
    POSES,
    WIDTH,
    check,
    forward_facing_poses,
    known_images,
    known_poses,
    save_images,
    square,
    write_blender,
    write_colmap,
    write_llff,
    write_transforms,
)
from scipy.spatial.transform import Rotation

from gen_jax.contracts import UserError
from gen_jax.data import Reading, load_scene
from gen_jax.data.scene_images import shrink
from gen_jax.ops.volume_rendering import over


def test_blender(tmp_path):
    write_blender(tmp_path)
    scene = load_scene(tmp_path)
    for views in (scene.train, scene.val, scene.test):
        check(views, np.arange(COUNT), known_images(4), (FOCAL[0],) * 2, (WIDTH / 2, HEIGHT / 2), (0,) * 4)
    assert (scene.near, scene.far, scene.forward_facing) == (2, 6, False)
    assert load_scene(tmp_path, Reading(near=1.0, far=9.0)).far == 9
    assert scene.train.names[0].endswith("train/000.png")


def test_blender_without_validation_views(tmp_path):
    write_blender(tmp_path, splits=("train", "test"))
    scene = load_scene(tmp_path)
    assert scene.val.names == scene.test.names and "test" in scene.val.names[0]


def test_transforms(tmp_path):
    write_transforms(tmp_path)
    scene = load_scene(tmp_path)
    check(scene.train, KEPT, known_images())
    check(scene.test, HELD_OUT, known_images())
    assert 0 < scene.near < scene.far
    assert len(load_scene(tmp_path, Reading(hold_out_every=0)).train) == COUNT


def test_transforms_with_lists_of_splits(tmp_path):
    names = [f"images/{row:03d}.png" for row in range(COUNT)]
    write_transforms(tmp_path, train_filenames=names[2:], val_filenames=names[:1], test_filenames=names[1:2])
    scene = load_scene(tmp_path)
    for views, rows in ((scene.train, np.arange(2, COUNT)), (scene.val, np.array([0])), (scene.test, np.array([1]))):
        check(views, rows, known_images())


def test_transforms_of_photographs_made_smaller_since(tmp_path):
    write_transforms(tmp_path, w=2 * WIDTH, h=2 * HEIGHT)
    check(load_scene(tmp_path).train, KEPT, known_images(), np.array(FOCAL) / 2, np.array(CENTER) / 2)


@pytest.mark.parametrize("turned", [False, True])
def test_llff(tmp_path, turned):
    """In the mean camera's coordinates, whatever the world's were, and scaled such that the nearest depth is 4/3."""
    images, poses = known_images(), forward_facing_poses()
    save_images(tmp_path / "images", images)
    turn = Rotation.random(random_state=5).as_matrix() if turned else np.eye(3)
    moved = np.einsum("ij,njk->nik", turn, poses)
    moved[:, :, 3] += [1.0, 2.0, 3.0] if turned else 0.0
    write_llff(tmp_path, moved)
    scene = load_scene(tmp_path, Reading(hold_out_every=0))
    np.testing.assert_array_equal(scene.train.images, images)
    np.testing.assert_allclose(scene.train.focal, 10.0)
    scale = 1 / (0.75 * 3.0)
    centred = poses.copy()
    centred[:, :, 3] = scale * (poses[:, :, 3] - poses[:, :, 3].mean(axis=0))
    np.testing.assert_allclose(scene.train.poses, centred, atol=1e-5)
    np.testing.assert_allclose([scene.near, scene.far], [0.9 * 3 * scale, 30 * scale])
    assert scene.forward_facing
    places = scene.train.poses[:, :, 3] @ scene.frame[:, :3].T + scene.frame[:, 3]
    np.testing.assert_allclose(places, moved[:, :, 3], atol=1e-5)
    save_images(tmp_path / "images_4", images)
    assert "images_4" in load_scene(tmp_path, Reading(factor=4)).train.names[0]


def test_llff_of_a_size_that_the_factor_does_not_divide(tmp_path):
    """8 x 6 pixels made 4 times smaller are 2 x 1: the last rows are left out, and the lens stays the same."""
    save_images(tmp_path / "images", known_images())
    write_llff(tmp_path, forward_facing_poses(), times=1)
    views = load_scene(tmp_path, Reading(factor=4)).train
    assert views.images.shape[1:] == (1, 2, 3)
    np.testing.assert_allclose(views.focal, 10.0)
    np.testing.assert_allclose(views.center, np.tile([1.0, 0.75], (len(views), 1)))


@pytest.mark.parametrize("binary", [True, False])
def test_colmap(tmp_path, binary):
    write_colmap(tmp_path, binary)
    scene = load_scene(tmp_path)
    check(scene.train, KEPT, known_images())
    check(scene.test, HELD_OUT, known_images())
    seen = []
    for pose in known_poses():  # What is inside of the photographs, by hand.
        for right, up, back in (POINTS - pose[:, 3]) @ pose[:, :3]:
            x, y = FOCAL[0] * right / -back + CENTER[0], FOCAL[1] * up / back + CENTER[1]
            seen += [-back] * bool(back < 0 and 0 < x < WIDTH and 0 < y < HEIGHT)
    assert 20 < len(seen) < 0.4 * COUNT * len(POINTS), "points that are not seen do not count"
    near, far = np.percentile(seen, [0.1, 99.9])
    np.testing.assert_allclose([scene.near, scene.far], [0.9 * near, 1.1 * far], rtol=1e-6)


def test_colmap_of_photographs_made_smaller_since(tmp_path):
    """Those that COLMAP saw were twice as large; and of `images_2`, which the factor names, as well."""
    write_colmap(tmp_path, True, size=(2 * WIDTH, 2 * HEIGHT))
    half = np.array(FOCAL) / 2, np.array(CENTER) / 2
    check(load_scene(tmp_path).train, KEPT, known_images(), *half)
    (tmp_path / "images").rename(tmp_path / "images_2")
    check(load_scene(tmp_path, Reading(factor=2)).train, KEPT, known_images(), *half)


def test_colmap_without_points(tmp_path):
    write_colmap(tmp_path, True, points=False)
    assert load_scene(tmp_path).near > 0


@pytest.mark.parametrize(
    ("model", "focal", "lens"),
    [
        ((0, "SIMPLE_PINHOLE", (10.0, *CENTER)), (10, 10), (0, 0, 0, 0)),
        ((1, "PINHOLE", (*FOCAL, *CENTER)), FOCAL, (0, 0, 0, 0)),
        ((2, "SIMPLE_RADIAL", (10.0, *CENTER, 0.1)), (10, 10), (0.1, 0, 0, 0)),
        ((3, "RADIAL", (10.0, *CENTER, 0.1, 0.2)), (10, 10), (0.1, 0.2, 0, 0)),
    ],
)
@pytest.mark.parametrize("binary", [True, False])
def test_colmaps_camera_models(tmp_path, model, focal, lens, binary):
    write_colmap(tmp_path, binary, model)
    check(load_scene(tmp_path).train, KEPT, known_images(), focal, CENTER, lens)


@pytest.mark.parametrize("scale", [1, 255])
def test_arrays(tmp_path, scale):
    """As of tiny NeRF: images in [0, 1] or levels."""
    images = known_images()
    stored = images if scale == 255 else images / np.float32(255)
    poses = np.array([square(pose) for pose in known_poses()])
    np.savez(tmp_path / "tiny.npz", images=stored, poses=poses, focal=10.0)
    scene = load_scene(tmp_path / "tiny.npz")
    check(scene.train, KEPT, images, (10, 10), (WIDTH / 2, HEIGHT / 2), (0,) * 4)
    np.savez(
        tmp_path / "split.npz",
        images_train=stored,
        poses_train=poses,
        images_val=stored[:3],
        poses_val=poses[:3],
        focal=1,
    )
    scene = load_scene(tmp_path / "split.npz")
    assert (len(scene.train), len(scene.val), len(scene.test)) == (9, 3, 3)


def test_smaller_images_are_means_over_areas(tmp_path):
    image = np.zeros((4, 4, 3), np.uint8)
    image[:2, :2] = [[[10], [20]], [[30], [40]]]
    np.testing.assert_array_equal(shrink(image, 2)[0, 0], [25] * 3)
    # What cannot be seen has no colour: half of a red square on nothing is red, half transparent.
    clear = np.zeros((2, 2, 4), np.uint8)
    clear[0] = [200, 0, 0, 255]
    np.testing.assert_array_equal(shrink(clear, 2), [[[200, 0, 0, 128]]])
    write_transforms(tmp_path)
    scene = load_scene(tmp_path, Reading(factor=2))
    assert scene.train.images.shape[1:] == (3, 4, 3)
    np.testing.assert_allclose(scene.train.focal[0], np.array(FOCAL) / 2)
    np.testing.assert_allclose(scene.train.center[0], np.array(CENTER) / 2, rtol=1e-6)


def test_premultiplied_colors_are_read_as_straight_ones(tmp_path):
    """Over any background both are the same image: α c + (1 − α) b, with the colour stored as c or as α c."""
    rng, behind = np.random.default_rng(0), np.array([0.2, 0.9, 0.4])
    color, alpha = rng.random((5, 4, 4, 3)), rng.random((5, 4, 4, 1))
    alpha[0, 0, 0], alpha[0, 1, 1] = 0.0, 1.0
    stored = np.rint(255 * np.concatenate([alpha * color, alpha], axis=-1)).astype(np.uint8)
    poses = np.array([square(pose) for pose in known_poses()])[:5]
    np.savez(tmp_path / "scene.npz", images=stored, poses=poses, focal=10.0)
    for factor in (1, 2):
        scene = load_scene(tmp_path, Reading(factor, hold_out_every=0, premultiplied=True))
        areas = stored.reshape(5, 4 // factor, factor, 4 // factor, factor, 4).mean(axis=(2, 4)) / 255
        found = scene.train.images / 255
        np.testing.assert_allclose(
            over(found, behind), over(areas, behind, premultiplied=True), atol=1.5 / 255, err_msg=str(factor)
        )
    color = np.rint(stored[..., :3] * 255.0 / np.maximum(stored[..., 3:], 1)) * (stored[..., 3:] > 0)
    write_blender(tmp_path / "files", poses[:, :3], stored)
    read = load_scene(tmp_path / "files", Reading(premultiplied=True)).train.images
    np.testing.assert_array_equal(read, np.concatenate([np.minimum(color, 255), stored[..., 3:]], axis=-1))
    np.savez(tmp_path / "scene.npz", images=stored[..., :3], poses=poses, focal=10.0)
    with pytest.raises(UserError, match=r"scene\.npz has no alpha"):
        load_scene(tmp_path, Reading(premultiplied=True))


def test_splits_that_name_the_training_views_alone_hold_some_of_them_out(tmp_path):
    names = [f"images/{row:03d}.png" for row in range(COUNT)]
    write_transforms(tmp_path, train_filenames=names)
    scene = load_scene(tmp_path)
    check(scene.train, KEPT, known_images())
    check(scene.test, HELD_OUT, known_images())


def test_splits_that_name_the_judged_views_alone_leave_the_others_to_learn_from(tmp_path):
    names = [f"images/{row:03d}.png" for row in range(COUNT)]
    write_transforms(tmp_path, test_filenames=names[3:4])
    scene = load_scene(tmp_path)
    check(scene.train, np.delete(np.arange(COUNT), 3), known_images())
    check(scene.test, np.array([3]), known_images())


def test_training_views_alone_are_split(tmp_path):
    """A lone transforms_train.json, or images_train: what is judged by is not learned from."""
    write_blender(tmp_path / "blender", splits=("train",))
    np.savez(tmp_path / "arrays.npz", images_train=known_images(), poses_train=POSES, focal=10.0)
    for place in (tmp_path / "blender", tmp_path / "arrays.npz"):
        scene = load_scene(place)
        assert len(scene.train) == len(KEPT) and len(scene.test) == len(HELD_OUT)
        assert not set(scene.train.names) & set(scene.test.names)


def test_a_pinhole_s_lens_is_straight_whatever_else_the_file_says(tmp_path):
    write_transforms(tmp_path, camera_model="PINHOLE")
    check(load_scene(tmp_path).train, KEPT, known_images(), lens=(0,) * 4)
