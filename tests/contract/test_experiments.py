"""What every experiment must do, at its tiny preset; new modules under experiments/ are found by themselves."""

from __future__ import annotations

import dataclasses
import functools
import inspect

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen_jax import rng, run
from gen_jax.checkpoint import to_arrays
from gen_jax.contracts import Film, Grid, UserError
from gen_jax.data import ImageBatches
from gen_jax.run import Run
from gen_jax.train.drawing import draw
from gen_jax.train.evaluation import evaluate
from gen_jax.train.parallel import Layout, to_host

NAMES = run.experiment_names()

# U-Nets compile for long; most of the quick tests leave them to the slow ones, and `ddpm_toy` stands for them.
U_NETS = {"ddpm", "guided_diffusion", "improved_ddpm", "noisy_classifier"}
# In most quick tests another stands for each of these: `gan_ring`, `sparse_autoencoder` and `tiny_nerf`.
ALIKE = {"contractive_autoencoder", "dcgan", "denoising_autoencoder", "gan", "nerf", "unrolled_gan", "wgan_gp"}

# Grouped by experiment, so that what one test has compiled is there for the next.
each = pytest.mark.parametrize("name", NAMES, scope="module")


# Where gradients are so small that two steps of 1e-3 would show nothing: means of squared errors of colours.
SGD_RATES = {"nerf": 0.1, "tiny_nerf": 0.1}


def build(name: str, config):
    """The experiment, with no more than 300 test images: two batches, the second not full."""
    module = run.find_experiment(name)
    experiment = module.build(config)
    test = experiment.test_source
    if not isinstance(test, ImageBatches):
        return experiment
    few = dataclasses.replace(test, images=test.images[:300], labels=test.labels[:300])
    return module.build(config, (experiment.train_source, few))


@functools.cache
def config_of(name: str):
    return run.find_experiment(name).get_config("tiny")


@functools.cache
def experiment_of(name: str, optimizer: str = "adam"):
    config = config_of(name).copy_and_resolve_references()
    if optimizer == "sgd":
        # Plain SGD: Adam hides a gradient that is a constant factor too large.
        config.optim.name, config.optim.learning_rate = "sgd", SGD_RATES.get(name, 1e-3)
    return build(name, config)


@functools.cache
def start_of(name: str, optimizer: str = "adam"):
    """The state at step 0, on the host."""
    return to_host(jax.jit(experiment_of(name, optimizer).init)(rng.root(0)))


def slow_if(condition: bool, *values):
    """A case, among the slow tests if so."""
    return pytest.param(*values, marks=[pytest.mark.slow] if condition else [])


def every_preset():
    """(experiment, preset) of all presets, the default among them, but `tiny`, which the other tests run."""
    presets = [(name, preset) for name in NAMES for preset in getattr(run.find_experiment(name), "_PRESETS", ())]
    return [(name, preset) for name, preset in presets if preset != "tiny"]


# What the sets that presets name hold: the shape and how many classes. Not all come with the package.
IMAGES = {"cifar10": ((32, 32, 3), 10), "images": ((64, 64, 3), 1000), "mnist": ((28, 28, 1), 10)}
IMAGES["fashion_mnist"] = IMAGES["fashion_mnist_10k"] = IMAGES["mnist"]


def preset_of(name: str, preset: str):
    """The experiment at a preset, on images of zeros, which are there and read in no time."""
    module = run.find_experiment(name)
    config = module.get_config(preset)
    sources = None
    if config.data.name in ("analytic", "files"):  # A scene: any will do.
        sources = experiment_of(name).train_source, experiment_of(name).test_source
    elif config.data.name in IMAGES:
        shape, classes = IMAGES[config.data.name]
        source = ImageBatches(
            images=np.zeros((2 * classes, *shape), np.uint8),
            labels=np.arange(2 * classes, dtype=np.int32) % classes,
            batch_size=config.train.batch_size,
            evaluation_batch_size=config.eval.batch_size,
            seed=0,
            fingerprint="0",
            origin="zeros",
        )
        sources = source, source
    return module.build(config, sources)


@pytest.mark.parametrize(("name", "preset"), every_preset())
def test_every_preset_can_be_built(name, preset):
    experiment = preset_of(name, preset)
    state = jax.eval_shape(experiment.init, rng.root(0))
    assert all(leaf.size for leaf in jax.tree.leaves(state.params))


# The gradients of large U-Nets take seconds to trace: one of them stands for the others in the quick tests.
@pytest.mark.parametrize(
    ("name", "preset"),
    [slow_if(case[0] in U_NETS and case != ("ddpm", "default"), *case) for case in every_preset()],
)
def test_every_preset_s_train_step_can_be_traced(name, preset):
    experiment = preset_of(name, preset)
    state = jax.eval_shape(experiment.init, rng.root(0))
    after, metrics = jax.eval_shape(experiment.train_step, state, call_batch(experiment, 0))
    chex.assert_trees_all_equal_shapes_and_dtypes(after, state)
    assert "loss" in metrics


def call_batch(experiment, first: int):
    """The host batch of one call of the train step."""
    count = experiment.steps_per_call
    return experiment.train_source.batch(first) if count == 1 else experiment.train_source.batches(first, count)


@functools.lru_cache(maxsize=6)
def step_of(name: str, optimizer: str, backend: str, count: int):
    """The wrapped train step on so many devices, its layout, and a list that grows when the step is traced."""
    experiment, layout, traces = experiment_of(name, optimizer), Layout(backend, jax.devices()[:count]), []

    def counted(state, batch, *, axis_name=None):
        traces.append(axis_name)
        return experiment.train_step(state, batch, axis_name=axis_name)

    # By the name of what it counts, its program is found among those that other tests have compiled.
    counted.__name__ = getattr(experiment.train_step, "func", experiment.train_step).__name__
    return layout.wrap_train(counted, experiment.steps_per_call), layout, traces


def train_calls(name: str, optimizer: str, backend: str, count: int, calls: int):
    """The state and the metrics after some calls of the wrapped step."""
    experiment, start = experiment_of(name, optimizer), start_of(name, optimizer)
    step, layout, traces = step_of(name, optimizer, backend, count)
    before = len(traces)
    state = layout.put_state(start)
    for call in range(calls):
        donated = state
        batch = call_batch(experiment, call * experiment.steps_per_call)
        state, metrics = step(state, layout.put_batch(batch, experiment.steps_per_call))
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(donated.params)), "the donated state is not consumed"
    assert len(traces) <= before + 1, "a later call compiles again"
    return to_host(state), jax.tree.map(np.asarray, metrics)


def test_there_are_experiments():
    assert "vae" in NAMES


@each
def test_the_docstring_says_command_number_and_time(name):
    doc = inspect.getdoc(run.find_experiment(name))
    for fact in ("Command: python -m experiments.", "Expected: ", "Time: "):
        assert fact in doc, fact
    assert any(c.isdigit() for c in doc.split("Expected: ")[1].splitlines()[0])


def each_but_slow(slow: set[str]):
    """Every experiment; some only among the slow tests."""
    return pytest.mark.parametrize("name", [slow_if(name in slow, name) for name in NAMES], scope="module")


@each
def test_the_module_has_what_the_command_line_calls(name):
    module = run.find_experiment(name)
    missing = [part for part in ("get_config", "validate", "build", "_PRESETS") if not hasattr(module, part)]
    assert not missing, f"experiments/{name}.py has no {', '.join(missing)}"
    assert {"default", "tiny"} <= set(module._PRESETS)
    module.validate(config_of(name))


@each_but_slow(U_NETS | ALIKE | {"autoencoder", "classifier"})
@pytest.mark.parametrize(("backend", "devices"), [("jit", 8), ("pmap", 8), slow_if(True, "pmap", 2)])
def test_every_layout_of_devices_gives_the_same_two_sgd_steps(name, backend, devices):
    start = start_of(name, "sgd")
    reference, numbers = train_calls(name, "sgd", "jit", 1, calls=2)
    moved = jax.tree.map(lambda a, b: float(np.max(np.abs(a - b))), reference.params, start.params)
    assert max(jax.tree.leaves(moved)) > 1e-4, "the steps did nothing; the comparison would be empty"
    state, metrics = train_calls(name, "sgd", backend, devices, calls=2)
    chex.assert_trees_all_close(state.params, reference.params, rtol=0, atol=1e-6)
    chex.assert_trees_all_close(metrics, numbers, rtol=1e-5, atol=1e-6)


# Op by op each shape is compiled by itself, a minute's work for a U-Net: some stand for the others in the quick tests.
@each_but_slow(U_NETS | ALIKE | {"autoencoder", "classifier", "ddpm_toy", "gan_ring", "tiny_nerf"})
def test_without_jit_the_step_does_the_same(name):
    experiment = experiment_of(name, "sgd")
    compiled, _ = train_calls(name, "sgd", "jit", 1, calls=1)
    state = jax.tree.map(jnp.asarray, start_of(name, "sgd"))
    with jax.disable_jit():
        plain, _ = experiment.train_step(state, call_batch(experiment, 0))
    chex.assert_trees_all_close(to_host(plain).params, compiled.params, rtol=0, atol=1e-5)


def is_game(experiment) -> bool:
    """Whether there are several players: each has its own parameters and its own optimiser."""
    state = jax.eval_shape(experiment.init, rng.root(0))
    return isinstance(state.opt_state, dict) and state.opt_state.keys() == state.params.keys()


@each_but_slow(U_NETS | ALIKE | {"autoencoder", "classifier"})
def test_the_loss_falls_on_one_repeated_batch(name):
    experiment = experiment_of(name)
    step, layout, traces = step_of(name, "adam", "jit", 1)
    start, before = start_of(name), len(traces)
    state = layout.put_state(start)
    batch = layout.put_batch(call_batch(experiment, 0), experiment.steps_per_call)
    losses: list[float] = []
    for _ in range(60):
        state, metrics = step(state, batch)
        assert all(np.isfinite(value).all() for value in metrics.values())
        losses.append(float(np.mean(metrics["loss"])))
        if len(losses) >= 20 and np.mean(losses[-10:]) < 0.9 * losses[0]:
            break
    assert len(traces) <= before + 1, "a later call compiles again"
    if is_game(experiment):  # What one player wins the other may lose: no loss must fall, but all of them play.
        for player, params in state.params.items():
            moved = jax.tree.map(lambda a, b: float(np.max(np.abs(a - b))), params, start.params[player])
            assert max(jax.tree.leaves(moved)) > 1e-4, player
            assert f"{player}/loss" in metrics
    else:
        assert np.mean(losses[-10:]) < 0.9 * losses[0], (
            f"In {len(losses)} calls on one batch the loss of {name}, preset tiny, must fall by a tenth: it went from "
            f"{losses[0]:.5g} to {np.mean(losses[-10:]):.5g}. A larger learning rate may do; a schedule ends with the "
            "preset's duration, while this trains for longer."
        )


@each_but_slow(U_NETS | ALIKE | {"autoencoder", "classifier"})
def test_evaluation_counts_every_example_once_on_any_number_of_devices(name):
    experiment = experiment_of(name)
    state = start_of(name)
    means = []
    for layout in (Layout("jit", jax.devices()[:1]), Layout("pmap"), Layout("jit")):
        means.append(
            evaluate(layout.wrap_eval(experiment.eval_step), layout.put_state(state), experiment.test_source, layout)
        )
    for other in means[1:]:
        chex.assert_trees_all_close(other, means[0], rtol=1e-5, atol=1e-6)
    assert set(experiment.headline) & set(experiment.report(means[0]))


# A classifier's images are climbs of many steps.
@each_but_slow(U_NETS - {"ddpm"} | {"classifier", "nerf"})
def test_sample_i_depends_on_the_seed_and_i_alone(name, tmp_path):
    experiment = experiment_of(name)
    loaded = Run(tmp_path, config_of(name), start_of(name), experiment)
    many = loaded.sample(seed=3, num=40)
    assert many.shape[0] == 40
    if many.ndim == 4:
        assert many.min() >= 0 and many.max() <= 1, f"{name}: samples that are images are in [0, 1]; cut them off"
    else:
        assert many.shape == (40, 2) and np.isfinite(many).all(), "points"
    assert np.array_equal(loaded.sample(seed=3, num=7), many[:7])
    assert np.array_equal(loaded.sample(seed=3, num=40, batch_size=1), many)
    assert np.array_equal(loaded.sample(seed=3, num=40, batch_size=1000), many)
    assert not np.array_equal(loaded.sample(seed=4, num=40), many)
    assert len(np.unique(many.reshape(40, -1), axis=0)) == 40


@each_but_slow(U_NETS)
def test_a_run_whose_data_are_gone_still_samples(name):
    here = experiment_of(name)
    absent = []
    for source in (here.train_source, here.test_source):
        names = ("num_examples", "example_shape", "fingerprint", "origin", "notes")
        facts = {name: getattr(source, name) for name in names}
        absent.append(run._AbsentSource.of(facts, UserError("The data are gone.")))
    gone = run.find_experiment(name).build(config_of(name), tuple(absent))
    samples = [
        jax.jit(experiment.sample)(start_of(name), rng.per_example(rng.root(1), np.arange(16)))
        for experiment in (here, gone)
    ]
    assert np.array_equal(*samples)
    with pytest.raises(UserError, match="gone"):
        next(iter(gone.test_source.evaluation()))


@each_but_slow(U_NETS | {"classifier"})
def test_the_pictures_can_be_drawn_and_are_the_same_twice(name):
    experiment = experiment_of(name)
    state = to_host(jax.jit(experiment.settle)(start_of(name)))
    first, second = experiment.pictures(state), experiment.pictures(state)
    assert first.keys() == second.keys() and first
    for key, picture in first.items():
        assert picture.title
        image = np.asarray(draw(picture))
        assert image.ndim == 3 and image.std() > 0
        if isinstance(picture, Grid):
            assert np.array_equal(picture.images, second[key].images)
        if isinstance(picture, Film):
            assert len({draw(frame).size for frame in picture.frames}) == 1, "a film's frames are of one size"
    assert "training" not in first, "that is the name of the film of the frames"


@each_but_slow(U_NETS | ALIKE - {"gan"})
def test_the_frame_is_the_same_twice_and_of_one_size_always(name):
    experiment = experiment_of(name)
    if experiment.frame is None:
        return
    trained, _ = train_calls(name, "adam", "jit", 1, calls=3)
    settle = jax.jit(experiment.settle)
    early, late = (to_host(settle(state)) for state in (start_of(name), trained))
    one, two, other = (np.asarray(draw(experiment.frame(state))) for state in (early, early, late))
    assert np.array_equal(one, two) and one.std() > 0
    assert one.shape == other.shape and not np.array_equal(one, other)


@each_but_slow(U_NETS | {"nerf"})
def test_settling_keeps_what_was_trained_and_every_warning_is_a_metric(name):
    experiment = experiment_of(name)
    trained, metrics = train_calls(name, "adam", "jit", 1, calls=1)
    settled = to_host(jax.jit(experiment.settle)(trained))
    assert jax.tree.structure(settled) == jax.tree.structure(trained)
    chex.assert_trees_all_equal((settled.step, settled.params), (trained.step, trained.params))
    warned = {key for key in metrics if key.rpartition("/")[2].startswith("warning_")}
    assert experiment.warnings.keys() == warned, "a sentence for each"
    assert all(np.all((metrics[key] >= 0) & (metrics[key] <= 1)) for key in warned)


@each_but_slow(U_NETS)
def test_the_state_holds_arrays_only(name):
    arrays = to_arrays(start_of(name))
    assert {"step", "key"} <= arrays.keys()
    assert all(isinstance(a, np.ndarray) and a.dtype != object for a in arrays.values())
