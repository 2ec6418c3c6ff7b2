"""The alternating step: whose turn it is, what each update sees, and that one state holds the whole game."""

import dataclasses
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
from gen_jax.train.game import Player, init_game, make_alternating_step
from gen_jax.train.state import TrainState
from gen_jax.train.step import Ema

_CLOSE = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)


def _noise(key: Any, batch: Any) -> Any:
    keys = rng.per_example(rng.stream(key, "latent"), batch["index"])
    return jax.vmap(lambda k: jax.random.normal(k, (2,)))(keys)


def _critic(params: Any, model_state: Any, key: Any, batch: Any, *, axis_name: str | None = None) -> Any:
    """A discriminator w · x + ‖w‖² of real x and fakes z + g, with statistics of its own that it reads."""
    del axis_name
    w, g = params["discriminator"]["w"], params["generator"]["g"]
    fake = _noise(key, batch).astype(g.dtype) + g[None]
    gap = jnp.mean(jnp.tanh(fake @ w) - jnp.tanh(batch["x"].astype(w.dtype) @ w)).astype(jnp.float32)
    loss = gap + 0.1 * jnp.sum(w.astype(jnp.float32) ** 2) * (1 + model_state["discriminator"]["mean"])
    mean = 0.9 * model_state["discriminator"]["mean"] + 0.1 * jnp.mean(batch["x"])
    count = model_state["discriminator"]["count"] + 1
    return loss, (model_state | {"discriminator": {"mean": mean, "count": count}}, {"gap": gap, "step": batch["step"]})


def _generator(params: Any, model_state: Any, key: Any, batch: Any, *, axis_name: str | None = None) -> Any:
    del axis_name
    w, g = params["discriminator"]["w"], params["generator"]["g"]
    fake = _noise(key, batch).astype(g.dtype) + g[None]
    loss = -jnp.mean(jnp.tanh(fake @ w)).astype(jnp.float32)
    return loss, (model_state | {"generator": {"count": model_state["generator"]["count"] + 1}}, {})


def _clip(params: Any) -> Any:
    return jax.tree.map(lambda w: jnp.clip(w, -0.55, 0.55), params)


def _players(k: int = 2, d_tx: Any = None, g_tx: Any = None, **discriminator: Any) -> tuple[Player, Player]:
    d_tx, g_tx = d_tx or optax.adam(0.05, b1=0.5), g_tx or optax.rmsprop(0.02)
    return (
        Player("discriminator", _critic, d_tx, updates=k, **discriminator),
        Player("generator", _generator, g_tx),
    )


def _start(players: tuple[Player, ...], *, ema: bool = False, seed: int = 3) -> TrainState:
    params = {"discriminator": {"w": jnp.array([0.5, -0.3])}, "generator": {"g": jnp.array([0.1, 0.4])}}
    counts = {"discriminator": {"mean": jnp.zeros(()), "count": jnp.int32(0)}, "generator": {"count": jnp.int32(0)}}
    return init_game(params, players, rng.root(seed), model_state=counts, ema=ema)


def _batches(count: int, size: int = 16) -> dict[str, np.ndarray]:
    x = np.random.default_rng(0).standard_normal((count, size, 2)).astype(np.float32) + np.array([1, -2], np.float32)
    return {"x": x, "index": np.arange(count * size, dtype=np.uint32).reshape(count, size)}


def _at(batches: dict[str, np.ndarray], step: int) -> dict[str, np.ndarray]:
    return {name: array[step] for name, array in batches.items()}


def _update(player: Player, params: Any, opt_state: Any, model_state: Any, key: Any, batch: Any) -> Any:
    def loss_of(own: Any) -> Any:
        return player.objective(params | {player.name: own}, model_state, key, batch)

    (loss, (model_state, _)), grads = jax.value_and_grad(loss_of, has_aux=True)(params[player.name])
    updates, opt_state = player.tx.update(grads, opt_state, params[player.name])
    new = optax.apply_updates(params[player.name], updates)
    return player.project(new) if player.project else new, opt_state, model_state, loss


def _by_hand(state: TrainState, players: tuple[Player, ...], batches: dict[str, np.ndarray], rounds: int) -> Any:
    """The game as plain loops: parameters, optimisers, model state and losses."""
    params, opt_state, model_state = dict(state.params), dict(state.opt_state), state.model_state
    losses: dict[str, list[list[float]]] = {player.name: [] for player in players}
    updates = {player.name: jax.jit(functools.partial(_update, player)) for player in players}
    for step in range(rounds):
        whole = _at(batches, step)
        for name, player in zip(updates, players, strict=True):
            losses[name].append([])
            for number in range(player.updates):
                key = jax.random.fold_in(rng.stream(rng.at_step(rng.root(3), step), name), number)
                parts = player.parts or player.updates
                # Every example to one update of the round: the j-th to update j mod k.
                batch = {key: array[number % parts :: parts] for key, array in whole.items()} | {"step": step}
                params[name], opt_state[name], model_state, loss = updates[name](
                    params, opt_state[name], model_state, key, batch
                )
                losses[name][-1].append(float(loss))
    return params, opt_state, model_state, losses


@pytest.mark.parametrize(("k", "parts", "project"), [(1, None, None), (4, None, _clip), (3, 1, None), (2, 4, None)])
def test_a_round_is_the_loop_by_hand(k: int, parts: int | None, project: Any):
    """Two rounds against plain loops: parts, keys, optimisers, clipping after every update, statistics, losses."""
    players, batches = _players(k, parts=parts, project=project), _batches(2)
    step = jax.jit(make_alternating_step(players))
    state, metrics = _start(players), []
    for i in range(2):
        state, values = step(state, _at(batches, i))
        metrics.append(values)
    params, opt_state, model_state, losses = _by_hand(_start(players), players, batches, 2)
    jax.tree.map(_CLOSE, (state.params, state.opt_state, state.model_state), (params, opt_state, model_state))
    for name, expected in losses.items():
        # A round's loss is the mean over its updates.
        _CLOSE([values[f"{name}/loss"] for values in metrics], np.mean(expected, axis=1))
    assert int(state.model_state["discriminator"]["count"]) == 2 * k
    assert int(state.model_state["generator"]["count"]) == int(state.step) == 2
    if project is not None:
        assert float(jnp.abs(state.params["discriminator"]["w"]).max()) == pytest.approx(0.55)
    # Each optimiser has counted its own player's updates, so a schedule goes by them.
    assert int(state.opt_state["discriminator"][0].count) == 2 * k


def _bilinear(sign: float) -> Any:
    def objective(params: Any, model_state: Any, key: Any, batch: Any, *, axis_name: str | None = None) -> Any:
        del key, batch, axis_name
        return sign * params["x"] * params["y"], (model_state, {})

    return objective


@pytest.mark.parametrize("first", ["x", "y"])
def test_the_order_of_play(first: str):
    """In f(x, y) = xy the second player sees what the first has just done."""
    tx = optax.sgd(0.1)
    x, y = Player("x", _bilinear(1.0), tx), Player("y", _bilinear(-1.0), tx, updates=2, parts=1)
    players = (x, y) if first == "x" else (y, x)
    state = init_game({"x": jnp.float32(1), "y": jnp.float32(2)}, players, rng.root(0))
    state, metrics = jax.jit(make_alternating_step(players))(state, {"index": np.arange(4)})
    expected = {"x": (0.8, 2 + 2 * 0.1 * 0.8), "y": (1 - 0.1 * 2.2, 2.2)}[first]
    assert (float(state.params["x"]), float(state.params["y"])) == pytest.approx(expected)
    # The run's `loss` is the first player's, unless another is asked for.
    assert float(metrics["loss"]) == float(metrics[f"{first}/loss"])
    _, other = jax.jit(make_alternating_step(players, loss_of="x"))(state, {"index": np.arange(4)})
    assert float(other["loss"]) == float(other["x/loss"])


def test_metrics():
    """Losses, terms and norms by player; the gradient's is of the player's own parameters, before clipping."""
    players = _players(2, d_tx=optax.sgd(1.0), g_tx=optax.sgd(1.0))
    state, metrics = jax.jit(make_alternating_step(players))(_start(players), _at(_batches(1), 0))
    names = {"loss", *(f"discriminator/{n}" for n in ("loss", "gap", "step", "grad_norm", "param_norm"))}
    assert set(metrics) == names | {f"generator/{n}" for n in ("loss", "grad_norm", "param_norm")}
    assert all(np.shape(value) == () for value in metrics.values())
    moved = state.params["generator"]["g"] - _start(players).params["generator"]["g"]
    assert float(metrics["generator/grad_norm"]) == pytest.approx(float(jnp.linalg.norm(moved)), rel=1e-5)
    norm = float(jnp.linalg.norm(state.params["discriminator"]["w"]))
    assert float(metrics["discriminator/param_norm"]) == pytest.approx(norm, rel=1e-6)
    clipped = (dataclasses.replace(players[0], clip_norm=1e-3), players[1])
    after, clipped_metrics = jax.jit(make_alternating_step(clipped))(_start(players), _at(_batches(1), 0))
    moved = after.params["discriminator"]["w"] - _start(players).params["discriminator"]["w"]
    assert 1e-3 < float(jnp.linalg.norm(moved)) < 2.001e-3  # Two updates, hardly turned.
    assert float(clipped_metrics["discriminator/grad_norm"]) > 0.1


def test_each_player_keeps_its_own_optimiser():
    """A player whose rate is 0 never moves, and the other's moments are those it has alone against it."""
    players = _players(1, g_tx=optax.sgd(0.0))
    state, batches = _start(players), _batches(3)
    step = jax.jit(make_alternating_step(players))
    alone_step, alone = jax.jit(make_alternating_step(players[:1])), _start(players)
    for i in range(3):
        state, _ = step(state, _at(batches, i))
        alone, _ = alone_step(alone, _at(batches, i))
    np.testing.assert_array_equal(state.params["generator"]["g"], _start(players).params["generator"]["g"])
    jax.tree.map(_CLOSE, state.opt_state["discriminator"], alone.opt_state["discriminator"])
    assert jax.tree.structure(state.opt_state["generator"]) == jax.tree.structure(optax.sgd(0.0).init(0.0))


def test_the_average_is_the_generators():
    """θ̄ is Σ (1 − d) dⁿ⁻ᵗ θ_t + dⁿ θ_0 of the generator's new parameters; the discriminator's are those of now."""
    players, batches = _players(2), _batches(4)
    step = jax.jit(make_alternating_step(players, ema=Ema(decay=0.75)))
    state = _start(players, ema=True)
    expected = np.asarray(state.params["generator"]["g"], np.float64)
    for i in range(4):
        state, _ = step(state, _at(batches, i))
        expected = 0.75 * expected + 0.25 * np.asarray(state.params["generator"]["g"], np.float64)
        np.testing.assert_array_equal(state.eval_params["discriminator"]["w"], state.params["discriminator"]["w"])
    np.testing.assert_allclose(state.eval_params["generator"]["g"], expected, rtol=1e-5)
    assert np.abs(expected - state.params["generator"]["g"]).max() > 1e-3
    ramped = jax.jit(make_alternating_step(players, ema=Ema(half_life=8.0, ramp_up=1.0)))
    after, _ = ramped(_start(players, ema=True), _at(batches, 0))
    halfway = 0.5 * (_start(players).params["generator"]["g"] + after.params["generator"]["g"])  # Round 1: h = 1.
    np.testing.assert_allclose(after.ema_params["generator"]["g"], halfway, rtol=1e-5)


def test_any_number_of_devices_plays_the_same_game():
    """Two rounds of two updates each under SGD; device d's examples go to the same updates as on one device."""
    players = _players(2, d_tx=optax.sgd(0.1), g_tx=optax.sgd(0.1))
    batches, step = _batches(2), make_alternating_step(players, ema=Ema(decay=0.5))
    results = []
    for backend, count in (("jit", 1), ("pmap", 8), ("pmap", 2), ("jit", 8)):
        layout = parallel.Layout(backend, jax.devices()[:count])
        wrapped = layout.wrap_train(step)
        state = layout.put_state(_start(players, ema=True))
        for i in range(2):
            before = state
            state, metrics = wrapped(state, layout.put_batch(_at(batches, i)))
            assert all(leaf.is_deleted() for leaf in jax.tree.leaves((before.params, before.opt_state)))
        assert int(state.model_state["discriminator"]["count"]) == 4
        results.append(parallel.to_host(dataclasses.replace(state, key=jax.random.key_data(state.key))))
        results[-1] = (results[-1], parallel.to_host(metrics))
    for other in results[1:]:
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-6), other, results[0])
    moved = results[0][0].params["discriminator"]["w"] - np.asarray(_start(players).params["discriminator"]["w"])
    assert np.abs(moved).max() > 1e-2


@pytest.mark.parametrize("count", [1, 8])
def test_three_rounds_and_three_are_six_to_the_bit(count: int):
    """The whole game goes through the host in the middle, and nothing that is not in the state is needed."""
    layout = parallel.Layout("auto", jax.devices()[:count])
    players, batches = _players(2, project=_clip), _batches(6)
    wrapped = layout.wrap_train(make_alternating_step(players, ema=Ema(half_life=4.0, ramp_up=0.5)))

    def play(state: TrainState, rounds: range) -> TrainState:
        placed = layout.put_state(state)
        for i in rounds:
            placed, _ = wrapped(placed, layout.put_batch(_at(batches, i)))
        return parallel.to_host(placed)

    whole = play(_start(players, ema=True), range(6))
    again = play(play(_start(players, ema=True), range(3)), range(3, 6))
    for one, other in zip(jax.tree.leaves(whole), jax.tree.leaves(again), strict=True):
        if jax.dtypes.issubdtype(one.dtype, jax.dtypes.prng_key):
            one, other = jax.random.key_data(one), jax.random.key_data(other)
        np.testing.assert_array_equal(one, other)
    assert int(whole.step) == 6


def test_several_rounds_a_call_equal_single_calls():
    """One call of 3 rounds makes the state and the metrics of 3 calls."""
    players, batches = _players(2), _batches(3)
    options: dict[str, Any] = {"ema": Ema(decay=0.9)}
    many, metrics = jax.jit(make_alternating_step(players, steps_per_call=3, **options))(
        _start(players, ema=True), batches
    )
    single_step = jax.jit(make_alternating_step(players, **options))
    one, losses = _start(players, ema=True), []
    for i in range(3):
        one, single = single_step(one, _at(batches, i))
        losses.append(float(single["loss"]))
    _CLOSE(metrics["loss"], losses)
    np.testing.assert_array_equal(metrics["discriminator/step"], [0, 1, 2])
    for tree in (lambda s: s.params, lambda s: s.ema_params, lambda s: s.opt_state, lambda s: s.model_state):
        jax.tree.map(_CLOSE, tree(many), tree(one))


def test_every_update_has_noise_of_its_own():
    """Players, updates and rounds share no key, and the root key never changes."""
    seen: dict[str, Any] = {}

    def record(params: Any, model_state: Any, key: Any, batch: Any, *, axis_name: str | None = None) -> Any:
        del axis_name
        bits = jax.random.key_data(key)[0] % (1 << 20)  # A term: averaged over the updates, exact in float32.
        return params["a"] + params["b"], (model_state, {"bits": bits, "index": jnp.sum(batch["index"])})

    players = (Player("a", record, optax.sgd(0.1)), Player("b", record, optax.sgd(0.1)))
    state = init_game({"a": jnp.float32(0), "b": jnp.float32(0)}, players, rng.root(0))
    step = jax.jit(make_alternating_step(players))
    for i in range(2):
        state, metrics = step(state, {"index": np.arange(4)})
        seen |= {f"{name}{i}": int(metrics[f"{name}/bits"]) for name in ("a", "b")}
    twice = (dataclasses.replace(players[0], updates=2),)
    start = init_game({"a": jnp.float32(0), "b": jnp.float32(0)}, players, rng.root(0))
    _, metrics = jax.jit(make_alternating_step(twice))(start, {"index": np.arange(4)})
    seen["second"] = round(2 * float(metrics["a/bits"])) - seen["a0"]
    assert len(set(seen.values())) == 5
    assert float(metrics["a/index"]) == 3  # Half of 0 + 1 + 2 + 3: each example was seen once.
    np.testing.assert_array_equal(jax.random.key_data(state.key), jax.random.key_data(rng.root(0)))


def test_mixed_precision():
    """With bfloat16 an objective sees every player's parameters so; what is kept stays float32."""
    seen = []

    def objective(params: Any, model_state: Any, key: Any, batch: Any, *, axis_name: str | None = None) -> Any:
        seen.extend(str(leaf.dtype) for leaf in jax.tree.leaves(params))
        return _critic(params, model_state, key, batch, axis_name=axis_name)

    players = (dataclasses.replace(_players()[0], objective=objective), _players()[1])
    step = jax.jit(make_alternating_step(players, ema=Ema(decay=0.9), compute_dtype=jnp.bfloat16))
    state, _ = step(_start(players, ema=True), _at(_batches(1), 0))
    assert set(seen) == {"bfloat16"}
    kept = jax.tree.leaves((state.params, state.ema_params, state.opt_state["discriminator"][0].mu))
    assert {str(leaf.dtype) for leaf in kept} == {"float32"}


def test_a_value_that_is_not_finite_shows():
    """Of one update in the middle of a round: in the loss that the loop looks at, and in the gradient's norm."""
    players, batch = _players(4, clip_norm=1.0), _at(_batches(1), 0)
    batch["x"][2] = np.nan  # Of the third update.
    _, metrics = jax.jit(make_alternating_step(players))(_start(players), batch)
    assert not any(np.isfinite(metrics[name]) for name in ("loss", "discriminator/loss", "discriminator/grad_norm"))


def test_what_is_no_game_is_refused():
    """Names that are not there or there twice, no updates, and a batch that cannot be dealt out."""
    players = _players()
    with pytest.raises(ValueError, match="two players"):
        make_alternating_step((players[0], players[0]))
    with pytest.raises(ValueError, match="at least one player"):
        make_alternating_step(())
    with pytest.raises(ValueError, match="averaged='critic'"):
        make_alternating_step(players, ema=Ema(decay=0.9), averaged="critic")
    with pytest.raises(ValueError, match="loss_of='critic'"):
        make_alternating_step(players, loss_of="critic")
    for options in ({"updates": 0}, {"parts": 0}):
        with pytest.raises(ValueError, match="at least 1"):
            dataclasses.replace(players[0], **options)
    with pytest.raises(UserError, match=r"16 examples.*3 equal parts"):
        make_alternating_step(_players(3))(_start(players), _at(_batches(1), 0))
