"""Samples and walks by their definitions, and batch statistics that belong to the parameters they are used with."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen_jax import rng
from gen_jax.families.gan import dcgan, evaluation, models, sampling
from gen_jax.families.gan.objectives import Networks, draw_latent, make_fakes

NORMED = Networks(models.MLPGenerator((4, 4, 1), 3, (8, 8), norm="batch"), models.MLPDiscriminator((8,)), "normal")
PLAIN = Networks(models.MLPGenerator((2,), 3, (8,), output="linear"), models.MLPDiscriminator((8,)), "uniform")


# By itself each operation of a network would be compiled alone.
sample = jax.jit(sampling.sample, static_argnames="networks")
generate = jax.jit(sampling.generate, static_argnames="networks")
interpolate = jax.jit(sampling.interpolate, static_argnums=3, static_argnames="networks")
init_network = jax.jit(models.init_network, static_argnums=0)
apply_network = jax.jit(models.apply_network, static_argnames=("network", "train"))


def players_of(networks: Networks, seed: int = 0) -> tuple[dict, dict]:
    label = (jnp.zeros(1, jnp.int32),) if networks.conditional else ()
    params, state = init_network(networks.generator, rng.root(seed), jnp.zeros((1, 3)), *label)
    # Bring the parameters to a state where the layers' statistics are not those of the initialisation.
    random = np.random.default_rng(seed + 9)
    params = jax.tree.map(lambda a: a + 0.3 * random.standard_normal(a.shape, np.float32), params)
    return {"generator": params, "discriminator": {}}, {"generator": state, "discriminator": {"u": jnp.ones(2)}}


def keys_of(count: int):
    """The same keys, made anew for each use."""
    return rng.per_example(rng.root(1), jnp.arange(count))


@functools.partial(jax.jit, static_argnums=1)
def latents(keys, networks: Networks):
    """Z of each key as every sampler draws it."""
    return jax.vmap(lambda key: draw_latent(rng.stream(key, "latent"), networks))(keys)


def test_settled_statistics_are_those_of_the_parameters():
    """The first layer's mean and variance over the z by numpy; and the settled generator is what training sees."""
    params, state = players_of(NORMED)
    settled = sampling.settle_statistics(params, state, rng.root(5), networks=NORMED, num_examples=500)
    z = np.asarray(latents(rng.per_example(rng.stream(rng.root(5), "settle"), jnp.arange(500)), NORMED), np.float64)
    before = z @ np.asarray(params["generator"]["Dense_0"]["kernel"], np.float64)
    first = settled["generator"]["batch_stats"]["Norm_0"]["BatchNorm_0"]
    np.testing.assert_allclose(first["mean"], before.mean(axis=0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(first["var"], before.var(axis=0), rtol=1e-4)
    assert settled["discriminator"] is state["discriminator"]

    z = jnp.asarray(z, jnp.float32)
    generator = NORMED.generator, params["generator"]
    training, _ = apply_network(*generator, state["generator"], z, train=True)
    alone, _ = apply_network(*generator, settled["generator"], z)
    carried, _ = apply_network(*generator, state["generator"], z)
    np.testing.assert_allclose(alone, training, rtol=1e-3, atol=1e-4)
    assert np.abs(carried - training).max() > 0.05, "the carried statistics would have done as well"


@pytest.mark.parametrize("networks", [NORMED, PLAIN], ids=["images", "points"])
def test_a_sample_depends_on_its_key_alone(networks: Networks):
    params, state = players_of(networks)
    many = sample(params, state, keys_of(20), networks=networks)
    few = sample(params, state, keys_of(20)[5:8], networks=networks)
    np.testing.assert_allclose(many[5:8], few, rtol=1e-5, atol=1e-6)
    assert many.shape == (20, *networks.generator.output_shape)
    if many.ndim == 4:
        assert many.min() >= 0 and many.max() <= 1
    z = latents(keys_of(20), networks)
    x, _ = apply_network(networks.generator, params["generator"], state["generator"], z)
    np.testing.assert_allclose(many, x if many.ndim == 2 else (x + 1) / 2, rtol=1e-6, atol=1e-7)


def test_walks_start_and_end_at_their_z_and_keep_a_likely_length():
    """On the great circle the angle grows evenly and the length of equal ends is kept; uniform z go straight."""
    start, end = np.array([3.0, 0.0, 0.0]), np.array([0.0, 3.0, 0.0])
    great_circle = jax.jit(sampling._great_circle)
    path = [np.asarray(great_circle(jnp.float32(start), jnp.float32(end), w)) for w in np.linspace(0, 1, 4)]
    angles = [np.degrees(np.arctan2(p[1], p[0])) for p in path]
    np.testing.assert_allclose(angles, [0, 30, 60, 90], atol=1e-3)
    np.testing.assert_allclose(np.linalg.norm(path, axis=1), 3, rtol=1e-5)
    same = great_circle(jnp.float32(start), jnp.float32(start), 0.3)
    np.testing.assert_allclose(same, start, atol=1e-5)

    for networks in (NORMED, PLAIN):
        params, state = players_of(networks)
        walks = interpolate(params, state, keys_of(4), 5, networks=networks)
        ends = sample(params, state, keys_of(4), networks=networks)
        assert walks.shape[:2] == (3, 5)
        np.testing.assert_allclose(walks[:, 0], ends[:-1], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(walks[:, -1], ends[1:], rtol=1e-4, atol=1e-5)
    z = latents(keys_of(4), PLAIN)
    middle = generate(params, state, 0.5 * (z[:-1] + z[1:]), networks=PLAIN)
    np.testing.assert_allclose(walks[:, 2], middle, rtol=1e-4, atol=1e-5)


def walks_of_z(latent: str) -> tuple[np.ndarray, np.ndarray]:
    """The z [3, 7, 5] of walks through a generator that leaves them as they are, and their ends [4, 5], in float64."""
    networks = Networks(models.MLPGenerator((5,), 5, (), output="linear"), models.MLPDiscriminator(()), latent)
    params = {"generator": {"Dense_0": {"kernel": jnp.eye(5), "bias": jnp.zeros(5)}}, "discriminator": {}}
    state = {"generator": {}, "discriminator": {}}
    sampled = interpolate(params, state, keys_of(4), 7, networks=networks)
    ends, _ = apply_network(networks.generator, params["generator"], {}, latents(keys_of(4), networks))
    return np.asarray(sampled, np.float64), np.asarray(ends, np.float64)


def test_normal_z_walk_along_great_circles_and_uniform_z_straight():
    """Z turns at one rate about the origin: z'' = −Ω² z, with the angle Ω of the ends; without force it goes straight.

    Of evenly spaced places of z'' = −Ω² z the neighbours' sum is 2 cos(Ω h) times the place between them.
    """
    walks, z = walks_of_z("normal")
    np.testing.assert_allclose(walks[:, 0], z[:-1], atol=1e-6)
    np.testing.assert_allclose(walks[:, -1], z[1:], atol=1e-6)
    for walk, start, end in zip(walks, z[:-1], z[1:], strict=True):
        angle = np.arccos(start @ end / np.sqrt((start @ start) * (end @ end)))
        assert 0.1 < angle < 3.0
        np.testing.assert_allclose(walk[2:] + walk[:-2], 2 * np.cos(angle / 6) * walk[1:-1], atol=1e-5)
    walks, z = walks_of_z("uniform")
    np.testing.assert_allclose(
        walks, z[:-1, None] + np.linspace(0, 1, 7)[None, :, None] * (z[1:] - z[:-1])[:, None], atol=1e-6
    )


def test_every_class_of_a_conditional_generator():
    """Row c is the generator told c, with the same z in each column; samples take all classes."""
    generator = models.MLPGenerator((4, 4, 1), 3, (8,), num_classes=3)
    networks = Networks(generator, models.MLPDiscriminator((8,), num_classes=3))
    params, state = players_of(networks)
    classes = jax.jit(sampling.sample_classes, static_argnames="networks")(params, state, keys_of(6), networks=networks)
    z = latents(keys_of(6), networks)
    for c in range(3):
        row = generate(params, state, z, jnp.full(6, c), networks=networks)
        np.testing.assert_allclose(classes[c], row, rtol=1e-5, atol=1e-6)
    assert np.abs(classes[0] - classes[1]).max() > 0.01
    samples = sample(params, state, keys_of(60), networks=networks)
    many_z = latents(keys_of(60), networks)
    told = [generate(params, state, many_z, jnp.full(60, c), networks=networks) for c in range(3)]
    which = np.argmin([np.abs(samples - t).max(axis=(1, 2, 3)) for t in told], axis=0)
    assert set(which) == {0, 1, 2}


def test_values_of_a_test_batch():
    """By hand, example by example: both logits, the value of the game, who is right, and the modes reached."""
    networks = Networks(models.MLPGenerator((2,), 2, (), output="linear"), models.MLPDiscriminator(()))
    params = {
        "generator": {"Dense_0": {"kernel": jnp.eye(2), "bias": jnp.array([1.0, 0.0])}},
        "discriminator": {"logit": {"psi": {"kernel": jnp.array([[-2.0], [0.0]]), "bias": jnp.array([1.0])}}},
    }
    state = {"generator": {}, "discriminator": {}}
    points = np.random.default_rng(0).standard_normal((50, 2)).astype(np.float32)
    batch = {"point": jnp.asarray(points), "index": jnp.arange(50), "label": jnp.zeros(50, jnp.int32)}
    centres = np.array([[1.0, 0.0], [-5.0, 0.0]])
    options = {"networks": networks, "centres": centres, "radius": 1.0}
    values = evaluation.game_values(params, state, rng.root(0), batch, loss="minimax", **options)
    fake, _ = make_fakes(params, state, rng.root(0), batch, networks=networks)
    fake = np.asarray(fake, np.float64)
    real_logit, fake_logit = 1 - 2 * points[:, 0].astype(np.float64), 1 - 2 * fake[:, 0]
    expected = -np.log1p(np.exp(-real_logit)) - np.log1p(np.exp(fake_logit))
    np.testing.assert_allclose(values["value"], expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(values["accuracy"], 0.5 * (real_logit > 0) + 0.5 * (fake_logit < 0))
    near = np.linalg.norm(fake - centres[0], axis=1) <= 1
    closest = np.linalg.norm(fake - centres[0], axis=1) < np.linalg.norm(fake - centres[1], axis=1)
    np.testing.assert_array_equal(values["in_mode"][:, 0], near & closest)
    means = {name: np.mean(np.asarray(value, np.float64), axis=0) for name, value in values.items()}
    numbers = evaluation.report(means, num_examples=50, min_count=int(near.sum()))
    assert numbers["fake_modes_covered"] == 1 and numbers["fake_high_quality"] == pytest.approx(near.mean())
    assert evaluation.report(means, num_examples=50, min_count=int(near.sum()) + 1)["fake_modes_covered"] == 0
    wasserstein = evaluation.game_values(params, state, rng.root(0), batch, networks=networks, loss="wasserstein")
    assert not {"value", "accuracy", "in_mode"} & wasserstein.keys()
    squares = evaluation.game_values(params, state, rng.root(0), batch, networks=networks, loss="least_squares")
    np.testing.assert_allclose(squares["accuracy"], 0.5 * (real_logit > 0.5) + 0.5 * (fake_logit < 0.5))


def test_dcgan_settles_too():
    networks = Networks(dcgan.DCGANGenerator((28, 28, 1), 3, 2), dcgan.DCGANDiscriminator(2))
    params, state = init_network(networks.generator, rng.root(0), jnp.zeros((1, 3)))
    both = {"generator": params, "discriminator": {}}, {"generator": state, "discriminator": {}}
    settled = sampling.settle_statistics(*both, rng.root(0), networks=networks, num_examples=64)
    z = latents(rng.per_example(rng.stream(rng.root(0), "settle"), jnp.arange(64)), networks)
    training, _ = apply_network(networks.generator, params, state, z, train=True)
    alone, _ = apply_network(networks.generator, params, settled["generator"], z)
    np.testing.assert_allclose(alone, training, rtol=1e-3, atol=2e-4)
