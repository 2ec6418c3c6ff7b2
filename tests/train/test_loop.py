"""The loop on points in the plane: frames over training, settled states, named warnings; interrupted or not."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gen_jax import cli, rng, run
from gen_jax import config as config_lib
from gen_jax.contracts import Experiment, Film, Grid, Scatter, UserError
from gen_jax.data import Mixture, point_sources
from gen_jax.train import loop, parallel
from gen_jax.train.state import init_state
from gen_jax.train.step import make_eval_step, make_train_step
from gen_jax.train.writer import read_metrics

GRID = np.stack(np.meshgrid(np.linspace(-3, 3, 9), np.linspace(-3, 3, 9)), axis=-1)


def make_config(**changes):
    config = config_lib.base_config()
    config.experiment = "points"
    config.optim.learning_rate = 0.1
    config.train.batch_size = config.eval.batch_size = 8
    config.train.duration = "12 steps"
    config.train.log_every = "2 steps"
    config.train.eval_every = "4 steps"
    config.train.checkpoint_every = "6 steps"
    config.eval.sample_chunk = 8
    config.parallel.backend = "jit"
    for key, value in changes.items():
        config_lib.set_value(config, key.replace("__", "."), value)
    return config


def build(config, **changes):
    """One learned point, `mean`, that follows the points of a ring; samples lie about it."""
    mixture = Mixture.ring(3, radius=1.0, std=0.1)
    train, test = point_sources(mixture, num_examples=80, num_test=20, **parallel.stream_options(config))

    def objective(params, model_state, key, batch):
        loss = jnp.mean(jnp.sum((params["mean"][None] - batch["point"]) ** 2, axis=-1))
        step = jnp.asarray(batch["step"])
        return loss, (
            model_state,
            {
                "warning_late": jnp.where(step >= 5, 1.0, 0.0),  # True of one step in the third log, of all after it.
                "walker/warning_even": jnp.where(step % 2 == 0, 1.0, 0.0),
                "walker/warning_most": jnp.where(step % 4 == 3, 0.0, 1.0),
                "value_warning_not": jnp.ones(()),
            },
        )

    def init(key):
        return init_state({"mean": jnp.array([3.0, -3.0])}, optax.adam(config.optim.learning_rate), key)

    def frame(state):  # As Field would draw it, but quicker.
        values = np.exp(-np.sum((GRID - state.params["mean"]) ** 2, axis=-1) / 8)
        return Grid(f"step {int(state.step):8d}", values[None, None, ::-1, :, None])

    return Experiment(
        train_source=train,
        test_source=test,
        init=init,
        train_step=make_train_step(
            objective, tx=optax.adam(config.optim.learning_rate), steps_per_call=config.train.steps_per_call
        ),
        eval_step=make_eval_step(
            lambda params, key, batch: {"distance": jnp.sum((params["mean"][None] - batch["point"]) ** 2, axis=-1)}
        ),
        report=lambda means: {"distance": float(means["distance"])},
        sample=lambda state, keys: jax.vmap(lambda k: state.params["mean"] + jax.random.normal(k, (2,)))(keys),
        pictures=lambda state: {
            "mean": frame(state),
            "walk": Film("walk", (frame(state), frame(state)), 4.0),
        },
        frame=frame,
        steps_per_call=config.train.steps_per_call,
        **changes,
    )


def train(workdir, config=None, **changes):
    config = make_config() if config is None else config
    experiment = changes.pop("experiment", None) or build(config, **changes)
    said = []
    return loop.train(experiment, config, workdir, say=said.append, show_progress=False), said


def frames(workdir):
    return {path.name: path.read_bytes() for path in (workdir / "frames").iterdir()}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("loop") / "run"
    outcome, said = train(workdir)
    return workdir, outcome, said


def test_a_run_is_drawn_before_the_first_step_and_at_every_evaluation_and_makes_a_film(unbroken):
    workdir, outcome, _ = unbroken
    drawn = frames(workdir)
    assert sorted(drawn) == [f"{step:08d}.png" for step in (0, 4, 8, 12)]
    assert len(set(drawn.values())) == 4
    names = ["mean.png", "training.mp4", "training.png", "walk.mp4", "walk.png"]
    assert [path.name for path in outcome.pictures] == names
    assert all(path.parent == workdir / "pictures" and path.stat().st_size for path in outcome.pictures)
    card = (workdir / "README.md").read_text()
    assert all(f"(pictures/{name})" in card for name in names) and "[64, 2]" in card
    again, said = train(workdir)
    assert again.pictures == outcome.pictures and "is finished" in said[0]


def interrupted(source, step):
    """A source that fails when the batch of a step is asked for, like a kill would."""

    class Broken:
        def __getattr__(self, name):
            return getattr(source, name)

        def batch(self, now):
            if now == step:
                raise UserError("The power is gone.")
            return source.batch(now)

    return Broken()


@pytest.mark.parametrize("step", [3, 10])
def test_an_interrupted_run_has_the_same_frames_and_film(tmp_path, unbroken, step):
    experiment = build(make_config())
    broken = dataclasses.replace(experiment, train_source=interrupted(experiment.train_source, step))
    with pytest.raises(UserError, match="power"):
        train(tmp_path / "run", experiment=broken)
    assert train(tmp_path / "run")[0].finished
    workdir = unbroken[0]
    assert frames(tmp_path / "run") == frames(workdir)
    for path in ("metrics.jsonl", "pictures/training.png", "pictures/training.mp4", "pictures/walk.mp4"):
        assert (tmp_path / "run" / path).read_bytes() == (workdir / path).read_bytes()


def test_an_experiment_without_a_frame_makes_no_film(tmp_path):
    config = make_config()
    experiment = dataclasses.replace(build(config), frame=None, pictures=lambda state: {})
    outcome, _ = train(tmp_path / "run", config, experiment=experiment)
    assert outcome.finished and outcome.pictures == [] and not (tmp_path / "run/frames").exists()
    assert "Pictures and videos: none" in (tmp_path / "run/README.md").read_text()


def test_a_run_without_an_encoder_says_so_and_keeps_its_pictures(tmp_path, monkeypatch):
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", "/bin/false")
    outcome, said = train(tmp_path / "run")
    assert outcome.finished and outcome.results
    assert [path.name for path in outcome.pictures] == ["mean.png", "training.png", "walk.png"]
    assert sum("cannot be written by the package imageio-ffmpeg" in line for line in said) == 2


def test_each_warning_is_said_once_when_it_holds_for_most_steps_and_always_logged(tmp_path, unbroken):
    texts = {"warning_late": "It is late.", "walker/warning_even": "Never said."}
    _, said = train(tmp_path / "run", warnings=texts)
    warned = [line for line in said if line.startswith("Warning")]
    # Steps 5 to 12 are late: half of the steps 5 and 6 are not most of them, both of 7 and 8 are.
    assert warned == [
        "Warning at step 2: walker/warning_most: true at 100% of the steps since the last logged one.",
        "Warning at step 8: warning_late: It is late.",
    ]
    rows = [row for row in read_metrics(tmp_path / "run/metrics.jsonl") if row["split"] == "train"]
    assert [row["warning_late"] for row in rows] == [0.0, 0.0, 1.0, 1.0, 1.0, 1.0]
    assert all(row["walker/warning_even"] == 0.0 for row in rows), "that of the last call, like any metric"
    assert not any("value_warning_not" in line for line in said)


def test_warnings_are_shares_of_steps_whatever_the_steps_of_a_call(tmp_path):
    _, said = train(tmp_path / "run", make_config(train__steps_per_call=2, train__log_every="4 steps"))
    warned = [line.split(":")[0] + line.split(":")[1] for line in said if line.startswith("Warning")]
    # Of the steps 1 to 4 three are "most"; of 5 to 8 three are late; never are more than half even.
    assert warned == ["Warning at step 4 walker/warning_most", "Warning at step 8 warning_late"]


def settle(state):
    """Moves the mean by (1, 0), which training never does at once."""
    return dataclasses.replace(state, params={"mean": state.params["mean"] + jnp.array([1.0, 0.0])})


def test_what_is_shown_judged_and_sampled_is_settled_and_what_is_trained_and_evaluated_is_not(tmp_path, unbroken):
    config = make_config()
    raw, seen = build(config), {"frame": [], "pictures": [], "assess": []}

    def spy(name, function):
        def spied(state):
            seen[name].append(np.array(state.params["mean"]))
            return function(state)

        return spied

    traces = []

    def counted(state):
        traces.append(state)
        return settle(state)

    experiment = dataclasses.replace(
        raw,
        settle=counted,
        frame=spy("frame", raw.frame),
        pictures=spy("pictures", raw.pictures),
        assess=spy("assess", lambda state: {"x": float(state.params["mean"][0])}),
    )
    outcome, _ = train(tmp_path / "run", config, experiment=experiment)
    workdir = unbroken[0]
    assert (tmp_path / "run/metrics.jsonl").read_bytes() == (workdir / "metrics.jsonl").read_bytes()
    assert len(traces) == 1, "compiled once"

    restored, step = loop.Checkpoints(tmp_path / "run/checkpoints").restore_latest(raw.init(rng.root(0)))
    assert step == 12
    kept = run.Run(tmp_path / "run", config, restored, experiment)
    expected = np.asarray(restored.params["mean"]) + np.float32([1.0, 0.0])
    for means in seen.values():
        np.testing.assert_array_equal(means[-1], expected)
    np.testing.assert_array_equal(seen["frame"][0], [4.0, -3.0])
    assert outcome.results["x"] == expected[0]

    unsettled = dataclasses.replace(kept, experiment=raw)
    np.testing.assert_allclose(kept.sample(num=5) - unsettled.sample(num=5), [[1.0, 0.0]] * 5, atol=1e-6)
    numbers = kept.evaluate()
    assert numbers == unsettled.evaluate() | {"x": float(expected[0])}
    assert kept.settled is kept.settled


def test_samples_that_are_points_are_written_as_a_picture_and_an_array(tmp_path, unbroken, capsys):
    config = make_config()
    experiment = build(config)
    workdir = tmp_path / "run"
    loaded = run.Run(workdir, config, experiment.init(rng.root(0)), experiment)
    cli._sample(loaded, {}, seed=3, num=5)
    assert [line.rsplit("/", 1)[1] for line in capsys.readouterr().out.split()] == ["seed3_num5.png", "seed3_num5.npy"]
    points = np.load(workdir / "samples/seed3_num5.npy")
    assert points.shape == (5, 2) and np.array_equal(points, loaded.sample(seed=3, num=5))
    sheet = cli._sheet(points, "a title")
    assert isinstance(sheet, Scatter) and np.array_equal(sheet.points, points)
    assert (workdir / "samples/seed3_num5.png").stat().st_size

    changed = {"sampler.num_steps": 50, "sampler.name": "ddim", "data.dir": "/elsewhere", "guidance.path": "/a b/run 1"}
    cli._sample(loaded, changed, seed=3, num=5)
    names = [path.name for path in (workdir / "samples").glob("seed3_num5_guidance*.npy")]
    assert len(names) == 1 and "guidance.path=run-1_sampler.name=ddim_sampler.num_steps=50_" in names[0]
    assert np.array_equal(np.load(workdir / "samples" / names[0]), points), "beside the others, named by what differs"
    assert cli._suffix({"a.b": 1, "c": "d"}) == "_a.b=1_c=d"
    assert cli._suffix({"a": "/x/nc"}) != cli._suffix({"a": "/y/nc"})
    long = [cli._suffix({"a" * 300: "b" * 300, "c": value}) for value in "de"]
    assert long[0] != long[1] and max(map(len, long)) <= 180


@pytest.mark.parametrize(
    ("bad", "named"),
    [
        (
            ("discriminator/loss", "discriminator/grad_norm", "generator/loss", "generator/a", "loss"),
            "discriminator/loss",
        ),
        (("discriminator/grad_norm", "generator/fake", "generator/loss"), "discriminator/grad_norm"),
        (("discriminator/real", "discriminator/loss", "loss"), "discriminator/real"),
        (("generator/loss", "generator/grad_norm"), "generator/loss"),
        (("loss", "grad_norm"), "loss"),
        (("term", "loss", "grad_norm"), "term"),
    ],
)
def test_the_value_named_is_the_one_that_the_others_are_made_of(tmp_path, bad, named):
    config = make_config()
    everything = {"loss": 0.0, "grad_norm": 0.0} | dict.fromkeys(bad, float("nan"))
    everything |= {name: 0.0 for name in ("generator/a", "discriminator/real") if name not in bad}

    def step(state, batch, *, axis_name=None):
        return state, {name: jnp.asarray(value) for name, value in everything.items()}

    with pytest.raises(UserError, match=f"'{named}' is nan"):
        train(tmp_path / "run", config, experiment=dataclasses.replace(build(config), train_step=step, frame=None))
