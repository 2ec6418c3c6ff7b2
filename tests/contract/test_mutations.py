"""The mutants of `tests/mutations.py` are ones: each changes the code of a function that has a test of its own.

Whether the tests catch them is seen by `make mutants`, which takes minutes.
"""

from __future__ import annotations

import ast
import importlib.util
import pathlib
import tomllib

import pytest

ROOT = pathlib.Path(__file__).parents[2]


def load():
    spec = importlib.util.spec_from_file_location("mutations", ROOT / "tests" / "mutations.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MUTATIONS = load()
ROWS = tomllib.loads((ROOT / "tests" / "equations.toml").read_text(encoding="utf-8"))["rows"]


def test_there_are_mutants_of_every_family():
    assert len(set(MUTATIONS.MUTANTS)) == len(MUTATIONS.MUTANTS) >= 40
    families = {mutant.function.split(".")[2] for mutant in MUTATIONS.MUTANTS}
    assert families >= {"autoencoder", "vae", "gan", "diffusion", "nerf"}


@pytest.mark.parametrize("mutant", MUTATIONS.MUTANTS, ids=lambda mutant: f"{mutant.function}: {mutant.bug}")
def test_a_mutant_is_another_program(mutant):
    source = (ROOT / MUTATIONS.file_of(mutant.function)).read_text(encoding="utf-8")
    assert ast.dump(ast.parse(MUTATIONS.mutate(source, mutant))) != ast.dump(ast.parse(source))
    assert "test" in ROWS[mutant.function]


def test_what_is_no_mutant_is_refused():
    source = 'def f(x):\n    """Say x."""\n    return x + x\n'
    for function, old in (("m.g", "x"), ("m.f", "y"), ("m.f", "x"), ("m.f", "Say")):
        with pytest.raises(ValueError, match=r"There is no function m\.g|expected it once"):
            MUTATIONS.mutate(source, MUTATIONS.Mutant(function, old, "z", ""))
    mutant = MUTATIONS.Mutant("m.f", "x + x", "x - x", "")
    assert MUTATIONS.mutate(source, mutant) == source.replace("+", "-")
