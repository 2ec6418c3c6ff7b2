"""A sum over all steps of a process from a few of them, one of every stratum: what a test set is evaluated at."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from gen_jax.contracts import Array, Key


def doubling_strata(num_steps: int) -> np.ndarray:
    """Ranges of steps, each about twice as long as the one before: one draw of each estimates a bound well.

    The bound's terms fall by orders of magnitude over the first steps and little after.

    Args:
      num_steps: T.

    Returns:
      The edges [S + 1]: 0, 1, 2, 4, 8, … T; stratum i is edges[i] … edges[i + 1] − 1.
    """
    powers = 2 ** np.arange(max(num_steps - 1, 0).bit_length())
    return np.concatenate([[0], powers[powers < num_steps], [num_steps]])


def even_strata(num_steps: int, count: int) -> np.ndarray:
    """Ranges of steps of equal length.

    Args:
      num_steps: T.
      count: S ≤ T.

    Returns:
      The edges [S + 1].
    """
    return np.arange(count + 1) * num_steps // count


def draw_in_strata(key: Key, edges: np.ndarray) -> Array:
    """One step of every stratum, each of its steps alike, for one example.

    Args:
      key: this example's.
      edges: [S + 1].

    Returns:
      [S] int32.
    """
    return jax.random.randint(key, (len(edges) - 1,), edges[:-1], edges[1:], jnp.int32)


def stratified_sum(values: Array, widths: np.ndarray) -> Array:
    """The unbiased estimate of a sum over all steps by one step of every stratum: Σ_t f(t) ≈ Σ_s n_s f(t_s).

    See "Monte Carlo theory, methods and examples", Owen, 2013, Section 8.4, with one draw of each stratum. Its variance
    is Σ_s n_s² Var f(t_s), which is small where f differs little within a stratum.

    Args:
      values: [..., S] f(t_s), at the steps of `draw_in_strata`.
      widths: [S] n_s, how many steps a stratum has; or their shares n_s / T, for the mean over the steps.

    Returns:
      [...] in the unit of the values.
    """
    return values @ jnp.asarray(widths, values.dtype)
