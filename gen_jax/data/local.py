"""Which files in a folder make up a set of images, and which of them are its training and its test images."""

from __future__ import annotations

import pathlib

import numpy as np

from gen_jax.contracts import UserError
from gen_jax.data import readers

LAYOUTS = (
    "IDX files under their MNIST names, CIFAR-10's .bin files, <name>.npz, train.npz and test.npz, image folders train "
    "and test, or images"
)

# Images, labels [N] int32, and the file or folder they came from.
Found = tuple[np.ndarray, np.ndarray, str]

_IDX_PREFIX = {"train": "train", "test": "t10k"}
_CIFAR_FILES = {"train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)), "test": ("test_batch.bin",)}
_OTHER = {"train": "test", "test": "train"}


def normalized(name: str) -> str:
    """The form in which names are compared: `-` and `_` are alike, and so are capitals and small letters."""
    return name.lower().replace("-", "_")


def matching(folder: pathlib.Path, name: str) -> list[pathlib.Path]:
    """What in a folder has the given name, but for `-`, `_` and case, sorted; hidden files are passed over."""
    return [path for path in readers.listing(folder) if normalized(path.name) == normalized(name)]


def find_in_folder(folder: pathlib.Path, name: str, split: str) -> Found | None:
    """Reads a split of a set from a folder of files, in the first layout that is there.

    The layouts, in this order: IDX files under their MNIST names; CIFAR-10's binary version, also in
    `cifar-10-batches-bin`; `<name>.npz`; `train.npz` and `test.npz`; folders of images `train` and `test`; images
    without these, of which every tenth in sorted order (the 10th, the 20th, ...) is a test image.

    Args:
      folder: an existing folder.
      name: of the set.
      split: "train" or "test".

    Returns:
      Images, labels and origin; None where no layout is there.

    Raises:
      UserError: where a layout is there but broken, or there for the other split alone: the rest of the set is then
        not taken from another place, which may hold other images.
    """
    readers.listing(folder)  # So that a folder that cannot be read says so, before any file in it is looked for.
    for find in (_find_idx, _find_cifar10, _find_named_npz, _find_split_npz, _find_image_folders, _find_images):
        found = find(folder, name, split)
        if found is not None:
            return found
    return None


def read_named_npz(path: pathlib.Path, split: str) -> Found:
    """Reads a split from one numpy archive; labels are -1 where it has none."""
    images, labels = readers.read_npz(path, split)
    return images, np.full(len(images), -1, np.int32) if labels is None else labels, str(path)


def _find_idx(folder: pathlib.Path, name: str, split: str) -> Found | None:
    paths = {s: [_idx_file(folder, s, kind) for kind in ("images", "labels")] for s in ("train", "test")}
    if not any(path for pair in paths.values() for path in pair):
        return None
    image_path, label_path = paths[split]
    if image_path is None or label_path is None:
        missing = "images-idx3" if image_path is None else "labels-idx1"
        raise _incomplete(folder, "IDX files", f"{_IDX_PREFIX[split]}-{missing}-ubyte (or with .gz or .bz2)")
    images = readers.read_idx(image_path)
    if images.dtype != np.uint8:
        raise UserError(f"{image_path} holds {images.dtype}; expected images of uint8; put the right file there.")
    images = readers.check_images(images, str(image_path))
    return images, readers.check_labels(readers.read_idx(label_path), len(images), str(label_path)), str(folder)


def _idx_file(folder: pathlib.Path, split: str, kind: str) -> pathlib.Path | None:
    dims = {"images": 3, "labels": 1}[kind]
    stems = (f"{_IDX_PREFIX[split]}-{kind}{joint}idx{dims}-ubyte" for joint in "-.")
    paths = (folder / f"{stem}{ending}" for stem in stems for ending in ("", ".gz", ".bz2"))
    return next((path for path in paths if path.exists()), None)


def _find_cifar10(folder: pathlib.Path, name: str, split: str) -> Found | None:
    for place in (folder, folder / "cifar-10-batches-bin"):
        if not any((place / file).exists() for files in _CIFAR_FILES.values() for file in files):
            continue
        missing = [file for file in _CIFAR_FILES[split] if not (place / file).exists()]
        if missing:
            raise _incomplete(place, "files of CIFAR-10's binary version", " and ".join(missing))
        images, labels = readers.read_cifar10([place / file for file in _CIFAR_FILES[split]])
        return images, labels, str(place)
    return None


def _find_named_npz(folder: pathlib.Path, name: str, split: str) -> Found | None:
    paths = matching(folder, f"{name}.npz")
    return read_named_npz(paths[0], split) if paths else None


def _find_split_npz(folder: pathlib.Path, name: str, split: str) -> Found | None:
    if (folder / f"{split}.npz").exists():
        return read_named_npz(folder / f"{split}.npz", split)
    if (folder / f"{_OTHER[split]}.npz").exists():
        raise _incomplete(folder, f"{_OTHER[split]}.npz", f"{split}.npz")
    return None


def _find_image_folders(folder: pathlib.Path, name: str, split: str) -> Found | None:
    here, other = folder / split, folder / _OTHER[split]
    if not here.is_dir() and not other.is_dir():
        return None
    for present, missing in ((here, other), (other, here)):
        if not missing.is_dir():
            raise _incomplete(folder, f"a folder {present.name}", f"a folder {missing.name}")
    # A class that only one of the two has would shift the numbers of all classes after it.
    classes = {place.name: readers.folder_classes(place) for place in (here, other)}
    if classes[split] != classes[_OTHER[split]]:
        odd = sorted(set(classes["train"]) ^ set(classes["test"]))
        raise UserError(
            f"The folders train and test in {folder} have different class sub-folders (only one has {', '.join(odd)}); "
            "expected the same names in both, as labels are numbered by them; rename or move them."
        )
    images, labels = readers.read_folder(here)
    return images, labels, str(here)


def _find_images(folder: pathlib.Path, name: str, split: str) -> Found | None:
    if not readers.has_images(folder):
        return None
    images, labels = readers.read_folder(folder)
    if len(images) < 10:
        raise UserError(
            f"{folder} has {len(images)} images and no folders train and test; expected at least 10, of which every "
            "tenth becomes a test image; add images, or sort them into train and test."
        )
    chosen = (np.arange(len(images)) % 10 == 9) == (split == "test")
    which = "every tenth image" if split == "test" else "all but every tenth image"
    return images[chosen], labels[chosen], f"{folder} ({which})"


def _incomplete(folder: pathlib.Path, present: str, missing: str) -> UserError:
    return UserError(f"{folder} has {present} but not {missing}; expected a whole set in one place; put it there too.")
