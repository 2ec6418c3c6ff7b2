"""The command line of every experiment: flags in, one of five modes out."""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import re
import shlex
import sys
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import flax.traverse_util
import jax
import numpy as np
import tqdm
from absl import flags
from ml_collections import ConfigDict, config_flags

from gen_jax import config as config_lib
from gen_jax import rng, run, runtime
from gen_jax.contracts import Experiment, Grid, Scatter, UserError
from gen_jax.files import absolute, replace_text, save_array
from gen_jax.train import drawing, export, loop, parallel, workdir, writer

MODES = {
    "train": "train, or go on where the run was stopped; the default",
    "eval": "test numbers of a run, slowly and accurately where it can, to evaluation.json",
    "sample": "samples of a run as a picture and an array, to samples/",
    "render": "of a scene: a flight through it as videos, images and depths, to renders/",
    "mesh": "of a scene: its surface as PLY and OBJ, to meshes/",
}
_WIDTH = 100  # Columns of --help.
_HELP_FLAGS = ("-h", "--help", "--helpfull", "--helpshort", "-help")


def main(name: str, argv: Sequence[str] | None = None) -> None:
    """Runs one experiment from the command line and exits; what a user can cause is one sentence and status 1.

    Args:
      name: of the experiment's module.
      argv: the arguments, without the program's name; `sys.argv` by default.
    """
    try:
        _main(name, list(sys.argv[1:] if argv is None else argv))
    except UserError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("Interrupted; the same command starts again, training from its last checkpoint.")
    except BrokenPipeError:  # Whoever read the output has gone, as in `... | head`; there is nobody to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        sys.exit(f"error: {error.filename or 'A file'} cannot be read or written: {error.strerror or error}.")


def _main(name: str, argv: list[str]) -> None:
    module = run.find_experiment(name)
    options, config_arguments = _parse(argv, name, str(module.__doc__))
    runtime.configure()
    if options.distributed:
        runtime.initialize_distributed(options.coordinator or None, options.num_processes, options.process_id)
    default = name if options.preset == "default" else f"{name}_{options.preset}"
    folder = options.workdir or str(pathlib.Path("runs") / default)

    config = module.get_config(options.preset)
    if options.mode == "train":
        config = _override(config, config_arguments)
        _resolve_paths(config, options.data_dir)
        module.validate(config)
        experiment = parallel.together(lambda: module.build(config))
        if options.dry_run:
            _dry_run(experiment, config)
        else:
            _train(experiment, config, folder, shlex.join(["python", "-m", f"experiments.{name}", *argv]))
        return
    loaded, changed = _load(folder, name, module, config_arguments, options.data_dir)
    if options.mode == "eval":
        _evaluate(loaded, changed)
    elif options.mode == "sample":
        _sample(loaded, changed, options.seed, options.num)
    elif options.mode == "render":
        _render(loaded, changed, options.path, options.frames)
    else:
        _mesh(loaded, changed)


def _flags(name: str) -> flags.FlagValues:
    """Our flags, in the order of the help; a text is "VALUE: what it is", that of a switch without the first part."""
    values = flags.FlagValues()
    define: dict[str, Any] = {"flag_values": values}
    flags.DEFINE_string("workdir", "", f"DIR: The folder of the run; runs/{name}[_PRESET] by default.", **define)
    flags.DEFINE_string("preset", "default", "NAME: Which config to start from, one of the presets.", **define)
    flags.DEFINE_string("mode", "train", "NAME: What to do, one of the modes.", **define)
    flags.DEFINE_string("data_dir", "", "DIR: Where data files are looked for first; config.data.dir.", **define)
    flags.DEFINE_bool("dry_run", False, "Print the whole config and the parameter table, and stop.", **define)
    flags.DEFINE_integer("seed", 0, "N: Of --mode=sample; 0 by default.", lower_bound=0, **define)
    flags.DEFINE_integer("num", 64, "N: How many samples --mode=sample draws; 64 by default.", lower_bound=1, **define)
    flags.DEFINE_string(
        "path", "", "NAME: How --mode=render flies, orbit or spiral; as suits the scene by default.", **define
    )
    flags.DEFINE_integer(
        "frames", 120, "N: How many views --mode=render makes; 120 by default.", lower_bound=1, **define
    )
    flags.DEFINE_bool("distributed", False, "Join the other processes of a pod first.", **define)
    flags.DEFINE_string("coordinator", "", "HOST:PORT: Of process 0, outside of a TPU pod or Slurm.", **define)
    flags.DEFINE_integer("num_processes", None, "N: Likewise.", **define)
    flags.DEFINE_integer("process_id", None, "N: Likewise.", **define)
    return values


def _words(values: flags.FlagValues) -> list[str]:
    """The names of our flags, in order."""
    return [flag.name for flags_of_module in values.flags_by_module_dict().values() for flag in flags_of_module]


def _help(doc: str, values: flags.FlagValues) -> str:
    """What --help prints, no line wider than `_WIDTH`: the docstring, the modes and the flags."""
    rows = {"--config.KEY=VALUE": "Another value of the config; --dry_run prints every key."}
    for name in _words(values):
        stands_for, _, text = values[name].help.rpartition(": ")
        rows[f"--{name}={stands_for}" if stands_for else f"--{name}"] = text
    lines = ["", "Modes (--mode=...):", *_columns(MODES), "", "Flags:", *_columns(rows)]
    # Lines that go on are joined, to be filled anew: those of a paragraph, and the deep ones of a list's entry.
    paragraphs = re.sub(r"(?<=[^:\n])\n(?: {8,}|(?!\n| |[A-Z]\w+: ))", " ", doc).splitlines()
    return "\n".join([folded for line in [*paragraphs, *lines] for folded in _fold(line)])


def _columns(rows: Mapping[str, str]) -> list[str]:
    return [f"  {name:{max(map(len, rows))}}  {text}" for name, text in rows.items()]


def _fold(line: str) -> list[str]:
    """A line in parts that are not wider than `_WIDTH`; where a list's entry goes on, below its text."""
    entry = re.match(r" +(\S.*? {2,})?", line)
    column = entry.end() if entry else 4 if re.match(r"[A-Z]\w+: ", line) else 0
    indent = " " * (column if column <= _WIDTH // 2 else 6)
    return textwrap.wrap(line, _WIDTH, subsequent_indent=indent, break_on_hyphens=False) or [""]


def _parse(argv: list[str], name: str, doc: str) -> tuple[flags.FlagValues, list[str]]:
    """Splits the arguments into our flags and the `--config.` ones."""
    values = _flags(name)
    is_config = [re.match(r"--?(no)?config\b", argument) is not None for argument in argv]
    ours = [argument for argument, other in zip(argv, is_config, strict=True) if not other]
    if any(argument in _HELP_FLAGS for argument in ours):
        print(_help(doc, values))
        sys.exit(0)
    try:
        rest = values([name, *ours])
    except flags.UnrecognizedFlagError as error:
        known = [f"--{flag}" for flag in ("config", *_words(values))]
        near = config_lib.suggestion(f"--{error.flagname.split('.')[0]}", known)
        raise UserError(f"There is no flag --{error.flagname}{near}; --help lists all flags.") from error
    except flags.Error as error:
        raise UserError(f"{_first_line(error)}; --help lists all flags.") from error
    if len(rest) > 1:
        raise UserError(f"The argument '{rest[1]}' is not understood; flags begin with --, like --workdir=DIR.")
    if values.mode not in MODES:
        near = config_lib.suggestion(values.mode, MODES)
        raise UserError(f"There is no --mode={values.mode}{near}; expected one of {', '.join(MODES)}.")
    used = {"train": {"dry_run"}, "sample": {"seed", "num"}, "render": {"path", "frames"}}
    for flag in ("dry_run", "seed", "num", "path", "frames"):
        if values[flag].present and flag not in used.get(values.mode, ()):
            instead = "; the run's seed is --config.seed" if flag == "seed" else ""
            raise UserError(f"--{flag} has no effect with --mode={values.mode}{instead}; leave it out.")
    for flag in ("coordinator", "num_processes", "process_id"):
        if values[flag].present and not values.distributed:
            raise UserError(f"--{flag} has no effect without --distributed; add it.")
    return values, [argument for argument, other in zip(argv, is_config, strict=True) if other]


def _override(config: ConfigDict, arguments: list[str]) -> ConfigDict:
    """Applies `--config.a.b=value` arguments by ml_collections' flags, after a look at the keys."""
    known = config_lib.flatten(config)
    for argument in arguments:
        match = re.fullmatch(r"--?(?:no)?config\.([\w.]+)(=.*)?", argument, re.DOTALL)
        if match is None or (match[2] is None and not isinstance(known.get(match[1]), bool)):
            raise UserError(f"The argument '{argument}' is not understood; write --config.KEY=VALUE.")
        if match[1] in ("experiment", "preset"):
            raise UserError(
                f"config.{match[1]} cannot be set by itself; use --preset=... of another experiment or run."
            )
        if match[1] not in known:
            raise config_lib.no_key(match[1], known)
    values = flags.FlagValues()
    arguments = ["config", *arguments]
    config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=arguments)
    try:
        values(arguments)
    except (flags.Error, TypeError, ValueError) as error:
        raise UserError(f"{_first_line(error)}; --dry_run prints each key with a value of its type.") from error
    return values.config


def _resolve_paths(config: ConfigDict, data_dir: str) -> None:
    """Makes the config's paths absolute, so that the run can be read back from any directory."""
    config.data.dir = data_dir or config.data.dir
    guidance = config.get("guidance", {})
    judged = ((config.eval, "features"), (config.eval, "lpips"))
    for section, key in ((config.data, "dir"), (config, "init_from"), *judged, (guidance, "classifier")):
        if section.get(key):
            section[key] = str(absolute(section[key]))


def _first_line(error: Exception) -> str:
    return (
        (str(error).strip() or type(error).__name__)
        .splitlines()[0]
        .removeprefix("FATAL Flags parsing error: ")
        .rstrip(".")
    )


def _dry_run(experiment: Experiment, config: ConfigDict) -> None:
    """Prints the resolved config and the parameter table."""
    print(config)
    state = jax.eval_shape(experiment.init, rng.root(config.seed))
    table = {"/".join(path): leaf for path, leaf in flax.traverse_util.flatten_dict(state.params).items()}
    width = max(len(path) for path in table)
    print(f"{'parameter':{width}}  {'shape':20}  {'type':9} {'count':>12}")
    for path, leaf in table.items():
        print(f"{path:{width}}  {list(leaf.shape)!s:20}  {leaf.dtype.name:9} {leaf.size:12,d}")
    print(f"{'all':{width}}  {'':20}  {'':9} {sum(leaf.size for leaf in table.values()):12,d}")


def _train(experiment: Experiment, config: ConfigDict, folder: str, command: str) -> None:
    """Trains, and says what came of it."""
    outcome = loop.train(experiment, config, folder, command=command)
    if jax.process_index() or not outcome.finished:
        return
    numbers = "   ".join(
        f"{name} {outcome.results[name]:.4f}" for name in experiment.headline if name in outcome.results
    )
    print(f"Test after {outcome.step} steps:   {numbers}")
    for picture in outcome.pictures:
        print(f"  {picture}")
    print(f"All about this run: {absolute(folder) / 'README.md'}")


def _load(folder: str, name: str, module: Any, arguments: list[str], data_dir: str) -> tuple[run.Run, dict[str, Any]]:
    """Reads a workdir of this experiment, with overrides; also says which values differ from the run's by them."""
    path = absolute(folder)
    text = workdir.read_config_text(path)
    if text is None:
        raise UserError(
            f"{path} is not the workdir of a run: it has no config.json. Train it first, or give --workdir."
        )
    workdir.check_experiment(path, text, name)
    stored = config_lib.from_json(text, module.get_config())
    before = config_lib.flatten(stored)
    config = _override(ConfigDict(stored.to_dict()), arguments)
    _resolve_paths(config, data_dir)
    module.validate(config)
    changed = {key: value for key, value in config_lib.flatten(config).items() if value != before[key]}
    return run.load(path, changed), changed


def _suffix(changed: dict[str, Any]) -> str:
    """What a file's name says of the values that differ from the run's: results of different ones lie side by side."""
    parts = [f"_{key}={value}" for key, value in sorted(changed.items()) if key not in ("data.dir", "parallel.backend")]
    # Of paths their last part is shown; a digest of everything tells apart what is then alike. A name has 255 bytes.
    shown = "".join(re.sub(r"[^\w.=+-]+", "-", re.sub(r"[^=]*/", "", part)) for part in parts)
    if shown == "".join(parts) and len(shown) <= 170:
        return shown
    return f"{shown[:170]}_{hashlib.sha256(''.join(parts).encode()).hexdigest()[:8]}"


def _evaluate(loaded: run.Run, changed: dict[str, Any]) -> None:
    """Evaluates a run with a progress bar, and writes `evaluation.json`, or with overrides a file that names them."""
    total = loaded.experiment.test_source.num_examples
    with tqdm.tqdm(total=total, unit="example") as bar:
        results = loaded.evaluate(lambda done: bar.update(done - bar.n))
    if jax.process_index():
        return
    for key, value in results.items():
        print(f"{key:32} {value:.6g}")
    path = workdir.open_workdir(loaded.workdir) / f"evaluation{_suffix(changed)}.json"
    config = {"config": changed} if changed else {}
    replace_text(path, json.dumps({"step": loaded.step} | config | results, indent=2) + "\n")
    print(path)


def _sample(loaded: run.Run, changed: dict[str, Any], seed: int, num: int) -> None:
    """Draws samples from a run, and writes them as a picture and as an array."""
    samples = loaded.sample(seed, num)
    if jax.process_index():
        return
    folder = workdir.open_workdir(loaded.workdir / "samples")
    name = f"seed{seed}_num{num}{_suffix(changed)}"
    array = save_array(folder / f"{name}.npy", samples)
    picture = _sheet(samples, f"{num} samples, seed {seed}, step {loaded.step}")
    print(writer.save_png(drawing.draw(picture), folder / f"{name}.png", picture.title))
    print(array)


def _render(loaded: run.Run, changed: dict[str, Any], path: str, frames: int) -> None:
    """Flies along a path, and writes what is seen as videos, images and arrays of depths."""
    fly = loaded.experiment.fly
    if fly is None:
        raise UserError(f"{loaded.config.experiment} has no views; --mode=render is for scenes, like those of nerf.")
    shots = fly(loaded.settled, path, frames)
    if jax.process_index():
        return
    folder = workdir.open_workdir(loaded.workdir / "renders")
    for written in export.write_shots(shots, frames, folder / f"{path or 'path'}_{frames}{_suffix(changed)}"):
        print(written)


def _mesh(loaded: run.Run, changed: dict[str, Any]) -> None:
    """Finds the surface of what a run has learned, and writes it as PLY and OBJ."""
    if loaded.experiment.mesh is None:
        raise UserError(f"{loaded.config.experiment} has no surface; --mode=mesh is for scenes, like those of nerf.")
    mesh = loaded.experiment.mesh(loaded.settled)
    if jax.process_index():
        return
    folder = workdir.open_workdir(loaded.workdir / "meshes")
    print(f"{len(mesh.vertices)} vertices, {len(mesh.faces)} triangles")
    for written in export.write_mesh(mesh, folder / f"mesh{_suffix(changed)}"):
        print(written)


def _sheet(samples: np.ndarray, title: str) -> Grid | Scatter:
    """All samples in one picture: images [n, H, W, C] in a grid, points [n, 2] in the plane."""
    num = len(samples)
    if samples.ndim == 2:
        return Scatter(title, samples, np.zeros(num, np.int32))
    columns = int(np.ceil(np.sqrt(num)))
    rows = -(-num // columns)
    padded = np.concatenate([samples, np.ones((rows * columns - num, *samples.shape[1:]), samples.dtype)])
    return Grid(title, padded.reshape(rows, columns, *samples.shape[1:]))
