"""Sets of TFDS: real ArrayRecord files, prepared here without TensorFlow, and TFDS's download replaced by a stand-in.

The download needs TensorFlow and a network, so its tests check what is called and what becomes of a failure.
"""

from __future__ import annotations

import importlib
import io
import logging
import pathlib
import sys
import types
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from gen_jax.contracts import UserError
from gen_jax.data import load_images

NOWHERE = "/nonexistent"


def prepare(
    folder: pathlib.Path, name: str, images: Sequence[np.ndarray], key: str = "image", labels: bool = True
) -> None:
    """Writes a set as `download_and_prepare(file_format="array_record")` does: PNGs in tf.train.Examples."""
    writer_module = importlib.import_module("array_record.python.array_record_module")
    proto = importlib.import_module("tensorflow_datasets.proto").tf_example_pb2
    folder.mkdir(parents=True)
    shape = images[0].shape if len({image.shape for image in images}) == 1 else (None, None, images[0].shape[2])
    features: dict[str, Any] = {key: tfds.features.Image(shape=shape)}
    if labels:
        features["label"] = tfds.features.ClassLabel(num_classes=10)
    infos = []
    for split, part in (("train", images), ("test", images[:2])):
        writer = writer_module.ArrayRecordWriter(
            str(folder / f"{name}-{split}.array_record-00000-of-00001"), "group_size:1"
        )
        num_bytes = 0
        for i, image in enumerate(part):
            png, example = io.BytesIO(), proto.Example()
            Image.fromarray(image.squeeze(-1) if image.shape[2] == 1 else image).save(png, "PNG")
            example.features.feature[key].bytes_list.value.append(png.getvalue())
            if labels:
                example.features.feature["label"].int64_list.value.append(i % 10)
            record = example.SerializeToString()
            num_bytes += len(record)
            writer.write(record)
        writer.close()
        template = tfds.core.ShardedFileTemplate(
            dataset_name=name, data_dir=str(folder), split=split, filetype_suffix="array_record"
        )
        infos.append(
            tfds.core.SplitInfo(name=split, shard_lengths=[len(part)], num_bytes=num_bytes, filename_template=template)
        )
    tfds.folder_dataset.write_metadata(
        data_dir=folder, features=tfds.features.FeaturesDict(features), split_infos=infos, check_data=False
    )


def noise(count: int, channels: int = 1) -> list[np.ndarray]:
    return list(np.random.default_rng(count).integers(0, 256, (count, 6, 5, channels), np.uint8))


def fails(name: str, data_dir: pathlib.Path) -> str:
    with pytest.raises(UserError) as caught:
        load_images(name, "train", str(data_dir), NOWHERE)
    return str(caught.value)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ["tiny_set", "mnist"])  # One that TFDS has no code for, and one that it has.
def test_a_prepared_set(
    tmp_path: pathlib.Path, capfd: pytest.CaptureFixture[str], caplog: Any, name: str, channels: int
) -> None:
    images = noise(12, channels)
    prepare(tmp_path / name / "9.9.0", name, noise(3, channels))
    prepare(tmp_path / name / "10.0.1", name, images)
    capfd.readouterr()
    level = logging.getLogger("absl").level
    train, test = (load_images(name, split, str(tmp_path), NOWHERE) for split in ("train", "test"))
    np.testing.assert_array_equal(train.images, np.stack(images))
    np.testing.assert_array_equal(test.images, np.stack(images[:2]))
    assert train.labels.tolist() == [*range(10), 0, 1]
    assert train.labels.dtype == np.int32
    assert train.origin == f"{tmp_path / name / '10.0.1'} (TFDS)"
    assert "".join(capfd.readouterr()) == ""
    assert not caplog.records
    assert logging.getLogger("absl").level == level


def test_configs(tmp_path: pathlib.Path) -> None:
    prepare(tmp_path / "tiny" / "a" / "1.0.0", "tiny", noise(2), labels=False)
    assert load_images("tiny", "train", str(tmp_path), NOWHERE).labels.tolist() == [-1, -1]
    prepare(tmp_path / "tiny" / "b" / "1.0.0", "tiny", noise(3))
    assert "several configs of a prepared TFDS set (a, b)" in fails("tiny", tmp_path)
    assert len(load_images("tiny/b", "train", str(tmp_path), NOWHERE).images) == 3


def edit(path: pathlib.Path, old: str, new: str) -> None:
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


RECORD = "tiny-train.array_record-00000-of-00001"
BREAK: dict[str, tuple[Callable[[pathlib.Path], object], str]] = {
    "no JSON": (lambda d: (d / "dataset_info.json").write_text("{"), "cannot be read"),
    "no features": (lambda d: (d / "features.json").unlink(), "cannot be read"),
    "truncated": (lambda d: (d / RECORD).write_bytes((d / RECORD).read_bytes()[:-1000]), "cannot be read"),
    "no record file": (lambda d: (d / RECORD).unlink(), "cannot be read"),
    "no such split": (lambda d: edit(d / "dataset_info.json", '"name": "train"', '"name": "validation"'), "'train'"),
    "another format": (
        lambda d: edit(d / "dataset_info.json", '"fileFormat": "array_record"', '"fileFormat": "tfrecord"'),
        "without TensorFlow",
    ),
}


@pytest.mark.parametrize("case", BREAK)
def test_a_broken_set_is_an_error_at_once(tmp_path: pathlib.Path, case: str) -> None:
    change, words = BREAK[case]
    version = tmp_path / "tiny" / "1.0.0"
    prepare(version, "tiny", noise(4))
    change(version)
    sentence = fails("tiny", tmp_path)
    assert sentence.startswith(f"The TFDS set in {version}")
    assert words in sentence
    assert "\n" not in sentence


def test_a_set_of_something_else(tmp_path: pathlib.Path) -> None:
    prepare(tmp_path / "tiny" / "1.0.0", "tiny", noise(2), key="photo")
    assert "has no feature 'image' but label, photo" in fails("tiny", tmp_path)
    prepare(tmp_path / "sizes" / "1.0.0", "sizes", [np.zeros((4, 4, 1), np.uint8), np.zeros((4, 5, 1), np.uint8)])
    assert "number 1 is (4, 5, 1), number 0 (4, 4, 1)" in fails("sizes", tmp_path)


class OpError(Exception):
    """Stands for TensorFlow's errors, which are of no standard class."""


@pytest.fixture
def tensorflow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A TensorFlow that seems to be installed."""
    module = types.ModuleType("tensorflow")
    module.errors = types.SimpleNamespace(OpError=OpError)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tensorflow", module)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())


def test_without_tensorflow_nothing_is_downloaded(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr(tfds, "builder", lambda *a, **k: pytest.fail("called"))
    assert "TFDS's download: TensorFlow is not installed" in fails("mnist", tmp_path)


@pytest.mark.usefixtures("tensorflow")
def test_a_download(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[Any] = []

    class Builder:
        data_dir = tmp_path / "mnist" / "3.0.1"

        def download_and_prepare(self, **kwargs: Any) -> None:
            calls.append(kwargs)
            print("progress")

        def as_data_source(self, split: str) -> list[dict[str, Any]]:
            return [{"image": np.full((4, 4, 1), i, np.uint8), "label": i} for i in range(3 if split == "train" else 1)]

    monkeypatch.setattr(tfds, "builder", lambda name, data_dir: calls.append((name, data_dir)) or Builder())
    image_set = load_images("MNIST", "train", str(tmp_path), NOWHERE)
    assert calls == [("mnist", str(tmp_path)), {"file_format": "array_record"}]
    assert image_set.images[:, 0, 0, 0].tolist() == [0, 1, 2]
    assert image_set.labels.tolist() == [0, 1, 2]
    assert image_set.origin == f"{Builder.data_dir} (TFDS)"
    assert capsys.readouterr().out == ""


@pytest.mark.usefixtures("tensorflow")
@pytest.mark.parametrize(
    "error",
    [ConnectionError("no route\nto host"), OpError("no disk"), tfds.download.DownloadError("404"), ValueError("?")],
)
def test_a_failed_download_becomes_part_of_the_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path, error: Exception
) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise error

    monkeypatch.setattr(tfds, "builder", fail)
    sentence = fails("kmnist", tmp_path)
    assert f"TFDS's download: {type(error).__name__}: {str(error).splitlines()[0]}\n" in sentence
    assert "put its files into" in sentence
