"""Lists every experiment: what it is, its expected number and its time, as its docstring states them."""

from __future__ import annotations

import ast
import pathlib
import re

from gen_jax.run import experiment_names


def describe(name: str, width: int = 0) -> str:
    """The lines of one experiment, read from its module's docstring without importing it, its name `width` wide."""
    path = pathlib.Path(__file__).parent / f"{name}.py"
    doc = ast.get_docstring(ast.parse(path.read_text())) or ""
    facts = dict(re.findall(r"^(Command|Expected|Time): (.+)$", doc, re.MULTILINE))
    lines = [f"{name:{width}}  {doc.splitlines()[0]}", *(f"{'':{width}}    {key}: {facts[key]}" for key in facts)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    names = experiment_names()
    print("\n".join(describe(name, max(map(len, names))) for name in names))
