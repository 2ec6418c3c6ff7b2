"""The networks' sizes, ranges, initial numbers, precision and refusals, and the fully connected ones by numpy."""

import functools
import types
from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen_jax.contracts import UserError
from gen_jax.families.gan.dcgan import DCGANDiscriminator, DCGANGenerator
from gen_jax.families.gan.models import (
    MLPDiscriminator,
    MLPGenerator,
    apply_network,
    init_network,
    leaky_relu,
)
from gen_jax.families.gan.resnet import ResNetDiscriminator, ResNetGenerator

Nets = types.SimpleNamespace


def _count(network: nn.Module, shape: tuple[int, ...]) -> int:
    x, label = jnp.zeros((1, *shape)), jnp.zeros((1,), jnp.int32)
    params, _ = jax.eval_shape(lambda key: init_network(network, key, x, label), jax.random.key(0))
    return sum(leaf.size for leaf in jax.tree.leaves(params))


# Of 64 pixels too the parameters are counted.
_SIZES = [(28, 28, 1), (32, 32, 3), pytest.param((64, 64, 3), marks=pytest.mark.slow)]


def _dense(params: Any, h: np.ndarray) -> np.ndarray:
    return h @ np.asarray(params["kernel"]) + np.asarray(params["bias"])


def test_parameter_counts_of_the_mlps():
    """Goodfellow's: 100-1200-1200-784, and 784 - 240 maxout of 5 - 240 maxout of 5 - 1; the ring's 256-128-128-2."""
    assert _count(MLPGenerator((28, 28, 1), 100), (100,)) == 101 * 1200 + 1201 * 1200 + 1201 * 784
    assert _count(MLPDiscriminator(maxout_pieces=5), (28, 28, 1)) == 785 * 1200 + 241 * 1200 + 241
    assert _count(MLPGenerator((2,), 256, (128, 128), output="linear"), (256,)) == 257 * 128 + 129 * 128 + 129 * 2
    assert _count(MLPDiscriminator((128, 128)), (2,)) == 3 * 128 + 129 * 128 + 129


@pytest.mark.parametrize("classes", [0, 10])
def test_parameter_counts_of_conditional_mlps(classes: int):
    """A table of 50 numbers a class at the input; by projection one of the features' width at the output."""
    more = 50 if classes else 0
    generator = MLPGenerator((28, 28, 1), 100, (8,), norm="batch", num_classes=classes)
    assert _count(generator, (100,)) == (100 + more) * 8 + 2 * 8 + 9 * 784 + classes * 50
    embedding = MLPDiscriminator((8,), num_classes=classes, conditioning="embedding")
    assert _count(embedding, (28, 28, 1)) == (785 + more) * 8 + 9 + classes * 50
    projection = MLPDiscriminator((8,), num_classes=classes, spectral=True)
    assert _count(projection, (28, 28, 1)) == 785 * 8 + 9 + classes * 8


def test_parameter_counts_of_dcgan():
    """For 64 pixels at width 64 those of the Torch code and a bias in its first and last layers; then by hand."""
    assert _count(DCGANGenerator((64, 64, 3)), (100,)) == 3_576_704 + 3
    assert _count(DCGANDiscriminator(), (64, 64, 3)) == 2_765_568 + 64 + 1
    generator = 100 * 16 * 256 + 16 * (256 * 128 + 128 * 64 + 64 * 3) + 3 + 2 * (256 + 128 + 64)
    assert _count(DCGANGenerator((32, 32, 3)), (100,)) == generator
    generator = 100 * 49 * 128 + 16 * (128 * 64 + 64) + 1 + 2 * (128 + 64)
    assert _count(DCGANGenerator((28, 28, 1)), (100,)) == generator
    discriminator = 16 * (3 * 64 + 64 * 128 + 128 * 256) + 64 + 2 * (128 + 256) + 16 * 256 + 1
    assert _count(DCGANDiscriminator(), (32, 32, 3)) == discriminator
    discriminator = 16 * (64 + 64 * 128) + 64 + 2 * 128 + 49 * 128 + 1
    assert _count(DCGANDiscriminator(), (28, 28, 1)) == discriminator
    assert _count(DCGANDiscriminator(norm="none"), (28, 28, 1)) == discriminator - 2 * 128 + 128
    # Kernels of 5 × 5 as in the paper's figure, whose 64-pixel generator has 1024 channels at 4 × 4.
    paper = DCGANGenerator((64, 64, 3), channels=128, kernel_size=5)
    widths = 1024 * 512 + 512 * 256 + 256 * 128 + 128 * 3
    assert _count(paper, (100,)) == 100 * 16 * 1024 + 25 * widths + 3 + 2 * (1024 + 512 + 256 + 128)


@pytest.mark.parametrize(("size", "side", "ups", "halvings"), [(28, 7, 2, 2), (32, 4, 3, 2), (64, 4, 4, 3)])
def test_parameter_counts_of_the_resnets(size: int, side: int, ups: int, halvings: int):
    """Width 128: blocks of two 3 × 3 convolutions, a 1 × 1 shortcut where the size changes, norms in the generator."""
    conv, shortcut, c = 9 * 128 * 128, 128 * 128 + 128, 128
    block = 2 * 2 * c + conv + (conv + c) + shortcut
    generator = 129 * side * side * c + ups * block + 2 * c + 9 * c * 3 + 3
    assert _count(ResNetGenerator((size, size, 3)), (128,)) == generator
    tables = (2 * ups + 1) * 2 * c
    conditional = ResNetGenerator((size, size, 3), num_classes=10)
    assert _count(conditional, (128,)) == generator + 9 * tables
    first = (27 * c + c) + (conv + c) + (3 * c + c)
    critic = first + (halvings - 1) * (2 * (conv + c) + shortcut) + 2 * 2 * (conv + c) + c + 1
    assert _count(ResNetDiscriminator(), (size, size, 3)) == critic
    assert _count(ResNetDiscriminator(norm="layer"), (size, size, 3)) == critic + (halvings + 1) * 2 * 2 * c
    assert _count(ResNetDiscriminator(num_classes=10), (size, size, 3)) == critic + 10 * c
    label_map = 10 * size * size + 9 * c + c
    embedded = ResNetDiscriminator(num_classes=10, conditioning="embedding")
    assert _count(embedded, (size, size, 3)) == critic + label_map


@pytest.mark.parametrize("kind", ["mlp", "dcgan", "resnet"])
@pytest.mark.parametrize("shape", _SIZES)
@pytest.mark.parametrize("classes", [0, 4])
def test_shapes(nets: Nets, kind: str, shape: tuple[int, ...], classes: int):
    """Codes [B, d] become [B, H, W, C], and those [B]; training updates a state of the same types, and {} stays {}."""
    norm = "none" if kind == "mlp" and classes == 0 else "batch"
    generator = nets.generator(kind, shape, num_classes=classes, norm=norm)
    z, label = jnp.zeros((3, 5)), jnp.arange(3) if classes else None

    def run(network: nn.Module, x: jax.Array) -> tuple[Any, Any, Any]:
        params, state = init_network(network, jax.random.key(0), x, *([label] if classes else []))
        output, new = apply_network(network, params, state, x, label, train=True)
        return output, state, new

    x, state, new = jax.eval_shape(functools.partial(run, generator), z)
    assert (x.shape, x.dtype) == ((3, *shape), jnp.float32)
    assert jax.tree.map(lambda a: (a.shape, a.dtype), new) == jax.tree.map(lambda a: (a.shape, a.dtype), state)
    assert (state == {}) == (norm == "none")
    for options in ({"norm": "batch"}, {"norm": "layer"}, {"norm": "none", "spectral": True}):
        for conditioning in ("projection", "embedding"):
            critic = nets.discriminator(kind, num_classes=classes, conditioning=conditioning, **options)
            logit, state, new = jax.eval_shape(functools.partial(run, critic), x)
            assert (logit.shape, logit.dtype) == ((3,), jnp.float32)
            assert jax.tree.map(lambda a: (a.shape, a.dtype), new) == jax.tree.map(lambda a: (a.shape, a.dtype), state)
            assert (state == {}) == (options == {"norm": "layer"})


def test_points(nets: Nets):
    """In the plane a generator ends linearly, beyond [-1, 1], and a discriminator takes [B, 2]."""
    generator = MLPGenerator((2,), 5, (7,), output="linear", kernel_init=nn.initializers.orthogonal(3.0))
    params, state = nets.init(generator, (5,))
    x, _ = nets.apply(generator, params, state, 3 * nets.normal(50, 5))
    assert x.shape == (50, 2)
    assert float(jnp.max(jnp.abs(x))) > 3.0
    critic = MLPDiscriminator((7,))
    assert nets.apply(critic, *nets.init(critic, (2,)), x)[0].shape == (50,)


@pytest.mark.parametrize("kind", ["mlp", "dcgan", "resnet"])
def test_images_are_in_the_range_of_tanh(nets: Nets, kind: str):
    """Large parameters drive images to both ends of [-1, 1] and not beyond."""
    generator = nets.generator(kind, (28, 28, 1), norm="batch")
    params, state = nets.init(generator, (5,))
    x, _ = nets.apply(generator, jax.tree.map(lambda a: 50 * a, params), state, nets.normal(4, 5))
    assert float(jnp.min(x)) == -1.0
    assert float(jnp.max(x)) == 1.0


@pytest.mark.parametrize("pieces", [0, 3])
def test_mlp_discriminator_by_projection_against_numpy(nets: Nets, pieces: int):
    """ψ(φ(x)) + ⟨e_y, φ(x)⟩ of the scaled input, φ by LeakyReLU of slope 0.2 or by maxout."""
    critic = MLPDiscriminator((7, 6), maxout_pieces=pieces, input_scale=0.25, num_classes=4)
    params = nets.init(critic, (3, 3, 2))[0]
    x, label = np.asarray(nets.normal(5, 3, 3, 2)), np.asarray([0, 3, 3, 1, 2])
    h = 0.25 * x.reshape(5, -1)
    for name in ("Dense_0", "Dense_1"):
        h = _dense(params[name], h)
        h = h.reshape(5, pieces, -1).max(1) if pieces else np.where(h > 0, h, 0.2 * h)
    expected = _dense(params["logit"]["psi"], h)[:, 0]
    expected += (np.asarray(params["logit"]["class"]["embedding"])[label] * h).sum(1)
    found, _ = nets.apply(critic, params, {}, jnp.asarray(x), jnp.asarray(label))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_conditional_mlps_against_numpy(nets: Nets):
    """The generator concatenates a class's vector to z, the discriminator to x."""
    generator = MLPGenerator((2, 2, 1), 5, (7,), num_classes=3, label_dim=2)
    critic = MLPDiscriminator((7,), num_classes=3, label_dim=2, conditioning="embedding", activation=nn.tanh)
    z, label = np.asarray(nets.normal(4, 5)), np.asarray([2, 0, 1, 2])
    params = nets.init(generator, (5,))[0]
    h = np.concatenate([z, np.asarray(params["class"]["embedding"])[label]], axis=1)
    expected = np.tanh(_dense(params["Dense_1"], np.maximum(_dense(params["Dense_0"], h), 0))).reshape(4, 2, 2, 1)
    x, _ = nets.apply(generator, params, {}, jnp.asarray(z), jnp.asarray(label))
    np.testing.assert_allclose(x, expected, atol=1e-5)
    params = nets.init(critic, (2, 2, 1))[0]
    h = np.concatenate([np.asarray(x).reshape(4, 4), np.asarray(params["class"]["embedding"])[label]], axis=1)
    expected = _dense(params["logit"]["psi"], np.tanh(_dense(params["Dense_0"], h)))[:, 0]
    np.testing.assert_allclose(nets.apply(critic, params, {}, x, jnp.asarray(label))[0], expected, atol=1e-5)


def test_dropout_of_the_mlp_discriminator(nets: Nets):
    """None without keys; with keys of the rates' variance, unbiased, and an example's own."""
    critic = MLPDiscriminator((), input_dropout=0.2)
    params, _ = nets.init(critic, (3,))
    x = nets.normal(1, 3)

    def keys(count: int) -> jax.Array:
        return jax.random.split(jax.random.key(1), 20_000)[:count]

    whole, _ = nets.apply(critic, params, {}, x, train=True)
    assert float(whole[0]) == pytest.approx(float(_dense(params["logit"]["psi"], np.asarray(x))[0, 0]), abs=1e-6)
    tiled = jnp.tile(x, (20_000, 1))
    found = np.asarray(nets.apply(critic, params, {}, tiled, train=True, dropout_keys=keys(20_000))[0])
    terms, bias = np.asarray(x[0] * params["logit"]["psi"]["kernel"][:, 0]), float(params["logit"]["psi"]["bias"][0])
    variance = 0.25 * (terms**2).sum()  # Each term is kept with 0.8 and scaled by 1.25: variance p / (1 - p).
    assert found.mean() == pytest.approx(terms.sum() + bias, abs=4 * float(np.sqrt(variance / 20_000)))
    assert found.var() == pytest.approx(variance, rel=0.05)
    part, _ = nets.apply(critic, params, {}, tiled[:7], train=True, dropout_keys=keys(7))
    np.testing.assert_allclose(part, found[:7], atol=1e-6)
    hidden = MLPDiscriminator((50,), dropout=0.5)
    params, _ = nets.init(hidden, (3,))
    outputs = nets.apply(hidden, params, {}, tiled[:9], train=True, dropout_keys=keys(9))[0]
    assert len(set(np.asarray(outputs).tolist())) == 9


def test_dcgan_starts_as_in_the_paper():
    """Weights have mean 0 and deviation 0.02, gains of batch norm mean 1 and deviation 0.02, biases are 0."""
    for network, shape in [(DCGANGenerator((28, 28, 1)), (100,)), (DCGANDiscriminator(), (28, 28, 1))]:
        params, _ = jax.jit(lambda x, n=network: init_network(n, jax.random.key(0), x))(jnp.zeros((1, *shape)))
        gains = []
        for path, leaf in jax.tree.leaves_with_path(params):
            name, leaf = path[-1].key, np.asarray(leaf, np.float64).ravel()
            if name == "bias":
                assert not leaf.any()
            elif name == "scale":
                gains.append(leaf)
            else:
                assert leaf.mean() == pytest.approx(0.0, abs=5 * 0.02 / np.sqrt(leaf.size))
                assert leaf.std() == pytest.approx(0.02, rel=5 / np.sqrt(2 * leaf.size))
        gain = np.concatenate(gains)
        assert gain.mean() == pytest.approx(1.0, abs=5 * 0.02 / np.sqrt(gain.size))
        assert gain.std() == pytest.approx(0.02, rel=5 / np.sqrt(2 * gain.size))


# Precision and transformations.


_PRODUCTS = {"dot_general", "conv_general_dilated", "strided_conv", "conv_transpose", "conv_kernel_gradient"}


def _product_types(jaxpr: Any) -> Iterator[set[str]]:
    """The operand types of every matrix product and convolution of a jaxpr and of those within it."""
    for equation in jaxpr.eqns:
        if equation.primitive.name in _PRODUCTS:
            yield {str(v.aval.dtype) for v in equation.invars}
        for value in jax.tree.leaves(equation.params, is_leaf=lambda v: hasattr(v, "eqns") or hasattr(v, "jaxpr")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from _product_types(inner)


@pytest.mark.parametrize("kind", ["mlp", "dcgan", "resnet"])
@pytest.mark.parametrize("player", ["generator", "critic", "spectral"])
def test_bfloat16_parameters(nets: Nets, kind: str, player: str):
    """Every product is in bfloat16, gradients included, the power iteration's aside; output and state in float32."""
    shape = (5,) if player == "generator" else (28, 28, 1)
    if player == "generator":
        network = nets.generator(kind, (28, 28, 1), norm="batch", num_classes=3)
    else:
        network = nets.discriminator(kind, norm="batch", num_classes=3, spectral=player == "spectral")
    params, state = nets.init(network, shape)
    x, label = nets.normal(3, *shape), jnp.asarray([0, 1, 2])

    def loss(params: Any) -> tuple[jax.Array, Any]:
        output, new = apply_network(network, params, state, x, label, train=True)
        return jnp.sum(output), (output, new)

    half = jax.tree.map(lambda a: a.astype(jnp.bfloat16), params)
    output, new = jax.eval_shape(loss, half)[1]
    assert output.dtype == jnp.float32
    assert jax.tree.map(lambda a: (a.shape, a.dtype), new) == jax.tree.map(lambda a: (a.shape, a.dtype), state)
    types = list(_product_types(jax.make_jaxpr(jax.grad(loss, has_aux=True))(half).jaxpr))
    assert sum(kinds == {"bfloat16"} for kinds in types) > 4
    if player != "spectral":
        assert all(kinds == {"bfloat16"} for kinds in types)


@pytest.mark.parametrize("kind", ["mlp", "dcgan"])
def test_bfloat16_values_are_near_float32_ones(nets: Nets, kind: str):
    """Eight bits change a generator's images a little, and the statistics of its batch hardly."""
    generator = nets.generator(kind, (28, 28, 1), norm="batch")
    params, state = nets.init(generator, (5,))
    z = nets.normal(64, 5)
    run = jax.jit(lambda p: apply_network(generator, p, state, z, train=True))
    (full, full_state), (half, half_state) = run(params), run(jax.tree.map(lambda a: a.astype(jnp.bfloat16), params))
    assert 1e-5 < float(jnp.linalg.norm(full - half) / jnp.linalg.norm(full)) < 0.05
    for a, b in zip(jax.tree.leaves(full_state), jax.tree.leaves(half_state), strict=True):
        np.testing.assert_allclose(a, b, atol=0.02, rtol=0.02)


@pytest.mark.parametrize("kind", ["mlp", "dcgan"])
def test_vmap_over_parameters(nets: Nets, kind: str):
    """Two critics in one call give what each gives, gradient penalty included."""
    critic = nets.discriminator(kind, norm="layer")
    one = nets.init(critic, (28, 28, 1))[0]
    other, x = jax.tree.map(jnp.sin, one), nets.normal(2, 28, 28, 1)

    def penalty(params: Any, x: jax.Array) -> jax.Array:
        return jnp.sum(jnp.square(jax.grad(lambda x: jnp.sum(apply_network(critic, params, {}, x)[0]))(x)))

    gradient = jax.grad(penalty)
    stacked = jax.tree.map(lambda a, b: jnp.stack([a, b]), one, other)
    found = jax.jit(jax.vmap(gradient, in_axes=(0, None)))(stacked, x)
    for index, params in enumerate((one, other)):
        expected = jax.jit(gradient)(params, x)
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a[index], b, rtol=1e-3, atol=1e-5 * float(1 + jnp.max(jnp.abs(b))))


# What a person can get wrong.


def test_refusals():
    """One sentence each: sizes, norms, outputs, conditionings, labels, classes without a place to go in."""
    z, key = jnp.zeros((2, 5)), jax.random.key(0)
    cases = [
        (DCGANGenerator((30, 30, 1)), z, "no convolutional network for data of shape .30, 30, 1.; give it images"),
        (DCGANDiscriminator(), jnp.zeros((2, 28, 32, 1)), "no convolutional network for data of shape .28, 32, 1."),
        (DCGANDiscriminator(), jnp.zeros((2, 2)), "no convolutional network for data of shape .2,."),
        (ResNetGenerator((30, 30, 1)), z, "no convolutional network for data of shape .30, 30, 1."),
        (ResNetDiscriminator(), jnp.zeros((2, 2)), "no convolutional network for data of shape .2,."),
        (DCGANGenerator((28, 28, 1), norm="group"), z, "norm='group' is unknown"),
        (MLPGenerator((2,), 5, output="sigmoid"), z, "output='sigmoid' is unknown; choose one of tanh, linear"),
        (MLPDiscriminator(conditioning="sum"), z, "conditioning='sum' is unknown; choose one of projection, embedding"),
        (MLPGenerator((2,), 5, num_classes=3), z, "conditional on 3 classes and was given no labels"),
        (MLPDiscriminator(num_classes=3), z, "conditional on 3 classes and was given no labels"),
        (ResNetDiscriminator(num_classes=3), jnp.zeros((2, 28, 28, 1)), "was given no labels"),
    ]
    for network, x, message in cases:
        with pytest.raises(UserError, match=message):
            init_network(network, key, x)
    for kind in (DCGANGenerator, ResNetGenerator):
        with pytest.raises(UserError, match="takes them through its batch norm, and norm='none'"):
            init_network(kind((28, 28, 1), norm="none", num_classes=3), key, z, jnp.zeros(2, jnp.int32))


def test_leaky_relu():
    """Slope 0.2 below zero."""
    np.testing.assert_allclose(leaky_relu(jnp.asarray([-5.0, 0.0, 5.0])), [-1.0, 0.0, 5.0])
