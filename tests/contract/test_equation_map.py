"""Every equation has its reference, its test and its row in `EQUATIONS.md`.

What needs a row:
  1. every public function of a family's modules, and whatever function a family's `__all__` offers;
  2. every public function of `gen_jax.ops`, `gen_jax.nn` and `gen_jax.eval`;
  3. every public function of these that cites a paper, in whatever module but `pictures` and `torch_weights`, and
     every one of `gen_jax.train` and `gen_jax.poses` that does, which are else no mathematics.
The first two ask for none in the modules of `NOT_MATHEMATICS`, nor of the functions under `[plumbing]` in
`tests/equations.toml`, each with its reason: they implement no equation of a paper, and so may neither state one nor
cite a paper. Networks are classes and need no row; one that is an equation may have it.

What a row needs: a citation with its equation, section or the like in the docstring; a test that is there, and that
uses the function itself, by name or through helpers, fixtures and parameters of its module; an oracle.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import re
from pathlib import Path

import pytest

NOT_MATHEMATICS = {
    "adm": "a network",
    "dcgan": "networks",
    "models": "networks",
    "resnet": "networks",
    "unet": "a network",
    "inception": "a network",
    "evaluation": "the values of a test set, by functions that have rows",
    "features": "networks by name, and the distances of `eval.distances` by them",
    "pictures": "drawings",
    "torch_weights": "files of weights",
    "camera_paths": "the flights of films",
    "vectors": "checks, and sums of squares by parts",
}
UNREAD = ("pictures", "torch_weights")
STATED = re.compile(r"[=≈∝]")
"""The signs of an equation in a docstring, outside of code."""

_SPEC = importlib.util.spec_from_file_location("equation_map", Path(__file__).parents[1] / "equation_map.py")
assert _SPEC is not None and _SPEC.loader is not None
equation_map = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(equation_map)


def exported(root: Path) -> dict[str, str]:
    """Where each name that a package's `__init__` imports from its modules is defined."""
    return {
        f"{equation_map.dotted(root, path)}.{alias.asname or alias.name}": f"{node.module}.{alias.name}"
        for path in equation_map.modules(root)
        if path.name == "__init__.py"
        for node in equation_map.parsed(path).body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def offered(root: Path) -> set[str]:
    """The names in `__all__` of every family, as they are defined."""
    names = set()
    for path in (root / "gen_jax/families").glob("*/__init__.py"):
        for node in equation_map.parsed(path).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                names |= {f"{equation_map.dotted(root, path)}.{name}" for name in ast.literal_eval(node.value)}
    where = exported(root)
    return {where.get(name, name) for name in names}


def needs_row(definition, offered_names: set[str]) -> bool:
    """The rule of the module's docstring, but for the list of exceptions."""
    module = Path(definition.path).stem
    aside = equation_map.group_of(definition.name) in equation_map.ASIDE
    mathematics = (not aside and module not in NOT_MATHEMATICS) or definition.name in offered_names
    return definition.is_function and (mathematics or (bool(definition.citations) and module not in UNREAD))


def states_an_equation(doc: str) -> bool:
    """Whether there is an equation in a docstring before its arguments."""
    return bool(STATED.search(re.sub(r"`[^`]*`", "", re.split(r"\b(?:Args|Returns):", doc)[0])))


@functools.cache
def imports(tree: ast.Module) -> dict[str, str]:
    """What the names that a test module imports stand for."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.asname: alias.name for alias in node.names if alias.asname}
    return names


@functools.cache
def top(tree: ast.Module) -> dict[str, list[ast.stmt]]:
    """The statements at the top of a test module that define a name: functions, classes and constants."""
    found: dict[str, list[ast.stmt]] = {}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.setdefault(node.name, []).append(node)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for name in (part.id for target in targets for part in ast.walk(target) if isinstance(part, ast.Name)):
                found.setdefault(name, []).append(node)
    return found


def mentioned(node: ast.AST, names: dict[str, str]) -> set[str]:
    """The dotted names in a piece of code that begin with an imported one."""
    result = set()
    for part in ast.walk(node):
        if isinstance(part, ast.Name | ast.Attribute):
            first, *rest = ast.unparse(part).split(".")
            if first in names:
                result.add(".".join([names[first], *rest]))
    return result


def used(root: Path, path: Path, test: str) -> set[str]:
    """What a test uses of other modules, by itself and through what stands at the top of its module or a conftest.

    Args:
      root: the repository.
      path: of the test's module.
      test: its name.

    Returns:
      Dotted names as they are defined, those that a package exports by their module.
    """
    folders = [folder for folder in path.parents if folder.is_relative_to(root / "tests")]
    paths = [path, *(folder / "conftest.py" for folder in folders if (folder / "conftest.py").exists())]
    sources = [equation_map.parsed(path) for path in paths]
    waiting, seen, result = [test], {test}, set()
    while waiting:
        name = waiting.pop()
        source = next((source for source in sources if name in top(source)), None)
        for node in top(source)[name] if source else []:
            result |= mentioned(node, imports(source))
            # An argument names a fixture as well as a local; what neither is, is at no module's top.
            reached = {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
            reached |= {part.arg for part in ast.walk(node) if isinstance(part, ast.arg)}
            waiting += sorted(reached - seen)
            seen |= reached
    where = exported(root)
    return {where.get(name, name) for name in result}


def problems_of_row(root: Path, definition, entry: dict[str, str]) -> list[str]:
    """What is wrong with one row: its reference, its test and its oracle."""
    name, wrong = definition.name, []
    if not any(cited.place for cited in definition.citations):
        wrong.append(f"{name}: its docstring names no paper with an equation or a section")
    if not entry.get("oracle", "").strip():
        wrong.append(f"{name}: no oracle")
    file, _, test = entry.get("test", "").partition("::")
    path = root / file
    if not path.is_file() or not test.startswith("test_") or test not in top(equation_map.parsed(path)):
        wrong.append(f"{name}: no such test as {entry.get('test')!r}")
    elif name not in used(root, path, test):
        wrong.append(f"{name}: {entry['test']} does not use it")
    return wrong


def problems(root: Path) -> list[str]:
    """What is wrong with the map of a repository, a sentence each."""
    known, offered_names = equation_map.definitions(root), offered(root)
    rows, plumbing = (equation_map.table(root)[kind] for kind in ("rows", "plumbing"))
    gone = [name for name in (*rows, *plumbing) if name not in known]
    wrong = [f"{name}: in {equation_map.TABLE}, and not in the package" for name in gone]
    for name, definition in known.items():
        if name in rows:
            wrong += problems_of_row(root, definition, rows[name])
        if name in plumbing and (name in rows or definition.citations or states_an_equation(definition.doc)):
            wrong.append(f"{name}: an exception that has a row, cites a paper or states an equation")
        if name in plumbing and not (plumbing[name].strip() and needs_row(definition, offered_names)):
            wrong.append(f"{name}: an exception without a reason, or without need")
        if name not in rows and name not in plumbing and needs_row(definition, offered_names):
            wrong.append(f"{name}: no row in {equation_map.TABLE}")
    page = root / equation_map.MAP
    if not page.is_file() or page.read_text(encoding="utf-8") != equation_map.page(root):
        wrong.append(f"{equation_map.MAP}: not what `make equations` writes")
    return wrong


def test_every_equation_has_its_reference_its_test_and_its_row():
    assert not problems(equation_map.ROOT)


LOSSES = '''
def square(x):
    """x².

    See "On Squares", Doe et al., 2020 (arXiv:2001.00001), Eq. 3.
    """
    return x * x


def read(path):
    """Reads a file."""
'''
TESTS = """
import pytest

from gen_jax.families import toy
from gen_jax.families.toy import losses

CASES = {"square": losses.square}


@pytest.fixture
def loss():
    return toy.square


def helper(x):
    return toy.square(x)


def test_itself():
    assert losses.square(2) == 4


def test_by_a_helper():
    assert helper(2) == 4


def test_by_a_fixture(loss):
    assert loss(2) == 4


@pytest.mark.parametrize("function", CASES.values())
def test_by_a_parameter(function):
    assert function(2) == 4


def test_of_another():
    assert losses.read("square") is None
"""
TABLE = """
[rows]
"gen_jax.families.toy.losses.square" = { test = "tests/test_toy.py::test_itself", oracle = "closed form" }

[plumbing]
"gen_jax.families.toy.losses.read" = "reads a file"
"""
STEP = '''
def advance(x):
    """Goes on."""
'''
TOY = {
    "gen_jax/families/toy/__init__.py": 'from gen_jax.families.toy.losses import square\n\n__all__ = ["square"]\n',
    "gen_jax/families/toy/losses.py": LOSSES,
    "gen_jax/train/step.py": STEP,
    "tests/test_toy.py": TESTS,
    "tests/equations.toml": TABLE,
}
PATHS = {"map": "EQUATIONS.md"} | {name.rpartition("/")[2]: name for name in TOY}


def toy_repository(folder: Path) -> Path:
    """A repository of one family of one loss, all in order."""
    for name, text in TOY.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    (folder / equation_map.MAP).write_text(equation_map.page(folder), encoding="utf-8")
    return folder


@pytest.mark.parametrize("way", ["itself", "by_a_helper", "by_a_fixture", "by_a_parameter"])
def test_a_test_uses_a_function_by_whatever_way(tmp_path: Path, way: str):
    folder = toy_repository(tmp_path)
    assert not problems(folder)
    assert "gen_jax.families.toy.losses.square" in used(folder, folder / "tests/test_toy.py", f"test_{way}")


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("losses.py", "def read", "def cube(x):\n    return x**3\n\n\ndef read", "losses.cube: no row"),
        ("losses.py", ", Eq. 3", "", "square: its docstring names no paper with an equation"),
        ("losses.py", "2020 (arXiv:2001.00001), Eq. 3.", "soon.", "square: its docstring names no paper"),
        ("losses.py", "def square", "def cube", "losses.square: in tests/equations.toml, and not in the package"),
        (
            "losses.py",
            "Reads a file.",
            'See "On Files", Doe, 2020, Eq. 1.',
            "read: an exception that has a row, cites a paper",
        ),
        ("losses.py", "Reads a file.", "Reads y = x².", "read: an exception that has a row, cites a paper or states"),
        ("losses.py", "Eq. 3", "Eq. 4", "EQUATIONS.md: not what `make equations` writes"),
        ("equations.toml", "reads a file", " ", "read: an exception without a reason"),
        ("equations.toml", "losses.read", "losses.written", "losses.written: in tests/equations.toml, and not"),
        ("equations.toml", "closed form", "", "square: no oracle"),
        ("equations.toml", "test_itself", "test_it", "square: no such test"),
        ("equations.toml", "test_toy.py", "test_toys.py", "square: no such test"),
        ("equations.toml", "test_itself", "test_of_another", "test_of_another does not use it"),
        ("test_toy.py", "losses.square(2)", "4", "test_itself does not use it"),
        ("step.py", "Goes on.", 'See "On Steps", Doe, 2020, Eq. 1.', "gen_jax.train.step.advance: no row"),
        (
            "equations.toml",
            "[plumbing]",
            '[plumbing]\n"gen_jax.train.step.advance" = "a step"',
            "step.advance: an exception without a reason, or without need",
        ),
        ("map", "closed form", "PyTorch", "EQUATIONS.md: not what `make equations` writes"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, file: str, old: str, new: str, message: str):
    path = toy_repository(tmp_path) / PATHS[file]
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1
    path.write_text(text.replace(old, new), encoding="utf-8")
    found = problems(tmp_path)
    assert any(message in problem for problem in found), found


def test_what_a_docstring_cites():
    (first, second, third) = equation_map.cited_in(
        """See "A Title: of two
        lines", Doe and Roe, 1999 (arXiv:9901.00001), Eq. 7 and 10, and for β "Beta", van der Roe et al., 2017 (ICLR),
        Appendix C.1. It is not "Said Only" here: Eq. 9. As in "Old", Doe, 1901, pages 5 to 12, S(x) = |x|."""
    )
    assert first == ("A Title: of two lines", "Doe and Roe", "1999", "arXiv:9901.00001", "Eq. 7 and 10")
    assert second == ("Beta", "van der Roe et al.", "2017", "ICLR", "Appendix C.1")
    assert third == ("Old", "Doe", "1901", "", "pages 5 to 12")
