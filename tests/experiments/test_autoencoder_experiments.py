"""What the configs of the autoencoders refuse, and what their runs say and draw."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest
from drawn_states import start

from experiments import (
    _autoencoder,
    _images,
    autoencoder,
    contractive_autoencoder,
    denoising_autoencoder,
    sparse_autoencoder,
)
from gen_jax import cli, rng, run
from gen_jax.contracts import Grid, Panels, UserError
from gen_jax.data import ImageBatches
from gen_jax.train import loop

MODULES = (autoencoder, sparse_autoencoder, contractive_autoencoder, denoising_autoencoder)


def source(count=48, shape=(8, 8, 1), labels=None, seed=0):
    images = np.random.default_rng(seed).integers(0, 256, (count, *shape), np.uint8)
    labels = np.arange(count, dtype=np.int32) % 3 if labels is None else labels
    return ImageBatches(images, labels, 8, 16, 0, "0", "here")


def build(module, sources=None, **changes):
    config = module.get_config("tiny")
    config.train.batch_size = 8
    config.update_from_flattened_dict({key.replace("__", "."): value for key, value in changes.items()})
    return module.build(config, sources or (source(), source(seed=1)))


@pytest.mark.parametrize(
    ("module", "argument", "expected"),
    [
        (autoencoder, "model.latent_dim=0", ["model.latent_dim=0", "at least 1"]),
        (autoencoder, "model.latent_dim=-3", ["model.latent_dim=-3", "at least 1"]),
        (autoencoder, "model.hidden=(0,)", ["model.hidden", "at least 1"]),
        (autoencoder, "model.activation=gelo", ["gelo", "did you mean gelu"]),
        (autoencoder, "objective.l2=-1", ["objective.l2=-1.0", "at least 0"]),
        (autoencoder, "model.output=linear", ["cross_entropy", "model.output=linear", "squared_error"]),
        (sparse_autoencoder, "objective.k=33", ["objective.k=33", "code's 32 units"]),
        (sparse_autoencoder, "objective.k_start=33", ["objective.k_start=33", "code's 32 units"]),
        (sparse_autoencoder, "objective.k_start=3", ["objective.k_start=3", "less than config.objective.k=4"]),
        (sparse_autoencoder, "objective.anneal=41 steps", ["anneal='41 steps'", "longer", "duration='40 steps'"]),
        (sparse_autoencoder, "objective.k=0", ["objective.k=0", "at least 1"]),
        (sparse_autoencoder, "model.latent_dim=0", ["model.latent_dim=0", "at least 1"]),
        (sparse_autoencoder, "objective.rho=0.0", ["objective.rho=0.0", "above 0.0 and below 1.0"]),
        (sparse_autoencoder, "objective.rho=1.0", ["objective.rho=1.0", "above 0.0 and below 1.0"]),
        (sparse_autoencoder, "objective.rho=-0.1", ["objective.rho=-0.1"]),
        (sparse_autoencoder, "objective.rho=nan", ["objective.rho=nan"]),
        (sparse_autoencoder, "objective.sparsity=k-sparse", ["k-sparse", "did you mean k_sparse"]),
        (sparse_autoencoder, "objective.weight=-1", ["objective.weight=-1.0"]),
        (sparse_autoencoder, "eval.alpha=0.5", ["eval.alpha=0.5", "at least 1"]),
        (contractive_autoencoder, "model.latent_dim=0", ["model.latent_dim=0", "at least 1"]),
        (contractive_autoencoder, "objective.weight=-0.1", ["objective.weight=-0.1", "at least 0"]),
        (contractive_autoencoder, "objective.contraction=exact", ["exact", "closed_form, jacobian, hutchinson"]),
        (contractive_autoencoder, "objective.num_probes=0", ["objective.num_probes=0"]),
        (denoising_autoencoder, "model.latent_dim=0", ["model.latent_dim=0", "at least 1"]),
        (denoising_autoencoder, "objective.level=-0.1", ["objective.level=-0.1", "at least 0"]),
        (denoising_autoencoder, "objective.level=1e30", ["objective.level=1e+30", "below 100"]),
        (denoising_autoencoder, "objective.level=inf", ["objective.level=inf"]),
        (denoising_autoencoder, "objective.level=nan", ["objective.level=nan"]),
        (
            denoising_autoencoder,
            "objective.corruption=salt_and_peper",
            ["salt_and_peper", "did you mean salt_and_pepper"],
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_value_out_of_range_is_refused_by_one_sentence(module, argument, expected, tmp_path):
    name = module.__name__.removeprefix("experiments.")
    with pytest.raises(SystemExit) as stopped:
        cli.main(name, ["--preset=tiny", f"--workdir={tmp_path / 'run'}", f"--config.{argument}"])
    message = stopped.value.code
    assert message.startswith("error: ") and "\n" not in message
    for part in expected:
        assert part in message, message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("kind", ["masking", "salt_and_pepper"])
@pytest.mark.parametrize("level", [-0.01, 1.0, 1.5, float("nan")])
def test_a_share_of_pixels_out_of_range_is_refused(kind, level):
    config = denoising_autoencoder.get_config("tiny")
    config.objective.corruption, config.objective.level = kind, level
    with pytest.raises(UserError, match=r"objective.level=.* below 1"):
        denoising_autoencoder.validate(config)


def test_more_units_on_than_there_are_is_no_matter_where_k_is_not_used():
    experiment = build(sparse_autoencoder, objective__sparsity="l1", objective__k=1000)
    assert "pca_squared_error" not in experiment.assess(start(experiment))


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_every_preset_is_valid(module):
    for name in module._PRESETS:
        module.validate(module.get_config(name))
    with pytest.raises(UserError, match=r"no preset 'huge'"):
        module.get_config("huge")


def test_whole_sets_and_batches_of_them():
    """Every image once and in order, with its label; a function of batches reaches each, the last batch too."""
    random = np.random.default_rng(2)
    images = random.integers(0, 256, (23, 3, 4, 1)).astype(np.uint8)
    labels = random.integers(0, 10, 23).astype(np.int32)

    def part(rows: slice) -> ImageBatches:
        """Of a process that has a third of every batch."""
        shares = {"process_index": 1, "process_count": 3}
        return ImageBatches(images[rows], labels[rows], 6, 6, seed=0, fingerprint="f", origin="made here", **shares)

    levels, found_labels = _images.whole_set(part(slice(0, 23)))
    np.testing.assert_array_equal(levels, images)
    np.testing.assert_array_equal(found_labels, labels)
    assert levels.dtype == np.uint8 and found_labels.dtype == np.int32
    sets = _autoencoder.load_sets(part(slice(0, 16)), part(slice(16, 23)))
    np.testing.assert_allclose(np.concatenate(sets.images), images / 255, rtol=1e-6)
    np.testing.assert_array_equal(np.concatenate(sets.labels), labels)
    assert sets.train.dtype == np.float32 and len(sets.train) == 16 and len(sets.test) == 7
    np.testing.assert_array_equal(sets.shown_rows, [*range(7), *range(7), *range(6)])
    doubled = _images.in_batches(lambda x: 2 * x.reshape(len(x), -1), sets.train, batch_size=7)
    np.testing.assert_allclose(doubled, 2 * sets.train.reshape(16, -1))


def test_images_that_the_stages_do_not_divide_are_refused():
    with pytest.raises(UserError, match=r"divide by 4, not 10x10"):
        build(autoencoder, (source(shape=(10, 10, 1)),) * 2, model__network="conv")


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_colour_images_and_images_without_labels(module):
    none = np.full(48, -1, np.int32)
    experiment = build(module, (source(shape=(8, 12, 3), labels=none), source(shape=(8, 12, 3), labels=none, seed=1)))
    state = start(experiment)
    numbers = experiment.assess(state)
    assert not any("probe" in name for name in numbers)
    assert all(np.isfinite(value) for value in numbers.values())
    pictures = experiment.pictures(state)
    grids = [p for p in pictures.values() if isinstance(p, Grid)]
    assert grids and all(grid.images.shape[2:] == (8, 12, 3) for grid in grids)


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
@pytest.mark.parametrize("labels", [np.zeros(48, np.int32), np.minimum(np.arange(48, dtype=np.int32), 1)])
def test_labels_that_no_probe_can_be_fitted_to_do_not_cost_a_run_its_pictures(module, labels):
    """One class, and a class of one example."""
    labels = labels.copy() if not labels.any() else 1 - labels
    experiment = build(module, (source(labels=labels), source(labels=labels, seed=1)))
    state = start(experiment)
    numbers = experiment.assess(state)
    assert not any("probe" in name for name in numbers)
    assert all(np.isfinite(value) for value in numbers.values())


def test_a_code_of_one_number_has_no_sparseness_and_writes_no_nan():
    numbers = build(sparse_autoencoder, model__latent_dim=1, objective__k=1, objective__k_start=1)
    found = numbers.assess(start(numbers))
    assert "hoyer_sparseness" not in found and found["active_units"] == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"model__network": "conv", "model__channels": (4, 8)},
        {"model__network": "conv", "model__channels": (4, 8), "model__tied": True},
        {"model__tied": True, "model__hidden": (), "objective__error": "squared_error", "model__output": "linear"},
        {"model__latent_dim": 1, "objective__l2": 0.1},
        {"model__latent_dim": 70},
    ],
    ids=["conv", "tied conv", "linear", "a code of one number", "a code larger than the image"],
)
def test_every_kind_of_network_trains_is_judged_and_drawn(changes):
    experiment = build(autoencoder, **changes)
    state, metrics = jax.jit(experiment.train_step)(start(experiment), experiment.train_source.batches(0, 2))
    assert np.all(np.isfinite(metrics["loss"]))
    assert experiment.assess(state)["pca_squared_error"] >= 0
    pictures = experiment.pictures(state)
    assert pictures["reconstructions"].images.shape[:2] == (6, 10)
    assert ("filters" in pictures) == (changes.get("model__network") != "conv")
    assert isinstance(pictures["codes"], Panels)
    samples = jax.jit(experiment.sample)(state, jax.random.split(jax.random.key(0), 4))
    assert samples.shape == (4, 8, 8, 1) and samples.min() >= 0 and samples.max() <= 1


@pytest.mark.parametrize("sparsity", ["k_sparse", "kl", "l1"])
def test_the_sparse_code_is_as_sparse_as_it_is_said_to_be(sparsity):
    experiment = build(sparse_autoencoder, objective__sparsity=sparsity, eval__alpha=2.0)
    numbers = experiment.assess(start(experiment))
    if sparsity == "k_sparse":
        assert numbers["active_units"] == 8  # α k = 2 · 4.
    else:
        assert 8 < numbers["active_units"] <= 32
    assert 0 <= numbers["hoyer_sparseness"] <= 1


def test_the_twins_begin_alike_and_the_contraction_of_one_leaves_the_other_alone():
    strong, none = (build(contractive_autoencoder, objective__weight=weight) for weight in (10.0, 0.0))
    batch = strong.train_source.batches(0, 2)
    init = jax.jit(strong.init)(rng.root(0))  # Of both: they differ in a weight of the loss.
    (a, _), (b, _) = (jax.jit(e.train_step)(init, batch) for e in (strong, none))
    first = init.params
    jax.tree.map(np.testing.assert_array_equal, first["model"], first["plain"])
    jax.tree.map(np.testing.assert_array_equal, a.params["plain"], b.params["plain"])
    moved = np.abs(a.params["model"]["encoder_0"]["kernel"] - b.params["model"]["encoder_0"]["kernel"])
    assert moved.max() > 1e-3
    # Without the penalty both are the same model.
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-7), b.params["model"], b.params["plain"])


def test_a_finished_run_says_what_was_assessed_and_evaluation_says_it_again(tmp_path):
    images, labels = np.random.default_rng(0).integers(0, 256, (96, 8, 8), np.uint8), np.arange(96) % 3
    np.savez(tmp_path / "mine.npz", x_train=images[:64], y_train=labels[:64], x_test=images[64:], y_test=labels[64:])
    config = sparse_autoencoder.get_config("tiny")
    config.data.name, config.data.dir = "mine", str(tmp_path)
    config.train.batch_size = config.eval.batch_size = 16
    experiment, folder = sparse_autoencoder.build(config), tmp_path / "run"
    outcome = loop.train(experiment, config, folder, say=lambda line: None, show_progress=False)
    written = json.loads((folder / "results.json").read_text())
    assert written == {"step": 40} | outcome.results
    assert {"squared_error", "sparse_probe_error_percent", "dead_units"} <= outcome.results.keys()
    assert "sparse_probe_error_percent" in (folder / "README.md").read_text()
    again = run.load(folder).evaluate()
    assert again.keys() == outcome.results.keys()
    assert again["sparse_probe_error_percent"] == outcome.results["sparse_probe_error_percent"]
    # The metrics file has only what does not depend on whether the run was interrupted.
    assert "probe" not in (folder / "metrics.jsonl").read_text()
    once_more = loop.train(experiment, config, folder, say=lambda line: None, show_progress=False)
    assert once_more.results == outcome.results
    (folder / "results.json").write_text("{")
    damaged = loop.train(experiment, config, folder, say=lambda line: None, show_progress=False)
    assert damaged.results["squared_error"] == outcome.results["squared_error"]
