"""Fields against PyTorch's with the same weights."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from gen_jax.contracts import UserError
from gen_jax.families.nerf import torch_weights
from gen_jax.ops.encodings import positional_encoding


class PyTorchNeRF(torch.nn.Module):
    """The network of NeRF in PyTorch, of any depth, with the layers' common names."""

    def __init__(self, depth=8, width=256, skip=4, place=63, view=27):
        super().__init__()
        inputs = [place] + [width + place * (i == skip) for i in range(depth - 1)]
        self.skip, self.place = skip, place
        self.pts_linears = torch.nn.ModuleList(torch.nn.Linear(n, width) for n in inputs)
        self.views_linears = torch.nn.ModuleList([torch.nn.Linear(width + view, width // 2)])
        self.feature_linear = torch.nn.Linear(width, width)
        self.alpha_linear = torch.nn.Linear(width, 1)
        self.rgb_linear = torch.nn.Linear(width // 2, 3)

    def forward(self, place, view):
        h = place
        for i, layer in enumerate(self.pts_linears):
            h = torch.relu(layer(h))
            if i == self.skip:
                h = torch.cat([place, h], -1)
        density = self.alpha_linear(h)
        h = torch.cat([self.feature_linear(h), view], -1)
        return self.rgb_linear(torch.relu(self.views_linears[0](h))), density[..., 0]


def state_of(network):
    return {name: value.detach().numpy() for name, value in network.state_dict().items()}


@pytest.mark.parametrize(
    ("depth", "width", "skip", "frequencies", "prefix"), [(8, 256, 4, (10, 4), ""), (5, 32, 1, (6, 2), "module.")]
)
def test_the_field_is_pytorchs(depth, width, skip, frequencies, prefix):
    torch.manual_seed(0)
    sizes = [3 * (2 * n + 1) for n in frequencies]
    network = PyTorchNeRF(depth, width, skip, *sizes)
    state = {prefix + name: value for name, value in state_of(network).items()}
    field, params = torch_weights.field_of(state), torch_weights.field_params(state)
    assert (field.depth, field.width, field.skip) == (depth, width, skip)
    assert (field.position_frequencies, field.direction_frequencies) == frequencies
    random = np.random.default_rng(0)
    position = random.uniform(-1, 1, (64, 3)).astype(np.float32)
    direction = random.normal(size=(64, 3)).astype(np.float32)
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    encoded = [
        np.stack([np.asarray(positional_encoding(jnp.asarray(row), count)) for row in rows])
        for rows, count in zip((position, direction), frequencies, strict=True)
    ]
    with torch.no_grad():
        expected = [out.numpy() for out in network(*map(torch.from_numpy, encoded))]
    found = field.apply({"params": params}, position, direction)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_other_weights_are_refused():
    state = state_of(PyTorchNeRF(depth=3, width=8, skip=1))
    with pytest.raises(UserError, match=r"have no 'alpha_linear\.bias'"):
        torch_weights.field_of({k: v for k, v in state.items() if k != "alpha_linear.bias"})
    with pytest.raises(UserError, match=r"have no 'pts_linears\.0\.weight'"):
        torch_weights.field_of({})
    with pytest.raises(UserError, match="see 64 numbers"):
        torch_weights.field_of(state_of(PyTorchNeRF(depth=3, width=8, skip=1, place=64)))
