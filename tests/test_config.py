"""Durations, rules, and configs that survive a round trip."""

from __future__ import annotations

import re

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ml_collections import ConfigDict

from gen_jax import config as config_lib
from gen_jax import rng, run
from gen_jax.contracts import UserError
from gen_jax.train import workdir


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("500 steps", 500),
        ("500", 500),
        ("1 step", 1),
        ("1 epoch", 79),  # 10,000 examples in batches of 128: the last batch goes on into the next epoch.
        ("2 epochs", 157),
        ("0.5 epochs", 40),
        ("128 examples", 1),
        ("129 examples", 2),
        ("1e3 examples", 8),
        ("0 steps", 0),
        (" 10epochs ", 782),
    ],
)
def test_a_duration_in_steps(text, steps):
    assert config_lib.steps_in(text, batch_size=128, num_examples=10_000) == steps


@given(st.integers(1, 10**6), st.integers(1, 4096), st.integers(1, 10**6))
def test_a_duration_in_examples_is_covered_and_not_by_a_step_too_many(examples, batch_size, num_examples):
    steps = config_lib.steps_in(f"{examples} examples", batch_size, num_examples)
    assert steps * batch_size >= examples > (steps - 1) * batch_size


@pytest.mark.parametrize("text", ["", "ten steps", "5 parsecs", "-3 steps", "3 steps more", "nan"])
def test_what_is_not_a_duration_is_refused(text):
    with pytest.raises(UserError, match="is not a duration"):
        config_lib.steps_in(text, 1, 1)


@pytest.mark.parametrize("name", run.experiment_names())
def test_a_config_survives_a_round_trip_through_json(name):
    module = run.find_experiment(name)
    config = module.get_config("tiny")
    again = config_lib.from_json(config_lib.to_json(config), module.get_config())
    assert again == config
    assert config_lib.flatten(again) == config_lib.flatten(config)
    assert not config_lib.differences(config, again)


def test_every_key_with_a_range_is_checked():
    module = run.find_experiment("vae")
    config = module.get_config("tiny")
    for key, value in config_lib.flatten(config).items():
        if isinstance(value, int | float) and not isinstance(value, bool):
            broken = module.get_config("tiny")
            config_lib.set_value(broken, key, type(value)(-1))
            with pytest.raises(UserError, match=key.rsplit(".", 1)[-1]):
                module.validate(broken)


def test_setting_a_value_keeps_the_type():
    config = config_lib.base_config()
    config_lib.set_value(config, "optim.learning_rate", 1)
    assert config.optim.learning_rate == 1.0 and isinstance(config.optim.learning_rate, float)
    with pytest.raises(UserError, match="wrong type"):
        config_lib.set_value(config, "optim.learning_rate", "1")
    with pytest.raises(UserError, match="wrong type"):
        config_lib.set_value(config, "train.batch_size", 1.5)
    with pytest.raises(UserError, match=r"did you mean train\.batch_size"):
        config_lib.set_value(config, "train.batchsize", 3)


def test_differences_names_keys_and_values_and_passes_over_what_may_change():
    old, new = config_lib.base_config(), config_lib.base_config()
    new.seed, new.parallel.backend = 3, "jit"
    assert config_lib.differences(old, new, config_lib.is_free_to_change) == ["seed (0 -> 3)"]
    assert len(config_lib.differences(old, new)) == 2


def another(value):
    """Twice a number, or the other of two truths."""
    return not value if isinstance(value, bool) else 2 * value


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("vae", "eval.importance_samples"),
        ("denoising_autoencoder", "eval.inpaint_steps"),
        ("contractive_autoencoder", "eval.spectrum_examples"),
        ("gan", "eval.parzen"),
        ("nerf", "mesh.resolution"),
    ],
)
def test_a_run_goes_on_with_another_value_of_what_it_is_judged_by_at_the_end(name, key, tmp_path):
    config = run.find_experiment(name).get_config("tiny")
    workdir.claim(tmp_path, config)
    config_lib.set_value(config, key, another(config_lib.get(config, key)))
    workdir.claim(tmp_path, config)
    assert workdir.differences(tmp_path, config)
    config.eval.batch_size *= 2
    with pytest.raises(
        UserError, match=r"holds a run with another config: eval\.batch_size \(\d+ -> \d+\)\. Give the same"
    ):
        workdir.claim(tmp_path, config)


@pytest.mark.parametrize("name", run.experiment_names())
def test_what_is_free_to_change_changes_no_row_of_an_evaluation(name):
    """Nor of training: batches, an evaluation's program and its constants, and what is made of its means."""
    module = run.find_experiment(name)
    config, other = module.get_config("tiny"), module.get_config("tiny")
    for key, value in config_lib.flatten(config.eval, "eval.").items():
        if config_lib.is_free_to_change(key) and not isinstance(value, str):
            config_lib.set_value(other, key, another(value))
    assert config_lib.differences(config, other)

    experiments = module.build(config), module.build(other)
    state = jax.eval_shape(experiments[0].init, rng.root(0))

    def rows(experiment):
        batch = next(iter(experiment.test_source.evaluation()))
        program, sums = jax.make_jaxpr(experiment.eval_step, return_shape=True)(state, batch)
        means = {key: np.geomspace(1e-3, 0.4, total.size).reshape(total.shape) for key, (total, _) in sums.items()}
        text = re.sub(r"0x[0-9a-f]+", "", str(program))  # The addresses of functions.
        arrays = [*program.consts, *batch.values(), *experiment.train_source.batch(0).values()]
        return text, [np.asarray(array).tobytes() for array in arrays], experiment.report(means)

    assert rows(experiments[0]) == rows(experiments[1])


def test_what_rows_depend_on_is_in_some_config():
    known = {
        key for name in run.experiment_names() for key in config_lib.flatten(run.find_experiment(name).get_config())
    }
    assert known >= set(config_lib.AT_EVALUATIONS)


@pytest.mark.parametrize("value", [0.0, 1.0, -0.1, 1.5, float("nan"), float("inf")])
def test_an_open_interval_has_no_ends(value):
    assert config_lib.inside(0.0, 1.0)(value) == "a number above 0.0 and below 1.0"
    assert config_lib.inside(0.0, 1.0)(0.5) is None


def test_a_preset_changes_the_config_that_names_it():
    config = config_lib.base_config()
    config.experiment, config.preset = "mine", "small"
    presets = {"small": lambda c: c.train.update(batch_size=8), "large": lambda c: c.train.update(batch_size=512)}
    assert config_lib.apply_preset(config, presets).train.batch_size == 8
    config.preset = "smal"
    with pytest.raises(UserError, match=r"mine has no preset 'smal' \(did you mean small\?\); .* small, large"):
        config_lib.apply_preset(config, presets)


def test_what_a_run_was_trained_with_cannot_be_overridden():
    config = config_lib.base_config()
    config.process = ConfigDict({"num_steps": 1000})
    config.sampler = ConfigDict({"num_steps": 50, "name": "ddim"})
    config_lib.check_overrides(config, {"sampler.num_steps": 10, "eval.batch_size": 7, "process.num_steps": 1000})
    for key, value in {"process.num_steps": 500, "train.batch_size": 1, "seed": 3, "optim.b1": 0.5}.items():
        with pytest.raises(UserError, match=rf"config\.{key} was .* when the run was trained"):
            config_lib.check_overrides(config, {key: value})
    with pytest.raises(UserError, match=r"no key 'sampler\.num_step'"):
        config_lib.check_overrides(config, {"sampler.num_step": 10})
    assert config.sampler.num_steps == 50, "the config itself stays"


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("optim.lr", "(did you mean optim.learning_rate?)"),
        ("lr", "(did you mean optim.learning_rate?)"),
        ("optim.adam.lr", "(did you mean optim.learning_rate?)"),
        ("train.batchsize", "(did you mean train.batch_size?)"),
        ("trian.duration", "(did you mean train.duration?)"),
        ("batch_size", "(did you mean eval.batch_size or train.batch_size?)"),
        ("model.learning_rate", "(did you mean optim.learning_rate? config.model has depth)"),
        ("model.z_dim", "(config.model has depth)"),
        ("nothing.alike", "no key 'nothing.alike'; --dry_run"),
    ],
)
def test_an_unknown_key_is_answered_with_the_nearest_or_its_section(key, said):
    config = config_lib.base_config()
    config.model = ConfigDict({"depth": 3})
    with pytest.raises(UserError) as error:
        config_lib.set_value(config, key, 1)
    assert said in str(error.value)
