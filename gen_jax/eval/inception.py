"""Inception-v3 as the papers' FID, KID and inception score use it, with weights from a local file."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from gen_jax.contracts import Array, UserError
from gen_jax.files import BROKEN_NPZ, BROKEN_TORCH, absolute

NAME = "inception_2015"
NUM_CLASSES = 1008
SIDE = 299  # Pixels of the square that every image is brought to.

Size = tuple[int, int]
Variables = dict[str, Any]


class ConvUnit(nn.Module):
    """Convolution without bias, batch normalisation by fixed statistics, ReLU.

    Attributes:
      features: the number of output channels.
      size: of the kernel.
      stride: of the convolution.
      same: whether the edge is padded so that stride 1 keeps the size; else nothing is.
    """

    features: int
    size: Size = (1, 1)
    stride: int = 1
    same: bool = True

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps [B, H, W, C] to [B, H', W', features]."""
        padding = "SAME" if self.same else "VALID"
        x = nn.Conv(self.features, self.size, self.stride, padding, use_bias=False, name="conv")(x)
        return nn.relu(nn.BatchNorm(use_running_average=True, epsilon=1e-3, name="bn")(x))


def average_pool(x: Array) -> Array:
    """The mean over 3x3 pixels about each, of those that are inside the image: [B, H, W, C]."""
    return nn.avg_pool(x, (3, 3), (1, 1), "SAME", count_include_pad=False)


def max_pool(x: Array) -> Array:
    """The greatest of 3x3 pixels about each: [B, H, W, C]."""
    return nn.max_pool(x, (3, 3), (1, 1), "SAME")


def halve(x: Array) -> Array:
    """The greatest of 3x3 pixels about every second one, from the first that has all of them."""
    return nn.max_pool(x, (3, 3), (2, 2), "VALID")


class MixedA(nn.Module):
    """35x35: 1x1, 5x5, twice 3x3, and a pool.

    Attributes:
      pool_features: the number of channels of the pool's branch.
    """

    pool_features: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps [B, H, W, C] to [B, H, W, 224 + pool_features]."""
        wide = ConvUnit(64, (5, 5), name="branch5x5_2")(ConvUnit(48, name="branch5x5_1")(x))
        double = ConvUnit(96, (3, 3), name="branch3x3dbl_2")(ConvUnit(64, name="branch3x3dbl_1")(x))
        double = ConvUnit(96, (3, 3), name="branch3x3dbl_3")(double)
        pool = ConvUnit(self.pool_features, name="branch_pool")(average_pool(x))
        return jnp.concatenate([ConvUnit(64, name="branch1x1")(x), wide, double, pool], axis=-1)


class MixedB(nn.Module):
    """From 35x35 to 17x17."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps [B, H, W, C] to [B, H', W', C + 480]."""
        single = ConvUnit(384, (3, 3), 2, same=False, name="branch3x3")(x)
        double = ConvUnit(96, (3, 3), name="branch3x3dbl_2")(ConvUnit(64, name="branch3x3dbl_1")(x))
        double = ConvUnit(96, (3, 3), 2, same=False, name="branch3x3dbl_3")(double)
        return jnp.concatenate([single, double, halve(x)], axis=-1)


class MixedC(nn.Module):
    """17x17: 7x7 as a row of seven and a column of seven.

    Attributes:
      width: the number of channels between the two.
    """

    width: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps [B, H, W, C] to [B, H, W, 768]."""
        row, column, width = (1, 7), (7, 1), self.width
        single = ConvUnit(width, row, name="branch7x7_2")(ConvUnit(width, name="branch7x7_1")(x))
        single = ConvUnit(192, column, name="branch7x7_3")(single)
        double = ConvUnit(width, column, name="branch7x7dbl_2")(ConvUnit(width, name="branch7x7dbl_1")(x))
        double = ConvUnit(width, row, name="branch7x7dbl_3")(double)
        double = ConvUnit(width, column, name="branch7x7dbl_4")(double)
        double = ConvUnit(192, row, name="branch7x7dbl_5")(double)
        pool = ConvUnit(192, name="branch_pool")(average_pool(x))
        return jnp.concatenate([ConvUnit(192, name="branch1x1")(x), single, double, pool], axis=-1)


class MixedD(nn.Module):
    """From 17x17 to 8x8."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps [B, H, W, C] to [B, H', W', C + 512]."""
        small = ConvUnit(320, (3, 3), 2, same=False, name="branch3x3_2")(ConvUnit(192, name="branch3x3_1")(x))
        large = ConvUnit(192, (1, 7), name="branch7x7x3_2")(ConvUnit(192, name="branch7x7x3_1")(x))
        large = ConvUnit(192, (7, 1), name="branch7x7x3_3")(large)
        large = ConvUnit(192, (3, 3), 2, same=False, name="branch7x7x3_4")(large)
        return jnp.concatenate([small, large, halve(x)], axis=-1)


class MixedE(nn.Module):
    """8x8: 3x3 as a row of three beside a column of three.

    Attributes:
      pool: of the last branch; the two blocks of this kind have different ones.
    """

    pool: Callable[[Array], Array]

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps [B, H, W, C] to [B, H, W, 2048]."""
        row, column = (1, 3), (3, 1)
        single = ConvUnit(384, name="branch3x3_1")(x)
        double = ConvUnit(384, (3, 3), name="branch3x3dbl_2")(ConvUnit(448, name="branch3x3dbl_1")(x))
        branches = [
            ConvUnit(320, name="branch1x1")(x),
            ConvUnit(384, row, name="branch3x3_2a")(single),
            ConvUnit(384, column, name="branch3x3_2b")(single),
            ConvUnit(384, row, name="branch3x3dbl_3a")(double),
            ConvUnit(384, column, name="branch3x3dbl_3b")(double),
            ConvUnit(192, name="branch_pool")(self.pool(x)),
        ]
        return jnp.concatenate(branches, axis=-1)


class InceptionV3(nn.Module):
    """The network of the graph of 2015-12-05, by which Fréchet distances and inception scores are published.

    It is not quite the network that other libraries offer under the name: the means of its pools leave out what is
    beyond the edge, the pool of the last block is a maximum, and it has 1008 classes. Modules are named as in the
    public port of the graph to PyTorch, whose weights `load_fid_weights` reads.

    See "Rethinking the Inception Architecture for Computer Vision", Szegedy et al., 2016 (arXiv:1512.00567), and "GANs
    Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium", Heusel et al., 2017
    (arXiv:1706.08500).
    """

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, Array]:
        """Maps [B, H, W, 3] in [−1, 1], H and W ≥ 75, to the last pool's means [B, 2048] and the logits [B, 1008]."""
        x = ConvUnit(32, (3, 3), 2, same=False, name="Conv2d_1a_3x3")(x)
        x = ConvUnit(32, (3, 3), same=False, name="Conv2d_2a_3x3")(x)
        x = halve(ConvUnit(64, (3, 3), name="Conv2d_2b_3x3")(x))
        x = ConvUnit(80, name="Conv2d_3b_1x1")(x)
        x = halve(ConvUnit(192, (3, 3), same=False, name="Conv2d_4a_3x3")(x))
        for letter, pool_features in (("b", 32), ("c", 64), ("d", 64)):
            x = MixedA(pool_features, name=f"Mixed_5{letter}")(x)
        x = MixedB(name="Mixed_6a")(x)
        for letter, width in (("b", 128), ("c", 160), ("d", 160), ("e", 192)):
            x = MixedC(width, name=f"Mixed_6{letter}")(x)
        x = MixedD(name="Mixed_7a")(x)
        x = MixedE(average_pool, name="Mixed_7b")(x)
        x = MixedE(max_pool, name="Mixed_7c")(x)
        features = jnp.mean(x, axis=(1, 2))
        return features, nn.Dense(NUM_CLASSES, name="fc")(features)


def prepare(images: Array) -> Array:
    """Images as the network takes them: three channels, 299x299 by bilinear interpolation, in [−1, 1].

    Pixel i of n lies at (i + ½)/n; what would lie beyond the edge is the edge. Nothing is smoothed before an image is
    made smaller. Grey images have three equal channels.

    Args:
      images: [B, H, W, C] in [0, 1], C = 1 or 3.

    Returns:
      [B, 299, 299, 3] in [−1, 1].
    """
    num, _, _, channels = images.shape
    resized = jax.image.resize(images, (num, SIDE, SIDE, channels), "bilinear", antialias=False)
    return 2.0 * jnp.broadcast_to(resized, (num, SIDE, SIDE, 3)) - 1.0


def features_and_probs(variables: Variables, images: Array) -> tuple[Array, Array]:
    """What Fréchet and kernel distances compare, and what the inception score is of.

    The probabilities are the softmax of the logits without their bias, as in the code that the score came with.

    Args:
      variables: as `load_fid_weights` gives them.
      images: [B, H, W, C] in [0, 1], C = 1 or 3.

    Returns:
      [B, 2048], and [B, 1008] with rows of the sum 1.
    """
    features, logits = InceptionV3().apply(variables, prepare(images))
    return features, nn.softmax(logits - variables["params"]["fc"]["bias"][None])


def load_fid_weights(path: str | pathlib.Path) -> Variables:
    """Reads the weights of the public port to PyTorch, `pt_inception-2015-12-05-6726825d.pth`.

    Args:
      path: the file itself, for which PyTorch 2.6 or newer must be installed, or the same arrays under the same
        names as `.npz`.

    Returns:
      `params` and `batch_stats` of `InceptionV3`.

    Raises:
      UserError: the file cannot be read, or an array is absent, superfluous, of another shape or not of
        numbers; the first is named.
    """
    file = absolute(path)
    if not file.is_file():
        raise UserError(f"There is no file {file}; give Inception's weights as .pth or .npz.")
    arrays = _read_npz(file) if file.suffix == ".npz" else _read_torch(file)
    return variables_of(arrays, str(file))


def variables_of(arrays: Mapping[str, np.ndarray], origin: str) -> Variables:
    """The variables of `InceptionV3` from arrays under PyTorch's names and in its layout.

    Args:
      arrays: `<module>.conv.weight` [O, I, h, w], `<module>.bn.{weight,bias,running_mean,running_var}` [O],
        `fc.weight` [1008, 2048] and `fc.bias`; counters of batches are ignored.
      origin: where they are from, for the error's sentence.

    Returns:
      `params` and `batch_stats`.

    Raises:
      UserError: as in `load_fid_weights`.
    """
    image = jax.ShapeDtypeStruct((1, 75, 75, 3), jnp.float32)
    wanted = jax.eval_shape(InceptionV3().init, jax.random.key(0), image)
    left = {name for name in arrays if not name.endswith(".num_batches_tracked")}

    def take(path: tuple[Any, ...], leaf: Any) -> np.ndarray:
        *modules, last = (str(key.key) for key in path[1:])
        name = ".".join([*modules, _TORCH_NAMES[last]])
        if name not in left:
            raise UserError(f"{origin} has no array {name}; give the weights of the FID's Inception-v3.")
        left.remove(name)
        kind = np.asarray(arrays[name]).dtype
        if kind.kind not in "fiu":
            raise UserError(f"{origin} has {name} of the type {kind}, not of numbers; get the file anew.")
        array = np.asarray(arrays[name], np.float32)
        if last == "kernel":
            array = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T
        if array.shape != leaf.shape:
            raise UserError(
                f"{origin} has {name} of the shape {arrays[name].shape}, which does not make a {last} of {leaf.shape};"
                " give the weights of the FID's Inception-v3."
            )
        if not np.isfinite(array).all():
            raise UserError(f"{origin} has {name} with numbers that are not finite; get the file anew.")
        return array

    variables = jax.tree_util.tree_map_with_path(take, wanted)
    if left:
        raise UserError(f"{origin} has an array {min(left)} too many; give the weights of the FID's Inception-v3.")
    return variables


_TORCH_NAMES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}


_CONVERSION = (
    "python -c \"import numpy, torch; w = torch.load('weights.pth', map_location='cpu', weights_only=True); "
    "numpy.savez('weights.npz', **{k: v.numpy() for k, v in w.items()})\""
)


def _read_npz(file: pathlib.Path) -> dict[str, np.ndarray]:
    """All arrays of an .npz file."""
    try:
        with file.open("rb") as opened, np.load(opened, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except BROKEN_NPZ as error:
        raise UserError(f"{file} cannot be read as .npz; make it anew from Inception's weights.") from error


def _read_torch(file: pathlib.Path) -> dict[str, np.ndarray]:
    """All arrays of a file of PyTorch's, nothing in which is executed."""
    try:
        import torch

        # Before 2.6 a file could have code executed in spite of `weights_only` (CVE-2025-32434).
        if tuple(int(part) for part in re.findall(r"\d+", str(torch.__version__))[:2]) < (2, 6):
            raise ImportError(f"PyTorch {torch.__version__} is too old")
    except ImportError as error:
        raise UserError(
            f"{file} needs PyTorch 2.6 or newer to be read; where that is installed, make an .npz of it by: "
            f"{_CONVERSION}"
        ) from error
    try:
        weights = torch.load(file, map_location="cpu", weights_only=True)
        return {name: array.numpy() for name, array in weights.items()}
    except BROKEN_TORCH as error:
        raise UserError(f"{file} cannot be read as PyTorch's weights; get Inception's file anew.") from error
