"""The sets of TensorFlow Datasets (TFDS): read without TensorFlow, downloaded where TensorFlow is installed.

`tensorflow_datasets` is imported within the functions, as its import takes seconds that most runs need not spend.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import json
import logging
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from gen_jax.contracts import UserError
from gen_jax.data import readers

# What TFDS and the readers beneath it raise on sets that are broken, absent or cannot be had.
_FAILURES = (OSError, ValueError, LookupError, RuntimeError, ImportError, AttributeError, TypeError, AssertionError)


class DownloadFailedError(Exception):
    """A set could not be downloaded and prepared; the text says why."""


def find_prepared(folder: pathlib.Path) -> pathlib.Path | None:
    """Finds the newest version of a prepared TFDS set.

    Args:
      folder: of the set, in which TFDS puts `<version>/` or `<config>/<version>/`.

    Returns:
      The folder of the version; None where there is none.

    Raises:
      UserError: where the set is prepared in several configs and the name does not choose.
    """
    versions = [info.parent for depth in ("*", "*/*") for info in folder.glob(f"{depth}/dataset_info.json")]
    numbered = [path for path in versions if re.fullmatch(r"\d+\.\d+\.\d+", path.name)]
    configs = sorted({path.parent.name for path in numbered})
    if len(configs) > 1:
        raise UserError(
            f"{folder} has several configs of a prepared TFDS set ({', '.join(configs)}); expected one; choose "
            f"it by the name '{folder.name}/{configs[0]}'."
        )
    return max(numbered, key=lambda path: tuple(map(int, path.name.split("."))), default=None)


def read_prepared(folder: pathlib.Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Reads a split of a prepared TFDS set without TensorFlow.

    Args:
      folder: of one version, with `dataset_info.json` and `features.json`.
      split: "train" or "test".

    Returns:
      Images [N, H, W, C] uint8 and labels [N] int32, -1 where the set has none.

    Raises:
      UserError: where the set is broken, in a format that needs TensorFlow, or not one of images of one size.
    """
    try:
        # TFDS reads these two with other libraries, whose errors have no common class.
        for name in ("dataset_info.json", "features.json"):
            json.loads((folder / name).read_text())
        with _quiet():
            tfds = importlib.import_module("tensorflow_datasets")
            examples = tfds.builder_from_directory(folder).as_data_source(split=split)
            return _stack(examples, f"the TFDS set in {folder}")
    except NotImplementedError as error:
        raise UserError(
            f"The TFDS set in {folder} is prepared in a format that cannot be read without TensorFlow; expected "
            "array_record; prepare it again with download_and_prepare(file_format='array_record')."
        ) from error
    except _FAILURES as error:
        raise UserError(
            f"The TFDS set in {folder} cannot be read ({describe(error)}); expected a whole prepared set with the "
            f"split '{split}'; prepare or copy it again."
        ) from error


def download(name: str, split: str, data_dir: str | None) -> tuple[np.ndarray, np.ndarray, str]:
    """Downloads and prepares a TFDS set as ArrayRecord, and reads it.

    Args:
      name: of the set in TFDS.
      split: "train" or "test".
      data_dir: where TFDS shall put it; None for its own default.

    Returns:
      Images [N, H, W, C] uint8, labels [N] int32 (-1 where the set has none) and the folder of the set.

    Raises:
      DownloadFailedError: where TensorFlow, which preparing needs, is not installed, or anything fails on the way.
      UserError: where the set came but is not one of images of one size.
    """
    if importlib.util.find_spec("tensorflow") is None:
        raise DownloadFailedError("TensorFlow is not installed, which only this way needs")
    failures: tuple[type[Exception], ...] = _FAILURES
    try:
        with _quiet():
            tfds = importlib.import_module("tensorflow_datasets")
            # These two libraries have errors outside the standard classes.
            failures += (tfds.download.DownloadError, importlib.import_module("tensorflow").errors.OpError)
            tfds.disable_progress_bar()
            builder = tfds.builder(name, data_dir=data_dir)
            builder.download_and_prepare(file_format="array_record")
            examples = builder.as_data_source(split=split)
            return *_stack(examples, f"the TFDS set '{name}'"), str(builder.data_dir)
    except failures as error:
        raise DownloadFailedError(describe(error)) from error


def describe(error: BaseException) -> str:
    """The kind and the first line of an error that another library wrote."""
    return f"{type(error).__name__}: {next(iter(str(error).strip().splitlines()), '')}".rstrip(": ")


def _stack(examples: Sequence[dict[str, Any]], what: str) -> tuple[np.ndarray, np.ndarray]:
    """The images and labels of decoded examples, each of them in one array."""
    images: list[np.ndarray] = []
    labels: list[Any] = []
    for i in range(len(examples)):
        example = examples[i]
        if "image" not in example:
            raise UserError(f"{what} has no feature 'image' but {', '.join(sorted(example))}; choose a set of images.")
        image = np.asarray(example["image"])
        if images and image.shape != images[0].shape:
            raise UserError(
                f"{what} has images of different sizes: number {i} is {image.shape}, number 0 {images[0].shape}; "
                "expected one size; nothing is resized here."
            )
        images.append(image)
        labels.append(example.get("label", -1))
    stacked = readers.check_images(np.stack(images), f"The feature 'image' of {what}")
    return stacked, readers.check_labels(np.array(labels), len(images), f"The feature 'label' of {what}")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps what TFDS and absl print and log out of the run's output."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
