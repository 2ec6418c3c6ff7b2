"""What a test set says: errors of each image, the Jacobian's spectrum, the report, and the pictures' order."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from gen_jax import rng
from gen_jax.families.autoencoder import MLPAutoencoder, evaluation, pictures
from gen_jax.families.autoencoder.corruption import corrupt

_SHAPE = (3, 4, 1)
_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@functools.lru_cache
def _setup(output: str = "sigmoid") -> tuple[MLPAutoencoder, Any]:
    """One sigmoid layer there and one layer back."""
    model = MLPAutoencoder(_SHAPE, (5,), code_activation=nn.sigmoid, output=output)
    params = _jit(model.init)(rng.root(0), jnp.zeros((1, *_SHAPE)))["params"]
    return model, jax.tree.map(lambda a: 2 * np.asarray(a) + np.float32(0.1), params)


def _batch() -> dict[str, np.ndarray]:
    image = np.random.default_rng(0).integers(0, 256, (6, *_SHAPE)).astype(np.uint8)
    return {"image": image, "index": np.arange(20, 26, dtype=np.uint32)}


def _by_numpy(params: Any, x: np.ndarray, k: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """The codes [B, 5], all but the k largest 0, and the decoder's numbers [B, 12]."""
    (w, b), (v, c) = (
        [np.asarray(params[name][part], np.float64) for part in ("kernel", "bias")]
        for name in ("encoder_0", "decoder_0")
    )
    z = scipy.special.expit(x.reshape(len(x), -1) @ w + b)
    np.put_along_axis(z, np.argsort(z, axis=1)[:, : 5 - k], 0.0, axis=1)
    return z, z @ v + c


@pytest.mark.parametrize(("output", "k"), [("sigmoid", None), ("linear", None), ("sigmoid", 2)])
def test_reconstruction_values_against_numpy(output: str, k: int | None):
    """Of each image the sums over its pixels; the cross-entropy where the output is a sigmoid alone."""
    model, params = _setup(output)
    values = _jit(functools.partial(evaluation.reconstruction_values, model=model, k=k, contraction=k is None))(
        params, rng.root(0), _batch()
    )
    x = _batch()["image"].reshape(6, -1) / 255
    z, raw = _by_numpy(params, x, k or 5)
    shown = scipy.special.expit(raw) if output == "sigmoid" else raw
    np.testing.assert_allclose(values["squared_error"], ((x - shown) ** 2).sum(1), rtol=1e-5)
    expected = {"squared_error"} | ({"cross_entropy"} if output == "sigmoid" else set())
    if k is None:
        expected.add("contraction")
        slopes = (z * (1 - z))[:, :, None] * np.asarray(params["encoder_0"]["kernel"], np.float64).T[None]
        np.testing.assert_allclose(values["contraction"], (slopes**2).sum((1, 2)), rtol=1e-5)
    if output == "sigmoid":
        np.testing.assert_allclose(values["cross_entropy"], (np.logaddexp(0, raw) - x * raw).sum(1), rtol=1e-5)
    assert set(values) == expected


@pytest.mark.parametrize("kind", ["gaussian", "masking"])
def test_denoising_values(kind: str):
    """From the corruption of each index, which is the same at every evaluation and in any company."""
    model, params = _setup()
    evaluate = _jit(functools.partial(evaluation.denoising_values, model=model, corruption=kind, level=0.3))
    values = evaluate(params, rng.root(4), _batch())
    assert set(values) == {"squared_error", "cross_entropy", "corrupted_squared_error"}
    x = (_batch()["image"] / np.float32(255)).astype(np.float32)
    noise_key = rng.stream(rng.stream(rng.root(4), "eval"), "corruption")
    seen = [
        corrupt(jax.random.fold_in(noise_key, int(index)), jnp.asarray(image), kind, 0.3)
        for image, index in zip(x, _batch()["index"], strict=True)
    ]
    seen = np.asarray(seen, np.float64).reshape(6, -1)
    flat = x.reshape(6, -1).astype(np.float64)
    shown = scipy.special.expit(_by_numpy(params, seen)[1])
    np.testing.assert_allclose(values["corrupted_squared_error"], ((flat - seen) ** 2).sum(1), rtol=1e-4)
    np.testing.assert_allclose(values["squared_error"], ((flat - shown) ** 2).sum(1), rtol=1e-4)
    backwards = evaluate(params, rng.root(4), {name: value[::-1] for name, value in _batch().items()})
    np.testing.assert_allclose(backwards["squared_error"][::-1], values["squared_error"], rtol=1e-5)


def test_both_twins_are_measured():
    """Each with its own parameters, the plain one's under names of their own."""
    model, params = _setup()
    values = functools.partial(evaluation.reconstruction_values, model=model)
    twins = {"model": params, "plain": jax.tree.map(lambda a: 0.5 * a, params)}
    found = _jit(evaluation.beside_plain_values(values, values))(twins, rng.root(0), _batch())
    assert set(found) == {"squared_error", "cross_entropy", "plain_squared_error", "plain_cross_entropy"}
    for twin, prefix in (("model", ""), ("plain", "plain_")):
        for name, value in _jit(values)(twins[twin], rng.root(0), _batch()).items():
            np.testing.assert_allclose(found[prefix + name], value, rtol=1e-5)
    assert np.abs(np.asarray(found["squared_error"] - found["plain_squared_error"])).min() > 1e-3


def test_the_report():
    """−10 log₁₀ of the mean squared error a dimension, cross-entropies with their unit: 13.87 a digit is 17.5 dB."""
    means = {
        "squared_error": np.float32(13.87),
        "cross_entropy": np.float32(80.0),
        "plain_cross_entropy": np.float32(70.0),
        "contraction": np.float32(0.5),
    }
    found = evaluation.report(means, num_dims=784)
    assert set(found) == {"squared_error", "cross_entropy_nats", "plain_cross_entropy_nats", "contraction", "psnr"}
    assert found["psnr"] == pytest.approx(10 * np.log10(784 / 13.87), rel=1e-6)
    assert found["psnr"] == pytest.approx(17.5, abs=0.05)
    assert found["cross_entropy_nats"] == 80.0 and found["plain_cross_entropy_nats"] == 70.0
    assert evaluation.report({"squared_error": np.float32(7.84)}, num_dims=784)["psnr"] == pytest.approx(20.0)
    assert all(isinstance(value, float) for value in found.values())


def test_the_spectrum_of_the_jacobian():
    """The mean over images of numpy's singular values of diag(z (1 − z)) Wᵀ, in falling order."""
    model, params = _setup()
    x = np.random.default_rng(1).random((5, *_SHAPE)).astype(np.float32)
    z = _by_numpy(params, x)[0]
    slopes = (z * (1 - z))[:, :, None] * np.asarray(params["encoder_0"]["kernel"], np.float64).T[None]
    expected = np.linalg.svd(slopes, compute_uv=False).mean(0)
    found = evaluation.jacobian_spectrum(params, x, model=model)
    assert found.shape == (5,)
    assert (np.diff(found) <= 0).all()
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_pictures_to_compare():
    """Blocks of one row a way, in the order of the ways: image 2 of the first way is above image 2 of the second."""
    shape = (4, 2, 2, 1)
    first, second = (np.arange(offset, offset + 4.0).reshape(4, 1, 1, 1) * np.ones(shape) for offset in (0, 10))
    grid = pictures.compared("title", {"data": first, "model": second}, columns=2)
    np.testing.assert_array_equal(grid.images[:, :, 0, 0, 0], [[0, 1], [10, 11], [2, 3], [12, 13]])
    assert grid.row_labels == ("data", "model", "data", "model")


def test_pictures_of_filters():
    """Grey is 0; the largest weight of each unit in size is black or white; what is missing is grey."""
    kernel = np.array([[2.0, 0.1, 0.0], [-1.0, -0.2, 0.0], [0.0, 0.0, 0.0], [1.0, 0.1, 0.0]])  # [D = 4, units = 3].
    grid = pictures.filters("title", kernel, (2, 2, 1), rows=2, columns=2)
    assert grid.images.shape == (2, 2, 2, 2, 1)
    np.testing.assert_allclose(grid.images[0, 0].ravel(), [1.0, 0.25, 0.5, 0.75])
    np.testing.assert_allclose(grid.images[0, 1].ravel(), [0.75, 0.0, 0.5, 0.75])
    np.testing.assert_array_equal(grid.images[1], np.full((2, 2, 2, 1), 0.5))
