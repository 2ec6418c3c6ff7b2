"""Lists every experiment: what it is, its expected number and its time, as its docstring states them."""

from __future__ import annotations

import ast
import pathlib
import re

from gen_jax.run import experiment_names


def describe(name: str) -> str:
    """The lines of one experiment, read from its module's docstring without importing it."""
    path = pathlib.Path(__file__).parent / f"{name}.py"
    doc = ast.get_docstring(ast.parse(path.read_text())) or ""
    facts = dict(re.findall(r"^(Command|Expected|Time): (.+)$", doc, re.MULTILINE))
    return f"{name:12} {doc.splitlines()[0]}\n" + "".join(f"{'':12}   {key}: {facts[key]}\n" for key in facts)


if __name__ == "__main__":
    print("\n".join(describe(name) for name in experiment_names()))
