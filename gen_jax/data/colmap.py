"""What COLMAP writes: cameras, images and points of a reconstruction, as text or binary.

See "Structure-from-Motion Revisited", Schönberger and Frahm, 2016, and COLMAP's documentation of its formats. A pose
there is world to camera, with the axes of OpenCV (x right, y down, z forward); here it is turned into camera to world
with OpenGL's axes.
"""

from __future__ import annotations

import dataclasses
import pathlib
import struct
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from gen_jax.contracts import UserError

# What COLMAP calls each of its camera models, by its number, and how many parameters it has.
_ALL_MODELS = {
    0: ("SIMPLE_PINHOLE", 3),
    1: ("PINHOLE", 4),
    2: ("SIMPLE_RADIAL", 4),
    3: ("RADIAL", 5),
    4: ("OPENCV", 8),
    5: ("OPENCV_FISHEYE", 8),
    6: ("FULL_OPENCV", 12),
    7: ("FOV", 5),
    8: ("SIMPLE_RADIAL_FISHEYE", 4),
    9: ("RADIAL_FISHEYE", 5),
    10: ("THIN_PRISM_FISHEYE", 12),
}
_COUNTS = dict(_ALL_MODELS.values())

# From a model's parameters to (f_x, f_y, c_x, c_y, k_1, k_2, p_1, p_2).
_READ: dict[str, Callable[..., tuple[float, ...]]] = {
    "SIMPLE_PINHOLE": lambda f, x, y: (f, f, x, y, 0.0, 0.0, 0.0, 0.0),
    "PINHOLE": lambda fx, fy, x, y: (fx, fy, x, y, 0.0, 0.0, 0.0, 0.0),
    "SIMPLE_RADIAL": lambda f, x, y, k: (f, f, x, y, k, 0.0, 0.0, 0.0),
    "RADIAL": lambda f, x, y, k1, k2: (f, f, x, y, k1, k2, 0.0, 0.0),
    "OPENCV": lambda fx, fy, x, y, k1, k2, p1, p2: (fx, fy, x, y, k1, k2, p1, p2),
}
MODELS = tuple(_READ)


@dataclasses.dataclass(frozen=True)
class Model:
    """A reconstruction, its images in the order of their names.

    Attributes:
      names: of the image files.
      poses: [N, 3, 4] camera to world, OpenGL's axes.
      focal: [N, 2].
      center: [N, 2].
      distortion: [N, 4].
      size: [N, 2] width and height of the photographs in pixels.
      bounds: near and far around the points that each camera sees; None where there are none.
      path: of the file of the images.
    """

    names: tuple[str, ...]
    poses: np.ndarray
    focal: np.ndarray
    center: np.ndarray
    distortion: np.ndarray
    size: np.ndarray
    bounds: tuple[float, float] | None
    path: pathlib.Path


def find_model(folder: pathlib.Path) -> pathlib.Path | None:
    """The folder of a reconstruction in a scene's folder, or None.

    Args:
      folder: of the scene.

    Returns:
      `sparse/0`, `sparse`, `colmap/sparse/0` or the folder itself: the first that has cameras.
    """
    for place in (folder / "sparse" / "0", folder / "sparse", folder / "colmap" / "sparse" / "0", folder):
        if any((place / f"cameras{ending}").is_file() for ending in (".bin", ".txt")):
            return place
    return None


def read_model(folder: pathlib.Path) -> Model:
    """Reads a reconstruction.

    Args:
      folder: of the scene.

    Returns:
      The reconstruction.

    Raises:
      UserError: where a file is missing or broken, or a camera has a model that is not known.
    """
    place = find_model(folder)
    if place is None:
        raise UserError(f"{folder} has no sparse/0/cameras.bin or cameras.txt; expected what COLMAP writes.")
    ending = ".bin" if (place / "cameras.bin").is_file() else ".txt"
    read_cameras, read_images, read_points = _READERS[ending]
    cameras = _whole(place / f"cameras{ending}", read_cameras)
    path = place / f"images{ending}"
    images = sorted(_whole(path, read_images), key=lambda image: image[0])
    missing = [name for name, _, _, camera in images if camera not in cameras]
    if missing:
        raise UserError(f"{path} gives {missing[0]} a camera that cameras{ending} does not have; export both again.")
    turns = np.array([_rotation(quaternion) for _, quaternion, _, _ in images]).reshape(-1, 3, 3)
    shifts = np.array([shift for _, _, shift, _ in images]).reshape(-1, 3)
    numbers = np.array([cameras[camera] for _, _, _, camera in images]).reshape(-1, 10)
    points = place / f"points3D{ending}"
    found = np.array(_whole(points, read_points)).reshape(-1, 3) if points.is_file() else np.zeros((0, 3))
    places = -np.einsum("nji,nj->ni", turns, shifts)
    poses = np.concatenate([turns.transpose(0, 2, 1) * np.array([1.0, -1.0, -1.0]), places[:, :, None]], axis=2)
    return Model(
        tuple(name for name, *_ in images),
        poses,
        numbers[:, :2],
        numbers[:, 2:4],
        numbers[:, 4:8],
        numbers[:, 8:],
        _bounds(turns, shifts, numbers, found),
        path,
    )


def _bounds(
    turns: np.ndarray, shifts: np.ndarray, cameras: np.ndarray, points: np.ndarray
) -> tuple[float, float] | None:
    """A little around the 0.1st and 99.9th percentile of the depths of the points that lie inside each photograph.

    Lenses are taken to be straight: of what decides which points count, that is accurate enough.
    """
    seen = []
    for turn, shift, (fx, fy, cx, cy, *_, width, height) in zip(turns, shifts, cameras, strict=True):
        x, y, z = turn @ points.T + shift[:, None]
        safe = np.where(z > 0, z, 1.0)
        column, row = fx * x / safe + cx, fy * y / safe + cy
        seen.append(z[(z > 0) & (column > 0) & (column < width) & (row > 0) & (row < height)])
    depths = np.concatenate([*seen, np.zeros(0)])
    if not len(depths):
        return None
    near, far = np.percentile(depths, [0.1, 99.9])
    return 0.9 * float(near), 1.1 * float(far)


def _rotation(quaternion: np.ndarray) -> np.ndarray:
    """The rotation matrix of (w, x, y, z)."""
    w, x, y, z = quaternion / np.linalg.norm(quaternion)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def _whole(path: pathlib.Path, read: Callable[[pathlib.Path], Any]) -> Any:
    """What a reader makes of a file, or one sentence."""
    try:
        return read(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}); expected what COLMAP writes.") from error
    except (ValueError, IndexError, struct.error, UnicodeDecodeError) as error:
        raise UserError(f"{path} is broken ({error}); export it from COLMAP again.") from error


def _camera(name: str, size: tuple[float, float], parameters: list[float], path: pathlib.Path) -> tuple[float, ...]:
    """The eight numbers of a camera, then width and height."""
    if name not in _READ:
        raise UserError(
            f"{path} has a camera of the model {name}; expected one of {', '.join(MODELS)}: undistort the images first."
        )
    if len(parameters) != _COUNTS[name]:
        raise ValueError(f"a {name} camera with {len(parameters)} parameters instead of {_COUNTS[name]}")
    if not min(size) > 0:
        raise ValueError(f"a camera of {size[0]:g}x{size[1]:g} pixels")
    return (*_READ[name](*parameters), *size)


def _lines(path: pathlib.Path) -> list[str]:
    return [line for line in path.read_text().splitlines() if not line.startswith("#")]


def _text_cameras(path: pathlib.Path) -> dict[int, tuple[float, ...]]:
    parts = [line.split() for line in _lines(path) if line.strip()]
    return {
        int(part[0]): _camera(part[1], (float(part[2]), float(part[3])), [float(value) for value in part[4:]], path)
        for part in parts
    }


def _text_images(path: pathlib.Path) -> list[tuple[str, np.ndarray, np.ndarray, int]]:
    images = []
    lines = _lines(path)
    while lines and not lines[-1].strip():
        lines.pop()
    for line in lines[::2]:  # Every other line lists the points seen, and may be empty.
        part = line.split(maxsplit=9)
        numbers = np.array([float(value) for value in part[1:8]])
        images.append((part[9].strip(), numbers[:4], numbers[4:], int(part[8])))
    return images


def _text_points(path: pathlib.Path) -> list[list[float]]:
    return [[float(value) for value in line.split()[1:4]] for line in _lines(path) if line.strip()]


class _Bytes:
    """Numbers one after the other in a file."""

    def __init__(self, path: pathlib.Path) -> None:
        self._data, self._at = path.read_bytes(), 0

    def take(self, layout: str) -> tuple[Any, ...]:
        """The next numbers, little-endian."""
        values = struct.unpack_from("<" + layout, self._data, self._at)
        self._at += struct.calcsize("<" + layout)
        return values

    def skip(self, count: int) -> None:
        """Passes over bytes."""
        if self._at + count > len(self._data):
            raise ValueError("it ends too early")
        self._at += count

    def name(self) -> str:
        """The next text, which a zero byte ends."""
        end = self._data.index(b"\0", self._at)
        text = self._data[self._at : end].decode()
        self._at = end + 1
        return text

    def records(self) -> Iterator[int]:
        """Counts the records that the next number announces."""
        yield from range(self.take("Q")[0])


def _binary_cameras(path: pathlib.Path) -> dict[int, tuple[float, ...]]:
    data, cameras = _Bytes(path), {}
    for _ in data.records():
        identity, model, width, height = data.take("iiQQ")
        if model not in _ALL_MODELS:
            raise UserError(f"{path} has a camera of the model {model}; expected one of {', '.join(MODELS)}.")
        name, count = _ALL_MODELS[model]
        cameras[identity] = _camera(name, (width, height), list(data.take(f"{count}d")), path)
    return cameras


def _binary_images(path: pathlib.Path) -> list[tuple[str, np.ndarray, np.ndarray, int]]:
    data, images = _Bytes(path), []
    for _ in data.records():
        numbers = np.array(data.take("i7d")[1:])
        (camera,) = data.take("i")
        name = data.name()
        data.skip(24 * data.take("Q")[0])
        images.append((name, numbers[:4], numbers[4:], camera))
    return images


def _binary_points(path: pathlib.Path) -> list[tuple[float, ...]]:
    data, points = _Bytes(path), []
    for _ in data.records():
        points.append(data.take("Qddd")[1:])
        data.skip(3 + 8)  # Colour and error.
        data.skip(8 * data.take("Q")[0])  # Where it was seen.
    return points


_READERS: dict[str, tuple[Any, Any, Any]] = {
    ".txt": (_text_cameras, _text_images, _text_points),
    ".bin": (_binary_cameras, _binary_images, _binary_points),
}
