"""The photographs of a scene: found, read, and made smaller by area."""

from __future__ import annotations

import pathlib

import numpy as np
from PIL import Image

from gen_jax.contracts import UserError
from gen_jax.files import BROKEN_IMAGE

_ENDINGS = ("", ".png", ".jpg", ".jpeg", ".JPG", ".PNG")


def find_image(folder: pathlib.Path, name: str, where: pathlib.Path) -> pathlib.Path:
    """The file of an image.

    Args:
      folder: that the name is relative to.
      name: of the file; its ending may be left out.
      where: the file that names it, for messages.

    Returns:
      The file.

    Raises:
      UserError: where it is not there.
    """
    for ending in _ENDINGS:
        file = folder / f"{name}{ending}"
        if file.is_file():
            return file
    raise UserError(f"{where} names the image {name}, and {folder / name} is not there; fetch it or take it out.")


def read_image(file: pathlib.Path, *, premultiplied: bool = False) -> np.ndarray:
    """An image.

    Args:
      file: in any format that Pillow reads.
      premultiplied: whether the colours in the file are multiplied by alpha.

    Returns:
      [H, W, 3] uint8, or [H, W, 4] with straight alpha where the image has transparency.

    Raises:
      UserError: where it cannot be read.
    """
    try:
        with Image.open(file) as image:
            if image.mode.startswith(("I", "F")):
                raise UserError(f"{file} has more than 8 bits a channel; save it with 8.")
            clear = "A" in image.getbands() or "transparency" in image.info
            pixels = np.asarray(image.convert("RGBA" if clear else "RGB"), np.uint8)
    except BROKEN_IMAGE as error:
        raise UserError(
            f"{file} cannot be read as an image ({error}); it is corrupt or truncated; replace it."
        ) from error
    return straight(pixels, str(file)) if premultiplied else pixels


def straight(image: np.ndarray, where: str) -> np.ndarray:
    """An image whose colours were multiplied by alpha, with straight alpha: c / α, and black where α = 0.

    Args:
      image: [..., 4] uint8.
      where: it is, for messages.

    Returns:
      [..., 4] uint8.

    Raises:
      UserError: where there is no alpha.
    """
    if image.shape[-1] != 4:
        raise UserError(f"{where} has no alpha that its colours could be multiplied by; leave premultiplied out.")
    color, alpha = image[..., :3].astype(np.float64), image[..., 3:]
    color = np.rint(255.0 * color / np.where(alpha > 0, alpha, 255)) * (alpha > 0)
    return np.concatenate([np.minimum(color, 255.0).astype(np.uint8), alpha], axis=-1)


def shrink(image: np.ndarray, factor: int, where: str = "The image") -> np.ndarray:
    """An image of a fraction of the width and height, each pixel the mean over the area that it covers.

    Where there is alpha, colours are weighted by it: what cannot be seen has no part in the mean.

    Args:
      image: [H, W, C] uint8, C = 3 or 4; rows and columns beyond a multiple of the factor are left out.
      factor: 1 or more.
      where: it is, for messages.

    Returns:
      [H // factor, W // factor, C] uint8.

    Raises:
      UserError: where nothing would be left.
    """
    if factor == 1:
        return image
    if min(image.shape[:2]) < factor:
        height, width = image.shape[:2]
        raise UserError(
            f"{where} is {width}x{height} and cannot be made {factor} times smaller; give a smaller factor."
        )
    height, width = (size // factor for size in image.shape[:2])

    def mean(values: np.ndarray) -> np.ndarray:
        kept = values[: height * factor, : width * factor]
        return kept.reshape(height, factor, width, factor, -1).mean(axis=(1, 3))

    values = image.astype(np.float64)
    if image.shape[-1] == 4:
        alpha = mean(values[..., 3:])
        color = mean(values[..., :3] * values[..., 3:]) / np.where(alpha > 0, alpha, 1.0)
        values = np.concatenate([color, alpha], axis=-1)
    else:
        values = mean(values)
    return np.rint(values).astype(np.uint8)
