"""Every format of scenes against a synthetic scene of known cameras, written by hand and read back."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest
from PIL import Image
from scipy.spatial.transform import Rotation

from gen_jax.contracts import UserError
from gen_jax.data.scene_formats import Reading, load_scene
from gen_jax.data.scene_images import shrink
from gen_jax.ops.volume_rendering import over

COUNT, HEIGHT, WIDTH = 9, 6, 8
FOCAL, CENTER, LENS = (10.0, 11.0), (3.7, 2.9), (0.1, -0.05, 0.003, -0.002)


def known_poses(count=COUNT):
    """Camera to world, OpenGL's axes."""
    random = np.random.default_rng(0)
    turns = Rotation.random(count, random_state=random).as_matrix()
    return np.concatenate([turns, random.normal(size=(count, 3, 1))], axis=2)


def known_images(channels=3, count=COUNT):
    return np.random.default_rng(1).integers(1, 256, (count, HEIGHT, WIDTH, channels), np.uint8)


def save_images(folder, images):
    folder.mkdir(parents=True, exist_ok=True)
    for row, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{row:03d}.png")
    return [f"{row:03d}.png" for row in range(len(images))]


def square(pose):
    return np.concatenate([pose, [[0, 0, 0, 1]]]).tolist()


def write_blender(folder, poses=None, images=None, splits=("train", "val", "test")):
    poses, images = known_poses() if poses is None else poses, known_images(4) if images is None else images
    for split in splits:
        names = save_images(folder / split, images)
        frames = [
            {"file_path": f"./{split}/{name.removesuffix('.png')}", "transform_matrix": square(pose)}
            for name, pose in zip(names, poses, strict=True)
        ]
        data = {"camera_angle_x": 2 * np.arctan(0.5 * WIDTH / FOCAL[0]), "frames": frames}
        (folder / f"transforms_{split}.json").write_text(json.dumps(data))


def write_transforms(folder, **more):
    names = save_images(folder / "images", known_images())
    frames = [
        {"file_path": f"images/{name}", "transform_matrix": square(pose)}
        for name, pose in zip(names, known_poses(), strict=True)
    ]
    data = {"fl_x": FOCAL[0], "fl_y": FOCAL[1], "cx": CENTER[0], "cy": CENTER[1], "w": WIDTH, "h": HEIGHT}
    data |= dict(zip(("k1", "k2", "p1", "p2"), LENS, strict=True)) | {"frames": frames} | more
    (folder / "transforms.json").write_text(json.dumps(data))


def colmap_rows(model="OPENCV"):
    """(name, quaternion w x y z, shift) of every image: world to camera, OpenCV's axes; names out of order."""
    rows = []
    for row, pose in enumerate(known_poses()):
        turn = (pose[:, :3] * [1, -1, -1]).T
        x, y, z, w = Rotation.from_matrix(turn).as_quat()
        rows.append((f"{row:03d}.png", (w, x, y, z), -turn @ pose[:, 3]))
    return rows[::-1]


POINTS = np.random.default_rng(3).normal(size=(200, 3))


def write_colmap(folder, binary, model=(4, "OPENCV", (*FOCAL, *CENTER, *LENS)), points=True, size=(WIDTH, HEIGHT)):
    save_images(folder / "images", known_images())
    place = folder / "sparse" / "0"
    place.mkdir(parents=True)
    number, name, parameters = model
    if binary:
        data = struct.pack("<QiiQQ", 1, 7, number, *size) + struct.pack(f"<{len(parameters)}d", *parameters)
        (place / "cameras.bin").write_bytes(data)
        data = struct.pack("<Q", COUNT)
        for row, (file, quaternion, shift) in enumerate(colmap_rows()):
            data += struct.pack("<i7di", row + 1, *quaternion, *shift, 7) + file.encode() + b"\0"
            data += struct.pack("<Q", 2) + struct.pack("<ddqddq", 1.0, 2.0, 3, 4.0, 5.0, -1)
        (place / "images.bin").write_bytes(data)
        data = struct.pack("<Q", len(POINTS))
        for row, point in enumerate(POINTS):
            data += struct.pack("<QdddBBBdQiiii", row, *point, 1, 2, 3, 0.5, 2, 1, 0, 2, 0)
        (place / "points3D.bin").write_bytes(data)
    else:
        numbers = " ".join(map(str, parameters))
        (place / "cameras.txt").write_text(f"# Camera list\n7 {name} {size[0]} {size[1]} {numbers}\n")
        lines = ["# Image list", "# two lines an image"]
        for row, (file, quaternion, shift) in enumerate(colmap_rows()):
            lines += [" ".join(map(str, (row + 1, *quaternion, *shift, 7, file))), "1.0 2.0 3" if row % 2 else ""]
        (place / "images.txt").write_text("\n".join(lines) + "\n")
        lines = [" ".join(map(str, (row, *point, 1, 2, 3, 0.5, 1, 0))) for row, point in enumerate(POINTS)]
        (place / "points3D.txt").write_text("\n".join(["# Points", *lines]) + "\n")
    if not points:
        for file in place.glob("points3D.*"):
            file.unlink()


def check(views, rows, images, focal=FOCAL, center=CENTER, lens=LENS):
    np.testing.assert_array_equal(views.images, images[rows])
    np.testing.assert_allclose(views.poses, known_poses()[rows], atol=1e-6)
    for found, expected in ((views.focal, focal), (views.center, center), (views.distortion, lens)):
        np.testing.assert_allclose(found, np.tile(expected, (len(rows), 1)), rtol=1e-6)


POSES = np.array([square(pose) for pose in known_poses()])
HELD_OUT, KEPT = np.array([0, 8]), np.arange(1, 8)


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


def write_llff(folder, poses, height=HEIGHT, width=WIDTH, focal=40.0, bounds=(3.0, 30.0), times=4):
    """Poses [N, 3, 4] with OpenGL's axes; the photographs were so many times as large as the images."""
    count = len(poses)
    axes = np.stack([-poses[:, :, 1], poses[:, :, 0], poses[:, :, 2], poses[:, :, 3]], axis=2)
    sizes = np.tile(np.array([times * height, times * width, focal])[None, :, None], (count, 1, 1))
    table = np.concatenate([np.dstack([axes, sizes]).reshape(count, 15), np.tile(bounds, (count, 1))], 1)
    np.save(folder / "poses_bounds.npy", table)


def forward_facing_poses():
    """Cameras that look along −z on the whole, the mean one just so, and their mean place."""
    poses = np.zeros((COUNT, 3, 4))
    poses[:, :, 3] = np.random.default_rng(4).normal(size=(COUNT, 3)) * 0.1
    poses[:, :, :3] = Rotation.from_euler("y", np.linspace(-20, 20, COUNT)[:, None], degrees=True).as_matrix()
    return poses


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


def test_a_pinhole_s_lens_is_straight_whatever_else_the_file_says(tmp_path):
    write_transforms(tmp_path, camera_model="PINHOLE")
    check(load_scene(tmp_path).train, KEPT, known_images(), lens=(0,) * 4)


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
