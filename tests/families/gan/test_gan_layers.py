"""The convolutional networks layer by layer, and in all networks who sees whom: examples, devices and classes."""

import functools
import types
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen_jax.families.gan.dcgan import DCGANDiscriminator, DCGANGenerator
from gen_jax.families.gan.models import (
    MLPDiscriminator,
    MLPGenerator,
    apply_network,
    has_batch_norm,
)
from gen_jax.families.gan.resnet import DownBlock, ResNetDiscriminator, ResNetGenerator, UpBlock

Nets = types.SimpleNamespace


def _dense(params: Any, h: np.ndarray) -> np.ndarray:
    return h @ np.asarray(params["kernel"]) + np.asarray(params["bias"])


def _conv(params: Any, h: jax.Array, stride: int = 1) -> jax.Array:
    """A convolution with zeros around the image, (size - stride) / 2 of them on each side at these sizes."""
    kernel = params["kernel"]
    edge = ((kernel.shape[0] - stride) // 2,) * 2
    numbers = ("NHWC", "HWIO", "NHWC")
    h = jax.lax.conv_general_dilated(h, kernel, (stride, stride), (edge, edge), dimension_numbers=numbers)
    return h + params.get("bias", jnp.zeros(h.shape[-1]))[None, None, None]


def _conv_transpose(params: Any, h: jax.Array) -> jax.Array:
    """Zeros between the pixels and around, and a convolution with the kernel turned by half a turn."""
    kernel = jnp.swapaxes(params["kernel"], 2, 3)[::-1, ::-1]
    batch, height, width, channels = h.shape
    spread = jnp.zeros((batch, 2 * height - 1, 2 * width - 1, channels)).at[:, ::2, ::2].set(h)
    h = jax.lax.conv(
        jnp.pad(spread, ((0, 0), (2, 2), (2, 2), (0, 0))).transpose(0, 3, 1, 2),
        kernel.transpose(3, 2, 0, 1),
        (1, 1),
        "VALID",
    )
    return h.transpose(0, 2, 3, 1) + params.get("bias", jnp.zeros(h.shape[1]))[None, None, None]


def _norm(norm: str, params: Any, name: str, h: jax.Array) -> jax.Array:
    """Batch norm in training, by numpy; nothing where there is none."""
    if norm == "none" or name not in params:
        return h
    array, layer = np.asarray(h), params[name]["BatchNorm_0"]
    array = (array - array.mean((0, 1, 2))) / np.sqrt(array.var((0, 1, 2)) + 1e-5)
    return jnp.asarray(array * np.asarray(layer["scale"]) + np.asarray(layer["bias"]))


@pytest.mark.parametrize("norm", ["none", "batch"])
def test_dcgan_layer_by_layer(nets: Nets, norm: str):
    """Convolution, norm, activation, in this order; no norm at the image's end of either; tanh at last."""
    critic = nets.discriminator("dcgan", norm=norm)
    params, state = nets.init(critic, (28, 28, 1))
    x = h = nets.normal(3, 28, 28, 1)
    for stage in range(2):
        h = _norm(norm, params, f"norm_{stage}", _conv(params[f"down_{stage}"], h, 2))
        h = jnp.maximum(h, 0.2 * h)
    expected = _dense(params["logit"]["psi"], np.asarray(h).reshape(3, -1))[:, 0]
    np.testing.assert_allclose(nets.apply(critic, params, state, x, train=True)[0], expected, atol=2e-5)

    generator = nets.generator("dcgan", (28, 28, 1), norm=norm)
    params, state = nets.init(generator, (5,))
    z = nets.normal(3, 5)
    h = jnp.asarray(_dense({"bias": np.zeros(196)} | params["project"], np.asarray(z)).reshape(3, 7, 7, 4))
    for stage in range(2):
        h = _conv_transpose(params[f"up_{stage}"], nn.relu(_norm(norm, params, f"norm_{stage}", h)))
    np.testing.assert_allclose(nets.apply(generator, params, state, z, train=True)[0], jnp.tanh(h), atol=2e-5)


def _up(x: jax.Array) -> jax.Array:
    return x.repeat(2, axis=1).repeat(2, axis=2)


def _pool(x: jax.Array) -> jax.Array:
    return (x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2]) / 4


def _up_block(norm: str, params: Any, x: jax.Array) -> jax.Array:
    """The generator's block in the order of the paper, the shortcut after the upsampling."""
    h = _conv(params["conv_1"], _up(nn.relu(_norm(norm, params, "norm_1", x))))
    h = _conv(params["conv_2"], nn.relu(_norm(norm, params, "norm_2", h)))
    return _conv(params["shortcut"], _up(x)) + h


def _down_block(params: Any, x: jax.Array, first: bool, halve: bool) -> jax.Array:
    """The critic's block in the order of the paper, the shortcut before the pooling."""
    h = _conv(params["conv_2"], nn.relu(_conv(params["conv_1"], x if first else nn.relu(x))))
    return _pool(_conv(params["shortcut"], x) + h) if halve else x + h


@pytest.mark.parametrize("norm", ["none", "batch"])
def test_resnet_layer_by_layer(nets: Nets, norm: str):
    """Blocks, norm, ReLU, convolution, tanh; the critic's blocks, ReLU, the mean over positions, a linear unit."""
    generator = nets.generator("resnet", (28, 28, 1), norm=norm)
    params, state = nets.init(generator, (5,))
    z = nets.normal(3, 5)
    h = jnp.asarray(_dense(params["project"], np.asarray(z)).reshape(3, 7, 7, 2))
    for block in range(2):
        h = _up_block(norm, params[f"block_{block}"], h)
    h = jnp.tanh(_conv(params["image"], nn.relu(_norm(norm, params, "norm", h))))
    np.testing.assert_allclose(nets.apply(generator, params, state, z, train=True)[0], h, atol=5e-5)

    critic = nets.discriminator("resnet")
    params, _ = nets.init(critic, (28, 28, 1))
    x = h = nets.normal(3, 28, 28, 1)
    for block in range(4):
        h = _down_block(params[f"block_{block}"], h, block == 0, block < 2)
    expected = _dense(params["logit"]["psi"], np.asarray(nn.relu(h)).mean((1, 2)))[:, 0]
    np.testing.assert_allclose(nets.apply(critic, params, {}, x)[0], expected, atol=2e-5)


def test_residual_blocks_with_zero_kernels_are_their_shortcuts(nets: Nets):
    """Upsampling and then 1 × 1; 1 × 1 and then mean pooling; the identity where nothing changes."""
    x = np.asarray(nets.normal(2, 4, 6, 3))

    def shortcut_of(block: nn.Module) -> tuple[np.ndarray, np.ndarray, jax.Array]:
        variables = jax.jit(block.init)(jax.random.key(0), jnp.asarray(x))
        params = {
            n: jax.tree.map(jnp.zeros_like if "conv" in n else jnp.cos, p) for n, p in variables["params"].items()
        }
        y = jax.jit(block.apply)(variables | {"params": params}, jnp.asarray(x))
        linear = params.get("shortcut", {"kernel": np.zeros((1, 1, 3, 3)), "bias": np.zeros(3)})
        return np.asarray(linear["kernel"])[0, 0], np.asarray(linear["bias"]), y

    kernel, bias, y = shortcut_of(UpBlock(5))
    np.testing.assert_allclose(y, x.repeat(2, axis=1).repeat(2, axis=2) @ kernel + bias, atol=1e-5)
    for first in (True, False):
        kernel, bias, y = shortcut_of(DownBlock(5, first=first, norm="layer"))
        full = x @ kernel + bias
        np.testing.assert_allclose(y, sum(full[:, i::2, j::2] for i in (0, 1) for j in (0, 1)) / 4, atol=1e-5)
    np.testing.assert_array_equal(shortcut_of(DownBlock(3, halve=False))[2], x)


@pytest.mark.parametrize("first", [True, False])
def test_only_the_first_block_sees_what_is_negative(nets: Nets, first: bool):
    """A black image passes the first block's convolutions; a later block begins with ReLU."""
    block = DownBlock(4, first=first)
    x = -1.0 - jnp.abs(nets.normal(1, 4, 4, 3))
    params = nets.fill(jax.eval_shape(block.init, jax.random.key(0), x))["params"]
    params["shortcut"] = jax.tree.map(jnp.zeros_like, params["shortcut"])
    y, z = (jax.jit(block.apply)({"params": params}, given) for given in (x, 2 * x))
    assert bool(jnp.any(y != z)) == first


# Who sees whom.


_JACOBIANS = [("mlp", norm, train) for norm in ("none", "layer", "batch") for train in (True, False)]
_JACOBIANS += [("dcgan", "batch", True), ("dcgan", "layer", True), ("resnet", "none", True), ("resnet", "batch", True)]


@pytest.mark.parametrize(("kind", "norm", "train"), _JACOBIANS)
def test_an_output_depends_on_its_own_input_alone(nets: Nets, kind: str, norm: str, train: bool):
    """∂D(x_i)/∂x_j = 0 for j ≠ i exactly, but for batch norm in training, which `has_batch_norm` tells."""
    critic = nets.discriminator(kind, norm=norm, spectral=norm == "none")
    params, state = nets.init(critic, (28, 28, 1))
    x = nets.normal(3, 28, 28, 1)
    jacobian = jax.jit(jax.jacrev(lambda x: apply_network(critic, params, state, x, train=train)[0]))(x)
    size = np.abs(np.asarray(jacobian)).max(axis=(2, 3, 4))
    assert (np.diag(size) > 0).all()
    off_diagonal = size[~np.eye(3, dtype=bool)]
    assert has_batch_norm(critic) == (norm == "batch")
    if train and norm == "batch":
        assert (off_diagonal > 0).all()
    else:
        assert (off_diagonal == 0).all()


def test_has_batch_norm_goes_by_the_networks_own_norm():
    """The defaults: DCGAN has it in both, WGAN-GP in the generator, Goodfellow's in neither."""
    assert has_batch_norm(DCGANGenerator((28, 28, 1)))
    assert has_batch_norm(DCGANDiscriminator())
    assert has_batch_norm(ResNetGenerator((28, 28, 1)))
    assert not has_batch_norm(ResNetDiscriminator())
    assert not has_batch_norm(MLPGenerator((2,), 2))
    assert not has_batch_norm(MLPDiscriminator())


@pytest.mark.parametrize("kind", ["mlp", "dcgan", "resnet"])
def test_generators_at_rest_treat_examples_alone(nets: Nets, kind: str):
    """Not training, a batch is its examples one by one, by the running averages, which stay as they are."""
    generator = nets.generator(kind, (28, 28, 1), norm="batch")
    params, state = nets.init(generator, (5,))
    z = nets.normal(3, 5)
    alone = jnp.concatenate([nets.apply(generator, params, state, z[i : i + 1])[0] for i in range(3)])
    found, same = nets.apply(generator, params, state, z)
    np.testing.assert_allclose(found, alone, atol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, same, state)
    training, new = nets.apply(generator, params, state, z, train=True)
    assert float(jnp.max(jnp.abs(training - alone))) > 1e-2
    changed = jax.tree.map(lambda a, b: bool(jnp.any(a != b)), state, new)
    assert all(jax.tree.leaves(changed))


# Devices.


@pytest.mark.parametrize("kind", ["dcgan_d", pytest.param("resnet_g", marks=pytest.mark.slow), "mlp_g"])
def test_eight_devices_are_one(nets: Nets, kind: str):
    """With `axis_name`, outputs, averaged gradients and statistics of eight parts are those of the whole batch."""
    shape = (28, 28, 1)
    network, inputs = {
        "dcgan_d": (nets.discriminator("dcgan", norm="batch"), shape),
        "resnet_g": (nets.generator("resnet", shape, num_classes=3), (5,)),
        "mlp_g": (nets.generator("mlp", (2,), norm="batch"), (5,)),
    }[kind]
    with jax.enable_x64(True):
        params, state = nets.init(network, inputs)
        params = jax.tree.map(lambda a: a.astype(jnp.float64), params)
        x, label = _inputs(inputs)

        def step(params: Any, x: jax.Array, label: jax.Array, axis_name: str | None) -> Any:
            def loss(params: Any) -> tuple[jax.Array, Any]:
                y, new = apply_network(network, params, state, x, label, train=True, axis_name=axis_name)
                # Of every output by another function, so that the statistics' gradient matters.
                return jnp.mean(jnp.sin(3 * y) + jnp.square(y)), (y, new)

            gradient, (y, new) = jax.grad(loss, has_aux=True)(params)
            return (gradient if axis_name is None else jax.lax.pmean(gradient, axis_name)), y, new

        whole = jax.jit(functools.partial(step, axis_name=None))(params, x, label)

        def parts(axis_name: str | None) -> Any:
            split = jax.tree.map(lambda a: a.reshape(8, 2, *a.shape[1:]), (x, label))
            mapped = jax.pmap(functools.partial(step, axis_name=axis_name), "devices", in_axes=(None, 0, 0))
            return jax.tree.map(np.asarray, mapped(params, *split))

        gradient, y, new = parts("devices")
        np.testing.assert_allclose(y.reshape(whole[1].shape), whole[1], atol=1e-11)
        for found, expected in zip(jax.tree.leaves(gradient), jax.tree.leaves(whole[0]), strict=True):
            np.testing.assert_array_equal(found, np.broadcast_to(found[:1], found.shape))
            np.testing.assert_allclose(found[0], expected, atol=1e-11)
        assert max(float(jnp.max(jnp.abs(g))) for g in jax.tree.leaves(whole[0])) > 0.1
        for found, expected in zip(jax.tree.leaves(new), jax.tree.leaves(whole[2]), strict=True):
            assert found.dtype == np.float32
            np.testing.assert_array_equal(found, np.broadcast_to(found[:1], found.shape))
            np.testing.assert_allclose(found[0], expected, rtol=1e-6, atol=1e-7)
        if kind == "mlp_g":  # Each device by itself gives something else.
            assert np.abs(parts(None)[1].reshape(whole[1].shape) - whole[1]).max() > 0.01


def _inputs(shape: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    """Sixteen inputs in the session's widest type, and labels of three classes."""
    x = np.random.default_rng(5).standard_normal((16, *shape))
    return jnp.asarray(x), jnp.asarray(np.arange(16) % 3, jnp.int32)


# Classes.


@pytest.mark.parametrize("kind", ["dcgan", "resnet"])
def test_projection_adds_to_the_unconditional_logit(nets: Nets, kind: str):
    """With a table of zeros the class does nothing; the logit is linear in the table."""
    critic, plain = nets.discriminator(kind, norm="none", num_classes=3), nets.discriminator(kind, norm="none")
    params = nets.init(critic, (28, 28, 1))[0]
    x, label = nets.normal(4, 28, 28, 1), jnp.asarray([0, 1, 2, 1])

    def logit(factor: float) -> jax.Array:
        table = {"embedding": factor * params["logit"]["class"]["embedding"]}
        return nets.apply(critic, params | {"logit": params["logit"] | {"class": table}}, {}, x, label)[0]

    without = {name: leaf for name, leaf in params["logit"].items() if name != "class"}
    unconditional = nets.apply(plain, params | {"logit": without}, {}, x)[0]
    np.testing.assert_allclose(logit(0.0), unconditional, atol=1e-6)
    np.testing.assert_allclose(logit(2.0) - logit(0.0), 2 * (logit(1.0) - logit(0.0)), atol=1e-5)
    assert float(jnp.min(jnp.abs(logit(1.0) - logit(0.0)))) > 1e-4


@pytest.mark.parametrize("kind", ["mlp", "dcgan", "resnet"])
def test_the_class_changes_the_output(nets: Nets, kind: str):
    """Of generators and of both kinds of discriminator; an unconditional network does not look at labels."""
    label, other = jnp.asarray([0, 1]), jnp.asarray([0, 2])
    networks: list[tuple[nn.Module, tuple[int, ...]]] = [
        (nets.discriminator(kind, num_classes=3, conditioning=c, norm="none"), (28, 28, 1))
        for c in ("projection", "embedding")
    ]
    networks.append((nets.generator(kind, (28, 28, 1), num_classes=3, norm="batch"), (5,)))
    for network, shape in networks:
        params, state = nets.init(network, shape)
        x = nets.normal(2, *shape)
        first, second = (nets.apply(network, params, state, x, given)[0] for given in (label, other))
        np.testing.assert_array_equal(first[0], second[0])
        assert float(jnp.max(jnp.abs(first[1] - second[1]))) > 1e-4
    plain = nets.discriminator(kind, norm="none")
    params, state = nets.init(plain, (28, 28, 1))
    x = nets.normal(2, 28, 28, 1)
    found = [nets.apply(plain, params, state, x, given)[0] for given in (None, label)]
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("kind", ["dcgan", "resnet"])
def test_generator_with_equal_class_tables_is_unconditional(nets: Nets, kind: str):
    """Conditional batch norm in place: every class with the same gains and biases gives the plain network."""
    conditional, plain = (nets.generator(kind, (28, 28, 1), num_classes=n) for n in (3, 0))
    params, state = nets.init(plain, (5,))
    z = nets.normal(4, 5)

    def spread(tree: Any) -> Any:
        if "BatchNorm_0" in tree:
            tables = {name: {"embedding": jnp.tile(leaf, (3, 1))} for name, leaf in tree["BatchNorm_0"].items()}
            return tables
        return {name: spread(leaf) if isinstance(leaf, dict) else leaf for name, leaf in tree.items()}

    for train in (True, False):
        expected, _ = nets.apply(plain, params, state, z, train=train)
        found, _ = nets.apply(conditional, spread(params), state, z, jnp.asarray([0, 1, 2, 0]), train=train)
        np.testing.assert_allclose(found, expected, atol=2e-5)


# Spectral norm.


@pytest.mark.parametrize("kind", ["mlp", "dcgan", "resnet"])
def test_spectral_norm_divides_every_kernel_by_its_singular_value(nets: Nets, kind: str):
    """After training's steps the network is the plain one, with all kernels and the class table divided by numpy."""
    shape = (28, 28, 1)
    options: dict[str, Any] = {"norm": "none", "num_classes": 3}
    spectral, plain = nets.discriminator(kind, spectral=True, **options), nets.discriminator(kind, **options)
    params, state = nets.init(spectral, shape)
    x, label = nets.normal(4, *shape), jnp.asarray([0, 1, 2, 0])
    step = lambda _, state: apply_network(spectral, params, state, x, label, train=True)[1]  # noqa: E731
    state = jax.jit(lambda state: jax.lax.fori_loop(0, 200, step, state))(state)

    def divide(path: Any, leaf: jax.Array) -> jax.Array:
        if path[-1].key == "bias":
            return leaf
        matrix = np.asarray(leaf, np.float64).reshape(-1, leaf.shape[-1])
        return leaf / np.linalg.svd(matrix, compute_uv=False)[0]

    expected, _ = nets.apply(plain, jax.tree.map_with_path(divide, params), {}, x, label)
    found, _ = nets.apply(spectral, params, state, x, label)
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=1e-6)
    unscaled, _ = nets.apply(plain, params, {}, x, label)
    assert float(jnp.max(jnp.abs(unscaled - expected))) > 0.1
