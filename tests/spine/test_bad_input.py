"""What a user can cause is one clear sentence and a status that is not zero, and nothing is lost."""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import json
import pathlib
import resource
import shutil
import time

import numpy as np
import pytest

from gen_jax import cli, rng, run
from gen_jax.checkpoint import Checkpoints
from gen_jax.contracts import UserError
from gen_jax.train import loop, workdir

vae = run.find_experiment("vae")


def tiny():
    return vae.get_config("tiny")


def sentence(*arguments: str) -> str:
    """What the command line says before it exits with a status that is not zero."""
    with pytest.raises(SystemExit) as stopped:
        cli.main("vae", ["--preset=tiny", *arguments])
    message = stopped.value.code
    assert isinstance(message, str) and message.startswith("error: "), message  # sys.exit(text) has status 1.
    assert "Traceback" not in message
    return message


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--config.optim.learnin_rate=1"], ["optim.learnin_rate", "did you mean optim.learning_rate"]),
        (["--config.modle.latent_dim=2"], ["modle.latent_dim", "did you mean model.latent_dim"]),
        (["--config.optim.learning_rate=fast"], ["optim.learning_rate", "'fast'"]),
        (["--config.optim.learning_rate=-1"], ["optim.learning_rate=-1.0", "above 0"]),
        (["--config.optim.learning_rate=nan"], ["optim.learning_rate=nan", "above 0"]),
        (["--config.optim.learning_rate=inf"], ["optim.learning_rate=inf", "above 0"]),
        (["--config.model.latent_dim=2.5"], ["model.latent_dim"]),
        (["--config.model.latent_dim=0"], ["model.latent_dim=0", "at least 1"]),
        (["--config.model.hidden=(0,)"], ["model.hidden", "at least 1"]),
        (["--config.model.dropout=1.0"], ["model.dropout=1.0", "below 1"]),
        (["--config.model.likelihood=bernuli"], ["bernuli", "did you mean bernoulli"]),
        (["--config.optim.schedule=cosin"], ["cosin", "did you mean cosine"]),
        (["--config.train.duration=5 parsecs"], ["5 parsecs", "10 epochs"]),
        (["--config.train.duration=0 steps"], ["train.duration", "at least one step"]),
        (["--config.train.batch_size=0"], ["train.batch_size=0"]),
        (["--config.train.batch_size=63"], ["train.batch_size=63", "8 devices", "56 or 64"]),
        (["--config.eval.importance_chunk=7"], ["importance_chunk=7", "divisor"]),
        (["--config.data.name=fashion_mnst"], ["fashion_mnst", "fashion_mnist"]),
        (["--config.optim"], ["--config.optim", "--config.KEY=VALUE"]),
        (["--config.optim=3"], ["optim"]),
        (["--presett=tiny"], ["no flag --presett", "did you mean --preset?"]),
        (["--confg.model.latent_dim=2"], ["--confg.model.latent_dim", "did you mean --config?"]),
        (["--mode=eval", "--preset=tinny"], ["tinny", "did you mean tiny?"]),
        (["--mode=rendr"], ["rendr", "did you mean render?"]),
        (["--mode=sample", "--num=0"], ["num"]),
        (["--mode=sample", "--seed=-1"], ["seed"]),
        (["workdir=x"], ["workdir=x", "--"]),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else None,
)
def test_a_bad_flag_is_named_with_what_was_expected(arguments, expected, tmp_path):
    message = sentence(f"--workdir={tmp_path / 'run'}", *arguments)
    for part in expected:
        assert part in message, message
    assert "\n" not in message or "--config.data.name=fashion_mnst" in arguments  # That one lists where it looked.
    assert not (tmp_path / "run" / "checkpoints").exists()


def images(n=256, side=28):
    return np.random.default_rng(0).integers(0, 256, (n, side, side), np.uint8)


def write_npz(folder, **changed):
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {
        "x_train": images(),
        "y_train": np.zeros(256, np.uint8),
        "x_test": images(64),
        "y_test": np.zeros(64, np.uint8),
    }
    np.savez(folder / "mine.npz", **(arrays | changed))
    return folder / "mine.npz"


def run_on(folder, tmp_path, *arguments):
    return sentence(f"--workdir={tmp_path / 'run'}", f"--data_dir={folder}", "--config.data.name=mine", *arguments)


def test_a_corrupt_npz(tmp_path):
    path = write_npz(tmp_path / "data")
    path.write_bytes(path.read_bytes()[:-200])
    assert "mine.npz" in run_on(tmp_path / "data", tmp_path)


def test_nan_in_the_data(tmp_path):
    x = images().astype(np.float32) / 255
    x[3, 4, 5] = np.nan
    write_npz(tmp_path / "data", x_train=x)
    message = run_on(tmp_path / "data", tmp_path)
    assert "mine.npz" in message and "x_train" in message


def test_a_truncated_idx_file(tmp_path):
    folder = tmp_path / "data" / "mine"
    folder.mkdir(parents=True)
    whole = bytes([0, 0, 8, 3]) + np.array([256, 28, 28], ">u4").tobytes() + images().tobytes()
    (folder / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(whole[:-1000]))
    (folder / "train-labels-idx1-ubyte").write_bytes(bytes([0, 0, 8, 1, 0, 0, 1, 0]) + bytes(256))
    message = run_on(tmp_path / "data", tmp_path)
    assert "train-images-idx3-ubyte.gz" in message


def test_an_image_size_that_the_model_cannot_take(tmp_path):
    write_npz(tmp_path / "data", x_train=images(256, 30), x_test=images(64, 30))
    message = run_on(tmp_path / "data", tmp_path, "--config.model.network=conv")
    assert "30x30" in message and "divide by 4" in message


def test_train_and_test_images_of_different_sizes(tmp_path):
    write_npz(tmp_path / "data", x_test=images(64, 32))
    message = run_on(tmp_path / "data", tmp_path)
    assert "28" in message and "32" in message


def test_a_workdir_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    message = sentence(f"--workdir={tmp_path / 'file' / 'run'}")
    assert "cannot be written" in message and "--workdir" in message


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished tiny run with checkpoints at 20 and 40."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    loop.train(vae.build(tiny()), tiny(), folder, say=lambda line: None, show_progress=False)
    return folder


@pytest.fixture
def copied(finished, tmp_path):
    return pathlib.Path(shutil.copytree(finished, tmp_path / "copy"))


def test_a_workdir_with_another_config_names_the_keys(copied):
    message = sentence(f"--workdir={copied}", "--config.seed=7", "--config.model.latent_dim=5")
    assert "seed (0 -> 7)" in message and "model.latent_dim (2 -> 5)" in message


def rewrite_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_workdir_of_another_experiment(copied):
    rewrite_config(copied, experiment="gan")
    assert "run of 'gan'" in sentence(f"--workdir={copied}")
    assert "run of 'gan'" in sentence(f"--workdir={copied}", "--mode=sample")


@pytest.mark.parametrize("name", ["os", "experiments.vae", "../vae", "vea", "benchmarks", "__main__", ""])
def test_load_runs_no_module_that_a_workdir_names_but_an_experiment(copied, name):
    rewrite_config(copied, experiment=name)
    with pytest.raises(UserError, match="no experiment"):
        run.load(copied)


def test_a_config_file_that_is_not_one(copied):
    for text in ("{", "[]", "3", '{"experiment": "vae", "modle": {"x": 1}}', '{"experiment": "vae", "seed": "x"}'):
        (copied / "config.json").write_text(text)
        with pytest.raises(UserError):
            run.load(copied)
        assert sentence(f"--workdir={copied}")


def test_data_that_changed_since_the_run_began(tmp_path):
    write_npz(tmp_path / "data")
    arguments = [
        "--preset=tiny",
        f"--workdir={tmp_path / 'run'}",
        f"--data_dir={tmp_path / 'data'}",
        "--config.data.name=mine",
    ]
    cli.main("vae", arguments)
    write_npz(tmp_path / "data", x_train=images()[::-1])
    message = sentence(*arguments[1:])
    assert "train data have changed" in message


def test_a_run_whose_data_are_gone_still_samples_and_says_why_it_cannot_be_evaluated(tmp_path):
    write_npz(tmp_path / "data")
    arguments = [
        "--preset=tiny",
        f"--workdir={tmp_path / 'run'}",
        f"--data_dir={tmp_path / 'data'}",
        "--config.data.name=mine",
    ]
    cli.main("vae", arguments)
    before = run.load(tmp_path / "run").sample(seed=0, num=5)
    shutil.rmtree(tmp_path / "data")
    loaded = run.load(tmp_path / "run")
    assert np.array_equal(loaded.sample(seed=0, num=5), before)
    with pytest.raises(UserError, match="data is not there"):
        loaded.evaluate()


def files_of(folder, step):
    return [p for p in (folder / "checkpoints" / str(step)).rglob("*") if p.is_file()]


def damage(path, how):
    if how == "missing":
        path.unlink()
    elif how == "cut":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    else:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 0xFF
        path.write_bytes(data)


@pytest.mark.parametrize("how", ["flipped", *(pytest.param(how, marks=pytest.mark.slow) for how in ("missing", "cut"))])
def test_a_damaged_checkpoint_falls_back_and_the_run_is_made_whole(copied, finished, how):
    largest = max(files_of(copied, 40), key=lambda p: p.stat().st_size)
    damage(largest, how)
    said: list[str] = []
    outcome = loop.train(vae.build(tiny()), tiny(), copied, say=said.append, show_progress=False)
    text = " ".join(said)
    assert "checkpoints/40 cannot be read" in text
    assert "Falling back to step 20: the work of steps 21 to 40 is lost" in text
    assert outcome.finished
    assert (copied / "metrics.jsonl").read_bytes() == (finished / "metrics.jsonl").read_bytes()
    assert (copied / "broken_checkpoints" / "40").is_dir(), "the broken checkpoint was thrown away"


def test_every_file_of_a_checkpoint_may_be_missing_without_a_traceback(finished, tmp_path):
    target = vae.build(tiny()).init(rng.root(0))
    for number, name in enumerate(p.relative_to(finished) for p in files_of(finished, 40)):
        folder = pathlib.Path(shutil.copytree(finished, tmp_path / str(number)))
        (folder / name).unlink()
        said: list[str] = []
        _, step = Checkpoints(folder / "checkpoints", say=said.append).restore_latest(target)
        assert step == 40 or (step == 20 and "Falling back" in " ".join(said)), name


def test_no_checkpoint_that_can_be_read(copied):
    for step in (20, 40):
        damage(max(files_of(copied, step), key=lambda p: p.stat().st_size), "cut")
    with pytest.raises(UserError, match="None of the checkpoints"):
        run.load(copied)


def test_a_checkpoint_of_another_model_is_refused_by_name(copied):
    config = json.loads((copied / "config.json").read_text())
    config["model"]["hidden"] = [16]
    (copied / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"another model's: .* is float32\[.*32.*\] in the checkpoint"):
        run.load(copied)


@contextlib.contextmanager
def files_of_at_most(size):
    """A full disk, as far as this process can tell: no file may grow beyond a size."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class FillDiskAt:
    """A source that fills the disk when the batches of a step are asked for and a checkpoint is safe."""

    def __init__(self, source, step, stack, safe):
        self._source, self._step, self._stack, self._safe = source, step, stack, safe

    def __getattr__(self, name):
        return getattr(self._source, name)

    def batches(self, step, count):
        if step == self._step:
            while not self._safe.is_dir():  # Checkpoints are written in the background.
                time.sleep(0.01)
            self._stack.enter_context(files_of_at_most(50_000))
        return self._source.batches(step, count)


def test_a_full_disk_while_saving_leaves_the_earlier_checkpoint(tmp_path, finished):
    experiment = vae.build(tiny())
    with contextlib.ExitStack() as stack:
        filling = dataclasses.replace(
            experiment, train_source=FillDiskAt(experiment.train_source, 30, stack, tmp_path / "run/checkpoints/20")
        )
        with pytest.raises(
            UserError, match=r"cannot be written \(.*\); the last checkpoint is that of step 20"
        ) as stopped:
            loop.train(filling, tiny(), tmp_path / "run", say=lambda line: None, show_progress=False)
    assert "\n" not in str(stopped.value)
    outcome = loop.train(experiment, tiny(), tmp_path / "run", say=lambda line: None, show_progress=False)
    assert outcome.finished
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == (finished / "metrics.jsonl").read_bytes()


def test_an_exploding_learning_rate_stops_at_the_step_and_names_the_term(tmp_path):
    config = tiny()
    config.optim.name, config.optim.learning_rate = "sgd", 1e10
    with pytest.raises(UserError, match=r"stopped at step \d+: '\w+' is (nan|inf|-inf)\. There is no checkpoint"):
        loop.train(vae.build(config), config, tmp_path, say=lambda line: None, show_progress=False)
    assert not Checkpoints(tmp_path / "checkpoints").steps()


def test_a_value_that_is_not_finite_leaves_the_last_good_checkpoint(tmp_path):
    experiment = vae.build(tiny())

    def poisoned(state, batch, *, axis_name=None):
        state, metrics = experiment.train_step(state, batch, axis_name=axis_name)
        bad = state.step >= 26
        return state, metrics | {"kl": metrics["kl"] / (1 - bad)}

    with pytest.raises(UserError, match=r"stopped at step 2[56]: 'kl' is inf\. The last good checkpoint is step 20"):
        loop.train(
            dataclasses.replace(experiment, train_step=poisoned),
            tiny(),
            tmp_path,
            say=lambda line: None,
            show_progress=False,
        )
    assert Checkpoints(tmp_path / "checkpoints").steps() == [20]


def test_two_processes_cannot_train_in_one_workdir(tmp_path):
    folder = workdir.open_workdir(tmp_path)
    with workdir.lock(folder), pytest.raises(UserError, match="Another process is training"):
        loop.train(vae.build(tiny()), tiny(), tmp_path, say=lambda line: None, show_progress=False)


def test_files_that_are_not_what_they_should_be_are_no_traceback(copied):
    (copied / "provenance.json").write_text('{"data": {"train": {}, "test": []}}')
    (copied / "checkpoints" / "40" / "files.json").write_text("[]")
    (copied / "metrics.jsonl").write_text((copied / "metrics.jsonl").read_text() + "[1]\n")
    outcome = loop.train(vae.build(tiny()), tiny(), copied, say=lambda line: None, show_progress=False)
    assert outcome.finished and outcome.results["elbo_nats"] < 0
    (copied / "config.json").write_bytes(b"\xff\xfe\x00")
    assert "cannot be read as text" in sentence(f"--workdir={copied}")


@pytest.mark.parametrize("name", ["README.md", "frames/00000007.png", "results.json", "provenance.json"])
def test_somebody_elses_folder_is_left_alone(tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    assert f"is not empty ({name.partition('/')[0]})" in sentence(f"--workdir={tmp_path}")
    assert (tmp_path / name).read_text() == "mine"


def test_a_finished_run_keeps_its_config_and_says_what_has_no_effect(copied):
    before = {p: p.read_bytes() for p in copied.rglob("*") if p.is_file()}
    config, said = tiny(), []
    config.train.keep_checkpoints += 3
    outcome = loop.train(vae.build(config), config, copied, say=said.append, show_progress=False)
    assert outcome.finished and "This run is finished" in said[0]
    assert "train.keep_checkpoints (3 -> 6)" in said[1] and "--mode=eval" in said[1]
    assert {p: p.read_bytes() for p in copied.rglob("*") if p.is_file()} == before


def test_a_run_that_goes_on_records_what_changed(copied):
    config = tiny()
    config.train.keep_checkpoints += 3
    (copied / "README.md").unlink()  # So that the run is not finished.
    loop.train(vae.build(config), config, copied, say=lambda line: None, show_progress=False)
    assert json.loads((copied / "config.json").read_text())["train"]["keep_checkpoints"] == 6


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--seed=5"], "--config.seed"),
        (["--num=5"], "--num has no effect"),
        (["--mode=eval", "--dry_run"], "--dry_run has no effect"),
        (["--num_processes=2"], "without --distributed"),
        (["--config.experiment=gan"], "cannot be set"),
        (["--config.model.hidden=(1.5,)"], "model.hidden"),
        (["--config.model.hidden=('a',)"], "model.hidden"),
        (["--config.seed=4294967296"], "seed"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else None,
)
def test_a_flag_that_would_do_nothing_or_harm_is_refused(arguments, expected, tmp_path):
    with pytest.raises(SystemExit) as stopped:
        cli.main("vae", [f"--workdir={tmp_path / 'run'}", *arguments])
    assert str(stopped.value.code).startswith("error: ") and expected in stopped.value.code


def test_other_data_than_the_runs_are_not_evaluated(tmp_path):
    write_npz(tmp_path / "data")
    arguments = ["--preset=tiny", f"--workdir={tmp_path / 'run'}", f"--data_dir={tmp_path / 'data'}"]
    cli.main("vae", [*arguments, "--config.data.name=mine"])
    write_npz(tmp_path / "data", x_test=images(64)[::-1])
    loaded = run.load(tmp_path / "run")
    assert loaded.sample(num=2).shape == (2, 28, 28, 1)
    with pytest.raises(UserError, match=r"test data found in .* are not those of the run"):
        loaded.evaluate()


def test_a_crash_while_drawing_loses_no_step_and_the_same_command_draws(tmp_path, finished):
    experiment = vae.build(tiny())

    def broken(state):
        raise RuntimeError("drawing")

    with pytest.raises(RuntimeError, match="drawing"):
        loop.train(
            dataclasses.replace(experiment, pictures=broken),
            tiny(),
            tmp_path,
            say=lambda line: None,
            show_progress=False,
        )
    assert Checkpoints(tmp_path / "checkpoints").steps() == [20, 40]
    outcome = loop.train(experiment, tiny(), tmp_path, say=lambda line: None, show_progress=False)
    assert outcome.finished and len(outcome.pictures) == 5
    assert (tmp_path / "metrics.jsonl").read_bytes() == (finished / "metrics.jsonl").read_bytes()


def test_init_from_needs_neither_the_same_optimiser_nor_an_average(tmp_path, finished):
    config = tiny()
    config.init_from, config.optim.name, config.train.ema_decay = str(finished), "sgd", 0.0
    config.train.duration, config.optim.learning_rate = "2 steps", 1e-12
    loop.train(vae.build(config), config, tmp_path, say=lambda line: None, show_progress=False)
    old, new = run.load(finished).state, run.load(tmp_path).state
    np.testing.assert_allclose(
        new.params["decoder"]["Dense_0"]["kernel"], old.params["decoder"]["Dense_0"]["kernel"], atol=1e-6
    )


def test_a_folder_that_is_no_run(tmp_path):
    assert "no config.json" in sentence(f"--workdir={tmp_path}", "--mode=sample")
    with pytest.raises(UserError, match="no config"):
        run.load(tmp_path / "nowhere")
