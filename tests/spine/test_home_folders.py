"""A path in the folder of a person whom the system does not know is one sentence, wherever it is given."""

from __future__ import annotations

import pytest

from gen_jax import cli, run
from gen_jax.contracts import UserError
from gen_jax.data import load_images
from gen_jax.eval import features, inception
from gen_jax.train import workdir


@pytest.mark.parametrize(
    "arguments",
    [
        ["--workdir=~nosuchuser/x"],
        ["--workdir=~nosuchuser/x", "--mode=sample"],
        ["--data_dir=~nosuchuser/x"],
        ["--config.init_from=~nosuchuser/x"],
    ],
    ids=" ".join,
)
def test_the_folder_of_a_person_who_is_not_known(tmp_path, arguments):
    with pytest.raises(SystemExit) as stopped:
        cli.main("vae", ["--preset=tiny", f"--workdir={tmp_path / 'run'}", *arguments])
    message = stopped.value.code
    assert isinstance(message, str) and message.startswith("error: ")
    assert "~nosuchuser/x" in message and "person" in message and "\n" not in message


@pytest.mark.parametrize(
    "read",
    [
        run.load,
        workdir.open_workdir,
        lambda path: load_images("mnist", "test", path),
        lambda path: features.load(path, (28, 28, 1)),
        inception.load_fid_weights,
    ],
    ids=["run", "workdir", "data", "features", "inception"],
)
def test_the_folder_of_a_person_who_is_not_known_to_who_reads(read):
    with pytest.raises(UserError, match=r"~nosuchuser/x .* person"):
        read("~nosuchuser/x")
