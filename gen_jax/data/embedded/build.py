"""Builds the embedded set `fashion_mnist_10k` from the files of Fashion-MNIST, always to the same bytes.

  python -m gen_jax.data.embedded.build --source=/usr/share/datasets/fashion-mnist --target=DIR

It keeps the first 1,000 training images and the first 100 test images of each of the ten classes, in their original
order, as IDX files compressed with bz2 (unlike gzip's, its output holds no time and is one for all versions of the
library).
"""

from __future__ import annotations

import argparse
import bz2
import hashlib
import pathlib
import struct
import sys
from collections.abc import Sequence

import numpy as np

from gen_jax.contracts import UserError
from gen_jax.data.readers import read_idx

NUM_CLASSES = 10
PER_CLASS = {"train": 1000, "t10k": 100}


def first_of_each_class(labels: np.ndarray, count: int) -> np.ndarray:
    """The positions of the first examples of each class, in ascending order.

    Args:
      labels: [N] integers in [0, 9].
      count: how many of each class.

    Returns:
      [10 * count] int64.

    Raises:
      UserError: where a class has fewer.
    """
    rows = [np.flatnonzero(labels == label)[:count] for label in range(NUM_CLASSES)]
    few = [label for label, found in enumerate(rows) if len(found) < count]
    if few:
        raise UserError(f"The class {few[0]} has fewer than {count} examples; expected the whole of Fashion-MNIST.")
    return np.sort(np.concatenate(rows))


def idx_bytes(array: np.ndarray) -> bytes:
    """An array as an IDX file.

    Args:
      array: uint8 of any shape.

    Returns:
      The bytes of the file.
    """
    return struct.pack(f">4B{array.ndim}I", 0, 0, 0x08, array.ndim, *array.shape) + array.tobytes()


def build(source: pathlib.Path, target: pathlib.Path) -> dict[str, str]:
    """Builds the four files.

    Args:
      source: the folder with the four `.gz` files of Fashion-MNIST.
      target: the folder to write to; made where it is not there.

    Returns:
      The SHA-256 of each file by its name.

    Raises:
      UserError: where a source file is absent or broken.
    """
    target.mkdir(parents=True, exist_ok=True)
    sums = {}
    for prefix, count in PER_CLASS.items():
        labels = read_idx(source / f"{prefix}-labels-idx1-ubyte.gz")
        rows = first_of_each_class(labels, count)
        images = read_idx(source / f"{prefix}-images-idx3-ubyte.gz")
        for name, array in (("images-idx3", images), ("labels-idx1", labels)):
            path = target / f"{prefix}-{name}-ubyte.bz2"
            path.write_bytes(bz2.compress(idx_bytes(array[rows]), compresslevel=9))
            sums[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return sums


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line.

    Args:
      arguments: of the command; None for the process's own.
    """
    parser = argparse.ArgumentParser(description="Builds the embedded set fashion_mnist_10k.")
    parser.add_argument("--source", required=True, type=pathlib.Path, help="folder with Fashion-MNIST's four .gz files")
    parser.add_argument("--target", required=True, type=pathlib.Path, help="folder to write to")
    options = parser.parse_args(arguments)
    try:
        sums = build(options.source, options.target)
    except UserError as error:
        sys.exit(str(error))
    for name, digest in sums.items():
        print(f"{digest}  {name}")


if __name__ == "__main__":
    main()
