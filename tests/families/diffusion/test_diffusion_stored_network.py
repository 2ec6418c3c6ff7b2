"""A public network and what its own code made of it: the tables, the outputs, and where fifty steps of DDIM end.

The network is the MNIST model of github.com/sdaloglu/diffusion_with_entropy (MIT). Beside its parameters are what
PyTorch computed: ε for noisy digits at six steps, and sixteen examples at both ends of a path of DDIM without noise.
"""

from __future__ import annotations

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen_jax import rng
from gen_jax.contracts import Array
from gen_jax.families import diffusion

STORED = pathlib.Path(__file__).parents[4] / "shared" / "data" / "weights" / "mnist_ddpm_cnn_sdaloglu.npz"
pytestmark = pytest.mark.skipif(not STORED.is_file(), reason="needs the stored network beside the checkout")

Stored = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def stored() -> Stored:
    with np.load(STORED) as file:
        return dict(file)


@pytest.fixture(scope="module")
def process() -> diffusion.Process:
    """Its process has 1001 steps, 0 … 1000, and the network is told the step in thousands."""
    return diffusion.make_process(diffusion.linear_betas(1001), np.arange(1001) / 1000)


def _layer(stored: Stored, name: str) -> tuple[np.ndarray, np.ndarray]:
    return stored[f"params/gt.{name}.weight"], stored[f"params/gt.{name}.bias"]


_gelu = functools.partial(jax.nn.gelu, approximate=False)


def _convolution(stored: Stored, name: str, x: Array) -> Array:
    weight, bias = _layer(stored, name)
    return jax.lax.conv_general_dilated(x, jnp.asarray(weight), (1, 1), "SAME") + bias[None, :, None, None]


def _predict(stored: Stored, x: Array, time: Array) -> Array:
    """ε [B, 1, 28, 28]: four blocks of convolution, norm over the example and GELU, with the time after the first."""
    angles = time[:, None] * stored["params/gt.frequencies"][None]
    told = jnp.concatenate([jnp.sin(angles), jnp.cos(angles) - 1], axis=1)
    for i in (0, 2, 4, 6):
        weight, bias = _layer(stored, f"time_embed.{i}")
        told = (told if i == 0 else _gelu(told)) @ weight.T + bias[None]
    for i in range(4):
        x = _convolution(stored, f"blocks.{i}.net.0", x)
        scale, shift = _layer(stored, f"blocks.{i}.net.1")
        x = jax.nn.standardize(x, axis=(1, 2, 3), epsilon=1e-5) * scale[None] + shift[None]
        x = _gelu(x) + (told[:, :, None, None] if i == 0 else 0.0)
    return _convolution(stored, "blocks.4", x)


def _path(stored: Stored, process: diffusion.Process) -> tuple[Array, tuple[Array, Array]]:
    """The end of our DDIM's path from the stored start, and its x and x_0 at every step."""

    def step(*args):
        return diffusion.ddim(process, functools.partial(_predict, stored)).step(*args)

    sampler = diffusion.ddim(process, functools.partial(_predict, stored))._replace(step=jax.jit(step))
    start = jnp.asarray(stored["io/ddim_xT"])
    end, kept = diffusion.run(
        sampler, start, rng.per_example(rng.root(0), np.arange(len(start))), intermediates=True, loop="python"
    )
    assert kept is not None
    return end, kept


def test_tables(stored, process):
    """Its β and ᾱ are ours, to the rounding of float32."""
    np.testing.assert_allclose(process.betas, stored["params/beta_t"], rtol=1e-6)
    np.testing.assert_allclose(process.alphas_bar, stored["params/alpha_t"], rtol=2e-6)


@pytest.mark.parametrize("t", [1, 10, 100, 300, 600, 999])
def test_outputs(stored, process, t):
    """The network, told what our process tells it, says what the stored one said."""
    x_t = jnp.asarray(stored[f"io/t{t}_z"])
    epsilon = jax.jit(functools.partial(_predict, stored))(x_t, diffusion.told_time(process, jnp.full(4, t)))
    np.testing.assert_allclose(epsilon, stored[f"io/t{t}_eps_pred"], atol=1e-4)


def test_fifty_steps_of_ddim(stored, process):
    """Our sampler ends where the stored one does; its choice of steps is "trailing" of the 1000 after the first.

    Only the ends of the path are stored; the test below says that every step matters to its end.
    """
    steps = stored["io/ddim_timesteps"][::-1]
    np.testing.assert_array_equal(steps, 1 + np.arange(19, 1000, 20))
    end, (path, believed) = _path(stored, diffusion.space(process, steps))
    assert path.shape == believed.shape == (50, 16, 1, 28, 28)
    np.testing.assert_allclose(end, stored["io/ddim_x0"], atol=1e-4)
    np.testing.assert_array_equal(end, path[-1])
    np.testing.assert_allclose(end, believed[-1], atol=1e-6)  # The last step goes to x_0 itself.


@pytest.mark.slow
def test_any_other_step_is_noticed(stored, process):
    """One step moved by a thousandth of the time moves the end by far more than the tolerance of the test above."""
    steps = stored["io/ddim_timesteps"][::-1]
    for other in (np.append(0, steps), steps - 1, *(steps - np.eye(50, dtype=int)[i] for i in (10, 49))):
        end, _ = _path(stored, diffusion.space(process, other))
        assert np.abs(end - stored["io/ddim_x0"]).max() > 1e-3
