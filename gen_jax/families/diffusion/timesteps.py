"""Which steps a batch is trained at: drawn alike, in pairs, in strata, or by how much each step's loss matters.

Every sampler gives `(t [B] int32, weight [B])`, and the mean of weight · loss(t) is the mean loss over all steps. The
draw of an example depends on the step's key and on the example's index alone.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from gen_jax import rng
from gen_jax.collectives import all_devices
from gen_jax.contracts import Array, Key


class History(NamedTuple):
    """The last losses seen at each step, from which their second moments are estimated; arrays only.

    Attributes:
      losses: [T, n] float32, a ring for each step.
      counts: [T] int32, how many losses were ever seen at each step.
    """

    losses: Array
    counts: Array


def uniform(key: Key, index: Array, num_steps: int) -> tuple[Array, Array]:
    """Every step alike, every example for itself.

    See "Denoising Diffusion Probabilistic Models", Ho et al., 2020 (arXiv:2006.11239), Algorithm 1.

    Args:
      key: of the stream.
      index: [B] the global number of each example.
      num_steps: T.

    Returns:
      t [B] int32 in 0 … T − 1, and weights [B] of 1.
    """
    t = jax.vmap(lambda k: jax.random.randint(k, (), 0, num_steps))(rng.per_example(key, index))
    return t, jnp.ones(t.shape)


def antithetic(key: Key, index: Array, num_steps: int) -> tuple[Array, Array]:
    """Examples 2k and 2k + 1 get t and T − 1 − t: one early step and one late.

    See "A New Monte Carlo Technique: Antithetic Variates", Hammersley and Morton, 1956 (Proceedings of the
    Cambridge Philosophical Society 52), pages 449 to 475.

    Args:
      key: of the stream.
      index: [B] the global number of each example.
      num_steps: T.

    Returns:
      t [B] int32 in 0 … T − 1, and weights [B] of 1.
    """
    index = jnp.asarray(index, jnp.uint32)
    t, weight = uniform(key, index // 2, num_steps)
    return jnp.where(index % 2 == 0, t, num_steps - 1 - t), weight


def stratified(key: Key, index: Array, num_steps: int, batch_size: int) -> tuple[Array, Array]:
    """One draw for the batch, and every example an equal distance further on: t_i = ⌊T · frac(u + i / B)⌋.

    See "Variational Diffusion Models", Kingma et al., 2021 (arXiv:2107.00630), Appendix I.1 and its code: its
    low-discrepancy sampler, here with steps in the place of continuous time.

    Args:
      key: of the stream at this step.
      index: [B] the global number of each example; those of a batch follow one another.
      num_steps: T.
      batch_size: of all devices together.

    Returns:
      t [B] int32 in 0 … T − 1, and weights [B] of 1.
    """
    place = (jnp.asarray(index, jnp.uint32) % batch_size).astype(jnp.float32) / batch_size
    time = (jax.random.uniform(key) + place) % 1.0
    # The product may round up to T.
    t = jnp.minimum((time * num_steps).astype(jnp.int32), num_steps - 1)
    return t, jnp.ones(t.shape)


def init_history(num_steps: int, length: int = 10) -> History:
    """An empty history.

    Args:
      num_steps: T.
      length: n, how many losses of a step are kept; 10 in the paper.

    Returns:
      The history, to be kept with the state of the model.
    """
    return History(jnp.zeros((num_steps, length)), jnp.zeros(num_steps, jnp.int32))


def importance_probabilities(history: History, uniform_share: float = 0.001) -> Array:
    """How often each step is drawn: p_t ∝ √E[L_t²], and a little of each; all alike until n losses of each are in.

    See "Improved Denoising Diffusion Probabilistic Models", Nichol and Dhariwal, 2021 (arXiv:2102.09672), Section 3.3,
    and its code for the share of 0.001 that is drawn uniformly.

    Args:
      history: of T steps.
      uniform_share: the probability of a uniform draw.

    Returns:
      [T], with sum 1.
    """
    num_steps, length = history.losses.shape
    root = jnp.sqrt(jnp.mean(history.losses**2, axis=1))
    total = jnp.sum(root)
    ready = jnp.all(history.counts >= length) & (total > 0)
    by_loss = (1 - uniform_share) * root / jnp.where(ready, total, 1.0) + uniform_share / num_steps
    return jnp.where(ready, by_loss, 1 / num_steps)


def importance(key: Key, index: Array, history: History) -> tuple[Array, Array]:
    """Draws the steps whose losses are large more often, and weighs them down by as much: w = 1 / (T p_t).

    See "Improved Denoising Diffusion Probabilistic Models", Nichol and Dhariwal, 2021 (arXiv:2102.09672), Section 3.3,
    Eq. 18.

    Args:
      key: of the stream.
      index: [B] the global number of each example.
      history: of T steps.

    Returns:
      t [B] int32 in 0 … T − 1, and weights [B].
    """
    p = importance_probabilities(history)
    log_p = jnp.log(p)
    # "high": the default's uniform numbers are too coarse for a step of probability 1e-7.
    t = jax.vmap(lambda k: jax.random.categorical(k, log_p, mode="high"))(rng.per_example(key, index))
    return t.astype(jnp.int32), 1 / (p.shape[0] * p[t])


def update_history(history: History, t: Array, losses: Array, *, axis_name: str | None = None) -> History:
    """Takes the losses of a batch into the history, the oldest of each step falling out.

    See "Improved Denoising Diffusion Probabilistic Models", Nichol and Dhariwal, 2021 (arXiv:2102.09672), Section 3.3.

    Args:
      history: of T steps.
      t: [B] int.
      losses: [B] unweighted.
      axis_name: the mapped axis of devices whose batches make one, in the axis's order; None for one device. All
        devices then get the same history.

    Returns:
      The new history. It carries no gradient.
    """
    t, losses = all_devices(jax.lax.stop_gradient((t, losses.astype(history.losses.dtype))), axis_name)
    num_steps, length = history.losses.shape
    order = jnp.argsort(t, stable=True)
    t, losses = t[order], losses[order]
    # The how-manieth of its step in this batch each loss is, and of how many.
    rank = jnp.arange(t.shape[0]) - jnp.searchsorted(t, t, side="left")
    seen = jnp.zeros(num_steps, jnp.int32).at[t].add(1)
    slot = (history.counts[t] + rank) % length
    # Of more than n losses of one step the last n stay; the others go to a row that is not there.
    row = jnp.where(rank >= seen[t] - length, t, num_steps)
    return History(history.losses.at[row, slot].set(losses, mode="drop"), history.counts + seen)
