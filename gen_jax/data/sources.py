"""Sets of images by name: where they are looked for, and the record that comes back."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import hashlib
import pathlib
import re

import numpy as np

from gen_jax.contracts import UserError
from gen_jax.data import local, prepared, readers
from gen_jax.files import absolute

EMBEDDED = "fashion_mnist_10k"
EMBEDDED_FOLDER = pathlib.Path(__file__).parent / "embedded" / EMBEDDED
DEBIAN_ROOT = pathlib.Path("/usr/share/datasets")
WELL_KNOWN = ("cifar10", "fashion_mnist", EMBEDDED, "kmnist", "mnist")


@dataclasses.dataclass(frozen=True, eq=False)
class ImageSet:
    """One split of a set of images, in memory.

    Attributes:
      name: of the set.
      split: "train" or "test".
      images: [N, H, W, C] uint8, read-only; C = 1 (grey) or 3 (RGB).
      labels: [N] int32, read-only; -1 where there is none.
      origin: where it was found, for people.
      fingerprint: SHA-256 in hexadecimal, over the shape, type and bytes of the images and the labels.
    """

    name: str
    split: str
    images: np.ndarray
    labels: np.ndarray
    origin: str
    fingerprint: str


def load_images(
    name: str, split: str, data_dir: str | None = None, debian_root: str | pathlib.Path = DEBIAN_ROOT
) -> ImageSet:
    """Loads a split of a set of images from the first place that has it.

    `fashion_mnist_10k` comes with the package. Any other set is looked for in this order:

    1. files in `data_dir/<name>/`, in `data_dir` itself if that is its name, and `data_dir/<name>.npz`; see
       `local.find_in_folder` for the layouts, and for how a folder of images without `train` and `test` is split;
    2. Debian's data packages, such as `dataset-fashion-mnist`;
    3. a set that TFDS has prepared in `data_dir`;
    4. TFDS's download, where TensorFlow is installed.

    In names, `-` and `_` are alike and so are capitals and small letters.

    Args:
      name: such as "fashion_mnist_10k", "mnist", "cifar10" or "my_photos"; for a TFDS config "<name>/<config>".
      split: "train" or "test".
      data_dir: the folder of the user's data sets; None for none.
      debian_root: where Debian's data packages are.

    Returns:
      The images.

    Raises:
      UserError: where no place has the set, naming every place and what to do; or where a file of it is broken: another
        place is then not tried, as it might hold other images.
    """
    if split not in ("train", "test"):
        raise UserError(f"There is no split '{split}'; expected 'train' or 'test'.")
    if not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", name):
        raise UserError(f"'{name}' is not a data set's name; expected letters, digits, '_' and '-', such as 'mnist'.")
    key = local.normalized(name)
    if key == EMBEDDED:
        return _embedded(split)
    folder = absolute(data_dir) if data_dir else None
    if folder is not None and not _is_folder(folder):
        raise UserError(f"The data_dir {folder} is not there; expected a readable folder; make it or correct the path.")
    reasons: list[str] = []
    found = (
        _from_data_dir(folder, key, split, reasons)
        or _from_debian(pathlib.Path(debian_root), key, split, reasons)
        or _from_prepared(folder, key, split, reasons)
        or _from_download(folder, key, split, reasons)
    )
    if found is None:
        raise _not_found(name, split, folder, reasons)
    return _image_set(key, split, *found)


@functools.cache  # Part of the package, and of read-only arrays: unpacked once a process.
def _embedded(split: str) -> ImageSet:
    images, labels, _ = _require(local.find_in_folder(EMBEDDED_FOLDER, EMBEDDED, split))
    return _image_set(EMBEDDED, split, images, labels, f"{EMBEDDED}, embedded in gen_jax")


def _from_data_dir(data_dir: pathlib.Path | None, key: str, split: str, reasons: list[str]) -> local.Found | None:
    if data_dir is None:
        reasons.append("files of yours: no data_dir was given")
        return None
    *above, leaf = key.split("/")
    parent = data_dir.joinpath(*above)
    places = [path for path in _children(parent, leaf) if path.is_dir()]
    if not places:
        reasons.append(f"files in {data_dir / key}: there is no such folder")
    if local.normalized(data_dir.absolute().name) == key:
        places.append(data_dir)
    for place in places:
        found = local.find_in_folder(place, leaf, split)
        if found is not None:
            return found
        held = ", ".join(path.name for path in readers.listing(place)[:5]) or "nothing"
        reasons.append(f"files in {place}: it holds {held}; expected {local.LAYOUTS}")
    archives = _children(parent, f"{leaf}.npz")
    if archives:
        return local.read_named_npz(archives[0], split)
    reasons.append(f"{data_dir / key}.npz: there is no such file")
    return None


def _from_debian(root: pathlib.Path, key: str, split: str, reasons: list[str]) -> local.Found | None:
    folder = root / key.replace("_", "-")
    if not folder.is_dir():
        reasons.append(f"Debian's data packages, {folder}: there is no such folder")
        return None
    found = local.find_in_folder(folder, key, split)
    if found is None:
        reasons.append(f"Debian's data packages, {folder}: it has none of {local.LAYOUTS}")
    return found


def _from_prepared(data_dir: pathlib.Path | None, key: str, split: str, reasons: list[str]) -> local.Found | None:
    if data_dir is None:
        reasons.append("a set prepared by TFDS: no data_dir was given")
        return None
    version = prepared.find_prepared(data_dir / key)
    if version is None:
        reasons.append(f"a set prepared by TFDS in {data_dir / key}: there is no <version>/dataset_info.json")
        return None
    return *prepared.read_prepared(version, split), f"{version} (TFDS)"


def _from_download(data_dir: pathlib.Path | None, key: str, split: str, reasons: list[str]) -> local.Found | None:
    try:
        images, labels, place = prepared.download(key, split, None if data_dir is None else str(data_dir))
    except prepared.DownloadFailedError as error:
        reasons.append(f"TFDS's download: {error}")
        return None
    return images, labels, f"{place} (TFDS)"


def _not_found(name: str, split: str, data_dir: pathlib.Path | None, reasons: list[str]) -> UserError:
    """The error that lists every place and says what to do."""
    key = local.normalized(name)
    near = difflib.get_close_matches(key, WELL_KNOWN, n=1, cutoff=0.7)
    advice = [f"did you mean '{near[0]}'?"] if near and near[0] != key else []
    advice.append(f"put its files into {data_dir or 'DIR'}/{key}" + ("" if data_dir else " and give data_dir=DIR"))
    if key == "fashion_mnist":
        advice.append("or install Debian's package of it (apt install dataset-fashion-mnist)")
    advice.append(f"or take '{EMBEDDED}', which comes with the package")
    places = "".join(f"\n  - {reason}" for reason in reasons)
    found = f"No images for the split '{split}' of the set '{name}' were found."
    return UserError(f"{found} Looked for:{places}\nWhat to do: {'; '.join(advice)}.")


def _is_folder(path: pathlib.Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # Such as a parent that may not be entered.
        return False


def _children(folder: pathlib.Path, name: str) -> list[pathlib.Path]:
    return local.matching(folder, name) if folder.is_dir() else []


def _require(found: local.Found | None) -> local.Found:
    if found is None:
        raise UserError(f"The embedded set is not in {EMBEDDED_FOLDER}; install gen_jax again, whole.")
    return found


def _image_set(name: str, split: str, images: np.ndarray, labels: np.ndarray, origin: str) -> ImageSet:
    images = np.ascontiguousarray(images if images.ndim == 4 else images[..., None])
    labels = np.ascontiguousarray(labels, np.int32)
    digest = hashlib.sha256()
    for array in (images, labels):
        # Little-endian always, so that a fingerprint is the same on every machine.
        digest.update(f"{array.shape}{array.dtype.name}".encode())
        digest.update(array.astype(array.dtype.newbyteorder("<"), copy=False).data)
        array.flags.writeable = False
    return ImageSet(name, split, images, labels, origin, digest.hexdigest())
