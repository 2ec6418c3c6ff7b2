"""The equation map: which equation of which paper a function is, and the test that proves it. Writes `EQUATIONS.md`.

The paper and the equation are read from docstrings, the test and its oracle from `equations.toml` beside this file.
Nothing is imported, so the map can be made without JAX: `make equations`, or `python tests/equation_map.py`.

A docstring cites a paper as `"Title", Authors, year (arXiv:NNNN.NNNNN), Eq. N`; the brackets may name a journal instead
or be left out, and in the place of the equation may stand a section, an algorithm, pages, and what else `PLACE` knows,
up to the end of the sentence. A title may be short ("NeRF"): the longest that begins so, of the same arXiv number, or
of the same first author and year where there is none, stands for it in the map.
"""

from __future__ import annotations

import ast
import functools
import itertools
import re
import sys
import tomllib
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
MAP = "EQUATIONS.md"
TABLE = "tests/equations.toml"
LAYERS = ("ops", "nn", "eval")
ASIDE = ("gen_jax/train", "gen_jax/poses")  # Of these the map has the functions that cite a paper, and no others.

CITATION = re.compile(
    r'"(?P<title>[^"]{3,200}?)"\s*,\s+(?P<authors>[^\W\d][^"()]*?),\s+(?P<year>\d{4})\b(?:\s+\((?P<where>[^)]*)\))?'
)
NUMBER = r"(?:[IVX]+(?:\.[A-Z])?|[A-Z](?:\.\d+)*|\d+(?:\.\d+)*)\b(?!\()"
PLACE = re.compile(
    r"(?:Eqs?\.|Sections?|Appendix|Algorithm|Theorem|Proposition|Lemma|Figure|Fig\.|Table|Chapter|pages?)\s+"
    + NUMBER
    + r"(?:(?:,\s+|\s+and\s+|\s+to\s+)"
    + NUMBER
    + r")*|\bits code\b"
)
# A full stop before the next sentence; "Eq. 3" and "Fig. 1" go on with a number, and "et al." with a comma.
SENTENCE = re.compile(r"\.\s+(?=[^\d\s])|\.$")


class Citation(NamedTuple):
    """A paper as a docstring names it.

    Attributes:
      title: as it is written there.
      authors: likewise.
      year: of the paper.
      where: "arXiv:NNNN.NNNNN", a journal or a conference; "" where nothing is said.
      place: the equation, section or the like; "" where nothing is said.
    """

    title: str
    authors: str
    year: str
    where: str
    place: str

    @property
    def paper(self) -> str:
        """By what the same paper is known in other docstrings."""
        arxiv = re.search(r"arXiv:[\d.]+\d", self.where)
        return arxiv.group() if arxiv else f"{re.split(r'[ ,]', self.authors)[0]} {self.year}"


class Definition(NamedTuple):
    """A public function or class.

    Attributes:
      name: full and dotted, where it is defined.
      path: of its file, from the root.
      is_function: whether it is a function.
      doc: its docstring, in one line; "" where there is none.
    """

    name: str
    path: str
    is_function: bool
    doc: str

    @property
    def citations(self) -> list[Citation]:
        """The papers that its docstring cites."""
        return cited_in(self.doc)


def cited_in(text: str) -> list[Citation]:
    """The papers that a text cites, in its order.

    Args:
      text: a docstring; line breaks count as spaces.

    Returns:
      One for each; the place is that said between it and the next one, within the sentence.
    """
    text = " ".join(text.split())
    found = list(CITATION.finditer(text))
    result = []
    for match, following in itertools.zip_longest(found, found[1:]):
        end = following.start() if following else len(text)
        rest = SENTENCE.split(text[match.end() : end], maxsplit=1)[0]
        title, authors, year, where = match["title"].rstrip(","), match["authors"], match["year"], match["where"] or ""
        result.append(Citation(title, authors, year, where, ", ".join(PLACE.findall(rest))))
    return result


def parsed(path: Path) -> ast.Module:
    """The syntax tree of a file; the same object as long as the file says the same."""
    return tree_of(path.read_text(encoding="utf-8"))


@functools.cache
def tree_of(text: str) -> ast.Module:
    """The syntax tree of a module's text."""
    return ast.parse(text)


def modules(root: Path) -> list[Path]:
    """The files of the families, of the layers and of what is aside, in the map's order."""
    folders = [*sorted((root / "gen_jax/families").glob("*/")), *(root / "gen_jax" / layer for layer in LAYERS)]
    aside = [path for name in ASIDE for path in (*root.glob(f"{name}.py"), *sorted(root.glob(f"{name}/*.py")))]
    return [path for folder in folders for path in sorted(folder.glob("*.py"))] + aside


def dotted(root: Path, path: Path) -> str:
    """The name under which a file is imported."""
    return ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")


def definitions(root: Path) -> dict[str, Definition]:
    """All public functions and classes of `modules`, by name.

    Args:
      root: the repository.

    Returns:
      Those at the top of a module whose name has no underscore before it, in the order of the files.
    """
    result = {}
    for path in modules(root):
        for node in parsed(path).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                name = f"{dotted(root, path)}.{node.name}"
                doc = " ".join((ast.get_docstring(node) or "").split())
                is_function = isinstance(node, ast.FunctionDef)
                result[name] = Definition(name, path.relative_to(root).as_posix(), is_function, doc)
    return result


def all_titles(root: Path) -> dict[str, set[str]]:
    """The titles under which each paper is cited anywhere in `modules`."""
    titles: dict[str, set[str]] = {}
    documented = (ast.Module, ast.FunctionDef, ast.ClassDef)
    for path in modules(root):
        for node in ast.walk(parsed(path)):
            for cited in cited_in(ast.get_docstring(node) or "") if isinstance(node, documented) else ():
                titles.setdefault(cited.paper, set()).add(cited.title)
    return titles


def table(root: Path) -> dict[str, dict]:
    """What `equations.toml` says: `rows`, a test and an oracle by name, and `plumbing`, a reason by name."""
    return tomllib.loads((root / TABLE).read_text(encoding="utf-8"))


def paper_of(cited: Citation, titles: dict[str, set[str]]) -> str:
    """A paper as the map shows it, with a link where it is on arXiv."""
    title = max((title for title in titles[cited.paper] if title.startswith(cited.title)), key=len)
    if cited.paper.startswith("arXiv:"):
        return f"[{title}](https://arxiv.org/abs/{cited.paper.removeprefix('arXiv:')}), {cited.authors}, {cited.year}"
    return f"{title}, {cited.authors}, {cited.year}" + (f" ({cited.where})" if cited.where else "")


def group_of(name: str) -> str:
    """The heading under which a function stands: the folder of its family or layer, or what is aside."""
    parts = name.split(".")
    return "/".join(parts[: 3 if parts[1] == "families" else 2])


def row(definition: Definition, entry: dict[str, str], titles: dict[str, set[str]]) -> str:
    """One row of the map."""
    cited = [paper for paper in definition.citations if paper.place] or definition.citations
    papers = "<br>".join(paper_of(paper, titles) for paper in cited)
    places = "<br>".join(paper.place for paper in cited)
    module, function = definition.name.split(".")[-2:]
    path, _, test = entry["test"].partition("::")
    return (
        f"| {papers} | {places} | [`{module}.{function}`]({definition.path}) "
        f"| [`{test}`]({path}) | {entry['oracle']} |".replace("\n", " ")
    )


def page(root: Path) -> str:
    """The whole map.

    Args:
      root: the repository.

    Returns:
      The text of `EQUATIONS.md`. What `equations.toml` names and no docstring has is left out.
    """
    rows, known, titles = table(root)["rows"], definitions(root), all_titles(root)
    lines = [
        "# The equation map",
        "",
        "Which equation of which paper each function is, the test that proves it, and what that test holds it to. Made",
        "by `make equations` from the docstrings and `tests/equations.toml`; a test fails where it is out of date, or",
        "a function is missing. The symbols, and where we differ from a paper, are in each family's `__init__.py`.",
    ]
    group = ""
    for name, definition in known.items():
        if name not in rows:
            continue
        if group != group_of(name):
            group = group_of(name)
            lines += ["", f"## {group}", "", "| paper | equation | function | test | oracle |", "|---|---|---|---|---|"]
        lines.append(row(definition, rows[name], titles))
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    (ROOT / MAP).write_text(page(ROOT), encoding="utf-8")
    sys.stdout.write(f"{ROOT / MAP}\n")
