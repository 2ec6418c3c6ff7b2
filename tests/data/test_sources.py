"""Where sets are looked for, in which order, and what is said where none is there."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import pathlib
import struct
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gen_jax.contracts import UserError
from gen_jax.data import ImageSet, load_images, prepared, sources

MNIST = pathlib.Path(__file__).parents[3] / "shared" / "data" / "mnist" / "mnist.npz"
FASHION = pathlib.Path("/usr/share/datasets/fashion-mnist")
COMPRESS: dict[str, Callable[[bytes], bytes]] = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress}


@pytest.fixture(autouse=True)
def without_download(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reaches for the network, even where TensorFlow is installed."""

    def refuse(name: str, split: str, data_dir: str | None) -> None:
        raise prepared.DownloadFailedError("not in a test")

    monkeypatch.setattr(prepared, "download", refuse)


def load(name: str, split: str, data_dir: pathlib.Path | None, debian: pathlib.Path | None = None) -> ImageSet:
    return load_images(name, split, data_dir and str(data_dir), debian or pathlib.Path("/nonexistent"))


def fails(*arguments: Any) -> str:
    with pytest.raises(UserError) as caught:
        load(*arguments)
    return str(caught.value)


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def write_idx(folder: pathlib.Path, value: int, joint: str = "-", ending: str = "") -> None:
    """A set of three training and two test images of one value."""
    folder.mkdir(parents=True, exist_ok=True)
    for prefix, count, extra in (("train", 3, 0), ("t10k", 2, 1)):
        for kind, array in (
            (f"images{joint}idx3", np.full((count, 4, 5), value + extra)),
            (f"labels{joint}idx1", np.arange(count)),
        ):
            (folder / f"{prefix}-{kind}-ubyte{ending}").write_bytes(COMPRESS[ending](idx(array)))


def write_npz(path: pathlib.Path, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    train, test = np.full((3, 4, 5), value, np.uint8), np.full((2, 4, 5), value + 1, np.uint8)
    np.savez(path, x_train=train, y_train=np.arange(3), x_test=test, y_test=np.arange(2))


def write_images(folder: pathlib.Path, values: range | list[int]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for value in values:
        Image.new("L", (5, 4), value).save(folder / f"{value:03}.png")


def values(image_set: ImageSet) -> list[int]:
    """The value of each image, all of whose pixels are alike."""
    assert (image_set.images == image_set.images[:, :1, :1, :1]).all()
    return image_set.images[:, 0, 0, 0].tolist()


@pytest.mark.parametrize("ending", COMPRESS)
@pytest.mark.parametrize("joint", ["-", "."])
def test_idx_under_all_its_names(tmp_path: pathlib.Path, joint: str, ending: str) -> None:
    write_idx(tmp_path / "kmnist", 7, joint, ending)
    train, test = (load("kmnist", split, tmp_path) for split in ("train", "test"))
    assert (values(train), values(test)) == ([7] * 3, [8] * 2)
    assert (train.labels.tolist(), test.labels.tolist()) == ([0, 1, 2], [0, 1])
    assert train.images.shape == (3, 4, 5, 1)
    assert (train.images.dtype, train.labels.dtype) == (np.uint8, np.int32)
    assert (train.name, train.split, train.origin) == ("kmnist", "train", str(tmp_path / "kmnist"))


@pytest.mark.parametrize("folder", ["", "cifar-10-batches-bin"])
def test_cifar10(tmp_path: pathlib.Path, folder: str) -> None:
    place = tmp_path / "cifar10" / folder
    place.mkdir(parents=True)
    for i in range(1, 6):
        (place / f"data_batch_{i}.bin").write_bytes((bytes([i]) + bytes([10 * i]) * 3072) * 2)
    assert "not test_batch.bin" in fails("cifar10", "test", tmp_path)
    (place / "test_batch.bin").write_bytes(bytes([9]) + bytes([99]) * 3072)
    train = load("cifar10", "train", tmp_path)
    assert values(train) == [10, 10, 20, 20, 30, 30, 40, 40, 50, 50]
    assert train.labels.tolist() == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert values(load("cifar10", "test", tmp_path)) == [99]
    (place / "data_batch_4.bin").unlink()
    assert "not data_batch_4.bin" in fails("cifar10", "train", tmp_path)


@pytest.mark.parametrize("place", ["mine/mine.npz", "mine.npz", "My-Set/My-Set.npz", "MY-SET.npz"])
def test_npz_by_name(tmp_path: pathlib.Path, place: str) -> None:
    write_npz(tmp_path / place, 5)
    name = "mine" if "mine" in place else "my_set"
    assert values(load(name, "test", tmp_path)) == [6, 6]
    assert load(name, "test", tmp_path).origin == str(tmp_path / place)


def test_npz_by_split(tmp_path: pathlib.Path) -> None:
    (tmp_path / "mine").mkdir()
    np.savez(tmp_path / "mine" / "train.npz", images=np.full((3, 4, 5, 3), 1, np.uint8))
    assert "has train.npz but not test.npz" in fails("mine", "test", tmp_path)
    np.savez(tmp_path / "mine" / "test.npz", images=np.full((1, 4, 5, 3), 2, np.uint8), labels=np.array([4]))
    train, test = (load("mine", split, tmp_path) for split in ("train", "test"))
    assert (values(train), train.labels.tolist()) == ([1] * 3, [-1] * 3)
    assert (values(test), test.labels.tolist()) == ([2], [4])


def test_image_folders(tmp_path: pathlib.Path) -> None:
    write_images(tmp_path / "mine" / "train" / "cat", [1, 2])
    write_images(tmp_path / "mine" / "train" / "dog", [3])
    assert "has a folder train but not a folder test" in fails("mine", "test", tmp_path)
    assert "has a folder train but not a folder test" in fails("mine", "train", tmp_path)
    write_images(tmp_path / "mine" / "test" / "dog", [4])
    sentence = fails("mine", "test", tmp_path)  # Here 'dog' would be class 0, there class 1.
    assert "only one has cat" in sentence
    write_images(tmp_path / "mine" / "test" / "cat", [5])
    train, test = (load("mine", split, tmp_path) for split in ("train", "test"))
    assert (values(train), train.labels.tolist()) == ([1, 2, 3], [0, 0, 1])
    assert (values(test), test.labels.tolist()) == ([5, 4], [0, 1])


def test_every_tenth_of_a_flat_folder_is_a_test_image(tmp_path: pathlib.Path) -> None:
    write_images(tmp_path / "mine", range(25))
    train, test = (load("mine", split, tmp_path) for split in ("train", "test"))
    assert values(test) == [9, 19]
    assert values(train) == [i for i in range(25) if i not in (9, 19)]
    assert (test.labels == -1).all()
    for i in range(9, 25):
        (tmp_path / "mine" / f"{i:03}.png").unlink()
    assert "has 9 images" in fails("mine", "train", tmp_path)


def test_the_order_of_places(tmp_path: pathlib.Path) -> None:
    data, debian = tmp_path / "data", tmp_path / "debian"
    data.mkdir()
    write_idx(debian / "my-set", 40)
    assert values(load("my_set", "train", data, debian)) == [40] * 3
    assert values(load("My-Set", "train", None, debian)) == [40] * 3
    write_npz(data / "my_set.npz", 30)
    assert values(load("my_set", "train", data, debian)) == [30] * 3
    write_npz(data / "my_set" / "train.npz", 20)
    write_npz(data / "my_set" / "test.npz", 20)
    assert values(load("my_set", "train", data, debian)) == [20] * 3
    write_npz(data / "my_set" / "my_set.npz", 15)
    assert values(load("my_set", "train", data, debian)) == [15] * 3
    write_idx(data / "my_set", 10)
    assert values(load("my_set", "train", data, debian)) == [10] * 3
    assert values(load("my_set", "train", data / "my_set", debian)) == [10] * 3  # data_dir is the set itself.
    assert values(load("other", "train", data / "my_set", write_other(debian))) == [50] * 3


def write_other(debian: pathlib.Path) -> pathlib.Path:
    write_idx(debian / "other", 50)
    return debian


@pytest.mark.parametrize(
    "broken", ["my_set/train-images-idx3-ubyte", "my_set/my_set.npz", "my_set.npz", "my_set/a.png"]
)
def test_a_broken_file_is_not_passed_over(tmp_path: pathlib.Path, broken: str) -> None:
    write_idx(tmp_path / "debian" / "my-set", 40)
    path = tmp_path / "data" / broken
    path.parent.mkdir(parents=True, exist_ok=True)
    if "idx" in broken:
        write_idx(path.parent, 1)
    path.write_bytes(b"broken")
    assert str(path) in fails("my_set", "train", tmp_path / "data", tmp_path / "debian")


def test_half_a_set_is_not_completed_from_another_place(tmp_path: pathlib.Path) -> None:
    write_idx(tmp_path / "debian" / "my-set", 40)
    write_idx(tmp_path / "data" / "my_set", 10)
    (tmp_path / "data" / "my_set" / "t10k-labels-idx1-ubyte").unlink()
    assert values(load("my_set", "train", tmp_path / "data", tmp_path / "debian")) == [10] * 3
    assert "not t10k-labels-idx1-ubyte" in fails("my_set", "test", tmp_path / "data", tmp_path / "debian")
    (tmp_path / "data" / "my_set" / "t10k-images-idx3-ubyte").unlink()
    assert "not t10k-images-idx3-ubyte" in fails("my_set", "test", tmp_path / "data", tmp_path / "debian")


def test_idx_of_other_things_than_images_is_refused(tmp_path: pathlib.Path) -> None:
    write_idx(tmp_path / "a", 1)
    images = tmp_path / "a" / "train-images-idx3-ubyte"
    images.write_bytes(struct.pack(">4B3I3f", 0, 0, 0x0D, 3, 3, 1, 1, 0, 1, 2))
    assert "float32" in fails("a", "train", tmp_path)
    images.write_bytes(idx(np.zeros(3)))
    assert "shape (3,)" in fails("a", "train", tmp_path)
    images.write_bytes(idx(np.zeros((4, 4, 5))))
    assert "each of 4 images" in fails("a", "train", tmp_path)


def test_the_error_lists_every_place_and_what_to_do(tmp_path: pathlib.Path) -> None:
    (tmp_path / "data" / "mnits").mkdir(parents=True)
    (tmp_path / "data" / "mnits" / "notes.txt").touch()
    sentence = fails("mnits", "test", tmp_path / "data", tmp_path / "debian")
    for words in (
        f"files in {tmp_path / 'data' / 'mnits'}: it holds notes.txt",
        f"{tmp_path / 'data' / 'mnits.npz'}: there is no such file",
        f"{tmp_path / 'debian' / 'mnits'}: there is no such folder",
        "prepared by TFDS",
        "TFDS's download: not in a test",
        "did you mean 'mnist'?",
        f"put its files into {tmp_path / 'data' / 'mnits'}",
        "fashion_mnist_10k",
        "split 'test'",
    ):
        assert words in sentence, words
    assert "did you mean" not in fails("mnist", "train", None)
    assert "did you mean" not in fails("something_else", "train", None)
    assert "dataset-fashion-mnist" in fails("Fashion-MNIST", "train", None)
    assert "dataset-fashion-mnist" not in fails("mnist", "train", None)
    assert "no data_dir was given" in fails("mnist", "train", None)


@pytest.mark.parametrize("name", ["", "..", "../mnist", "/etc", "a/../b", "a b", "a/b/c", ".hidden"])
def test_names_that_are_paths_are_refused(tmp_path: pathlib.Path, name: str) -> None:
    assert "not a data set's name" in fails(name, "train", tmp_path)


def test_other_mistakes(tmp_path: pathlib.Path) -> None:
    assert "no split 'validation'" in fails("mnist", "validation", tmp_path)
    assert f"{tmp_path / 'absent'} is not there" in fails("mnist", "train", tmp_path / "absent")
    (tmp_path / "file").touch()
    assert "is not there" in fails("mnist", "train", tmp_path / "file")


def test_the_fingerprint_is_of_shape_images_and_labels(tmp_path: pathlib.Path) -> None:
    def fingerprint(images: np.ndarray, labels: np.ndarray) -> str:
        for split in ("train", "test"):
            np.savez(tmp_path / f"{split}.npz", images=images, labels=labels)
        return load(tmp_path.name, "train", tmp_path).fingerprint

    images, labels = np.arange(24, dtype=np.uint8).reshape(2, 3, 4), np.array([1, 2])
    other = images.copy()
    other[1, 2, 3] ^= 1
    changed = [(other, labels), (images, labels[::-1]), (images.reshape(2, 4, 3), labels), (images[::-1], labels)]
    digests = [fingerprint(*pair) for pair in [(images, labels), *changed]]
    assert len(set(digests)) == 5
    expected = b"(2, 3, 4, 1)uint8" + images.tobytes() + b"(2,)int32" + struct.pack("<2i", 1, 2)
    assert digests[0] == hashlib.sha256(expected).hexdigest()


def test_loaded_arrays_are_read_only() -> None:
    image_set = load_images(sources.EMBEDDED, "test")
    for array in (image_set.images, image_set.labels):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


def test_tfds_is_not_imported_unless_it_is_reached() -> None:
    program = (
        "import sys; from gen_jax.data import load_images; load_images('fashion_mnist_10k', 'test'); "
        "sys.exit(any(name.startswith('tensorflow') for name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=pathlib.Path(__file__).parents[2])
    assert done.returncode == 0


@pytest.mark.skipif(not MNIST.exists(), reason="the MNIST archive is not there")
def test_real_mnist() -> None:
    train, test = (load_images("mnist", split, str(MNIST.parent)) for split in ("train", "test"))
    assert train.images.shape == (60000, 28, 28, 1)
    assert test.images.shape == (10000, 28, 28, 1)
    # The counts of the digits as published.
    assert np.bincount(train.labels).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert np.bincount(test.labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert train.labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert abs(train.images.mean() / 255 - 0.1307) < 1e-4
    assert load_images("mnist", "test", str(MNIST.parent.parent)).fingerprint == test.fingerprint


@pytest.mark.skipif(not FASHION.exists(), reason="Debian's dataset-fashion-mnist is not installed")
def test_real_fashion_mnist_of_debian() -> None:
    train = load_images("fashion_mnist", "train")
    assert train.images.shape == (60000, 28, 28, 1)
    assert np.bincount(train.labels).tolist() == [6000] * 10
    assert train.origin == str(FASHION)
