"""One function a file format: a file in, arrays out, or one `UserError` that names the file and what to do."""

from __future__ import annotations

import bz2
import gzip
import io
import math
import pathlib
import struct
import zipfile
import zlib
from collections.abc import Sequence

import numpy as np
from PIL import Image

from gen_jax.contracts import UserError
from gen_jax.files import BROKEN_IMAGE, BROKEN_NPZ

IMAGE_ENDINGS = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".webp")

# The type codes of IDX (http://yann.lecun.com/exdb/mnist, archived); every number is big-endian.
_IDX_DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_IDX_MAX_DIMS = 8  # Far above any real file, far below what numpy can hold.
_CIFAR_RECORD = 1 + 3 * 32 * 32
_NPZ_KEYS = {
    "train": (("x_train", "y_train"), ("train_images", "train_labels")),
    "test": (("x_test", "y_test"), ("test_images", "test_labels")),
}


def read_idx(path: str | pathlib.Path) -> np.ndarray:
    """Reads an IDX file, the format of MNIST and its kin.

    Args:
      path: of the file, as it is or compressed; its ending `.gz` or `.bz2` decides.

    Returns:
      The array in the shape that the file declares, one of uint8, int8, int16, int32, float32, float64.

    Raises:
      UserError: where the file cannot be read, is not IDX, or is shorter or longer than it declares, or empty.
    """
    path = pathlib.Path(path)
    raw = _decompressed(path)
    if len(raw) < 4 or raw[:2] != b"\0\0" or raw[2] not in _IDX_DTYPES or not 1 <= raw[3] <= _IDX_MAX_DIMS:
        raise UserError(
            f"{path} is not an IDX file: it begins with the bytes '{raw[:4].hex(' ')}', expected 00 00, a type code of "
            f"{', '.join(f'{code:02x}' for code in _IDX_DTYPES)} and 1 to {_IDX_MAX_DIMS} dimensions; fetch it again."
        )
    dtype = np.dtype(_IDX_DTYPES[raw[2]])
    header = 4 + 4 * raw[3]
    if len(raw) < header:
        raise UserError(
            f"{path} is truncated: it ends after {len(raw)} bytes, within its header of {header} bytes; fetch it again."
        )
    shape = struct.unpack(f">{raw[3]}I", raw[4:header])
    if 0 in shape:
        raise UserError(f"{path} declares the shape {shape}, which holds nothing; expected data; fetch it again.")
    expected = header + math.prod(shape) * dtype.itemsize
    if len(raw) != expected:
        what = "is truncated" if len(raw) < expected else "has bytes after its end"
        raise UserError(
            f"{path} {what}: it declares {dtype.newbyteorder('=')} of shape {shape}, which is {expected} bytes with "
            f"the header, but holds {len(raw)}; fetch it again."
        )
    return np.frombuffer(raw, dtype, offset=header).reshape(shape).astype(dtype.newbyteorder("="))


def read_cifar10(paths: Sequence[str | pathlib.Path]) -> tuple[np.ndarray, np.ndarray]:
    """Reads files of CIFAR-10's binary version (`data_batch_1.bin` and so on), one after another.

    A record is 3073 bytes: the label, then 32x32 red values in row order, then the green, then the blue.

    Args:
      paths: of the files, in the order in which their images shall stand; at least one.

    Returns:
      Images [N, 32, 32, 3] uint8 and labels [N] int32 in [0, 9].

    Raises:
      UserError: where a file cannot be read, is not a whole number of records, or has a label above 9.
    """
    parts = []
    for path in map(pathlib.Path, paths):
        raw = _decompressed(path)
        if not raw or len(raw) % _CIFAR_RECORD:
            raise UserError(
                f"{path} is not a file of CIFAR-10's binary version: it has {len(raw)} bytes, expected a multiple of "
                f"{_CIFAR_RECORD}; fetch it again."
            )
        records = np.frombuffer(raw, np.uint8).reshape(-1, _CIFAR_RECORD)
        if records[:, 0].max() > 9:
            first = int(np.argmax(records[:, 0] > 9))
            raise UserError(
                f"{path} is not a file of CIFAR-10's binary version: record {first} has the label "
                f"{records[first, 0]}, expected 0 to 9; fetch it again."
            )
        parts.append(records)
    all_records = np.concatenate(parts)
    images = all_records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), all_records[:, 0].astype(np.int32)


def read_npz(path: str | pathlib.Path, split: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Reads the images, and where there are any the labels, of one split from a numpy archive.

    The keys are `x_train, y_train, x_test, y_test` (as Keras has them) or `train_images, train_labels, test_images,
    test_labels`. Plain `images, labels` are taken only from a file called `train.npz` or `test.npz`: from any other
    both splits would be the same images. Images of floating-point numbers in [0, 1] become the nearest of the 256
    levels k / 255.

    Args:
      path: of the file.
      split: "train" or "test".

    Returns:
      Images [N, H, W] or [N, H, W, C] uint8, C = 1 or 3, and labels [N] int32 or None.

    Raises:
      UserError: where the file is broken, lacks the keys, or holds anything else than such images and labels.
    """
    path = pathlib.Path(path)
    pairs = _NPZ_KEYS[split] + ((("images", "labels"),) if path.stem.lower() == split else ())
    with io.BytesIO(_decompressed(path)) as file:
        try:
            # Whole members are read through zipfile because it checks their sums; numpy alone may stop before.
            with zipfile.ZipFile(file) as archive:
                keys = [name.removesuffix(".npy") for name in archive.namelist()]
                image_key, label_key = next((pair for pair in pairs if pair[0] in keys), ("", ""))
                members = {key: archive.read(f"{key}.npy") for key in (image_key, label_key) if key in keys}
            arrays = {
                key: np.lib.format.read_array(io.BytesIO(member), allow_pickle=False) for key, member in members.items()
            }
        except BROKEN_NPZ as error:
            raise UserError(
                f"{path} cannot be read as a numpy archive ({_first_line(error)}); expected a whole .npz file of plain "
                "arrays without pickled objects; save or fetch it again."
            ) from error
    if not image_key:
        raise UserError(
            f"{path} has no images for the split '{split}': it holds {', '.join(sorted(keys)) or 'nothing'}, expected "
            f"one of {', '.join(pair[0] for pair in pairs)}; save them under that key."
        )
    images = check_images(arrays[image_key], f"'{image_key}' in {path}")
    labels = arrays.get(label_key)
    return images, None if labels is None else check_labels(labels, len(images), f"'{label_key}' in {path}")


def read_folder(path: str | pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    """Reads a folder of images, sorted by name; nothing is resized or cropped.

    Where the images lie in sub-folders, each sub-folder is a class, and the classes are numbered in the order of their
    names. Other files are passed over, and so is whatever has a name that begins with a dot. An image with a palette
    (every gif) counts as RGB.

    Args:
      path: of the folder; its images are png, jpg, jpeg, webp, bmp or gif (of which the first frame counts).

    Returns:
      Images [N, H, W, C] uint8, C = 1 (grey) or 3 (RGB), and labels [N] int32, -1 without sub-folders.

    Raises:
      UserError: where there is no image, one cannot be read or has transparency, or they differ in size or colour.
    """
    path = pathlib.Path(path)
    classes = folder_classes(path)
    loose = _image_files(path)
    if loose and classes:
        raise UserError(
            f"{path} has images of its own ({loose[0].name}) beside sub-folders with images ({classes[0]}); expected "
            "one or the other; move the images into class sub-folders, or away."
        )
    files = [(-1, file) for file in loose] or [
        (label, file) for label, name in enumerate(classes) for file in _image_files(path / name)
    ]
    if not files:
        raise UserError(f"{path} has no images; expected files that end in {', '.join(IMAGE_ENDINGS)}; put some there.")
    first = _read_image(files[0][1])
    images = np.empty((len(files), *first.shape), np.uint8)
    for i, (_, file) in enumerate(files):
        image = _read_image(file)
        if image.shape != first.shape:
            raise UserError(
                f"{file} is {_describe(image)} but {files[0][1].name} is {_describe(first)}; expected all images of "
                f"{path} in one size and colour; bring them to one, nothing is resized here."
            )
        images[i] = image
    return images, np.array([label for label, _ in files], np.int32)


def folder_classes(path: pathlib.Path) -> list[str]:
    """The sub-folders of `path` that hold images, sorted by name: the classes, in the order of their labels."""
    return [p.name for p in listing(path) if p.is_dir() and _image_files(p)]


def listing(path: pathlib.Path) -> list[pathlib.Path]:
    """What lies in a folder, sorted by name, without the hidden.

    Args:
      path: of the folder.

    Returns:
      The paths of its files and folders.

    Raises:
      UserError: where it cannot be read.
    """
    try:
        return sorted((p for p in path.iterdir() if not p.name.startswith(".")), key=lambda p: p.name)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); expected a readable folder.") from error


def has_images(path: pathlib.Path) -> bool:
    """Whether there are image files in a folder or in its sub-folders."""
    return bool(_image_files(path) or folder_classes(path))


def check_images(images: np.ndarray, what: str) -> np.ndarray:
    """Checks an array of images and brings it to uint8.

    Args:
      images: [N, H, W] or [N, H, W, C], uint8 in any of its values or floating point in [0, 1].
      what: the file, and the key in it, for the error.

    Returns:
      The images as uint8, in the same shape; of floating-point values the nearest level k / 255.

    Raises:
      UserError: where the shape, the type or a value is none of these.
    """
    if images.ndim not in (3, 4) or 0 in images.shape or (images.ndim == 4 and images.shape[3] not in (1, 3)):
        raise UserError(
            f"{what} has shape {images.shape}; expected [N, H, W] or [N, H, W, C] with C = 1 or 3 and no side of 0."
        )
    if images.dtype == np.uint8:
        return images
    if images.dtype.kind != "f":
        raise UserError(
            f"{what} is {images.dtype}; expected uint8, or floating-point numbers in [0, 1]; convert it and save again."
        )
    bad = int(np.size(images) - np.count_nonzero((images >= 0) & (images <= 1)))  # NaN fails both comparisons.
    if bad:
        raise UserError(
            f"{what} has {bad} values of {images.size} that are NaN, infinite or outside [0, 1]; expected uint8, or "
            "floating-point numbers in [0, 1]; correct them and save again."
        )
    # Half precision cannot tell the levels near 255 apart once multiplied.
    wide = images.astype(np.float32) if images.dtype.itemsize < 4 else images
    return np.rint(wide * 255).astype(np.uint8)


def check_labels(labels: np.ndarray, num_images: int, what: str) -> np.ndarray:
    """Checks that labels are one 32-bit integer an image.

    Args:
      labels: [N] or, as Keras has them, [N, 1]; any integer type.
      num_images: N.
      what: the file, and the key in it, for the error.

    Returns:
      [N] int32.

    Raises:
      UserError: where they are anything else.
    """
    if labels.dtype.kind not in "iu" or labels.shape not in ((num_images,), (num_images, 1)):
        raise UserError(
            f"{what} is {labels.dtype} of shape {labels.shape}; expected one integer for each of {num_images} images."
        )
    bounds = np.iinfo(np.int32)
    if labels.min() < bounds.min or labels.max() > bounds.max:
        raise UserError(f"{what} has labels that do not fit in 32 bits; number the classes from 0 on.")
    return labels.reshape(num_images).astype(np.int32)


def _decompressed(path: pathlib.Path) -> bytes:
    """All bytes of a file, decompressed where its ending says so."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError as error:
        raise UserError(f"There is no file {path}; put it there or correct the path.") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); expected a readable file.") from error
    decompress = {".gz": gzip.decompress, ".bz2": bz2.decompress}.get(path.suffix)
    if decompress is None:
        return raw
    try:
        return decompress(raw)
    except (OSError, EOFError, ValueError, zlib.error, struct.error) as error:
        raise UserError(
            f"{path} is not a whole {path.suffix[1:]} file ({_first_line(error)}); it is corrupt or truncated; "
            "fetch it again."
        ) from error


def _image_files(path: pathlib.Path) -> list[pathlib.Path]:
    return [p for p in listing(path) if p.suffix.lower() in IMAGE_ENDINGS and p.is_file()]


def _read_image(path: pathlib.Path) -> np.ndarray:
    """One image file as [H, W, C] uint8, C = 1 or 3."""
    try:
        with Image.open(path) as image:
            image.load()
            if "transparency" in image.info or image.mode not in ("1", "L", "P", "RGB"):
                mode = image.mode + (" with transparency" if "transparency" in image.info else "")
                raise UserError(
                    f"{path} has the mode {mode}; expected 8-bit grey or RGB without transparency, as there is nothing "
                    "to lay it on; convert it first."
                )
            pixels = np.asarray(image.convert("RGB" if image.mode in ("P", "RGB") else "L"), np.uint8)
    except BROKEN_IMAGE as error:
        raise UserError(
            f"{path} cannot be read as an image ({_first_line(error)}); it is corrupt or truncated; replace it."
        ) from error
    return pixels.reshape(*pixels.shape[:2], -1)


def _describe(image: np.ndarray) -> str:
    height, width, channels = image.shape
    return f"{width}x{height} {'grey' if channels == 1 else 'RGB'}"


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__
