"""Fields against PyTorch's with the same weights."""

from __future__ import annotations

import functools

import jax
import numpy as np
import pytest
import torch

from experiments.benchmarks import torch_nerf
from gen_jax.contracts import UserError
from gen_jax.families.nerf import torch_weights
from gen_jax.ops.encodings import positional_encoding


def state_of(network):
    return {name: value.detach().numpy() for name, value in network.state_dict().items()}


@pytest.mark.parametrize(
    ("depth", "width", "skip", "frequencies", "prefix"), [(8, 256, 4, (10, 4), ""), (5, 32, 1, (6, 2), "module.")]
)
def test_the_field_is_pytorchs(depth, width, skip, frequencies, prefix):
    torch.manual_seed(0)
    sizes = [3 * (2 * n + 1) for n in frequencies]
    network = torch_nerf.NeRF(depth, width, skip, *sizes)
    state = {prefix + name: value for name, value in state_of(network).items()}
    field, params = torch_weights.field_of(state), torch_weights.field_params(state)
    assert (field.depth, field.width, field.skip) == (depth, width, skip)
    assert (field.position_frequencies, field.direction_frequencies) == frequencies
    random = np.random.default_rng(0)
    position = random.uniform(-1, 1, (64, 3)).astype(np.float32)
    direction = random.normal(size=(64, 3)).astype(np.float32)
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    encoded = [
        np.array(jax.jit(jax.vmap(functools.partial(positional_encoding, num_frequencies=count)))(rows))
        for rows, count in zip((position, direction), frequencies, strict=True)
    ]
    with torch.no_grad():
        expected = [out.numpy() for out in network(*map(torch.from_numpy, encoded))]
    found = jax.jit(field.apply)({"params": params}, position, direction)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_other_weights_are_refused():
    state = state_of(torch_nerf.NeRF(depth=3, width=8, skip=1))
    with pytest.raises(UserError, match=r"have no 'alpha_linear\.bias'"):
        torch_weights.field_of({k: v for k, v in state.items() if k != "alpha_linear.bias"})
    with pytest.raises(UserError, match=r"have no 'pts_linears\.0\.weight'"):
        torch_weights.field_of({})
    with pytest.raises(UserError, match="see 64 numbers"):
        torch_weights.field_of(state_of(torch_nerf.NeRF(depth=3, width=8, skip=1, place=64)))
