"""The mutants of `tests/mutations.py` are ones: each changes the code of a function that has a test of its own.

Whether the tests catch them is seen by `make mutants`, which takes minutes.
"""

from __future__ import annotations

import ast
import importlib.util
import pathlib
import subprocess
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
    families = {path.parent.name for path in (ROOT / "gen_jax" / "families").glob("*/__init__.py")}
    assert families
    for family in families:
        assert any(mutant.function.startswith(f"gen_jax.families.{family}.") for mutant in MUTATIONS.MUTANTS), family


@pytest.mark.parametrize("mutant", MUTATIONS.MUTANTS, ids=lambda mutant: f"{mutant.function}: {mutant.bug}")
def test_a_mutant_is_another_program_with_a_test(mutant):
    source = (ROOT / MUTATIONS.place_of(mutant.function)[0]).read_text(encoding="utf-8")
    assert ast.dump(ast.parse(MUTATIONS.mutate(source, mutant))) != ast.dump(ast.parse(source))
    file, _, test = MUTATIONS.proof_of(mutant, ROWS).partition("::")
    assert f"def {test}" in (ROOT / file).read_text(encoding="utf-8")


def test_the_test_of_a_mutant_is_its_own_or_that_of_its_row():
    rows = {"m.f": {"test": "f.py::test_f"}, "m.C": {"test": "c.py::test_c"}}
    for function, own, expected in (
        ("m.f", "", "f.py::test_f"),
        ("m.f", "g.py", "g.py"),
        ("m.C.method", "", "c.py::test_c"),
        ("m.g", "g.py", "g.py"),
    ):
        assert MUTATIONS.proof_of(MUTATIONS.Mutant(function, "", "", "", own), rows) == expected


def test_what_is_no_mutant_is_refused():
    source = 'def f(x):\n    """Say x."""\n    return x + x\n'
    for function, old in (("m.g", "x"), ("m.f", "y"), ("m.f", "x"), ("m.f", "Say"), ("m.C.f", "x + x")):
        with pytest.raises(ValueError, match=r"There is no function m\.(g|C\.f)|expected it once"):
            MUTATIONS.mutate(source, MUTATIONS.Mutant(function, old, "z", ""))
    mutant = MUTATIONS.Mutant("m.f", "x + x", "x - x", "")
    assert MUTATIONS.mutate(source, mutant) == source.replace("+", "-")


def test_a_method_is_found_in_its_class():
    source = "def f(x):\n    return x + x\n\n\nclass C:\n    def f(self, x):\n        return x + x\n"
    changed = MUTATIONS.mutate(source, MUTATIONS.Mutant("a.m.C.f", "+", "-", ""))
    assert changed == source[: source.index("class")] + source[source.index("class") :].replace("+", "-")
    assert MUTATIONS.place_of("a.m.C.f") == (pathlib.Path("a/m.py"), ["C", "f"])
    assert MUTATIONS.place_of("a.m._f") == (pathlib.Path("a/m.py"), ["_f"])


TESTS = {
    "one": "def test_one():\n    assert f(1) == 2",
    "sign": "def test_sign():\n    assert f(1) > 0",
    "broken": "def test_broken():\n    assert not f",
    "file": "def test_file():\n    assert not pathlib.Path(m.__file__).with_name('ignored').exists()",
}


@pytest.mark.parametrize(
    ("mutant", "tests", "verdict", "status"),
    [
        pytest.param(("+ 1", "- 5"), "sign", "caught  ", 0, marks=pytest.mark.slow),
        pytest.param(("+ 1", "* 1"), "sign one", "caught by its file", 0, marks=pytest.mark.slow),
        (("+ 1", "* 1"), "sign file", "SURVIVED", 1),
        (("+ 1", "- 5"), "broken", "without any mutant", 1),
        (("+ 1", "* 1"), "sign broken", "without any mutant", 1),
    ],
    ids=["caught", "by file", "survivor", "broken test", "broken file"],
)
def test_verdicts(monkeypatch, capsys, tmp_path, mutant, tests, verdict, status):
    """The named test, the first, then its file; and none counts that fails where nothing is changed."""
    first, *_ = tests.split()
    files = {
        "m.py": "def f(x):\n    return x + 1\n",
        "test_m.py": "import pathlib\n\nimport m\nfrom m import f\n\n\n" + "\n\n\n".join(map(TESTS.get, tests.split())),
        "tests/equations.toml": f'[rows]\n"m.f" = {{ test = "test_m.py::test_{first}" }}\n',
        "pyproject.toml": '[tool.pytest.ini_options]\nmarkers = ["slow"]\n',
        ".gitignore": "ignored\n",
        "ignored": "",
    }
    (tmp_path / "tests").mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    monkeypatch.setattr(MUTATIONS, "ROOT", tmp_path)
    monkeypatch.setattr(MUTATIONS, "MUTANTS", (MUTATIONS.Mutant("m.f", *mutant, "a bug"),))
    assert MUTATIONS.main([]) == status
    assert verdict in capsys.readouterr().out
    assert (tmp_path / "m.py").read_text(encoding="utf-8") == files["m.py"]


def test_tests_that_cannot_be_run_are_no_verdict(tmp_path):
    with pytest.raises(RuntimeError, match="test_none"):
        MUTATIONS.run_tests(["test_none.py"], tmp_path)


def test_no_mutant_of_a_name(capsys):
    assert MUTATIONS.main(["of_no_function"]) == 1
    assert "MUTANTS in tests/mutations.py" in capsys.readouterr().out
