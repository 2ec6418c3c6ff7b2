"""The best linear code of a given size and the best linear denoiser: what a nonlinear one has to beat."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

from gen_jax.contracts import UserError

CHUNK = 1024  # Examples turned to float64 at a time.
RIDGE = 1e-9  # Of the mean variance of the noisy dimensions.


@dataclasses.dataclass(frozen=True)
class Pca:
    """The principal subspace of a set of examples of D dimensions.

    Attributes:
      mean: [D] float64, of the examples.
      components: [q, D] float64, orthonormal rows in order of falling variance.
      variances: [q] float64, of the examples along each component: eigenvalues of the covariance by 1/N.
      residual: the sum of the other eigenvalues, which is the mean over the examples it was fitted to of the squared
        error summed over dimensions.
    """

    mean: np.ndarray
    components: np.ndarray
    variances: np.ndarray
    residual: float


@dataclasses.dataclass(frozen=True)
class LinearDenoiser:
    """The affine map x̃ ↦ mean_out + matrix (x̃ − mean_in) on examples of D dimensions.

    Attributes:
      matrix: [D, D] float64.
      mean_in: [D] float64, of the corrupted examples.
      mean_out: [D] float64, of the clean examples.
    """

    matrix: np.ndarray
    mean_in: np.ndarray
    mean_out: np.ndarray


def fit_pca(examples: np.ndarray, rank: int) -> Pca:
    """The subspace of `rank` dimensions that leaves the least squared error, here by way of scikit-learn.

    Of all codes of q numbers with a linear decoder it has the least error; autoencoders are compared with it at equal
    code size. The sign of a component is that which makes its entry of largest magnitude positive.

    See "On Lines and Planes of Closest Fit to Systems of Points in Space", Pearson, 1901 (Philosophical Magazine 2),
    pages 559 to 572, and for the comparison "Reducing the Dimensionality of Data with Neural Networks", Hinton and
    Salakhutdinov, 2006.

    Args:
      examples: [N, ...] numbers, D to an example; one copy in float64 is made.
      rank: q, from 1 to min(N, D).

    Returns:
      The subspace.

    Raises:
      UserError: there are fewer than two examples, or they cannot have `rank` components.
    """
    # scikit-learn takes longer to import than JAX: only who fits something waits for it.
    from sklearn.decomposition import PCA

    flat = np.asarray(examples).reshape(len(examples), -1)
    if len(flat) < 2:
        raise UserError(f"A PCA of {len(flat)} examples has no variance; give at least 2 examples.")
    if not 1 <= rank <= min(flat.shape):
        raise UserError(
            f"A PCA of rank {rank} does not exist for {flat.shape[0]} examples of {flat.shape[1]} dimensions; choose a"
            f" rank from 1 to {min(flat.shape)}."
        )
    mean = flat.mean(axis=0, dtype=np.float64)
    # Centred here, as scikit-learn's XᵀX − N μμᵀ loses the digits of data that lie far from the origin.
    solver = "covariance_eigh" if len(flat) >= flat.shape[1] else "full"  # By the smaller of the two sides.
    with np.errstate(invalid="ignore"):  # Of examples that are all alike, the shares of their variance.
        fitted = PCA(svd_solver=solver).fit(flat - mean)
    variances = fitted.explained_variance_ * ((len(flat) - 1) / len(flat))
    components = fitted.components_[:rank]
    largest = np.take_along_axis(components, np.abs(components).argmax(axis=1, keepdims=True), axis=1)
    return Pca(mean, components * np.sign(largest), variances[:rank], float(variances[rank:].sum()))


def encode(pca: Pca, examples: np.ndarray) -> np.ndarray:
    """The coordinates of examples in the subspace: z = W(x − μ).

    See "Pattern Recognition and Machine Learning", Bishop, 2006, Section 12.1.2.

    Args:
      pca: W and μ.
      examples: [N, ...] numbers, as many to an example as those it was fitted to.

    Returns:
      [N, q] float64.

    Raises:
      UserError: the examples have another number of dimensions.
    """
    codes = np.empty((len(examples), len(pca.components)))
    for rows, chunk in _chunks(examples, len(pca.mean)):
        codes[rows] = (chunk - pca.mean) @ pca.components.T
    return codes


def decode(pca: Pca, codes: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The points of the subspace at given coordinates: x = μ + Wᵀz.

    See "Pattern Recognition and Machine Learning", Bishop, 2006, Section 12.1.2.

    Args:
      pca: W and μ.
      codes: [N, q] z.
      shape: of one example, of D numbers in all.

    Returns:
      [N, *shape] float64.
    """
    flat = codes @ pca.components
    flat += pca.mean
    return flat.reshape(len(codes), *shape)


def reconstruct(pca: Pca, examples: np.ndarray) -> np.ndarray:
    """The point of the subspace that is nearest to each example.

    See "Pattern Recognition and Machine Learning", Bishop, 2006, Section 12.1.2.

    Args:
      pca: the subspace.
      examples: as in `encode`.

    Returns:
      float64, the shape of `examples`.

    Raises:
      UserError: the examples have another number of dimensions.
    """
    return decode(pca, encode(pca, examples), np.shape(examples)[1:])


def reconstruction_error(pca: Pca, examples: np.ndarray) -> np.ndarray:
    """The squared distance of each example from the subspace, summed over dimensions.

    See "Pattern Recognition and Machine Learning", Bishop, 2006, Section 12.1.2.

    Args:
      pca: the subspace.
      examples: as in `encode`.

    Returns:
      [N] float64 ≥ 0.

    Raises:
      UserError: the examples have another number of dimensions.
    """
    errors = np.empty(len(examples))
    for rows, chunk in _chunks(examples, len(pca.mean)):
        errors[rows] = np.sum((chunk - reconstruct(pca, chunk)) ** 2, axis=1)
    return errors


def linear_denoiser(clean: np.ndarray, gain: float, offset: float, variance: np.ndarray) -> LinearDenoiser:
    """The affine map that on average takes corrupted examples nearest to the clean ones, from the noise's moments.

    A = argmin E‖x − A x̃ − b‖² + ε‖A‖² = aΛ (a²Λ + diag v + εI)⁻¹,  b = μ − A E x̃,  where E[x̃|x] = a x + c,
    v_j = E Var[x̃_j|x], Λ the covariance of x by 1/N, and ε = 1e−9 of the mean variance of x̃, which keeps the system
    solvable. Gaussian noise has a = 1 and v = σ², and so Λ(Λ + σ²I)⁻¹, of error Σ_j λ_j σ² / (λ_j + σ²). No noise is
    drawn: of one fitted to a draw the noise in the draw is left in the map.

    See "Extrapolation, Interpolation, and Smoothing of Stationary Time Series", Wiener, 1949, Chapter III, and for the
    task "Extracting and Composing Robust Features with Denoising Autoencoders", Vincent et al., 2008.

    Args:
      clean: [N, ...] x, D numbers to an example.
      gain: a.
      offset: c.
      variance: [...] v ≥ 0, the shape of one example; the noise of different dimensions is independent given x.

    Returns:
      The map.

    Raises:
      UserError: `variance` has another shape than an example.
    """
    clean, variance = np.asarray(clean), np.asarray(variance, np.float64)
    if variance.shape != clean.shape[1:]:
        raise UserError(
            f"The noise's variance has the shape {variance.shape} and an example {clean.shape[1:]}; give one number to"
            " each dimension."
        )
    num, num_dims = len(clean), int(np.prod(clean.shape[1:]))
    mean = np.mean(clean, axis=0, dtype=np.float64).reshape(-1)
    covariance = np.zeros((num_dims, num_dims))
    for _, x in _chunks(clean, num_dims):
        covariance += (x - mean).T @ (x - mean) / num
    noisy = gain**2 * covariance + np.diag(variance.reshape(-1))
    # Where every noisy dimension is constant ε is 0 too; the least number keeps the system solvable, and A is 0.
    ridge = RIDGE * np.trace(noisy) / num_dims + np.finfo(np.float64).tiny
    matrix = np.linalg.solve(noisy + ridge * np.eye(num_dims), gain * covariance).T
    return LinearDenoiser(matrix, gain * mean + offset, mean)


def denoise(denoiser: LinearDenoiser, noisy: np.ndarray) -> np.ndarray:
    """The denoiser's guess at the clean examples.

    See "Extrapolation, Interpolation, and Smoothing of Stationary Time Series", Wiener, 1949, Chapter III.

    Args:
      denoiser: the map.
      noisy: [N, ...] numbers, as many to an example as those it was fitted to.

    Returns:
      float64, the shape of `noisy`.

    Raises:
      UserError: the examples have another number of dimensions.
    """
    clean = np.empty((len(noisy), len(denoiser.mean_out)))
    for rows, chunk in _chunks(noisy, len(denoiser.mean_in)):
        clean[rows] = denoiser.mean_out + (chunk - denoiser.mean_in) @ denoiser.matrix.T
    return clean.reshape(np.shape(noisy))


def _chunks(examples: np.ndarray, num_dims: int) -> Iterator[tuple[slice, np.ndarray]]:
    """Rows and examples [n, num_dims] float64, some at a time, so that bytes need not become floats all at once."""
    found = int(np.prod(np.shape(examples)[1:]))
    if found != num_dims:
        raise UserError(
            f"The examples have {found} dimensions but those fitted to had {num_dims}; give examples of one shape."
        )
    for start in range(0, len(examples), CHUNK):
        rows = slice(start, start + CHUNK)
        yield rows, np.asarray(examples[rows], np.float64).reshape(-1, num_dims)
