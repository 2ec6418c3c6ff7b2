"""The embedded images: what is in them, and that they can be built again."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import pathlib

import numpy as np
import pytest

from gen_jax.contracts import UserError
from gen_jax.data import load_images, read_idx
from gen_jax.data.embedded import build
from gen_jax.data.sources import EMBEDDED_FOLDER

FASHION = pathlib.Path("/usr/share/datasets/fashion-mnist")
FILES = sorted(EMBEDDED_FOLDER.glob("*.bz2"))


@pytest.mark.parametrize(("split", "per_class"), [("train", 1000), ("test", 100)])
@pytest.mark.parametrize("name", ["fashion_mnist_10k", "Fashion-MNIST-10k"])
def test_classes_have_equal_size(name: str, split: str, per_class: int) -> None:
    image_set = load_images(name, split, data_dir="/nonexistent")  # It comes only from the package.
    assert image_set.images.shape == (10 * per_class, 28, 28, 1)
    assert np.bincount(image_set.labels).tolist() == [per_class] * 10
    assert image_set.images.min() == 0
    assert image_set.images.max() == 255
    assert image_set.name == "fashion_mnist_10k"
    # The published mean and standard deviation of Fashion-MNIST, here of a part of it.
    assert abs(image_set.images.mean() / 255 - 0.2860) < 0.01
    assert abs(image_set.images.std() / 255 - 0.3530) < 0.01


def test_files_are_small_and_described() -> None:
    assert len(FILES) == 4
    assert sum(path.stat().st_size for path in EMBEDDED_FOLDER.iterdir()) <= 6 * 10**6
    readme = (EMBEDDED_FOLDER / "README.md").read_text()
    for path in FILES:
        assert f"| `{hashlib.sha256(path.read_bytes()).hexdigest()}` | `{path.name}` |" in readme
    assert "arXiv:1708.07747" in readme
    assert "2017 Zalando SE" in (EMBEDDED_FOLDER / "LICENSE").read_text()


@pytest.mark.skipif(not FASHION.exists(), reason="Debian's dataset-fashion-mnist is not installed")
def test_built_again_to_the_same_bytes(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    build.main([f"--source={FASHION}", f"--target={tmp_path / 'new'}"])
    printed = capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [path.name for path in FILES]
    for path in FILES:
        assert (tmp_path / "new" / path.name).read_bytes() == path.read_bytes()
        assert hashlib.sha256(path.read_bytes()).hexdigest() in printed


@pytest.mark.skipif(not FASHION.exists(), reason="Debian's dataset-fashion-mnist is not installed")
def test_they_are_the_first_of_each_class_in_order() -> None:
    images, labels = (
        np.frombuffer(gzip.decompress((FASHION / f"t10k-{kind}-ubyte.gz").read_bytes()), np.uint8)
        for kind in ("images-idx3", "labels-idx1")
    )
    images, labels = images[16:].reshape(-1, 28, 28, 1), labels[8:]
    seen, rows = [0] * 10, []
    for row, label in enumerate(labels):
        if seen[label] < 100:
            rows.append(row)
            seen[label] += 1
    test = load_images("fashion_mnist_10k", "test")
    np.testing.assert_array_equal(test.images, images[rows])
    np.testing.assert_array_equal(test.labels, labels[rows])


def test_first_of_each_class() -> None:
    labels = np.array([*range(10), *range(10), *range(10)])
    assert build.first_of_each_class(labels, 2).tolist() == list(range(20))
    with pytest.raises(UserError, match="class 9 has fewer than 3"):
        build.first_of_each_class(labels[:-1], 3)


def test_idx_bytes_can_be_read(tmp_path: pathlib.Path) -> None:
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    (tmp_path / "x.bz2").write_bytes(bz2.compress(build.idx_bytes(array)))
    np.testing.assert_array_equal(read_idx(tmp_path / "x.bz2"), array)


def test_the_command_line_refuses_in_a_sentence(tmp_path: pathlib.Path) -> None:
    with pytest.raises(SystemExit, match="There is no file"):
        build.main([f"--source={tmp_path}", f"--target={tmp_path / 'new'}"])
