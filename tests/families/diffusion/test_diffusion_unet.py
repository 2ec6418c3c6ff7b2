"""The U-Net of DDPM against its PyTorch copy with random weights, by way of the converter."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from experiments.benchmarks import torch_diffusion
from gen_jax import rng
from gen_jax.contracts import UserError
from gen_jax.families.diffusion.torch_weights import unet_of, unet_params
from gen_jax.families.diffusion.unet import ResidualBlock, UNet, check_sizes
from gen_jax.nn.group_norm import num_groups_of

# Two levels, attention at one; one level of two blocks, attention in the middle alone; three levels, attention at two,
# more channels than at first and fewer again.
SMALL: dict[str, Any] = {"channels": 8, "channel_mult": (1, 2), "num_blocks": 1, "attention_at": (4,)}
FLAT: dict[str, Any] = {"channels": 8, "channel_mult": (1,), "num_blocks": 2, "attention_at": ()}
DEEP: dict[str, Any] = {"channels": 8, "channel_mult": (2, 1, 3), "num_blocks": 1, "attention_at": (8, 2)}
CIFAR: dict[str, Any] = {"channels": 128, "channel_mult": (1, 2, 2, 2), "num_blocks": 2, "attention_at": (16,)}


def _torch(sizes: dict[str, Any], height: int = 8, seed: int = 0) -> torch_diffusion.UNet:
    """The copy, every number of it random and none of them 0; the first activations are so small that ε counts."""
    model = torch_diffusion.UNet(height, 3, dropout=0.0, groups=num_groups_of, **sizes)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        normal = torch.randn(parameter.shape, generator=generator)
        scale = 0.3 if parameter.ndim == 1 else float(np.prod(parameter.shape[1:])) ** -0.5
        parameter.data = normal * scale + (1.0 if "norm" in name and name.endswith("weight") else 0.0)
        parameter.data *= 1e-3 if "conv_in" in name else 1.0
    return model


def _state(model: torch.nn.Module) -> dict[str, np.ndarray]:
    return {name: array.numpy() for name, array in model.state_dict().items()}


def _inputs(height: int = 8, width: int = 8) -> tuple[np.ndarray, np.ndarray]:
    x = np.random.default_rng(1).standard_normal((2, height, width, 3)).astype(np.float32)
    return x, np.array([3, 421], np.int32)


def _apply(model: UNet, params: Any, *inputs: Any) -> jax.Array:
    return jax.jit(lambda params, *inputs: model.apply({"params": params}, *inputs))(params, *inputs)


def _count(params: Any) -> int:
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(params))


@functools.cache
def _shapes(model: UNet, size: int) -> Any:
    key = jax.random.key(0)
    return jax.eval_shape(lambda: model.init(key, jnp.zeros((1, size, size, 3)), jnp.zeros(1)))["params"]


LARGE: dict[str, Any] = {"channel_mult": (1, 1, 2, 2, 4, 4), "attention_at": (16,), "dropout": 0.0}


@pytest.mark.parametrize(
    ("sizes", "side", "count"), [({}, 32, 35_746_307), pytest.param(LARGE, 256, 113_673_219, marks=pytest.mark.slow)]
)
def test_published_numbers_of_parameters(sizes: dict[str, Any], side: int, count: int):
    """35,746,307 for CIFAR-10, as the defaults are, and 113,673,219 for the network of 256 × 256 images."""
    assert _count(_shapes(UNet(**sizes), side)) == count


# The gradient of the small one is PyTorch's.
@pytest.mark.parametrize(
    ("sizes", "height", "width"),
    [pytest.param(SMALL, 8, 8, marks=pytest.mark.slow), (FLAT, 4, 4), (DEEP, 8, 12)],
    ids=["small", "flat", "deep and not square"],
)
def test_output_is_pytorchs(sizes: dict[str, Any], height: int, width: int):
    """Equal to 1e-4 with weights that are random everywhere, from names that say all there is to know."""
    copy = _torch(sizes, height)
    model = unet_of(_state(copy), height, num_groups=None)
    x, time = _inputs(height, width)
    with torch.no_grad():
        expected = copy(torch.tensor(x).permute(0, 3, 1, 2), torch.tensor(time)).permute(0, 2, 3, 1).numpy()
    found = _apply(model, unet_params(_state(copy)), x, time)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert np.std(expected) > 0.1
    assert {name: getattr(model, name) for name in sizes} == sizes


def test_the_ports_groups_are_32_whatever_the_channels():
    """A state dict does not say them, and 64 channels in 16 groups would be another network."""
    sizes = {"channels": 32, "channel_mult": (1, 2), "num_blocks": 1, "attention_at": ()}
    copy = torch_diffusion.UNet(4, 3, dropout=0.0, **sizes)
    x, time = _inputs(4, 4)
    with torch.no_grad():
        expected = copy(torch.tensor(x).permute(0, 3, 1, 2), torch.tensor(time)).permute(0, 2, 3, 1).numpy()
    params = unet_params(_state(copy))
    np.testing.assert_allclose(_apply(unet_of(_state(copy), 4), params, x, time), expected, atol=1e-4)
    assert not np.allclose(_apply(unet_of(_state(copy), 4, num_groups=None), params, x, time), expected, atol=1e-4)


def test_gradient_is_pytorchs():
    """In every parameter, of a loss whose cotangent is not constant."""
    copy, (x, time) = _torch(SMALL), _inputs()
    weight = np.random.default_rng(2).standard_normal(x.shape).astype(np.float32)
    output = copy(torch.tensor(x).permute(0, 3, 1, 2), torch.tensor(time))
    (output * torch.tensor(weight).permute(0, 3, 1, 2)).sum().backward()
    expected = {name: parameter.grad.numpy() for name, parameter in copy.named_parameters()}

    def loss(params: Any) -> jax.Array:
        return jnp.sum(weight * UNet(**SMALL).apply({"params": params}, x, time))

    found = jax.jit(jax.grad(loss))(unet_params(_state(copy)))
    for (path, gradient), ours in zip(
        jax.tree_util.tree_leaves_with_path(unet_params(expected)), jax.tree.leaves(found), strict=True
    ):
        atol = 1e-4 * np.abs(gradient).max() + 1e-5  # That of a key's bias is 0.
        np.testing.assert_allclose(ours, gradient, rtol=1e-3, atol=atol, err_msg=jax.tree_util.keystr(path))
    assert min(np.abs(gradient).max() for name, gradient in expected.items() if not name.endswith("k.bias")) > 1e-2


def test_every_number_has_one_place():
    """The parameters are the numbers of the state dict, each of them once; a prefix "module." is left out."""
    state = _state(_torch(DEEP))
    params = unet_params({f"module.{name}": array for name, array in state.items()})
    given, found = (
        np.sort(np.concatenate([np.ravel(a) for a in tree])) for tree in (state.values(), jax.tree.leaves(params))
    )
    np.testing.assert_array_equal(found, given)


def test_the_published_names():
    """Every part of the port's CIFAR-10 model under its published name, and no other."""
    with torch.device("meta"):
        names = {name: tuple(array.shape) for name, array in torch_diffusion.UNet(32, 3, **CIFAR).state_dict().items()}
    # What is missing, unknown or of another shape would be refused.
    params = unet_params({name: np.broadcast_to(np.float32(0), shape) for name, shape in names.items()})
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, _shapes(UNet(), 32))
    some = ("temb.dense.0.weight", "temb.dense.1.bias", "conv_in.weight", "down.0.block.1.temb_proj.bias")
    some += ("down.1.block.0.nin_shortcut.weight", "down.1.attn.1.proj_out.weight", "down.2.downsample.conv.weight")
    some += ("mid.block_1.norm1.weight", "mid.attn_1.q.bias", "mid.block_2.conv2.weight", "up.3.block.2.norm2.bias")
    some += ("up.1.attn.2.v.weight", "up.1.upsample.conv.bias", "norm_out.weight", "conv_out.bias")
    assert set(names).issuperset(some)


def test_strange_weights_are_refused():
    """The first name that is missing or unknown and a wrong shape are named; so are weights of another network."""
    state = _state(_torch(SMALL))
    missing = {name: array for name, array in state.items() if name != "mid.attn_1.k.bias"}
    with pytest.raises(UserError, match=r"no 'mid\.attn_1\.k\.bias'"):
        unet_params(missing)
    with pytest.raises(UserError, match=r"have 'down\.0\.extra\.weight'"):
        unet_params(state | {"down.0.extra.weight": np.zeros(3)})
    with pytest.raises(UserError, match=r"'up\.1\.upsample\.conv\.weight' have the shape \(16, 16, 1, 1\)"):
        unet_params(state | {"up.1.upsample.conv.weight": np.zeros((16, 16, 1, 1))})
    with pytest.raises(UserError, match=r"'mid\.attn_1\.q\.weight' have the shape \(16, 16\)"):
        unet_params(state | {"mid.attn_1.q.weight": np.zeros((16, 16))})
    with pytest.raises(UserError, match=r"'conv_in\.weight' have the shape \(8,\)"):
        unet_params(state | {"conv_in.weight": np.zeros(8)})
    with pytest.raises(UserError, match=r"8, 9 channels, which are no multiples of the 8"):
        unet_params(state | {"down.1.block.0.conv1.weight": np.zeros((9, 8, 3, 3))})
    with pytest.raises(UserError, match=r"no 'conv_in\.weight'"):
        unet_params({"fc.weight": np.zeros((3, 3))})


def test_remat_changes_nothing():
    """The same parameters, outputs and gradients, with dropout."""
    tiny = FLAT | {"num_blocks": 0}  # Three blocks are left: dropout takes long to compile.
    (x, time), random = _inputs(2, 2), np.random.default_rng(3)
    params = jax.tree.map(lambda a: 0.3 * random.standard_normal(a.shape, np.float32), _shapes(UNet(**tiny), 2))
    keys = rng.per_example(rng.root(0), np.arange(2))
    assert jax.tree.structure(_shapes(UNet(**DEEP), 8)) == jax.tree.structure(_shapes(UNet(remat=True, **DEEP), 8))

    def run(remat: bool) -> tuple[Any, Any]:
        model = UNet(dropout=0.3, remat=remat, **tiny)
        loss = lambda params: jnp.sum(jnp.sin(model.apply({"params": params}, x, time, keys)))  # noqa: E731
        program = jax.jit(jax.value_and_grad(loss)).trace(params)
        assert ("remat" in str(program.jaxpr)) is remat
        return program.lower().compile({"xla_backend_optimization_level": 0})(params)  # Compiles sooner.

    (value, gradient), (again, other) = run(False), run(True)
    np.testing.assert_allclose(value, again, rtol=1e-6)
    for a, b in zip(*map(jax.tree.leaves, (gradient, other)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * np.abs(b).max() + 1e-6)


def test_remat_keeps_less():
    """What the gradient takes from the forward pass: without remat more than three times as much."""
    (x, time), params = _inputs(), _shapes(UNet(**DEEP), 8)

    def kept(remat: bool) -> int:
        apply = functools.partial(UNet(remat=remat, **DEEP).apply, x=x, time=time)
        residuals = jax.eval_shape(lambda p: jax.vjp(lambda p: apply({"params": p}), p)[1], params)
        sizes = (leaf.size for leaf in jax.tree.leaves(residuals))
        return sum(sizes) - sum(leaf.size for leaf in jax.tree.leaves(params))

    assert kept(False) > 3 * kept(True) > 0


def test_dropout_belongs_to_the_example():
    """An example's output depends on its own key alone, whatever stands beside it."""
    params, (x, time) = unet_params(_state(_torch(SMALL))), _inputs()
    apply = jax.jit(functools.partial(UNet(dropout=0.4, **SMALL).apply, {"params": params}))
    first = apply(x, time, rng.per_example(rng.root(0), np.array([5, 6])))
    swapped = apply(x[::-1], time[::-1], rng.per_example(rng.root(0), np.array([6, 5])))
    np.testing.assert_allclose(swapped[::-1], first, atol=1e-5)
    others = apply(np.stack([x[0], x[0]]), time[[0, 0]], rng.per_example(rng.root(0), np.array([5, 7])))
    np.testing.assert_allclose(others[0], first[0], atol=1e-5)
    assert np.abs(others[0] - others[1]).max() > 0.05  # One image and time, two keys.


def test_dropout_is_before_the_last_convolution():
    """Where the last convolution hands its input on, each number of it is 0 or twice what it is without dropout."""
    x, embedding = _inputs(2, 2)[0], np.ones((2, 4), np.float32)
    block, random = ResidualBlock(3, dropout=0.5), np.random.default_rng(3)
    shapes = jax.eval_shape(block.init, jax.random.key(0), x, embedding, None)["params"]
    params = jax.tree.map(lambda a: random.standard_normal(a.shape, np.float32), shapes)
    params["conv2"] = {"kernel": np.zeros((3, 3, 3, 3), np.float32), "bias": np.zeros(3, np.float32)}
    params["conv2"]["kernel"][1, 1] = np.eye(3)
    apply = jax.jit(lambda keys: block.apply({"params": params}, x, embedding, keys) - x)
    dropped, whole = apply(rng.per_example(rng.root(0), np.arange(2))), apply(None)
    kept = np.abs(dropped) > 1e-6
    np.testing.assert_allclose(dropped, np.where(kept, 2 * whole, 0), atol=1e-5)
    assert 0.2 < kept.mean() < 0.8


def test_starts_at_nothing():
    """The last layer of the network is next to 0, and so is that of every branch; the first is not."""
    x, time = _inputs()

    def kernels(key: jax.Array) -> list[jax.Array]:
        params = UNet(**SMALL).init(key, x, time)["params"]
        last = [params[name]["conv2"] for name in ("down0_0", "middle1", "up1_0")]
        last += [params[name]["out"] for name in ("down1_0_attention", "middle_attention")]
        return [layer["kernel"] for layer in (params["in"], params["out"], *last)]

    first, *last = jax.jit(kernels)(jax.random.key(0))
    assert max(np.abs(kernel).max() for kernel in last) < 1e-4
    assert np.abs(first).max() == pytest.approx(np.sqrt(3 / ((27 + 72) / 2)), rel=0.1)


def test_half_precision():
    """bfloat16 parameters and images give a bfloat16 output near that in float32."""
    params, (x, time) = unet_params(_state(_torch(SMALL))), _inputs()
    half = jax.tree.map(lambda a: a.astype(jnp.bfloat16), params)
    found = _apply(UNet(**SMALL), half, jnp.asarray(x, jnp.bfloat16), time)
    assert found.dtype == jnp.bfloat16
    expected = _apply(UNet(**SMALL), params, x, time)
    assert np.abs(np.asarray(found, np.float32) - expected).mean() < 0.05 * np.abs(expected).mean()


def test_sizes_that_cannot_be_are_refused():
    """No levels; sides that the depth does not divide, each; attention at a height that never occurs."""
    check_sizes((32, 32, 3), (1, 2, 2, 2), (16,))
    check_sizes((28, 36, 1), (1, 2, 2), (28, 7))
    with pytest.raises(UserError, match="channel_mult is empty"):
        check_sizes((32, 32, 3), (), ())
    for shape in ((28, 32, 1), (32, 28, 1)):
        with pytest.raises(UserError, match=f"halves its images 3 times and {shape[0]}x{shape[1]}.*divide by 8"):
            check_sizes(shape, (1, 1, 1, 1), ())
    with pytest.raises(UserError, match=r"attention_at has 4, .* heights 32, 16, 8;"):
        check_sizes((32, 64, 3), (1, 1, 1), (16, 4))
