"""The notebooks: each is its source's, keeps the form of all, and runs from the top without a complaint."""

from __future__ import annotations

import base64
import copy
import importlib.metadata
import importlib.util
import io
import json
import pathlib
import re
import resource
import subprocess
import sys
import tomllib
import types

import IPython
import jax
import nbclient
import nbformat
import pytest
import tqdm

from colabs import __main__ as colabs

ROOT = pathlib.Path(__file__).parents[2]
REPOSITORY = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Repository"]
SOURCES = colabs.sources()
MOST_CODE_CELLS = 15
MOST_SECONDS = 180

INSTALL = f"""\
import importlib.metadata
import importlib.util
import subprocess
import sys

if importlib.util.find_spec("gen_jax") is None:  # As on a fresh Colab machine. Its CPU is enough.
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "git+{REPOSITORY}"], check=True)
    if "numpy" in sys.modules and sys.modules["numpy"].__version__ != importlib.metadata.version("numpy"):
        from IPython import get_ipython

        print("The runtime restarts, for it had begun with another numpy: run the cells again from the first.")
        get_ipython().kernel.do_shutdown(True)"""

# Run before a notebook's first cell: what would pass with a warning, or by way of the network, fails.
STRICT = """\
import socket
import warnings

warnings.simplefilter("error")
warnings.filterwarnings("default", module="ipykernel")  # The kernel's own affairs, at its end.


def connect(self, address):
    raise AssertionError(f"The notebook wants the network: {address}.")


socket.socket.connect = socket.socket.connect_ex = connect
del connect"""

# `level = 0.5  # @param {"type": "slider", "min": 0, "max": 1, "step": 0.05}`, or a list of what can be chosen.
PARAM = re.compile(r"^(\w+) = (.+?)  # @param (.+)$", re.MULTILINE)

# What tqdm draws: "loss:  12%|█▏   | 50/400 [00:01<00:07, 45.1step/s]", and the blanks by which it clears a line.
PROGRESS = re.compile(r"\s*([^|]*\d+%\|.*\|\s*\S+/\S+ \[.*\]\s*)?(\x1b\[A)*")

each = pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)


def cells(source: pathlib.Path, kind: str) -> list[str]:
    notebook = nbformat.reads(colabs.notebook(source), as_version=4)
    return [cell.source for cell in notebook.cells if cell.cell_type == kind]


def headings(source: pathlib.Path) -> list[str]:
    lines = "\n".join(cells(source, "markdown")).splitlines()
    return [line.lstrip("# ") for line in lines if re.match(r"#+ ", line)]


def test_every_notebook_has_a_source():
    assert SOURCES
    assert [source.with_suffix(".ipynb") for source in SOURCES] == sorted((ROOT / "colabs").glob("*.ipynb"))


@each
def test_the_page_of_the_notebooks_has_its_row(source):
    assert f"| `{source.stem}` |" in (ROOT / "colabs" / "README.md").read_text(encoding="utf-8")


@each
def test_notebook_is_what_its_source_makes(source):
    """Byte for byte, and so without outputs; `make colabs` writes it."""
    assert source.with_suffix(".ipynb").read_text(encoding="utf-8") == colabs.notebook(source)


def test_notebooks_have_no_outputs_and_are_valid():
    for source in SOURCES:
        notebook = nbformat.reads(colabs.notebook(source), as_version=4)
        nbformat.validate(notebook)
        for cell in notebook.cells:
            assert cell.get("outputs", []) == []
            assert cell.get("execution_count") is None


@each
def test_opens_in_colab_by_its_badge(source):
    path = REPOSITORY.removeprefix("https://github.com/") + f"/blob/main/colabs/{source.stem}.ipynb"
    first = cells(source, "markdown")[0].splitlines()[0]
    assert first == (
        "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]"
        f"(https://colab.research.google.com/github/{path})"
    )


@each
def test_installs_once_and_only_where_the_package_is_missing(source):
    code = cells(source, "code")
    assert code[0] == INSTALL
    assert not any(re.search(r"\bpip\b", cell) for cell in code[1:])


@pytest.mark.parametrize(
    ("present", "used", "restarts"),
    [(True, "1.0", False), (False, "1.0", True), (False, None, False), (False, "2.0", False)],
)
def test_the_kernel_restarts_where_the_install_replaced_its_numpy(present, used, restarts, monkeypatch, capsys):
    """Only if a numpy is imported, and the one now installed is another."""
    calls = []
    kernel = types.SimpleNamespace(do_shutdown=lambda restart: calls.append(restart))
    monkeypatch.setattr(IPython, "get_ipython", lambda: types.SimpleNamespace(kernel=kernel))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if present else None)
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "2.0")
    monkeypatch.setattr(subprocess, "run", lambda command, check: calls.append(command[-1]))
    with monkeypatch.context() as patch:
        if used is None:
            patch.delitem(sys.modules, "numpy")
        else:
            patch.setitem(sys.modules, "numpy", types.SimpleNamespace(__version__=used))
        exec(INSTALL, {})
    assert calls == [f"git+{REPOSITORY}"] * (not present) + [True] * restarts
    assert capsys.readouterr().out.startswith("The runtime restarts") == restarts


@each
def test_no_formula_in_the_text_is_broken_over_two_lines(source):
    """A line of text that has one dollar of a formula has the other as well."""
    for cell in cells(source, "markdown"):
        for line in re.sub(r"\$\$.*?\$\$", "", cell, flags=re.DOTALL).splitlines():
            assert line.count("$") % 2 == 0, line


@each
def test_is_short_and_holds_no_model_code(source):
    code = cells(source, "code")
    assert len(code) <= MOST_CODE_CELLS
    text = "\n".join(code)
    assert re.search(r"^import gen_jax$", text, re.MULTILINE)
    assert not re.search(r"(?<!jax\.)\bnn\.|\bflax\b|\bhaiku\b|\bequinox\b|^\s*class ", text, re.MULTILINE)


@each
def test_ends_with_what_it_leaves_out(source):
    assert headings(source)[-1] == "What this leaves out"
    assert headings(source).count("What this leaves out") == 1


@each
def test_reads_a_workdir_back_and_has_something_to_turn(source):
    text = "\n".join(cells(source, "code"))
    assert "gen_jax.load(" in text
    assert any(isinstance(json.loads(form), dict) for _, _, form in PARAM.findall(text))


def processor_seconds() -> float:
    """What processes begun here and ended have computed: how long it takes one core, however busy the machine is."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.fixture
def run_strictly(tmp_path, monkeypatch):
    """Runs a notebook headless, offline and in an empty folder; gives its outputs and what it complained of."""
    for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "TMPDIR"):
        folder = tmp_path / name.lower()  # A person's own settings and kernels have no say.
        folder.mkdir()
        monkeypatch.setenv(name, str(folder))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(jax.config.jax_compilation_cache_dir))
    work = tmp_path / "work"
    work.mkdir()

    def run(notebook, name):
        strict = nbformat.v4.new_code_cell(STRICT)
        del strict["id"]
        notebook.cells.insert(0, strict)
        resources = {"metadata": {"path": str(work)}}
        client = nbclient.NotebookClient(notebook, timeout=3 * MOST_SECONDS, kernel_name="python3", resources=resources)
        try:
            client.execute()
        finally:
            nbformat.write(notebook, tmp_path / name)  # To be looked at, with its pictures.
        outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
        return outputs, complaints_of(outputs)

    return run


def complaints_of(outputs) -> list[str]:
    """What a notebook says on stderr beside its progress bars, and the warnings that the loop of training prints."""
    streams = [output for output in outputs if output.output_type == "stream"]
    lines = [(stream.name, line) for stream in streams for line in re.split(r"[\r\n]", stream.text)]
    errors = [line for name, line in lines if name == "stderr" and not PROGRESS.fullmatch(line)]
    return errors + [line for name, line in lines if name == "stdout" and line.startswith("Warning")]


@each
def test_runs_without_an_error_or_a_warning(source, run_strictly):
    before = processor_seconds()
    path = source.with_suffix(".ipynb")
    outputs, complaints = run_strictly(nbformat.read(path, as_version=4), path.name)
    assert complaints == []
    assert processor_seconds() - before < MOST_SECONDS
    pictures = [output.data["image/png"] for output in outputs if "image/png" in output.get("data", {})]
    assert pictures
    assert all(base64.b64decode(picture).startswith(b"\x89PNG") for picture in pictures)


def turned(source: str, end: str) -> str:
    """A cell with every slider at its "min" or "max", and every choice at its last."""

    def at_end(match: re.Match[str]) -> str:
        name, _, form = match.groups()
        widget = json.loads(form)
        value = widget[-1] if isinstance(widget, list) else widget[end]
        return f"{name} = {json.dumps(value)}  # @param {form}"  # 1 and not 1.0, as Colab writes it.

    return PARAM.sub(at_end, source)


def test_a_slider_is_turned_to_its_ends():
    cell = 'a = 0.5  # @param {"type": "slider", "min": 0, "max": 1.5}\nb = "x"  # @param ["x", "y"]\nc = 3'
    assert [line.split("  #")[0] for line in turned(cell, "min").splitlines()] == ["a = 0", 'b = "y"', "c = 3"]
    assert turned(cell, "max").startswith("a = 1.5  # @param {")


@pytest.mark.slow
@each
def test_runs_at_the_ends_of_its_sliders_and_again(source, run_strictly):
    """All at their least; then all cells again at their most, in the same kernel, where every name is bound already."""
    notebook = nbformat.read(source.with_suffix(".ipynb"), as_version=4)
    turns = []
    for end in ("min", "max"):
        for cell in copy.deepcopy(notebook.cells):
            if cell.cell_type == "code":
                cell.source = turned(cell.source, end)
                turns.append(cell)
    notebook.cells = turns
    _, complaints = run_strictly(notebook, f"{source.stem}_turned.ipynb")
    assert complaints == []


BAD = {
    "error": "1 / 0",
    "warning": "import warnings\nwarnings.warn('this')",
    "network": "import urllib.request\nurllib.request.urlopen('http://127.0.0.1:9')",
    "stderr": "import sys\nprint('this: 50% of it | is bad', file=sys.stderr)",
    "loop": "import tqdm\ntqdm.tqdm.write('Warning at step 100: this')",
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_notebook_would_not_pass(name, run_strictly):
    """What the test above rests on: each of these is seen."""
    cell = nbformat.v4.new_code_cell(BAD[name])
    del cell["id"]
    notebook = nbformat.v4.new_notebook(cells=[cell], nbformat_minor=4)
    if name in ("stderr", "loop"):
        complaint = {"stderr": "this: 50% of it | is bad", "loop": "Warning at step 100: this"}[name]
        assert run_strictly(notebook, "bad.ipynb")[1] == [complaint]
    else:
        expected = {"error": "ZeroDivisionError", "warning": "UserWarning", "network": "wants the network"}
        with pytest.raises(nbclient.exceptions.CellExecutionError, match=expected[name]):
            run_strictly(notebook, "bad.ipynb")


def test_a_progress_bar_is_no_complaint():
    bar = tqdm.tqdm(total=400, unit="step", file=io.StringIO())
    bar.update(130)
    bar.set_postfix(loss="300.4")
    drawn = str(bar)
    bar.close()
    assert "130/400" in drawn and PROGRESS.fullmatch(drawn)
    assert not PROGRESS.fullmatch("WARNING: 12% of it")
