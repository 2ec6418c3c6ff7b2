"""A synthetic scene of known cameras, written by hand in every format: what `test_scenes` reads back."""

from __future__ import annotations

import json
import struct

import numpy as np
from PIL import Image
from scipy.spatial.transform import Rotation

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


def check(views, rows, images, focal=FOCAL, center=CENTER, lens=LENS):
    np.testing.assert_array_equal(views.images, images[rows])
    np.testing.assert_allclose(views.poses, known_poses()[rows], atol=1e-6)
    for found, expected in ((views.focal, focal), (views.center, center), (views.distortion, lens)):
        np.testing.assert_allclose(found, np.tile(expected, (len(rows), 1)), rtol=1e-6)


POSES = np.array([square(pose) for pose in known_poses()])
HELD_OUT, KEPT = np.array([0, 8]), np.arange(1, 8)
