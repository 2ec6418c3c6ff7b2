"""The train step: the moving average, clipping, several steps a call, mixed precision, masked sums."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gen_jax import rng
from gen_jax.contracts import UserError
from gen_jax.train import parallel
from gen_jax.train.state import TrainState, init_state
from gen_jax.train.step import Ema, make_train_step, masked_sums, update_ema


def _linear(params: Any, model_state: Any, key: Any, batch: Any) -> Any:
    """A loss whose gradient is the mean of the batch, whatever the parameters."""
    del key
    return jnp.vdot(params["w"], jnp.mean(batch["g"], axis=0)), (model_state, {})


def _regression(params: Any, model_state: Any, key: Any, batch: Any) -> Any:
    """Least squares with noise on the inputs, keyed by the example."""
    keys = rng.per_example(rng.stream(key, "noise"), batch["index"])
    noise = jax.vmap(lambda k, x: jax.random.normal(k, x.shape, x.dtype))(keys, batch["x"])
    x = (batch["x"] + 0.1 * noise).astype(params["w"].dtype)
    error = jnp.asarray(x @ params["w"], jnp.float32) - batch["y"]
    loss = jnp.mean(error**2)
    return loss, ({"seen": model_state["seen"] + 1.0}, {"mse": loss, "step": batch["step"]})


def _regression_batches(count: int, size: int = 16, seed: int = 0) -> dict[str, np.ndarray]:
    """Batches [count, size, ...] of y = x · (1, −2, 3)."""
    x = np.random.default_rng(seed).standard_normal((count, size, 3)).astype(np.float32)
    index = np.arange(count * size, dtype=np.uint32).reshape(count, size)
    return {"x": x, "y": x @ np.array([1.0, -2.0, 3.0], np.float32), "index": index}


def _regression_state(tx: optax.GradientTransformation, *, ema: bool = False) -> TrainState:
    params = {"w": jnp.zeros(3)}
    return init_state(params, tx, rng.root(0), model_state={"seen": jnp.zeros(())}, ema=ema)


def _at(batches: dict[str, np.ndarray], step: int) -> dict[str, np.ndarray]:
    return {name: array[step] for name, array in batches.items()}


def _walk(ema: Ema, gradients: np.ndarray, learning_rate: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """Runs SGD on `_linear`: the parameters before and after every step, float64, and the average after the last."""
    tx = optax.sgd(learning_rate)
    state = init_state({"w": jnp.array([1.0, -1.0])}, tx, rng.root(0), ema=True)
    step = jax.jit(make_train_step(_linear, tx, ema=ema, steps_per_call=len(gradients)))
    state, _ = step(state, {"g": gradients[:, None]})
    path = np.array([1.0, -1.0]) - learning_rate * np.concatenate([np.zeros((1, 2)), np.cumsum(gradients, 0)])
    np.testing.assert_allclose(state.params["w"], path[-1], rtol=1e-4)
    return path, np.asarray(state.ema_params["w"], np.float64)


_GRADIENTS = np.random.default_rng(0).standard_normal((40, 2)).astype(np.float32)


@pytest.mark.parametrize("decay", [0.0, 0.9, 0.99])
def test_ema_closed_form(decay: float):
    """After n steps the average is dⁿ θ_0 + (1 − d) Σ_t d^(n − t) θ_t, summed in float64."""
    path, average = _walk(Ema(decay=decay), _GRADIENTS)
    weights = (1 - decay) * decay ** np.arange(len(_GRADIENTS) - 1, -1, -1.0)
    expected = decay ** len(_GRADIENTS) * path[0] + weights @ path[1:]
    np.testing.assert_allclose(average, expected, rtol=2e-5, atol=2e-6)


def test_the_average_weighs_each_step_by_how_long_ago_it_was():
    """Of n steps on from θ_0, θ̄ = dⁿ θ_0 + (1 − d) Σ_t d^(n − t) θ_t, for every leaf of the parameters."""
    random, decay, count = np.random.default_rng(2), 0.8, 12
    path = [{"w": random.standard_normal((3, 2)), "b": random.standard_normal(4)} for _ in range(count + 1)]
    average = jax.tree.map(jnp.float32, path[0])
    for params in path[1:]:
        average = update_ema(average, jax.tree.map(jnp.float32, params), jnp.float32(1 - decay))
    for name in ("w", "b"):
        expected = decay**count * path[0][name]
        expected = expected + sum((1 - decay) * decay ** (count - t) * path[t][name] for t in range(1, count + 1))
        np.testing.assert_allclose(average[name], expected, rtol=1e-5, atol=1e-6)


def test_ema_uses_the_new_parameters():
    """After one step the average is (1 − d) θ_1 + d θ_0 and not θ_0."""
    path, average = _walk(Ema(decay=0.75), _GRADIENTS[:1])
    np.testing.assert_allclose(average, 0.25 * path[1] + 0.75 * path[0], rtol=1e-6)


def test_ema_of_constant_parameters_is_bitwise_constant():
    """A run that never moves leaves the average equal to the parameters to the bit, at any decay."""
    for decay in (0.1, 0.9, 0.9999):
        params = {"w": jnp.asarray(np.random.default_rng(1).standard_normal(1000), jnp.float32)}
        average = params
        for _ in range(20):
            average = update_ema(average, params, jnp.asarray(1 - decay))
        np.testing.assert_array_equal(average["w"], params["w"])


def test_ema_forgets_by_half_in_a_half_life():
    """A half-life h is the decay 2^(−1/h): after h steps of a constant target half of the way is left."""
    for half_life in (1.0, 10.0, 6931.1):
        rate = float(Ema(half_life=half_life).rate_at(jnp.asarray(1)))
        assert (1 - rate) ** half_life == pytest.approx(0.5, rel=1e-6)
    assert float(Ema(half_life=1.0).rate_at(jnp.asarray(5))) == pytest.approx(0.5, rel=1e-6)
    by_half_life = _walk(Ema(half_life=4.0), _GRADIENTS)[1]
    by_decay = _walk(Ema(decay=2 ** (-1 / 4)), _GRADIENTS)[1]
    np.testing.assert_allclose(by_half_life, by_decay, rtol=1e-5)


@pytest.mark.parametrize("decay", [0.0, 0.9, 0.999, 0.99999, 0.9999999])
def test_ema_decay_is_what_was_given(decay: float):
    """The new parameters' weight is 1 − d to float32's relative rounding, however near d is to 1."""
    for ema in (Ema(decay=decay), Ema(decay=decay, ramp_up=1e12)):
        assert float(ema.rate_at(jnp.asarray(7))) == pytest.approx(1 - decay, rel=1e-6)


def test_ema_ramp_up():
    """At step t the half-life is min(h, ramp_up · t), and the closed form with those decays holds for the average."""
    ema = Ema(half_life=8.0, ramp_up=0.25)
    steps = np.arange(1, 41)
    decays = 0.5 ** (1 / np.minimum(8.0, 0.25 * steps))
    np.testing.assert_allclose([float(ema.rate_at(jnp.asarray(t))) for t in steps], 1 - decays, rtol=1e-6)
    assert decays[0] == 0.5**4
    assert decays[-1] == 0.5 ** (1 / 8)
    path, average = _walk(ema, _GRADIENTS)
    expected = path[0]
    for decay, new in zip(decays, path[1:], strict=True):
        expected = decay * expected + (1 - decay) * new
    np.testing.assert_allclose(average, expected, rtol=1e-5)


def test_ema_arguments():
    """Neither or both speeds are refused."""
    with pytest.raises(ValueError, match="decay or half_life"):
        Ema()
    with pytest.raises(ValueError, match="decay or half_life"):
        Ema(decay=0.9, half_life=10.0)


def test_no_ema():
    """Without an average the state keeps none and evaluates its parameters; with one, the average."""
    tx = optax.sgd(0.1)
    state = init_state({"w": jnp.ones(2)}, tx, rng.root(0))
    assert state.ema_params is None
    assert state.eval_params is state.params
    state, _ = make_train_step(_linear, tx)(state, {"g": jnp.ones((1, 2))})
    assert state.ema_params is None
    averaged = init_state({"w": jnp.ones(2)}, tx, rng.root(0), ema=True)
    assert averaged.eval_params is averaged.ema_params
    assert averaged.ema_params["w"] is not averaged.params["w"]


@pytest.mark.parametrize(("length", "clip_norm"), [(20.0, 5.0), (0.5, 5.0), (20.0, 0.0)])
def test_clipping(length: float, clip_norm: float):
    """A gradient longer than the limit keeps its direction and gets that length; a shorter one is not touched."""
    direction = np.array([0.6, -0.8], np.float32)
    tx = optax.sgd(1.0)
    state = init_state({"w": jnp.zeros(2)}, tx, rng.root(0))
    state, metrics = make_train_step(_linear, tx, clip_norm=clip_norm)(state, {"g": length * direction[None]})
    expected = min(length, clip_norm) if clip_norm else length
    np.testing.assert_allclose(-state.params["w"], expected * direction, rtol=1e-6)
    assert float(metrics["grad_norm"]) == pytest.approx(length, rel=1e-6)  # Before clipping.
    assert float(metrics["param_norm"]) == pytest.approx(expected, rel=1e-6)  # After the update.


def test_clipping_by_the_global_norm():
    """The length is taken over all leaves together."""

    def loss(params: Any, model_state: Any, key: Any, batch: Any) -> Any:
        del key, batch
        return 3.0 * params["a"] + 4.0 * params["b"], (model_state, {})

    tx = optax.sgd(1.0)
    state = init_state({"a": jnp.zeros(()), "b": jnp.zeros(())}, tx, rng.root(0))
    state, metrics = make_train_step(loss, tx, clip_norm=1.0)(state, {})
    assert float(metrics["grad_norm"]) == pytest.approx(5.0)
    assert float(state.params["a"]) == pytest.approx(-0.6)
    assert float(state.params["b"]) == pytest.approx(-0.8)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_clipping_hides_no_bad_gradient(bad: float):
    """A NaN or infinite gradient shows in its norm and in the parameters; clipping does not make it a number."""
    tx = optax.sgd(1.0)
    state = init_state({"w": jnp.zeros(2)}, tx, rng.root(0))
    state, metrics = make_train_step(_linear, tx, clip_norm=1.0)(state, {"g": np.array([[bad, 1.0]], np.float32)})
    assert not np.isfinite(metrics["grad_norm"])
    assert not np.isfinite(state.params["w"][0])


def test_several_steps_a_call_equal_single_calls():
    """One call of 4 steps makes the state and the metrics of 4 calls."""
    tx = optax.adam(0.01)
    batches = _regression_batches(4)
    ema = Ema(decay=0.9)
    many, metrics = jax.jit(make_train_step(_regression, tx, ema=ema, clip_norm=1.0, steps_per_call=4))(
        _regression_state(tx, ema=True), batches
    )
    one_step = jax.jit(make_train_step(_regression, tx, ema=ema, clip_norm=1.0))
    one, losses = _regression_state(tx, ema=True), []
    for i in range(4):
        one, single = one_step(one, _at(batches, i))
        losses.append(float(single["loss"]))
    assert int(many.step) == int(one.step) == 4
    assert float(many.model_state["seen"]) == 4.0
    np.testing.assert_array_equal(metrics["step"], [0, 1, 2, 3])
    # The compiler may fuse the two programs differently, so the last bits are not promised here.
    np.testing.assert_allclose(metrics["loss"], losses, rtol=1e-5)
    for tree in (lambda s: s.params, lambda s: s.ema_params, lambda s: s.opt_state):
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7), tree(many), tree(one))


@pytest.mark.parametrize("parts", [2, 16])
def test_a_batch_in_parts_makes_the_same_step(parts: int):
    """The mean of the parts' gradients is the batch's; noise follows the example, not its part."""
    tx = optax.adam(0.1)
    batches = _regression_batches(3)
    state, whole = _regression_state(tx), _regression_state(tx)
    step = jax.jit(make_train_step(_regression, tx, accumulate=parts))
    whole_step = jax.jit(make_train_step(_regression, tx))
    for i in range(3):
        state, metrics = step(state, _at(batches, i))
        whole, expected = whole_step(whole, _at(batches, i))
        for name in ("loss", "mse", "grad_norm", "param_norm", "step"):
            np.testing.assert_allclose(metrics[name], expected[name], rtol=1e-5)
    np.testing.assert_allclose(state.params["w"], whole.params["w"], rtol=1e-5)
    assert float(state.model_state["seen"]) == 3 * parts  # Each part sees what the one before has left.
    assert int(state.step) == 3


def test_a_batch_in_parts_holds_less():
    """What is kept for the gradient is that of a part."""

    def loss(params: Any, model_state: Any, key: Any, batch: Any) -> Any:
        del key
        return jnp.mean(jnp.sin(batch["x"] @ params["w"]) ** 2), (model_state, {})

    state = init_state({"w": jnp.ones((4, 4096))}, optax.sgd(0.1), rng.root(0))
    batch = {"x": np.ones((512, 4), np.float32)}

    def held(parts: int) -> int:
        step = jax.jit(make_train_step(loss, optax.sgd(0.1), accumulate=parts))
        analysis: Any = step.lower(state, batch).compile().memory_analysis()
        return analysis.temp_size_in_bytes

    assert held(8) < 0.3 * held(1)


def test_every_device_has_its_share_of_every_part():
    """Under jit over a mesh no device asks others for the examples of a part."""
    layout = parallel.Layout("jit")
    tx = optax.sgd(0.1)
    batch, state = _at(_regression_batches(1, size=32), 0), _regression_state(tx)
    step = layout.wrap_train(make_train_step(_regression, tx, accumulate=4))
    program = step.lower(layout.put_state(state), layout.put_batch(batch)).compile().as_text()
    assert "all-reduce" in program and "all-gather" not in program and "all-to-all" not in program


def test_a_batch_that_has_no_such_parts_is_refused():
    tx = optax.sgd(0.1)
    step = make_train_step(_regression, tx, accumulate=3)
    with pytest.raises(UserError, match="A batch of 16 examples cannot be taken in 3 equal parts"):
        step(_regression_state(tx), _at(_regression_batches(1), 0))


def test_key_of_each_step():
    """The objective gets the root key folded with the number of updates made; the state's key never changes."""

    def record(params: Any, model_state: Any, key: Any, batch: Any) -> Any:
        del batch
        return jnp.sum(params["w"]), (model_state, {"bits": jax.random.key_data(key)})

    tx = optax.sgd(0.1)
    state = init_state({"w": jnp.zeros(2)}, tx, rng.root(9))
    state, metrics = jax.jit(make_train_step(record, tx, steps_per_call=3))(state, {"x": jnp.zeros((3, 1))})
    expected = [jax.random.key_data(jax.random.fold_in(jax.random.key(9, impl="threefry2x32"), t)) for t in range(3)]
    np.testing.assert_array_equal(metrics["bits"], np.stack(expected))
    np.testing.assert_array_equal(jax.random.key_data(state.key), jax.random.key_data(rng.root(9)))


def test_mixed_precision():
    """With bfloat16 the objective sees bfloat16; parameters, optimiser and average stay float32, and it trains."""
    seen = []

    def objective(params: Any, model_state: Any, key: Any, batch: Any) -> Any:
        seen.append(str(params["w"].dtype))
        return _regression(params, model_state, key, batch)

    tx = optax.adam(0.05)
    step = jax.jit(make_train_step(objective, tx, ema=Ema(decay=0.9), compute_dtype=jnp.bfloat16, steps_per_call=300))
    state, metrics = step(_regression_state(tx, ema=True), _regression_batches(300))
    assert set(seen) == {"bfloat16"}
    kept = jax.tree.leaves((state.params, state.ema_params, state.opt_state[0].mu, state.opt_state[0].nu))
    assert {str(leaf.dtype) for leaf in kept} == {"float32"}
    assert float(metrics["loss"][-20:].mean()) < 0.05 * float(metrics["loss"][0])
    np.testing.assert_allclose(state.params["w"], [1, -2, 3], atol=0.15)
    # Small updates accumulate: the parameters are not on bfloat16's grid.
    assert (np.asarray(state.params["w"]) != np.asarray(state.params["w"].astype(jnp.bfloat16), np.float32)).any()


def test_training_reaches_the_least_squares_solution():
    """Noise of variance 0.01 on the inputs shrinks the solution by 1 / 1.01; the step finds it."""
    tx = optax.adam(optax.cosine_decay_schedule(0.1, 1500))
    step = jax.jit(make_train_step(_regression, tx, steps_per_call=1500))
    state, _ = step(_regression_state(tx), _regression_batches(1500, size=64))
    np.testing.assert_allclose(state.params["w"], np.array([1, -2, 3]) / 1.01, atol=0.01)


def test_eight_devices_make_the_same_step():
    """Two SGD steps on 8 devices, each with its eighth of the batch, are those on one device with the whole."""
    tx = optax.sgd(0.1)
    batches = _regression_batches(2)
    step = make_train_step(_regression, tx, clip_norm=1.0, ema=Ema(decay=0.5))
    results = []
    for count in (8, 1):
        layout = parallel.Layout("auto", jax.devices()[:count])
        wrapped = layout.wrap_train(step)
        state = layout.put_state(_regression_state(tx, ema=True))
        for i in range(2):
            state, metrics = wrapped(state, layout.put_batch(_at(batches, i)))
        results.append(parallel.to_host((state.params, state.ema_params, state.model_state, metrics)))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), *results)
    assert abs(results[0][0]["w"]).max() > 0.01


def test_masked_sums():
    """Sums and counts leave the padding out, whatever it holds, and keep trailing dimensions."""
    mask = jnp.array([1.0, 1.0, 0.0, 1.0, 0.0])
    scalar = jnp.array([1.0, 2.0, jnp.nan, 4.0, jnp.inf])
    vector = jnp.stack([scalar, -2 * scalar], axis=1)
    sums = masked_sums({"a": scalar, "b": vector}, mask, None)
    assert float(sums["a"][0]) == 7.0
    np.testing.assert_array_equal(sums["b"][0], [7.0, -14.0])
    assert float(sums["a"][1]) == float(sums["b"][1]) == 3.0
    assert sums["b"][1].shape == ()


def test_masked_sums_add_up_over_devices():
    """Eight devices with unequal numbers of examples give the whole batch's sum and count on each."""
    random = np.random.default_rng(0)
    value = random.standard_normal((8, 3)).astype(np.float32)
    mask = (random.random((8, 3)) < 0.5).astype(np.float32)
    value[mask == 0] = np.nan
    total, count = jax.pmap(lambda v, m: masked_sums({"v": v}, m, "batch")["v"], axis_name="batch")(value, mask)
    np.testing.assert_allclose(total, np.full(8, np.nansum(value.astype(np.float64))), rtol=1e-5)
    np.testing.assert_array_equal(count, np.full(8, mask.sum()))


def _whole_batch(params: Any, model_state: Any, key: Any, batch: Any, *, axis_name: str | None = None) -> Any:
    """A loss that no mean over parts gives: the square of a mean over the whole batch."""
    del key
    mean = jnp.mean(batch["g"] @ params["w"])
    mean = mean if axis_name is None else jax.lax.pmean(mean, axis_name)
    return mean**2, (model_state, {})


def test_an_objective_of_the_whole_batch_has_one_gradient_on_any_number_of_devices():
    """The loss (w · ḡ)² of parts with very different ḡ: gradient 2 (w · ḡ) ḡ, and not the mean of that of the parts."""
    g = np.zeros((8, 2), np.float32)
    g[0], g[5] = (8.0, 0.0), (0.0, -4.0)  # ḡ = (1, −½).
    tx = optax.sgd(0.1)
    expected = np.array([1.0, 1.0]) - 0.1 * 2 * 0.5 * np.array([1.0, -0.5])
    step = make_train_step(_whole_batch, tx, whole_batch=True)
    for backend, count in (("jit", 1), ("pmap", 8), ("jit", 8)):
        layout = parallel.Layout(backend, jax.devices()[:count])
        state = layout.put_state(init_state({"w": jnp.ones(2)}, tx, rng.root(0)))
        state, metrics = layout.wrap_train(step)(state, layout.put_batch({"g": g}))
        np.testing.assert_allclose(state.params["w"], expected, rtol=1e-6)
        assert float(metrics["loss"]) == pytest.approx(0.25)
