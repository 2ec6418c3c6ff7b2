"""The divergence of mean activations, the absolute activations, the k largest, and the annealing of k."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from jax.test_util import check_grads

from gen_jax.families.autoencoder import annealed_k, k_sparse, kl_sparsity, l1_sparsity


@pytest.mark.parametrize(
    ("rho", "rho_hat", "nats"),
    [(0.05, 0.05, 0.0), (0.05, 0.1, 0.016707), (0.05, 0.2, 0.093943), (0.05, 0.5, 0.494632), (0.1, 0.3, 0.116322)],
)
def test_kl_sparsity_values(rho: float, rho_hat: float, nats: float):
    """The known values to six digits."""
    assert float(kl_sparsity(rho, jnp.array([rho_hat]))) == pytest.approx(nats, abs=6e-7)


@pytest.mark.parametrize("rho", [0.01, 0.3, "of each unit"])
def test_kl_sparsity_against_scipy(rho: float | str):
    """The sum over units of scipy's relative entropies, which are the expected log-ratios of two Bernoullis."""
    random = np.random.default_rng(0)
    wanted = random.uniform(0.02, 0.9, 7) if rho == "of each unit" else np.full(7, rho)
    there = random.uniform(0.001, 0.999, 7)
    expected = (scipy.special.rel_entr(wanted, there) + scipy.special.rel_entr(1 - wanted, 1 - there)).sum()
    log_ratio = [scipy.stats.bernoulli.logpmf(v, wanted) - scipy.stats.bernoulli.logpmf(v, there) for v in (0, 1)]
    assert expected == pytest.approx(((1 - wanted) * log_ratio[0] + wanted * log_ratio[1]).sum(), rel=1e-12)
    with jax.enable_x64(True):
        found = kl_sparsity(jnp.asarray(wanted) if rho == "of each unit" else rho, jnp.asarray(there))
        assert found.shape == ()
        assert float(found) == pytest.approx(expected, rel=1e-12)


def test_kl_sparsity_gradient():
    """∂/∂ρ̂ = (1 − ρ)/(1 − ρ̂) − ρ/ρ̂, by finite differences too; 0 at ρ̂ = ρ, where the divergence is least."""
    with jax.enable_x64(True):
        there = jnp.array([0.01, 0.05, 0.3, 0.9])
        check_grads(functools.partial(kl_sparsity, 0.05), (there,), order=2, modes=("rev",), eps=1e-5, rtol=1e-4)
        slope = jax.grad(kl_sparsity, argnums=1)(0.05, there)
        np.testing.assert_allclose(slope, 0.95 / (1 - there) - 0.05 / there, rtol=1e-9, atol=1e-12)
        assert abs(float(slope[1])) < 1e-12


def test_kl_sparsity_at_extremes():
    """Finite value and gradient for units that are all but never or all but always on; infinite where they are."""
    tiny = jnp.array([1e-30])
    value, slope = jax.value_and_grad(kl_sparsity, argnums=1)(0.05, tiny)
    assert float(value) == pytest.approx(0.05 * np.log(0.05 / 1e-30) + 0.95 * np.log(0.95), rel=1e-6)
    assert float(slope[0]) == pytest.approx(-0.05 / 1e-30, rel=1e-6)
    near_one = np.float32(1 - 2**-24)
    value, slope = jax.value_and_grad(kl_sparsity, argnums=1)(0.05, jnp.array([near_one]))
    assert float(value) == pytest.approx(0.05 * np.log(0.05) + 0.95 * np.log(0.95 * 2**24), rel=1e-5)
    assert float(slope[0]) == pytest.approx(0.95 * 2**24, rel=1e-5)
    assert np.isposinf(kl_sparsity(0.05, jnp.array([0.2, 0.0])))
    assert np.isposinf(kl_sparsity(0.05, jnp.array([0.2, 1.0])))


def test_l1_sparsity():
    """The sum, not the mean, of absolute activations, whose gradient is their sign and 0 at 0."""
    z = jnp.array([-1.5, 0.0, 2.0, 0.25])
    value, slope = jax.value_and_grad(l1_sparsity)(z)
    assert float(value) == 3.75
    np.testing.assert_array_equal(slope, [-1.0, 0.0, 1.0, 1.0])


def _slow_k_sparse(z: np.ndarray, k: int) -> np.ndarray:
    """One element at a time: the largest that is left, of equal ones the first."""
    kept, left = np.zeros_like(z), list(range(len(z)))
    for _ in range(k):
        best = max(left, key=lambda j: (z[j], -j))
        kept[best] = z[best]
        left.remove(best)
    return kept


_CODES = {
    "random": np.random.default_rng(1).standard_normal((5, 9)),
    "negative": -1.0 - np.random.default_rng(2).random((5, 9)),
    "ties": np.random.default_rng(3).integers(1, 4, (5, 9)).astype(float),
    "all equal": np.full((5, 9), -2.0),
    "infinite": np.where(np.random.default_rng(4).random((5, 9)) < 0.3, np.inf, 1.5),
}


@pytest.mark.parametrize("kind", list(_CODES))
@pytest.mark.parametrize("k", [0, 1, 4, 9])
def test_k_sparse_against_a_slow_loop(kind: str, k: int):
    """Exactly the k largest of every row, with ties and signs; the same with a traced k, and one row at a time."""
    codes = _CODES[kind].astype(np.float32)
    expected = np.stack([_slow_k_sparse(row, k) for row in codes])
    assert ((expected != 0).sum(1) == k).all()
    np.testing.assert_array_equal(jax.vmap(k_sparse, in_axes=(0, None))(codes, k), expected)
    np.testing.assert_array_equal([k_sparse(jnp.asarray(row), k) for row in codes], expected)
    traced = jax.jit(jax.vmap(functools.partial(k_sparse, max_k=9), in_axes=(0, None)))
    np.testing.assert_array_equal(traced(codes, jnp.int32(k)), expected)
    tight = jax.jit(functools.partial(k_sparse, max_k=k))
    np.testing.assert_array_equal(tight(jnp.asarray(codes[0]), jnp.int32(k)), expected[0])


def test_k_sparse_keeps_the_largest_and_not_the_largest_in_size():
    """The paper's support is of the largest activations: −5 is not among them."""
    np.testing.assert_array_equal(k_sparse(jnp.array([-5.0, 1.0, 0.5, -1.0]), 2), [0.0, 1.0, 0.5, 0.0])


def test_k_sparse_with_a_k_for_each_row():
    """Under vmap every code may have a k of its own."""
    codes = jnp.asarray(_CODES["random"], jnp.float32)[:4]
    found = jax.vmap(functools.partial(k_sparse, max_k=5))(codes, jnp.array([0, 1, 3, 5]))
    np.testing.assert_array_equal((found != 0).sum(1), [0, 1, 3, 5])
    np.testing.assert_array_equal(found[2], _slow_k_sparse(np.asarray(codes[2]), 3))


@pytest.mark.parametrize("kind", ["random", "ties"])
@pytest.mark.parametrize("traced", [False, True])
def test_k_sparse_derivative(kind: str, traced: bool):
    """The Jacobian is the identity on the kept and exactly 0 elsewhere."""
    z = jnp.asarray(_CODES[kind][0], jnp.float32)
    keep = functools.partial(k_sparse, k=jnp.int32(4), max_k=6) if traced else functools.partial(k_sparse, k=4)
    support = _slow_k_sparse(np.asarray(z), 4) != 0
    for jacobian in (jax.jacfwd, jax.jacrev):
        np.testing.assert_array_equal(jacobian(keep)(z), np.diag(support.astype(np.float32)))


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("place", [0, 2, 4])
def test_k_sparse_hides_no_nan(sign: float, place: int):
    """An activation that is not a number shows in the code, whatever its sign bit: 0/0 on x86 has it set."""
    z = jnp.array([3.0, 1.0, -1.0, 2.0, -4.0]).at[place].set(jnp.nan)
    z = jnp.where(jnp.isnan(z), jnp.asarray(np.copysign(np.nan, sign), jnp.float32), z)
    assert bool(np.signbit(z[place])) == (sign < 0)
    assert np.isnan(k_sparse(z, 2)).any()
    assert np.isnan(jax.jit(functools.partial(k_sparse, max_k=4))(z, 2)).any()


@pytest.mark.parametrize(("k", "max_k"), [(6, None), (-1, None), (2, 6), (2, -1)])
def test_k_sparse_refuses_more_than_there_are(k: int, max_k: int | None):
    with pytest.raises(ValueError, match=r"out of range for a code of 5; expected 0 to 5"):
        k_sparse(jnp.zeros(5), k, max_k)


def test_annealed_k():
    """A straight line from k_start at step 0 to k at the last annealing step, rounded, never rising, k ever after."""
    steps = jnp.arange(0, 60)
    found = np.asarray(jax.jit(jax.vmap(lambda step: annealed_k(step, 100, 25, 40)))(steps))
    assert found.dtype == np.int32
    assert found[0] == 100
    assert (found[40:] == 25).all()
    assert found[39] > 25  # 26.875.
    assert (np.diff(found) <= 0).all()
    line = 100 - 75 * np.minimum(np.arange(60), 40) / 40
    assert np.abs(found - line).max() <= 0.5 + 1e-5
    assert (found == np.round(line))[np.abs(line % 1 - 0.5) > 1e-3].all()
    assert int(annealed_k(jnp.int32(10**6), 100, 25, 40)) == 25


def test_annealed_k_may_rise_and_may_be_off():
    """From few to many as well; without annealing k from the start."""
    assert [int(annealed_k(jnp.int32(t), 2, 4, 2)) for t in (0, 1, 2, 3)] == [2, 3, 4, 4]
    assert int(annealed_k(jnp.int32(0), 100, 25, 0)) == 25
