"""The networks under test, with numbers of which none is special."""

import types
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen_jax.families.gan.dcgan import DCGANDiscriminator, DCGANGenerator
from gen_jax.families.gan.models import MLPDiscriminator, MLPGenerator, apply_network, init_network
from gen_jax.families.gan.resnet import ResNetDiscriminator, ResNetGenerator


def _generator(kind: str, shape: tuple[int, ...], **options: Any) -> nn.Module:
    if kind == "mlp":
        return MLPGenerator(shape, 5, (7,), **options)
    return {"dcgan": DCGANGenerator, "resnet": ResNetGenerator}[kind](shape, 5, 2, **options)


def _discriminator(kind: str, **options: Any) -> nn.Module:
    if kind == "mlp":
        return MLPDiscriminator((7, 6), **options)
    return {"dcgan": DCGANDiscriminator, "resnet": ResNetDiscriminator}[kind](2, **options)


def _normal(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def _init(network: nn.Module, shape: tuple[int, ...]) -> tuple[Any, Any]:
    """Parameters and state of the right shapes with numpy's numbers, none of which is the 0 or 1 where many start."""
    inputs = (jnp.zeros((2, *shape)), jnp.zeros(2, jnp.int32))
    return _fill(jax.eval_shape(lambda key: init_network(network, key, *inputs), jax.random.key(0)))


def _fill(shapes: Any) -> Any:
    """Numbers of the size of initial ones; to compile the initialisation would take longer than all else."""
    random = np.random.default_rng(3)

    def fill(path: Any, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        name, noise = path[-1].key, random.standard_normal(leaf.shape)
        if name == "kernel":
            noise /= np.sqrt(np.prod(leaf.shape[:-1]))
        elif name in ("scale", "var") or name.endswith("sigma"):
            noise = 1 + np.abs(noise) / 10
        elif name in ("bias", "mean"):
            noise = noise / 5
        return jnp.asarray(noise, leaf.dtype)

    return jax.tree.map_with_path(fill, shapes)


# By itself each operation of a network would be compiled alone.
_apply = jax.jit(apply_network, static_argnames=("network", "train", "axis_name"))


@pytest.fixture(scope="session")
def nets() -> types.SimpleNamespace:
    """`generator(kind, shape, **options)`, `discriminator(kind, **options)`, `init`, `fill`, `apply` and `normal`."""
    return types.SimpleNamespace(
        generator=_generator, discriminator=_discriminator, init=_init, fill=_fill, apply=_apply, normal=_normal
    )
