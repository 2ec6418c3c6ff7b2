"""The numbers that people read of a VAE run, and what its config refuses."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn_states import start

from experiments import vae
from gen_jax import rng
from gen_jax.contracts import UserError
from gen_jax.data import ImageBatches
from gen_jax.families.vae import evaluation, objectives
from gen_jax.train.evaluation import evaluate
from gen_jax.train.parallel import Layout


def source(images, **changed):
    labels = np.zeros(len(images), np.int32)
    options = {"batch_size": 8, "evaluation_batch_size": 16, "seed": 0, "fingerprint": "0", "origin": "here"}
    return ImageBatches(images, labels, **(options | changed))


def random_images(count, shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), np.uint8)


def build(shape=(8, 8, 1), count=40, **changes):
    config = vae.get_config("tiny")
    config.update_from_flattened_dict(changes)
    images = source(random_images(count, shape))
    return vae.build(config, (images, images)), config


def means_of(experiment, state, step=None):
    layout = Layout("jit", jax.devices()[:1])
    wrapped = layout.wrap_eval(step or experiment.eval_step)
    return evaluate(wrapped, layout.put_state(state), experiment.test_source, layout)


def test_the_report_from_means_by_hand():
    means = {
        "elbo": np.asarray(-3072 * np.log(256)),  # The uniform distribution over 8-bit RGB of 32x32.
        "log_likelihood": np.asarray(-17000.0),
        "kl": np.asarray(35.0),
        "log_px": np.asarray(-3072 * np.log(2)),
        # Variances 1, 0.0101, 0.0099 and 0, about a mean that must be taken off; 0.01 is the threshold.
        "latent_mean": np.asarray([2.0, 0.5, 0.5, 3.0]),
        "latent_mean_squared": np.asarray([5.0, 0.2601, 0.2599, 9.0]),
    }
    numbers = evaluation.report(means, num_dims=3072, exact=True)
    assert numbers["bits_per_dim"] == pytest.approx(8.0, rel=1e-6)
    assert numbers["log_px_bits_per_dim"] == pytest.approx(1.0, rel=1e-6)
    assert numbers["active_units"] == 2
    assert numbers["elbo_nats"] == means["elbo"] and numbers["kl_nats"] == 35.0
    inexact = evaluation.report(means, num_dims=3072, exact=False)
    assert inexact["score_nats"] == means["elbo"]
    assert not {"elbo_nats", "bits_per_dim", "log_px_nats", "log_px_bits_per_dim"} & inexact.keys()


def test_active_units_are_those_whose_mean_varies():
    """By numpy's variance over 5,000 examples, the means apart from 0, on both sides of the threshold of 0.01."""
    stds = np.array([0.0, 0.05, 0.09, 0.11, 0.3, 2.0])
    means = np.random.default_rng(0).normal([0, 3, -2, 5, -1, 1], stds, (5000, 6))
    expected = np.count_nonzero(np.var(means, axis=0) > 0.01)
    assert expected == 3
    assert evaluation.active_units(means.mean(axis=0), (means**2).mean(axis=0)) == expected


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian", "discretized_logistic"])
def test_bits_per_dim_count_every_channel(likelihood):
    experiment, _ = build((8, 8, 3), **{"model.likelihood": likelihood})
    means = means_of(experiment, start(experiment))
    numbers = experiment.report(means)
    assert numbers["bits_per_dim"] == pytest.approx(-numbers["elbo_nats"] / (8 * 8 * 3 * np.log(2)), rel=1e-5)
    assert numbers["elbo_nats"] == pytest.approx(numbers["log_likelihood_nats"] - numbers["kl_nats"], rel=1e-5)


def silent(state):
    """A state whose posterior is the prior and whose decoder is constant: every output is its bias, 0."""
    return dataclasses.replace(state, params=jax.tree.map(np.zeros_like, state.params), ema_params=None)


def test_a_model_that_knows_nothing_of_binary_pixels_reports_one_bit():
    experiment, _ = build(**{"train.ema_decay": 0.0})
    numbers = experiment.report(means_of(experiment, silent(start(experiment)), experiment.likelihood_step))
    assert numbers["bits_per_dim"] == pytest.approx(1.0, abs=1e-6)
    assert numbers["log_px_bits_per_dim"] == pytest.approx(1.0, abs=1e-6)
    assert numbers["kl_nats"] == 0 and numbers["active_units"] == 0


def test_a_nearly_flat_density_on_uniform_levels_reports_eight_bits_and_what_it_wastes():
    # N(1/2, s²) with s = 10 is flat on [0, 1] to 1e-3; per dimension it wastes log(s √2π) + E(x − 1/2)² / 2s² nats.
    experiment, _ = build(
        count=400,
        **{"model.likelihood": "gaussian", "model.variance": "fixed", "model.fixed_std": 10.0, "train.ema_decay": 0.0},
    )
    numbers = experiment.report(means_of(experiment, silent(start(experiment))))
    waste = (np.log(10 * np.sqrt(2 * np.pi)) + (1 / 12) / 200) / np.log(2)
    assert numbers["bits_per_dim"] == pytest.approx(8 + waste, abs=1e-5)


def test_grey_levels_under_a_bernoulli_are_a_score():
    experiment, _ = build(**{"data.binarization": "none"})
    assert "score_nats" in experiment.report(means_of(experiment, start(experiment)))


def test_the_importance_weighted_bound_is_reported_where_it_is_trained():
    experiment, _ = build(**{"objective.bound": "iwae", "objective.num_samples": 20})
    numbers = experiment.report(means_of(experiment, start(experiment)))
    # The same 20 samples make both, so Jensen's inequality holds of the estimates too, example by example.
    assert numbers["iwae_nats"] > numbers["elbo_nats"]


@pytest.mark.parametrize(
    "changes",
    [
        {"objective.bound": "iwae", "objective.beta": 2.0},
        {"objective.bound": "iwae", "objective.kl_warmup": "1 epoch"},
        {"optim.weight_decay": 0.1},
        {"optim.momentum": 0.9},
        {"seed": 2**32},
    ],
)
def test_what_would_have_no_effect_or_no_meaning_is_refused(changes):
    with pytest.raises(UserError):
        build(**changes)


@pytest.mark.parametrize(("count", "batch", "processes"), [(40, 16, 1), (7, 16, 1), (40, 32, 16)])
def test_pictures_show_the_whole_test_set_whatever_the_batches(count, batch, processes):
    config = vae.get_config("tiny")
    images = random_images(count, (8, 8, 1))
    shard = source(
        images, evaluation_batch_size=batch, batch_size=16, process_index=3 % processes, process_count=processes
    )
    experiment = vae.build(config, (shard, shard))
    found = experiment.pictures(start(experiment))
    assert found["codes"].points.shape == (count, 2)
    first = np.round(found["reconstructions"].images[0] * 255).astype(np.uint8)
    np.testing.assert_array_equal(first, images[np.arange(10) % count])


def test_unknown_names_are_refused_by_the_functions_themselves():
    image = np.zeros((2, 2, 1), np.uint8)
    with pytest.raises(ValueError, match="binarization"):
        objectives.observe(rng.root(0), image, "bernoulli", "dynmic")
    with pytest.raises(ValueError, match="bound"):
        objectives.objective({}, {}, rng.root(0), {}, model=None, bound="iwea")
    with pytest.raises(ValueError, match="no weighted divergence"):
        objectives.objective({}, {}, rng.root(0), {}, model=None, bound="iwae", beta=2.0)


def test_the_decoder_mirrors_the_encoder():
    config = vae.get_config("tiny")
    config.model.hidden = (16, 4)
    model = vae.build_model(config, (8, 8, 1))
    params = jax.eval_shape(model.init, rng.root(0), jnp.zeros((1, 8, 8, 1)))["params"]
    assert [params["encoder"][f"Dense_{i}"]["kernel"].shape for i in (0, 1)] == [(64, 16), (16, 4)]
    assert [params["decoder"][f"Dense_{i}"]["kernel"].shape for i in (0, 1, 2)] == [(2, 4), (4, 16), (16, 64)]
