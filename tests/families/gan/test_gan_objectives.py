"""What each player minimises, put together by hand; what it must not mix, break or leave unsaid."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special

from gen_jax import rng
from gen_jax.contracts import UserError
from gen_jax.families import gan
from gen_jax.families.gan import dcgan, models, objectives, resnet
from gen_jax.families.gan.objectives import Networks
from gen_jax.ops import pixels

SIZE = 64


def linear_game() -> Networks:
    """A linear generator of the plane and a linear discriminator: everything has a closed form."""
    return Networks(models.MLPGenerator((2,), 2, (), output="linear"), models.MLPDiscriminator(()))


def params_of(weight: np.ndarray, bias: float = 0.3) -> dict:
    """G(z) = z A + (1, −2), D(x) = w·x + b."""
    matrix = jnp.array([[0.5, 0.0], [0.2, 1.5]])
    return {
        "generator": {"Dense_0": {"kernel": matrix, "bias": jnp.array([1.0, -2.0])}},
        "discriminator": {"logit": {"psi": {"kernel": jnp.float32(weight)[:, None], "bias": jnp.array([bias])}}},
    }


def batch_of(step: int = 0) -> dict:
    points = np.random.default_rng(0).standard_normal((SIZE, 2)).astype(np.float32)
    return {
        "point": jnp.asarray(points),
        "label": jnp.arange(SIZE, dtype=jnp.int32) % 3,
        "index": jnp.arange(100, 100 + SIZE, dtype=jnp.uint32),
        "step": jnp.int32(step),
    }


# By itself each operation of an objective would be compiled alone.
discriminator_objective = jax.jit(
    objectives.discriminator_objective, static_argnames=("networks", "loss", "penalty", "penalty_every", "real_label")
)
generator_objective = jax.jit(objectives.generator_objective, static_argnames=("networks", "loss"))
make_fakes = jax.jit(objectives.make_fakes, static_argnames="networks")
apply_network = jax.jit(models.apply_network, static_argnames=("network", "train"))
init_network = jax.jit(models.init_network, static_argnums=0)
STATE = {"generator": {}, "discriminator": {}}
WEIGHT = np.array([0.6, -1.1])


def logits_by_hand(key) -> tuple[np.ndarray, np.ndarray]:
    batch, params = batch_of(), params_of(WEIGHT)
    keys = rng.per_example(rng.stream(key, "latent"), batch["index"])
    z = np.asarray(jax.vmap(lambda key: jax.random.normal(key, (2,)))(keys), np.float64)
    fake = z @ np.asarray(params["generator"]["Dense_0"]["kernel"], np.float64) + np.array([1.0, -2.0])
    return np.asarray(batch["point"], np.float64) @ WEIGHT + 0.3, fake @ WEIGHT + 0.3


BY_HAND = {
    "minimax": (lambda r, f: -np.log(scipy.special.expit(r)) - np.log(scipy.special.expit(-f)),
                lambda f: np.log(scipy.special.expit(-f))),
    "non_saturating": (lambda r, f: -np.log(scipy.special.expit(r)) - np.log(scipy.special.expit(-f)),
                       lambda f: -np.log(scipy.special.expit(f))),
    "wasserstein": (lambda r, f: f - r, lambda f: -f),
    "hinge": (lambda r, f: np.maximum(0, 1 - r) + np.maximum(0, 1 + f), lambda f: -f),
    "least_squares": (lambda r, f: 0.5 * (r - 1) ** 2 + 0.5 * f**2, lambda f: 0.5 * (f - 1) ** 2),
}  # fmt: skip


@pytest.mark.parametrize("loss", BY_HAND)
def test_both_objectives_by_hand(loss: str):
    """The mean over the batch of each pair of losses, of D at the points and at z A + c."""
    key, networks = rng.root(3), linear_game()
    assert BY_HAND.keys() == objectives.LOSSES.keys()
    real, fake = logits_by_hand(key)
    found, (state, terms) = discriminator_objective(
        params_of(WEIGHT), STATE, key, batch_of(), networks=networks, loss=loss
    )
    assert float(found) == pytest.approx(np.mean(BY_HAND[loss][0](real, fake)), rel=1e-5)
    assert float(terms["real_logit"]) == pytest.approx(real.mean(), rel=1e-4)
    assert float(terms["fake_logit"]) == pytest.approx(fake.mean(), rel=1e-5)
    assert state == STATE and ("warning_loss_near_zero" in terms) == (loss != "wasserstein")
    found, _ = generator_objective(params_of(WEIGHT), STATE, key, batch_of(), networks=networks, loss=loss)
    assert float(found) == pytest.approx(np.mean(BY_HAND[loss][1](fake)), rel=1e-5)


def test_the_real_label_is_for_cross_entropies():
    key = rng.root(3)
    real, fake = logits_by_hand(key)
    found, _ = discriminator_objective(
        params_of(WEIGHT), STATE, key, batch_of(), networks=linear_game(), real_label=0.9
    )
    real_part = -0.9 * np.log(scipy.special.expit(real)) - 0.1 * np.log(scipy.special.expit(-real))
    assert float(found) == pytest.approx(np.mean(real_part - np.log(scipy.special.expit(-fake))), rel=1e-5)


@pytest.mark.parametrize(
    ("penalty", "weight", "expected"),
    [("gradient", 10.0, 10 * (np.hypot(0.6, 1.1) - 1) ** 2), ("r1", 3.0, 1.5 * (0.36 + 1.21))],
)
def test_penalties_have_their_weights_and_come_every_nth_round(penalty: str, weight: float, expected: float):
    """λ (‖w‖ − 1)² and γ/2 ‖w‖² of a linear critic (G11); in every third round three times that."""
    networks, key = linear_game(), rng.root(3)

    def loss(step: int, **options) -> float:
        options = {"networks": networks, "loss": "wasserstein"} | options
        return float(discriminator_objective(params_of(WEIGHT), STATE, key, batch_of(step), **options)[0])

    plain = loss(0)
    dense = loss(0, penalty=penalty, penalty_weight=weight) - plain
    assert dense == pytest.approx(expected, rel=1e-4)
    lazy = [loss(s, penalty=penalty, penalty_weight=weight, penalty_every=3) - plain for s in range(6)]
    np.testing.assert_allclose(lazy, np.array([0, 0, 3, 0, 0, 3]) * expected, rtol=1e-4, atol=1e-6)
    assert np.mean(lazy) == pytest.approx(dense, rel=1e-4)


CRITICS = {
    "mlp": models.MLPDiscriminator((8,), num_classes=3),
    "dcgan": dcgan.DCGANDiscriminator(2, norm="layer", num_classes=3),
    "spectral": dcgan.DCGANDiscriminator(2, norm="none", spectral=True, num_classes=3, conditioning="embedding"),
    "resnet": resnet.ResNetDiscriminator(2, num_classes=3),
}


@pytest.mark.parametrize(
    ("critic", "penalty"),
    [
        ("mlp", "gradient"),
        ("dcgan", "gradient"),
        ("mlp", "r1"),
        ("spectral", "r1"),
        *(pytest.param(critic, "gradient", marks=pytest.mark.slow) for critic in ("spectral", "resnet")),
        *(pytest.param(critic, "r1", marks=pytest.mark.slow) for critic in ("dcgan", "resnet")),
    ],
)
def test_penalties_of_a_batch_are_those_of_each_example(critic: str, penalty: str):
    """The gradient of the sum is the gradient of each; so is what training follows, the derivative of the penalty."""
    network = CRITICS[critic]
    networks = Networks(models.MLPGenerator((28, 28, 1), 2, (), num_classes=3), network)
    random, size = np.random.default_rng(0), 4
    real, fake = (jnp.asarray(random.standard_normal((size, 28, 28, 1)), jnp.float32) for _ in range(2))
    label = jnp.array([0, 2, 1, 2])
    batch = {"index": jnp.arange(7, 7 + size), "label": label}
    params, state = init_network(network, rng.root(0), real, label)

    def at_once(params):
        return objectives.slope_penalties(
            params, state, rng.root(1), real, fake, batch, networks=networks, penalty=penalty
        )

    def one_by_one(params):
        def alone(example):
            key, real, fake, label = example

            def one(x):
                return models.apply_network(network, params, state, x[None], label[None])[0][0]

            return gan.gradient_penalty(one, key, real, fake) if penalty == "gradient" else gan.r1_penalty(one, real)

        keys = rng.per_example(rng.stream(rng.root(1), "penalty"), batch["index"])
        return jax.lax.map(alone, (keys, real, fake, label))

    (values, slope), (expected, expected_slope) = (
        jax.jit(lambda p, f=f: (f(p), jax.grad(lambda p: jnp.sum(f(p) ** 2))(p)))(params) for f in (at_once, one_by_one)
    )
    np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-6)
    assert np.std(values) > 0
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), slope, expected_slope)


@pytest.mark.parametrize("penalty", ["gradient", "r1"])
def test_a_penalty_and_batch_norm_are_refused_with_the_reason(penalty: str):
    networks = Networks(models.MLPGenerator((2,), 2, ()), models.MLPDiscriminator((8,), norm="batch"))
    params, state = init_network(networks.discriminator, rng.root(0), jnp.zeros((1, 2)))
    both, states = params_of(WEIGHT) | {"discriminator": params}, STATE | {"discriminator": state}
    with pytest.raises(UserError, match="each output depends on the whole batch"):
        objectives.discriminator_objective(both, states, rng.root(0), batch_of(), networks=networks, penalty=penalty)
    value, _ = discriminator_objective(both, states, rng.root(0), batch_of(), networks=networks)
    assert np.isfinite(float(value))


def test_a_fake_follows_its_example_and_not_its_place():
    """Z is keyed by the index: a batch in another order has the same fakes in that order."""
    networks, order = linear_game(), np.random.default_rng(1).permutation(SIZE)
    batch = batch_of()
    shuffled = {k: v if k == "step" else v[order] for k, v in batch.items()}
    one, other = (make_fakes(params_of(WEIGHT), STATE, rng.root(0), b, networks=networks)[0] for b in (batch, shuffled))
    assert np.array_equal(one[order], other) and not np.array_equal(one, other)
    uniform = Networks(networks.generator, networks.discriminator, "uniform")
    draw = jax.jit(jax.vmap(lambda key: objectives.draw_latent(key, uniform)))
    z = draw(rng.per_example(rng.root(0), jnp.arange(4000)))
    assert z.min() >= -1 and z.max() <= 1 and float(jnp.var(z)) == pytest.approx(1 / 3, rel=0.05)


def test_one_pass_over_real_and_fake_is_two_passes():
    """Without batch norm the two batches are joined, dropout keys and labels with them; the logits are the same."""
    networks = Networks(
        models.MLPGenerator((2,), 2, (), num_classes=3), models.MLPDiscriminator((8,), dropout=0.5, num_classes=3)
    )
    batch = batch_of()
    params, state = init_network(networks.discriminator, rng.root(0), jnp.zeros((1, 2)), jnp.zeros(1, jnp.int32))
    real, fake = batch["point"], batch["point"] * 2 + 1
    key = rng.root(5)
    judge_both = jax.jit(objectives.judge_both, static_argnames="networks")
    real_logit, fake_logit, _ = judge_both(params, state, key, real, fake, batch, networks=networks)
    for kind, x, logit in (("real", real, real_logit), ("fake", fake, fake_logit)):
        keys = rng.per_example(rng.stream(key, f"{kind}_dropout"), batch["index"])
        alone, _ = apply_network(
            networks.discriminator, params, state, x, batch["label"], train=True, dropout_keys=keys
        )
        np.testing.assert_allclose(logit, alone, rtol=1e-5, atol=1e-6)
    undropped, _ = apply_network(networks.discriminator, params, state, real, batch["label"])
    assert np.abs(undropped - real_logit).max() > 0.01, "dropout did nothing; the comparison would be empty"


@pytest.mark.parametrize("shape", [(2,), (4, 3, 2)])
def test_spread_is_the_root_of_the_mean_variance(shape: tuple[int, ...]):
    """By numpy in float64, of points and of images far from the origin; on four devices that of all their examples."""
    x = np.random.default_rng(4).standard_normal((32, *shape)) * np.arange(1, 1 + shape[-1]) + 7
    expected = np.sqrt(x.reshape(32, -1).var(axis=0).mean())
    assert float(jax.jit(objectives.spread)(jnp.float32(x))) == pytest.approx(expected, rel=1e-5)
    parts = jnp.float32(x).reshape(4, 8, *shape)
    on_devices = jax.jit(jax.vmap(lambda part: objectives.spread(part, "devices"), axis_name="devices"))(parts)
    np.testing.assert_allclose(on_devices, np.full(4, expected), rtol=1e-5)
    assert np.abs(jax.jit(jax.vmap(objectives.spread))(parts) - expected).max() > 0.01 * expected


def test_signs_of_trouble_have_names():
    """A generator of one point, and a discriminator that knows, are 1 in the metrics; healthy ones are 0."""
    networks, key, batch = linear_game(), rng.root(3), batch_of()
    healthy = params_of(WEIGHT)
    _, (_, terms) = generator_objective(healthy, STATE, key, batch, networks=networks)
    fake, _ = make_fakes(healthy, STATE, key, batch, networks=networks)
    spread = [np.sqrt(np.asarray(x, np.float64).var(axis=0).mean()) for x in (fake, batch["point"])]
    assert float(terms["diversity"]) == pytest.approx(spread[0] / spread[1], rel=1e-5)
    assert float(terms["warning_collapsed"]) == 0
    one_point = healthy | {"generator": jax.tree.map(lambda a: a * 1e-3, healthy["generator"])}
    _, (_, terms) = generator_objective(one_point, STATE, key, batch, networks=networks)
    assert float(terms["warning_collapsed"]) == 1 and float(terms["diversity"]) < 0.01

    far = batch | {"point": batch["point"] + 100.0}
    knows = params_of(np.array([1.0, 1.0]), bias=-90.0)
    for params, points, expected in ((knows, far, 1), (healthy, batch, 0)):
        for loss in ("minimax", "hinge"):
            _, (_, terms) = discriminator_objective(params, STATE, key, points, networks=networks, loss=loss)
            assert float(terms["warning_loss_near_zero"]) == expected
    # With softened labels the least loss is their entropy, of a discriminator that is as sure as it should be.
    fakes_far = healthy | {"generator": {"Dense_0": {"kernel": jnp.eye(2), "bias": jnp.array([-100.0, -100.0])}}}
    at_origin = batch | {"point": jnp.zeros((SIZE, 2))}
    knows_softly = params_of(np.array([1.0, 1.0]), bias=np.log(9.0))["discriminator"]  # D = 0.9 at the real points.
    for label, expected in ((0.9, 1), (0.6, 0)):
        _, (_, terms) = discriminator_objective(
            fakes_far | {"discriminator": knows_softly}, STATE, key, at_origin, networks=networks, real_label=label
        )
        assert float(terms["warning_loss_near_zero"]) == expected
    assert objectives.warnings_of("minimax").keys() == {
        "discriminator/warning_loss_near_zero",
        "generator/warning_collapsed",
    }
    assert objectives.warnings_of("wasserstein").keys() == {"generator/warning_collapsed"}


def test_without_looking_ahead_the_unrolled_objective_is_the_plain_one():
    networks, key, batch, params = linear_game(), rng.root(3), batch_of(), params_of(WEIGHT)
    tx = optax.adam(1e-2, eps_root=1e-16)
    opt_state = {"discriminator": tx.init(params["discriminator"])}

    def unrolled(g, steps):
        both = params | {"generator": g}
        return objectives.unrolled_generator_objective(
            both, STATE, key, batch, opt_state=opt_state, tx=tx, num_steps=steps, networks=networks
        )[0]

    def plain(g):
        both = params | {"generator": g}
        return objectives.generator_objective(both, STATE, key, batch, networks=networks, loss="minimax")[0]

    (value, slope), (expected, expected_slope) = (
        jax.jit(jax.value_and_grad(f))(params["generator"]) for f in (lambda g: unrolled(g, 0), plain)
    )
    unmoved = float(expected)
    assert float(value) == unmoved
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), slope, expected_slope))

    # One update ahead, by hand: the discriminator's own objective on the same batch and z, and its own optimiser.
    def ahead(g):
        def d_loss(d):
            return objectives.discriminator_objective(
                {"generator": g, "discriminator": d}, STATE, key, batch, networks=networks, loss="minimax"
            )[0]

        grads = jax.grad(d_loss)(params["discriminator"])
        updates, _ = tx.update(grads, opt_state["discriminator"], params["discriminator"])
        moved = optax.apply_updates(params["discriminator"], updates)
        both = {"generator": g, "discriminator": moved}
        return objectives.generator_objective(both, STATE, key, batch, networks=networks, loss="minimax")[0]

    (value, slope), (expected, expected_slope) = (
        jax.jit(jax.value_and_grad(f))(params["generator"]) for f in (lambda g: unrolled(g, 1), ahead)
    )
    assert float(value) == pytest.approx(float(expected), rel=1e-6) and float(value) != unmoved
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), slope, expected_slope)


@pytest.mark.parametrize(("delta", "value"), [pytest.param(1.0, -1.163451, marks=pytest.mark.slow), (2.0, -0.712633)])
def test_a_trained_discriminator_reaches_the_value_of_the_best_one(delta: float, value: float):
    """Real N(0, I), fakes N((δ, 0), I): the trained value of the game is within 2 % of 2 JSD − log 4 (G1)."""
    networks = Networks(models.MLPGenerator((2,), 2, (), output="linear"), models.MLPDiscriminator((32,)))
    generator = {"Dense_0": {"kernel": jnp.eye(2), "bias": jnp.array([delta, 0.0])}}
    params, _ = init_network(networks.discriminator, rng.root(0), jnp.zeros((1, 2)))
    tx = optax.adam(optax.linear_schedule(1e-2, 0.0, 600))

    def batch_at(step, size):
        key = rng.at_step(rng.root(7), step)
        index = jnp.arange(size, dtype=jnp.uint32)
        return {"point": jax.random.normal(rng.stream(key, "real"), (size, 2)), "index": index, "label": index}

    def loss(d, step, size):
        both = {"generator": generator, "discriminator": d}
        key = rng.at_step(rng.root(8), step)
        return objectives.discriminator_objective(both, STATE, key, batch_at(step, size), networks=networks)[0]

    @jax.jit
    def train(params):
        def update(carry, step):
            params, opt_state = carry
            updates, opt_state = tx.update(jax.grad(loss)(params, step, 512), opt_state)
            return (optax.apply_updates(params, updates), opt_state), None

        (params, _), _ = jax.lax.scan(update, (params, tx.init(params)), jnp.arange(600))
        return params

    of_many = jax.jit(lambda d: loss(d, 10_000, 100_000))
    assert -float(of_many(train(params))) == pytest.approx(value, rel=0.02)
    # Not by chance: an untrained one is at 2 log ½ or below.
    assert -float(of_many(params)) < value - 0.1
    grid = jnp.linspace(-12.0, 14.0, 20_001)
    normal = jax.scipy.stats.norm.logpdf
    assert float(gan.value_at_optimum(normal, lambda x: normal(x, delta), grid)) == pytest.approx(value, abs=2e-5)


def batch_of_images(size: int = 8) -> dict:
    images = np.random.default_rng(2).integers(0, 256, (size, 4, 4, 1), dtype=np.uint8)
    return {
        "image": jnp.asarray(images),
        "label": jnp.arange(size, dtype=jnp.int32) % 3,
        "index": jnp.arange(size, dtype=jnp.uint32),
        "step": jnp.int32(0),
    }


def test_with_batch_norm_real_and_fake_are_batches_of_their_own():
    """Each logit is that of its own batch alone; joined, the other batch would move the statistics. State goes on."""
    discriminator = models.MLPDiscriminator((8,), norm="batch")
    networks, batch = Networks(models.MLPGenerator((4, 4, 1), 2, (4,)), discriminator), batch_of_images()
    real = pixels.examples_of(batch)
    fake = 3 * real + 1
    params, state = init_network(discriminator, rng.root(0), real)
    judge_both = jax.jit(objectives.judge_both, static_argnames="networks")
    real_logit, fake_logit, new = judge_both(params, state, rng.root(1), real, fake, batch, networks=networks)
    alone, after_real = apply_network(discriminator, params, state, real, train=True)
    np.testing.assert_allclose(real_logit, alone, rtol=1e-5)
    alone, after_both = apply_network(discriminator, params, after_real, fake, train=True)
    np.testing.assert_allclose(fake_logit, alone, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), new, after_both)
    joined, _ = apply_network(discriminator, params, state, jnp.concatenate([real, fake]), train=True)
    assert np.abs(joined[:8] - real_logit).max() > 0.01


@pytest.mark.parametrize("options", [{"norm": "batch"}, {"dropout": 0.5}], ids=["batch_norm", "dropout"])
def test_the_generator_meets_the_discriminator_as_it_trains(options: dict):
    """In the generator's turn D has the statistics of the fakes, and dropout by the example's keys."""
    discriminator = models.MLPDiscriminator((8,), **options)
    networks, batch = Networks(models.MLPGenerator((4, 4, 1), 2, (4,)), discriminator), batch_of_images()
    g_params, _ = init_network(networks.generator, rng.root(3), jnp.zeros((1, 2)))
    d_params, d_state = init_network(discriminator, rng.root(0), jnp.zeros((1, 4, 4, 1)))
    params, state = {"generator": g_params, "discriminator": d_params}, {"generator": {}, "discriminator": d_state}
    loss, (new, _) = generator_objective(params, state, rng.root(1), batch, networks=networks)
    fake, _ = make_fakes(params, state, rng.root(1), batch, networks=networks)
    keys = None
    if "dropout" in options:
        keys = rng.per_example(rng.stream(rng.root(1), "fake_dropout"), batch["index"])
    logit, _ = apply_network(discriminator, d_params, d_state, fake, train=True, dropout_keys=keys)
    assert float(loss) == pytest.approx(float(np.mean(np.logaddexp(0, -np.asarray(logit, np.float64)))), rel=1e-5)
    plain, _ = apply_network(discriminator, d_params, d_state, fake)
    assert np.abs(plain - logit).max() > 1e-3
    jax.tree.map(np.testing.assert_array_equal, new["discriminator"], d_state)
