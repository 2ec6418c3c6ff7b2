"""What is said of scenes that cannot be read: one sentence with the file, what was wrong and what was expected."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from scene_files import (
    CENTER,
    COUNT,
    FOCAL,
    HEIGHT,
    LENS,
    POSES,
    WIDTH,
    forward_facing_poses,
    known_images,
    known_poses,
    save_images,
    write_blender,
    write_colmap,
    write_llff,
    write_transforms,
)

from gen_jax.contracts import UserError
from gen_jax.data import Reading, load_scene


def changed_pose(change):
    poses = known_poses()
    change(poses)
    return poses


def mirror(poses):
    poses[3, :, 0] *= -1


def stretch(poses):
    poses[3, :, :3] *= 1.1


@pytest.mark.parametrize("change", [mirror, stretch])
def test_a_pose_that_is_not_rigid_is_refused(tmp_path, change):
    write_blender(tmp_path, changed_pose(change))
    with pytest.raises(UserError, match=r"pose of .*train/003.png in .*transforms_train.json is not rigid"):
        load_scene(tmp_path)


def test_what_else_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"has no scene: expected transforms_train.json"):
        load_scene(tmp_path)
    write_blender(tmp_path)
    (tmp_path / "train" / "004.png").unlink()
    with pytest.raises(UserError, match=r"transforms_train.json names the image ./train/004, and .* is not there"):
        load_scene(tmp_path)
    Image.fromarray(known_images(4)[0][:3]).save(tmp_path / "train" / "004.png")
    with pytest.raises(UserError, match=r"004.png is 8x3 with 4 channels, and .*000.png is 8x6"):
        load_scene(tmp_path)
    (tmp_path / "train" / "004.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"004.png cannot be read as an image"):
        load_scene(tmp_path)
    (tmp_path / "transforms_train.json").write_text("{")
    with pytest.raises(UserError, match=r"transforms_train.json cannot be read as JSON"):
        load_scene(tmp_path)
    (tmp_path / "transforms_train.json").write_text("[]")
    with pytest.raises(UserError, match=r"transforms_train.json has no list 'frames'"):
        load_scene(tmp_path)


def test_scenes_of_which_nothing_can_be_learned_are_refused(tmp_path):
    write_blender(tmp_path / "one", known_poses()[:1], known_images(4)[:1])
    with pytest.raises(UserError, match=r"one has 1 training view\(s\); a scene needs two or more"):
        load_scene(tmp_path / "one")
    clear = known_images(4)
    clear[..., 3] = 0
    write_blender(tmp_path / "clear", images=clear)
    with pytest.raises(UserError, match=r"Every training image of .*clear is wholly transparent"):
        load_scene(tmp_path / "clear")
    here = known_poses()
    here[:, :, 3] = here[0, :, 3]
    write_blender(tmp_path / "here", here)
    with pytest.raises(UserError, match=r"All training views of .*here are from one place"):
        load_scene(tmp_path / "here")
    write_blender(tmp_path / "good")
    with pytest.raises(UserError, match="near=6 and far=2; expected 0 ≤ near < far"):
        load_scene(tmp_path / "good", Reading(near=6.0, far=2.0))
    with pytest.raises(UserError, match="factor=0"):
        load_scene(tmp_path / "good", Reading(factor=0))


@pytest.mark.parametrize("binary", [True, False])
def test_broken_files_of_colmap_are_refused(tmp_path, binary):
    write_colmap(tmp_path, binary, (5, "OPENCV_FISHEYE", (*FOCAL, *CENTER, *LENS)))
    ending = "bin" if binary else "txt"
    with pytest.raises(UserError, match=rf"cameras.{ending} has a camera of the model OPENCV_FISHEYE; expected one of"):
        load_scene(tmp_path)
    file = tmp_path / "sparse" / "0" / f"cameras.{ending}"
    file.write_bytes(file.read_bytes()[:20])
    with pytest.raises(UserError, match=rf"cameras.{ending} (is broken|has a camera)"):
        load_scene(tmp_path)


def test_an_unknown_camera_model_of_a_json_file_is_refused(tmp_path):
    write_transforms(tmp_path, camera_model="EQUIRECTANGULAR")
    with pytest.raises(UserError, match=r"transforms.json has the camera_model 'EQUIRECTANGULAR'; expected one of"):
        load_scene(tmp_path)


def test_images_of_more_than_eight_bits_are_refused(tmp_path):
    write_transforms(tmp_path)
    Image.fromarray(np.full((HEIGHT, WIDTH), 40_000, np.uint16)).save(tmp_path / "images" / "000.png")
    with pytest.raises(UserError, match=r"000\.png has more than 8 bits a channel"):
        load_scene(tmp_path)


def test_splits_of_different_sizes_are_refused(tmp_path):
    write_blender(tmp_path)
    write_blender(tmp_path, images=known_images(4)[:, :3], splits=("test",))
    with pytest.raises(UserError, match=r"test/000.png is 8x3 .*, and .*train/000.png is 8x6 .*must be of one size"):
        load_scene(tmp_path)


BAD_JSON = [
    ({"fl_x": None}, "has fl_x=None; expected a finite number"),
    ({"fl_x": "wide"}, "has fl_x='wide'; expected a finite number"),
    ({"cx": float("nan")}, "has cx=nan; expected a finite number"),
    ({"k1": float("inf")}, "has k1=inf; expected a finite number"),
    ({"w": 0}, "has w=0 and h=6; expected the size"),
    ({"is_fisheye": True}, "is of a fisheye lens"),
    ({"k3": 0.1}, "or has k3 or k4"),
    ({"frames": [{"file_path": None, "transform_matrix": np.eye(4).tolist()}]}, "names the image None"),
    ({"frames": [{"file_path": "images/000.png", "transform_matrix": [[1, 2], [3]]}]}, "is no matrix of numbers"),
    ({"frames": [{"file_path": "images/000.png", "transform_matrix": "turned"}]}, "is no matrix of numbers"),
    ({"frames": []}, "names no images"),
    ({"fl_x": 10**400}, "has fl_x=a thing too long to show; expected a finite number"),
    ({"train_filenames": 5}, "has a split that is no list of file names"),
    (
        {"train_filenames": ["images/001.png", "images/002.png"], "test_filenames": ["images/001.png"]},
        r"lists .*001\.png for training and for judging",
    ),
]


@pytest.mark.parametrize(("change", "message"), BAD_JSON)
def test_bad_numbers_of_a_json_file_are_refused(tmp_path, change, message):
    write_transforms(tmp_path)
    data = json.loads((tmp_path / "transforms.json").read_text()) | change
    (tmp_path / "transforms.json").write_text(json.dumps(data))
    with pytest.raises(UserError, match=rf"transforms.json.* {message}|transforms.json {message}"):
        load_scene(tmp_path)


def test_an_angle_of_view_of_nothing_is_refused(tmp_path):
    write_blender(tmp_path)
    path = tmp_path / "transforms_train.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"camera_angle_x": 0}))
    with pytest.raises(UserError, match=r"transforms_train.json has camera_angle_x=0; expected radians"):
        load_scene(tmp_path)


BAD_ARRAYS = [
    ({"poses": POSES[:3]}, "has 9 images and 3 of poses"),
    ({"images": known_images()[:0]}, r"has the shape \(0, 6, 8, 3\); expected"),
    ({"images": known_images()[..., 0]}, r"has the shape \(9, 6, 8\); expected"),
    ({"images": known_images(1)}, r"has the shape \(6, 8, 1\); expected \[H, W, 3 or 4\]"),
    ({"images": known_images().astype(np.int64)}, "are int64 outside of"),
    ({"images": known_images().astype(np.float32)}, "are float32 outside of"),
    ({"focal": np.ones(2)}, "has focal or poses of another form"),
    ({"poses": POSES.reshape(COUNT, 16)}, "has focal or poses of another form"),
    ({"poses": POSES[:, :, :3]}, r"has poses of the shape \(4, 3\)"),
    ({"poses": np.float64(1.0)}, "has focal or poses of another form"),
    ({"images_val": known_images(), "poses_val": POSES}, "has images_val and no images_train"),
    ({"poses": POSES.astype(str)}, "has focal or poses of another form"),
    ({"poses": np.where(POSES == 1, np.nan, POSES)}, "has a number that is not finite among the poses"),
]


@pytest.mark.parametrize(("change", "message"), BAD_ARRAYS)
def test_bad_arrays_are_refused(tmp_path, change, message):
    np.savez(tmp_path / "scene.npz", **({"images": known_images(), "poses": POSES, "focal": 10.0} | change))
    with pytest.raises(UserError, match=rf"scene.npz.* {message}"):
        load_scene(tmp_path / "scene.npz")


@pytest.mark.parametrize(
    "table", [np.zeros((0, 17)), np.zeros((3, 16)), np.full((3, 17), np.nan), np.array([["a"] * 17])]
)
def test_bad_tables_of_llff_are_refused(tmp_path, table):
    save_images(tmp_path / "images", known_images())
    np.save(tmp_path / "poses_bounds.npy", table)
    with pytest.raises(UserError, match=r"poses_bounds.npy has the shape .*; expected rows of 17 finite numbers"):
        load_scene(tmp_path)


def test_depths_of_llff_that_are_not_positive_are_refused(tmp_path):
    save_images(tmp_path / "images", known_images())
    write_llff(tmp_path, forward_facing_poses(), bounds=(0.0, 30.0))
    with pytest.raises(UserError, match=r"poses_bounds.npy has a focal length or a depth that is not positive"):
        load_scene(tmp_path)


def test_images_smaller_than_the_factor_are_refused(tmp_path):
    write_transforms(tmp_path)
    with pytest.raises(UserError, match=r"000\.png is 8x6 and cannot be made 7 times smaller"):
        load_scene(tmp_path, Reading(factor=7))
