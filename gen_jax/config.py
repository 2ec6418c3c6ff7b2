"""Configs: what every experiment shares, durations, checks with a helpful sentence, and config <-> json."""

from __future__ import annotations

import difflib
import fractions
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ml_collections import ConfigDict

from gen_jax.contracts import UserError

Rule = Callable[[Any], str | None]  # Returns what was expected where the value is wrong.

_DURATION = re.compile(r"\s*(\d+(?:\.\d+)?(?:e\d+)?)\s*(steps?|epochs?|examples?)?\s*")

# What changes no number that a run computes as it trains: where things are, how often they are saved, and how much of a
# batch is in memory at once.
_HOW_IT_RUNS = (
    "data.dir",
    "model.remat",
    "parallel.backend",
    "train.accumulate",
    "train.checkpoint_every",
    "train.keep_checkpoints",
)
# Sections by which a run is judged and shown at its end, but for the keys on which the rows of its evaluations depend.
_AT_THE_END = ("eval", "mesh")
AT_EVALUATIONS = (
    "eval.alpha",
    "eval.batch_size",
    "eval.mode_count",
    "eval.mode_radius",
    "eval.num_levels",
    "eval.stride",
)

# Sections and keys that made the state of a run: to read it back with others would be to read another model.
TRAINED = (
    *("experiment", "game", "init_from", "model", "objective", "optim", "preset", "process", "seed", "train"),
    "data.name",
)


def base_config() -> ConfigDict:
    """The sections that every experiment's config has. Durations are texts as `steps_in` reads them."""
    config = ConfigDict()
    config.experiment = ""  # The module under experiments/ that made this config.
    config.preset = "default"
    config.seed = 0  # Of initial weights, data order and noise.
    config.init_from = ""  # A workdir whose last checkpoint a new run starts from.

    config.data = ConfigDict()
    config.data.name = ""
    config.data.dir = ""  # Where data files are looked for first.

    config.optim = ConfigDict()
    config.optim.name = "adam"  # adam | adamw | adagrad | sgd
    config.optim.learning_rate = 1e-3
    config.optim.schedule = (
        "constant"  # constant | cosine, linear (to 0) | exponential (to a tenth), after the warm-up.
    )
    config.optim.warmup = "0 steps"  # w of them: update t < w has (t + 1) / w of the rate.
    config.optim.b1 = 0.9
    config.optim.b2 = 0.999
    config.optim.eps = 1e-8
    config.optim.weight_decay = 0.0  # adamw only.
    config.optim.momentum = 0.0  # sgd only.
    config.optim.clip_norm = 0.0  # 0 for no clipping.

    config.train = ConfigDict()
    config.train.batch_size = 128  # Over all devices of all processes.
    config.train.duration = "10 epochs"
    config.train.steps_per_call = 1  # Steps in one dispatch. Every interval below is rounded up to a multiple of it.
    config.train.precision = "float32"  # float32 | bfloat16, of the computation; parameters stay float32.
    config.train.ema_decay = 0.0  # 0 for none, unless ema_half_life is given.
    config.train.ema_half_life = ""  # A duration, instead of ema_decay.
    config.train.ema_ramp_up = 0.0  # The average's half-life at step t is at most this times t; 0 for no limit.
    config.train.log_every = "100 steps"
    config.train.eval_every = "5 epochs"
    config.train.checkpoint_every = "5 epochs"
    config.train.keep_checkpoints = 3

    config.eval = ConfigDict()
    config.eval.batch_size = 256
    config.eval.sample_chunk = 64  # Samples are drawn so many at a time; part of what a seed means.

    config.parallel = ConfigDict()
    config.parallel.backend = "auto"  # auto | pmap | jit
    return config


def apply_preset(config: ConfigDict, presets: Mapping[str, Callable[[ConfigDict], None]]) -> ConfigDict:
    """Changes a config to what the preset that it names makes of it.

    Args:
      config: with `experiment` and `preset`; changed in place.
      presets: what each preset changes, by name.

    Returns:
      The config.

    Raises:
      UserError: where there is no such preset, naming the nearest.
    """
    if config.preset not in presets:
        raise UserError(
            f"{config.experiment} has no preset '{config.preset}'{suggestion(config.preset, presets)}; expected one of "
            f"{', '.join(presets)}."
        )
    presets[config.preset](config)
    return config


def base_rules() -> dict[str, Rule]:
    """What the keys of `base_config` must satisfy."""
    return {
        "seed": between(0, 2**32),
        "optim.name": one_of("adam", "adamw", "adagrad", "sgd"),
        "optim.learning_rate": positive,
        "optim.schedule": one_of("constant", "cosine", "linear", "exponential"),
        "optim.warmup": duration,
        "optim.b1": between(0.0, 1.0),
        "optim.b2": between(0.0, 1.0),
        "optim.eps": positive,
        "optim.weight_decay": at_least(0.0),
        "optim.momentum": between(0.0, 1.0),
        "optim.clip_norm": at_least(0.0),
        "train.batch_size": at_least(1),
        "train.duration": positive_duration,
        "train.steps_per_call": at_least(1),
        "train.precision": one_of("float32", "bfloat16"),
        "train.ema_decay": between(0.0, 1.0),
        "train.ema_half_life": optional(positive_duration),
        "train.ema_ramp_up": at_least(0.0),
        "train.log_every": positive_duration,
        "train.eval_every": positive_duration,
        "train.checkpoint_every": positive_duration,
        "train.keep_checkpoints": at_least(1),
        "eval.batch_size": at_least(1),
        "eval.sample_chunk": at_least(1),
        "parallel.backend": one_of("auto", "pmap", "jit"),
    }


def steps_in(text: str, batch_size: int, num_examples: int) -> int:
    """How many steps a duration is.

    Args:
      text: "500 steps", "10 epochs", "60000 examples", or a bare number of steps.
      batch_size: examples a step, over all devices.
      num_examples: examples an epoch.

    Returns:
      The number of steps, rounded up; 0 for a duration of 0.

    Raises:
      UserError: where the text is not a duration.
    """
    match = _DURATION.fullmatch(text)
    if match is None:
        raise UserError(f"'{text}' is not a duration; write it like '500 steps', '10 epochs' or '60000 examples'.")
    # Exactly: 0.55 epochs of 100 are 55 examples, which in floating point they are not.
    amount, unit = fractions.Fraction(match[1]), (match[2] or "steps").rstrip("s")
    examples = {"step": amount * batch_size, "epoch": amount * num_examples, "example": amount}[unit]
    return math.ceil(examples / batch_size)


def interval(text: str, config: ConfigDict, num_examples: int) -> int:
    """How many steps a duration of a run is, in whole calls of the train step.

    Args:
      text: as in `steps_in`.
      config: whose `train.batch_size` and `train.steps_per_call` count.
      num_examples: examples an epoch.

    Returns:
      A positive multiple of `train.steps_per_call`, rounded up.
    """
    per_call = config.train.steps_per_call
    return max(1, -(-steps_in(text, config.train.batch_size, num_examples) // per_call)) * per_call


def check(config: ConfigDict, rules: Mapping[str, Rule]) -> None:
    """Checks a config's values.

    Args:
      config: the resolved config.
      rules: by dotted key.

    Raises:
      UserError: for the first value that its rule refuses, naming key, value and what was expected.
    """
    for key, rule in rules.items():
        value = get(config, key)
        expected = rule(value)
        if expected is not None:
            raise UserError(f"config.{key}={value!r} is out of range; expected {expected}.")


def check_optimizer(config: ConfigDict) -> None:
    """Refuses options that the chosen optimiser does not have, rather than ignore them.

    Args:
      config: the resolved config.

    Raises:
      UserError: naming the option and the optimiser that has it.
    """
    optim = config.optim
    for key, owner in (("weight_decay", "adamw"), ("momentum", "sgd")):
        if optim[key] and optim.name != owner:
            raise UserError(
                f"config.optim.{key}={optim[key]} has no effect with config.optim.name={optim.name}; use {owner}."
            )


def positive(value: float) -> str | None:
    """Refuses what is not a finite number above 0."""
    return None if 0 < value < float("inf") else "a number above 0"


def at_least(least: float) -> Rule:
    """A rule that refuses numbers below `least`, and infinities."""
    return lambda value: None if least <= value < float("inf") else f"a number of at least {least}"


def between(low: float, high: float) -> Rule:
    """A rule that refuses numbers outside of [low, high)."""
    return lambda value: None if low <= value < high else f"a number of at least {low} and below {high}"


def share(value: float) -> str | None:
    """Refuses what is not a number in [0, 1]."""
    return None if 0 <= value <= 1 else "a number from 0 to 1"


def inside(low: float, high: float) -> Rule:
    """A rule that refuses numbers outside of (low, high)."""
    return lambda value: None if low < value < high else f"a number above {low} and below {high}"


def each(rule: Rule) -> Rule:
    """A rule that holds every element of a tuple to another rule, after that of being a whole number."""

    def check_all(values: Any) -> str | None:
        if not all(isinstance(value, int) for value in values):
            return "whole numbers, like (200, 100)"
        return next((f"every element {said}" for said in map(rule, values) if said is not None), None)

    return check_all


def one_of(*choices: str) -> Rule:
    """A rule that refuses texts other than the choices, naming the nearest of them."""

    def rule(value: str) -> str | None:
        if value in choices:
            return None
        return f"one of {', '.join(choices)}{suggestion(value, choices)}"

    return rule


def duration(value: str) -> str | None:
    """Refuses what `steps_in` cannot read."""
    if _DURATION.fullmatch(value):
        return None
    return "a duration like '500 steps', '10 epochs' or '60000 examples'"


def positive_duration(value: str) -> str | None:
    """Refuses what `steps_in` cannot read, and durations of 0."""
    match = _DURATION.fullmatch(value)
    return (
        None
        if match and float(match[1]) > 0
        else "at least one step, like '500 steps', '10 epochs' or '60000 examples'"
    )


def optional(rule: Rule) -> Rule:
    """A rule that also accepts the empty text."""
    return lambda value: None if value == "" else rule(value)


def suggestion(value: str, choices: Iterable[str]) -> str:
    """What to add to a sentence that refuses `value`: the nearest choice, where one is near."""
    near = difflib.get_close_matches(value, list(choices), n=1, cutoff=0.5)
    return f" (did you mean {near[0]}?)" if near else ""


def no_key(key: str, known: Iterable[str]) -> UserError:
    """The error of a key that a config does not have, naming the nearest, or else what its section has.

    The nearest is looked for in the key's section, then in all of them. Initials are near: of `optim.lr` the nearest is
    `optim.learning_rate`.

    Args:
      key: the dotted key.
      known: those that the config has.

    Returns:
      The error, to be raised.
    """
    parts = [other.rpartition(".")[::2] for other in known]
    section, _, name = key.rpartition(".")
    sections = {of for of, _ in parts}
    if section not in sections:
        section = next(iter(difflib.get_close_matches(section, sections, n=1)), "")

    def near(names: set[str], likeness: float) -> set[str]:
        short = {other for other in names if name == "".join(word[0] for word in other.split("_"))}
        return short or set(difflib.get_close_matches(name, names, n=1, cutoff=likeness))

    beside = {other for of, other in parts if of == section and section}
    nearest = near(beside, 0.7) or near({other for _, other in parts}, 0.85)
    if nearest & beside:
        said = [f"did you mean {section}.{other}?" for other in nearest]
    else:
        found = [f"{of}.{other}".lstrip(".") for of, other in parts if other in nearest]
        said = [f"did you mean {' or '.join(found)}?"] if found else []
        said += [f"config.{section} has {', '.join(sorted(beside))}"] if beside else []
    instead = f" ({' '.join(said)})" if said else ""
    return UserError(f"The config has no key '{key}'{instead}; --dry_run prints all keys.")


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The leaves of a config by dotted key."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping | ConfigDict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def get(config: ConfigDict, key: str) -> Any:
    """The value at a dotted key."""
    for part in key.split("."):
        config = config[part]
    return config


def set_value(config: ConfigDict, key: str, value: Any) -> None:
    """Sets the value at a dotted key, in the type that the config has there.

    Args:
      config: changed in place.
      key: a dotted key that the config has.
      value: the new value; a list where the config has a tuple, and an int where it has a float, are converted.

    Raises:
      UserError: where the key is unknown (the nearest one is named) or the value has another type.
    """
    known = flatten(config)
    if key not in known:
        raise no_key(key, known)
    old = known[key]
    if isinstance(old, tuple) and isinstance(value, list | tuple):
        value = tuple(value)
    elif isinstance(old, float) and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not type(old):
        raise UserError(f"config.{key}={value!r} has the wrong type; expected {type(old).__name__}, like {old!r}.")
    *sections, last = key.split(".")
    for section in sections:
        config = config[section]
    config[last] = value


def is_free_to_change(key: str) -> bool:
    """Whether a run may go on with another value: what is trained, and logged on the way, does not depend on it.

    Args:
      key: a dotted key.

    Returns:
      True where it may.
    """
    return key in _HOW_IT_RUNS or (key.split(".")[0] in _AT_THE_END and key not in AT_EVALUATIONS)


def check_overrides(config: ConfigDict, overrides: Mapping[str, Any]) -> None:
    """Refuses to read a run back with other values of what it was trained with.

    Args:
      config: of the run.
      overrides: by dotted key; those that agree with the run's are let through.

    Raises:
      UserError: for the first key in `TRAINED` whose value differs, or an unknown key.
    """
    wanted = ConfigDict(config.to_dict())
    for key, value in overrides.items():
        set_value(wanted, key, value)
        trained = (key in TRAINED or key.split(".")[0] in TRAINED) and not is_free_to_change(key)
        if trained and get(wanted, key) != get(config, key):
            raise UserError(
                f"config.{key} was {get(config, key)!r} when the run was trained and cannot be {value!r} now; leave it "
                "out, or train another run."
            )


def to_json(config: ConfigDict) -> str:
    """The config as text that `from_json` reads."""
    return json.dumps(config.to_dict(), indent=2, sort_keys=True) + "\n"


def from_json(text: str, default: ConfigDict) -> ConfigDict:
    """Reads a config back.

    Args:
      text: what `to_json` wrote.
      default: a config with every key and type that the text may have, unchanged by this.

    Returns:
      The config; keys that the text lacks have the default's value.

    Raises:
      UserError: where the text is not such a config.
    """
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"The config is not valid JSON ({error}); restore the file, or start a new workdir.") from error
    if not isinstance(values, dict):
        raise UserError("The config is not a JSON object; restore the file, or start a new workdir.")
    config = ConfigDict(default.to_dict())
    for key, value in flatten(values).items():
        set_value(config, key, value)
    return config


def differences(old: ConfigDict, new: ConfigDict, ignore: Callable[[str], bool] = lambda key: False) -> list[str]:
    """The keys in which two configs differ, each as "key (old -> new)".

    Args:
      old: a config.
      new: a config.
      ignore: whether a dotted key may differ.

    Returns:
      One text a key, sorted; empty where the configs agree.
    """
    before, after = flatten(old), flatten(new)
    missing = object()
    differing = (key for key in before.keys() | after.keys() if before.get(key, missing) != after.get(key, missing))
    changed = sorted(key for key in differing if not ignore(key))
    return [f"{key} ({before.get(key)!r} -> {after.get(key)!r})" for key in changed]
