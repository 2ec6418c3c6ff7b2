"""PCA and the linear denoiser against the digits' known errors, exact covariances and the Wiener filter."""

import time
import tracemalloc

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_digits

from gen_jax.contracts import UserError
from gen_jax.eval import pca

# The squared error an image of the 1797 digits / 16 that the best q-dimensional subspace leaves.
DIGIT_ERRORS = {2: 3.35525, 5: 2.13561, 8: 1.53045, 10: 1.22857, 16: 0.70680, 20: 0.49606, 32: 0.15791}
SPECTRUM = np.array([4, 2, 1, 0.5, 0.25, 0.125, 0.0625, 0.03125])


@pytest.fixture(scope="module")
def digits() -> np.ndarray:
    return load_digits().data / 16


def white(num: int, dims: int, seed: int) -> np.ndarray:
    """[num, dims] whose empirical mean is 0 and whose empirical covariance (1/N) is the identity, exactly."""
    random = np.random.default_rng(seed).standard_normal((num, dims))
    q, _ = np.linalg.qr(np.concatenate([np.ones((num, 1)), random], axis=1))
    return q[:, 1:] * np.sqrt(num)


def rotation(dims: int, seed: int) -> np.ndarray:
    """A random orthogonal matrix [dims, dims]."""
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((dims, dims)))[0]


@pytest.mark.parametrize(("rank", "error"), DIGIT_ERRORS.items())
def test_digit_errors(digits: np.ndarray, rank: int, error: float):
    """The squared error an image is the known one, by the spectrum's tail and by reconstructing each image."""
    fitted = pca.fit_pca(digits, rank)
    assert fitted.residual == pytest.approx(error, abs=6e-6)
    assert pca.reconstruction_error(fitted, digits).mean() == pytest.approx(fitted.residual, rel=1e-10)


def test_mean_image_baseline(digits: np.ndarray):
    """What the subspace holds and what it leaves sum to the error of the mean image, 4.69328."""
    fitted = pca.fit_pca(digits, 10)
    assert fitted.variances.sum() + fitted.residual == pytest.approx(4.69328, abs=6e-6)


def test_known_covariance():
    """Examples of an exact mean, covariance and eigenbasis give these back, with variances by 1/N and not 1/(N − 1)."""
    basis, mean = rotation(8, seed=1), np.arange(8.0)
    fitted = pca.fit_pca(mean + white(20, 8, seed=0) * np.sqrt(SPECTRUM) @ basis.T, 3)
    np.testing.assert_allclose(fitted.mean, mean, atol=1e-12)
    np.testing.assert_allclose(fitted.variances, [4, 2, 1], rtol=1e-10)
    assert fitted.residual == pytest.approx(SPECTRUM[3:].sum(), rel=1e-10)
    np.testing.assert_allclose(np.abs(fitted.components @ basis[:, :3]), np.eye(3), atol=1e-10)
    assert [a.dtype for a in (fitted.mean, fitted.components, fitted.variances)] == [np.float64] * 3


def test_components_are_orthonormal_with_signs_that_data_cannot_flip(digits: np.ndarray):
    """The rows are orthonormal, the largest entry of each is positive, and negated data give the same rows."""
    components = pca.fit_pca(digits, 20).components
    np.testing.assert_allclose(components @ components.T, np.eye(20), atol=1e-12)
    assert (components.max(axis=1) == np.abs(components).max(axis=1)).all()
    np.testing.assert_allclose(pca.fit_pca(-digits, 20).components, components, atol=1e-9)


def test_codes_are_uncorrelated_with_the_stated_variances(digits: np.ndarray):
    """The codes have mean 0 and the covariance diag(variances)."""
    fitted = pca.fit_pca(digits, 12)
    codes = pca.encode(fitted, digits)
    np.testing.assert_allclose(codes.mean(0), 0, atol=1e-12)
    np.testing.assert_allclose(codes.T @ codes / len(codes), np.diag(fitted.variances), atol=1e-12)
    assert (np.diff(fitted.variances) <= 0).all()


def test_reconstruction_is_a_projection_in_the_examples_shape(digits: np.ndarray):
    """A reconstruction has the examples' shape, is decode of encode and its own reconstruction; the rest codes to 0."""
    images = digits.reshape(-1, 8, 8, 1)
    fitted = pca.fit_pca(images, 7)
    found = pca.reconstruct(fitted, images)
    assert found.shape == images.shape
    np.testing.assert_array_equal(found, pca.decode(fitted, pca.encode(fitted, images), (8, 8, 1)))
    np.testing.assert_allclose(pca.reconstruct(fitted, found), found, atol=1e-12)
    np.testing.assert_allclose(pca.encode(fitted, images - found + fitted.mean.reshape(8, 8, 1)), 0, atol=1e-12)
    np.testing.assert_allclose(
        pca.reconstruction_error(fitted, images), ((images - found) ** 2).sum(axis=(1, 2, 3)), rtol=1e-12
    )


def test_full_rank_loses_nothing(digits: np.ndarray):
    """With as many components as dimensions every example comes back, also one that was not fitted to."""
    fitted = pca.fit_pca(digits[:900], 64)
    assert fitted.residual == 0
    np.testing.assert_allclose(pca.reconstruct(fitted, digits[900:]), digits[900:], atol=1e-12)


def test_held_out_examples_err_more(digits: np.ndarray):
    """Fitted to one half, the other half's error exceeds the residual, and that of its own best subspace."""
    train, test = digits[::2], digits[1::2]
    fitted = pca.fit_pca(train, 10)
    error = pca.reconstruction_error(fitted, test).mean()
    assert error > 1.01 * pca.fit_pca(test, 10).residual
    assert error < 1.2 * fitted.residual


def test_constant_dimensions_carry_no_weight(digits: np.ndarray):
    """Constant pixels change neither variances nor residual, have no weight and come back exactly."""
    padded = np.concatenate([digits, np.full((len(digits), 5), 0.7)], axis=1)
    plain, fitted = pca.fit_pca(digits, 10), pca.fit_pca(padded, 10)
    np.testing.assert_allclose(fitted.variances, plain.variances, rtol=1e-10)
    assert fitted.residual == pytest.approx(plain.residual, rel=1e-10)
    np.testing.assert_allclose(fitted.components[:, 64:], 0, atol=1e-12)
    np.testing.assert_allclose(pca.reconstruct(fitted, padded)[:, 64:], 0.7, rtol=1e-12)


def test_fewer_examples_than_dimensions(digits: np.ndarray):
    """N examples span at most N − 1 directions: as many components reconstruct them, and rank N is still allowed."""
    few = digits[:10]
    assert pca.reconstruction_error(pca.fit_pca(few, 9), few).max() < 1e-20
    fitted = pca.fit_pca(few, 10)
    np.testing.assert_allclose(fitted.components @ fitted.components.T, np.eye(10), atol=1e-12)
    assert fitted.variances[9] == pytest.approx(0, abs=1e-12)


def test_far_from_the_origin(digits: np.ndarray):
    """An offset of 1e5, which XᵀX − N μμᵀ would not survive, leaves variances and residual as they are."""
    near, far = pca.fit_pca(digits, 32), pca.fit_pca(digits + 1e5, 32)
    np.testing.assert_allclose(far.variances, near.variances, rtol=1e-8)
    assert far.residual == pytest.approx(near.residual, rel=1e-8)


def test_bytes_are_read_as_numbers(digits: np.ndarray):
    """Unsigned bytes neither wrap around nor lose digits, from JAX too: their error is that of the same in float64."""
    levels = (digits * 255).astype(np.uint8)
    fitted, expected = pca.fit_pca(levels, 4), pca.fit_pca(levels.astype(np.float64), 4)
    np.testing.assert_array_equal(fitted.components, expected.components)
    for given in (levels, jnp.asarray(levels), jnp.asarray(levels, jnp.float32)):
        error = pca.reconstruction_error(fitted, given)
        np.testing.assert_array_equal(error, pca.reconstruction_error(expected, levels.astype(np.float64)))


def test_errors_need_no_copy_of_the_examples():
    """The errors of 41 MB of examples, counted in float64, are found in less than 20 MB."""
    examples = np.random.default_rng(0).integers(0, 256, (20_000, 256), np.uint8)
    fitted = pca.fit_pca(examples[:2000], 30)
    tracemalloc.start()
    try:
        error = pca.reconstruction_error(fitted, examples)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 20e6
    last = examples[-1:]
    assert error[-1] == pytest.approx(((last - pca.reconstruct(fitted, last)) ** 2).sum(), rel=1e-12)


@pytest.mark.parametrize("rank", [0, -1, 7, 64])
def test_rank_out_of_range(digits: np.ndarray, rank: int):
    """A rank that the examples cannot have is refused with the range, 6 examples of 64 dimensions."""
    with pytest.raises(UserError, match=rf"rank {rank} .* from 1 to 6"):
        pca.fit_pca(digits[:6], rank)


def test_one_example_is_refused(digits: np.ndarray):
    """One example has no variance."""
    with pytest.raises(UserError, match="at least 2 examples"):
        pca.fit_pca(digits[:1], 1)


@pytest.mark.parametrize("width", [1, 63])
@pytest.mark.parametrize("function", [pca.encode, pca.reconstruct, pca.reconstruction_error])
def test_other_dimensions_are_refused(digits: np.ndarray, function, width: int):
    """Examples of another size are refused, not broadcast against the mean."""
    with pytest.raises(UserError, match=rf"{width} dimensions .* 64"):
        function(pca.fit_pca(digits, 3), digits[:, :width])


@pytest.mark.parametrize(("variance", "error"), [(0.1, 0.556297), (0.5, 1.779412), (1.0, 2.700238)])
def test_linear_denoiser_is_the_wiener_filter(variance: float, error: float):
    """For noise σ²I on data of covariance Λ it is Λ(Λ + σ²I)⁻¹, which errs by Σ λσ²/(λ + σ²)."""
    basis, mean = rotation(8, seed=2), np.linspace(-3, 3, 8)
    both = white(50, 16, seed=3)
    clean = mean + both[:, :8] * np.sqrt(SPECTRUM) @ basis.T
    noisy = clean + np.sqrt(variance) * both[:, 8:]
    denoiser = pca.linear_denoiser(clean, 1.0, 0.0, np.full(8, variance))
    covariance = basis * SPECTRUM @ basis.T
    wiener = covariance @ np.linalg.inv(covariance + variance * np.eye(8))
    np.testing.assert_allclose(denoiser.matrix, wiener, atol=1e-7)
    found = ((clean - pca.denoise(denoiser, noisy)) ** 2).sum(1).mean()
    assert found == pytest.approx(np.sum(SPECTRUM * variance / (SPECTRUM + variance)), rel=1e-6)
    assert found == pytest.approx(error, abs=1e-6)


def test_linear_denoiser_is_what_least_squares_tends_to(digits: np.ndarray):
    """Under salt and pepper least squares (numpy's) of many draws comes to the same map and the same error."""
    images, share, random = digits[:, 18:46], 0.3, np.random.default_rng(5)
    a, c = 1 - share, 0.5 * share
    variance = (a * images**2 + c - (a * images + c) ** 2).mean(0)
    denoiser = pca.linear_denoiser(images, a, c, variance)

    def corrupt(x: np.ndarray) -> np.ndarray:
        u = random.random(x.shape)
        return np.where(u < share, (u < 0.5 * share).astype(float), x)

    many = np.tile(images, (150, 1))
    design = np.concatenate([corrupt(many), np.ones((len(many), 1))], axis=1)
    solution = np.linalg.lstsq(design, many, rcond=None)[0]
    np.testing.assert_allclose(denoiser.matrix.T, solution[:-1], atol=0.01)
    assert np.abs(solution[:-1]).max() > 0.3
    fresh = corrupt(many)
    errors = ((many - pca.denoise(denoiser, fresh)) ** 2).sum(1).mean()
    best = ((many - (fresh @ solution[:-1] + solution[-1])) ** 2).sum(1).mean()
    assert errors == pytest.approx(best, rel=1e-3)


def test_linear_denoiser_of_nothing_is_the_mean():
    """Where the noise has erased everything the best guess is the mean of the clean examples."""
    clean = np.random.default_rng(6).standard_normal((20, 5))
    denoiser = pca.linear_denoiser(clean, 0.0, 0.0, np.zeros(5))
    np.testing.assert_allclose(pca.denoise(denoiser, np.zeros((2, 5))), np.tile(clean.mean(0), (2, 1)), atol=1e-12)


def test_linear_denoiser_without_noise_is_the_identity_where_there_is_variance(digits: np.ndarray):
    """A gain and an offset alone are undone, over several chunks and dead pixels."""
    images = digits.reshape(-1, 8, 8, 1)
    denoiser = pca.linear_denoiser(images, 0.5, 2.0, np.zeros((8, 8, 1)))
    np.testing.assert_allclose(pca.denoise(denoiser, 0.5 * images + 2.0), images, atol=1e-4)


def test_linear_denoiser_refuses_a_variance_of_another_shape(digits: np.ndarray):
    """The noise of each dimension has one variance; examples of another size are not denoised."""
    with pytest.raises(UserError, match=r"\(63,\) .* \(64,\)"):
        pca.linear_denoiser(digits, 1.0, 0.0, np.zeros(63))
    with pytest.raises(UserError, match=r"1 dimensions .* 64"):
        pca.denoise(pca.linear_denoiser(digits, 1.0, 0.0, np.zeros(64)), digits[:, :1])


def test_wide_examples_are_fitted_by_their_number():
    """Fifty examples of 4,800 dimensions take no decomposition of 4,800; numpy's singular values are the same."""
    examples = np.random.default_rng(8).random((50, 40, 40, 3))
    start = time.perf_counter()
    fitted = pca.fit_pca(examples, 10)
    assert time.perf_counter() - start < 10  # The other way takes minutes.
    flat = examples.reshape(50, -1)
    values = np.linalg.svd(flat - flat.mean(0), compute_uv=False) ** 2 / 50
    np.testing.assert_allclose(fitted.variances, values[:10], rtol=1e-9)
    assert fitted.residual == pytest.approx(values[10:].sum(), rel=1e-9)


def test_examples_that_are_all_alike():
    """They have no variance, and are reconstructed."""
    fitted = pca.fit_pca(np.full((20, 6), 0.3), 2)
    assert fitted.residual == 0 and not fitted.variances.any()
    np.testing.assert_allclose(pca.reconstruct(fitted, np.full((2, 6), 0.3)), 0.3)
