"""What several parts of the package need of files: places, writing whole or not at all, and how broken ones fail."""

from __future__ import annotations

import io
import lzma
import os
import pathlib
import pickle
import struct
import zipfile
import zlib

import numpy as np
from PIL import Image

from gen_jax.contracts import UserError

# What zipfile and numpy raise on bytes that are not what they should be.
BROKEN_NPZ = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    OSError,
    EOFError,
    ValueError,
    LookupError,
    RuntimeError,
    MemoryError,
    OverflowError,
    TypeError,
    SyntaxError,
)
# What PyTorch's reader of weights raises on bytes that are not what they should be.
BROKEN_TORCH = (
    pickle.UnpicklingError,
    struct.error,
    OSError,
    EOFError,
    ValueError,
    LookupError,
    RuntimeError,
    MemoryError,
    OverflowError,
    TypeError,
    AttributeError,
    AssertionError,
)
# What Pillow's decoders raise on bytes that are not what they should be.
BROKEN_IMAGE = (
    OSError,
    EOFError,
    SyntaxError,
    ValueError,
    LookupError,
    TypeError,
    OverflowError,
    MemoryError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


def absolute(path: str | os.PathLike[str]) -> pathlib.Path:
    """A path from the root of the file system, in which "~" and "~name" stand for a person's folder.

    Args:
      path: as a person writes it.

    Returns:
      The same place; it need not exist.

    Raises:
      UserError: where the system knows no folder of that person.
    """
    try:
        return pathlib.Path(path).expanduser().absolute()
    except RuntimeError as error:
        raise UserError(
            f"The path {path} begins with the folder of a person whom this system does not know; write it out from /."
        ) from error


def replace_bytes(path: pathlib.Path, content: bytes) -> pathlib.Path:
    """Writes a file beside its place, forces it to the disk, and renames it.

    Args:
      path: the file; an old one is replaced.
      content: of the file.

    Returns:
      The path.

    Raises:
      OSError: where it cannot be written; an old file is then untouched.
    """
    beside = path.with_name(path.name + ".tmp")
    with beside.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return beside.replace(path)


def replace_text(path: pathlib.Path, text: str) -> None:
    """Writes a text file as `replace_bytes` writes any, in UTF-8.

    Args:
      path: the file; an old one is replaced.
      text: its content.

    Raises:
      OSError: where it cannot be written; an old file is then untouched.
    """
    replace_bytes(path, text.encode())


def save_array(path: pathlib.Path, array: np.ndarray) -> pathlib.Path:
    """Writes an array in numpy's own format as `replace_bytes` writes any file.

    Args:
      path: the file, which ends in ".npy"; an old one is replaced.
      array: any, of numbers.

    Returns:
      The path.

    Raises:
      OSError: where it cannot be written; an old file is then untouched.
    """
    content = io.BytesIO()
    np.save(content, array, allow_pickle=False)
    return replace_bytes(path, content.getvalue())
