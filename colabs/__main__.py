"""Writes every notebook of this folder from its source: `python -m colabs`, or `make colabs`.

`NN_name.py`, cells in jupytext's py:percent format, is what people change; `NN_name.ipynb` is what Colab opens.
"""

from __future__ import annotations

import pathlib

import jupytext
import nbformat

FOLDER = pathlib.Path(__file__).parent


def sources() -> list[pathlib.Path]:
    """The sources of the notebooks, in order."""
    return sorted(FOLDER.glob("[0-9][0-9]_*.py"))


def notebook(source: pathlib.Path) -> str:
    """The notebook of a source: without outputs, and the same bytes whenever it is made.

    Args:
      source: a Python file of cells.

    Returns:
      The text of the .ipynb file.
    """
    made = jupytext.reads(source.read_text(encoding="utf-8"), fmt="py:percent")
    made.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
    )
    made.nbformat_minor = 4  # From 5 on cells have names, which jupytext draws at random.
    for cell in made.cells:
        cell.pop("id", None)
    return nbformat.writes(made) + "\n"


def main() -> None:
    """Writes the notebooks beside their sources, and says which."""
    for source in sources():
        path = source.with_suffix(".ipynb")
        path.write_text(notebook(source), encoding="utf-8")
        print(path)


if __name__ == "__main__":
    main()
