"""From a TOML file, a preset and overrides to a checked ``TrainConfig``.

Later sources win: defaults, then the file or preset, then overrides such as
``{"model.width": 128}``. A key that nobody knows raises with the nearest name; text given for a
number (a flag of the command line) is read as one.
"""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass
from importlib import resources
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from optgeom.trainer.config import TrainConfig
from optgeom.trainer.errors import ConfigError

NOTHING = "none"
"""What stands for "left out" in an override: TOML and command lines have no null."""


def presets() -> tuple[str, ...]:
    """Names of the built-in configurations."""
    folder = resources.files("optgeom.trainer").joinpath("presets")
    return tuple(
        sorted(f.name.removesuffix(".toml") for f in folder.iterdir() if f.name.endswith(".toml"))
    )


def load_config(
    source: str | Path | None = None, *, overrides: Mapping[str, Any] | None = None
) -> TrainConfig:
    """Read a run's settings.

    Args:
        source: A TOML file, or the name of a preset; None takes the defaults.
        overrides: From dotted names to values; they win. Text is read as the setting's type.

    Returns:
        The checked settings.

    Raises:
        ConfigError: No such file or preset, no TOML, an unknown key, a value that cannot work.
    """
    tree = {} if source is None else _read(source)
    for name, value in (overrides or {}).items():
        _put(tree, name, value)
    return config_from_dict(tree)


def config_from_dict(tree: Mapping[str, Any]) -> TrainConfig:
    """The inverse of ``TrainConfig.to_dict``; what is left out takes its default.

    Raises:
        ConfigError: An unknown key, or a value that cannot work.
    """
    config = _build(TrainConfig, tree, prefix="")
    assert isinstance(config, TrainConfig)
    return config


def _read(source: str | Path) -> dict[str, Any]:
    if str(source) in presets():
        text = (
            resources.files("optgeom.trainer").joinpath(f"presets/{source}.toml").read_text("utf-8")
        )
    else:
        try:
            text = Path(source).read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"a configuration is a TOML file or a preset ({', '.join(presets())}), "
                f"got {str(source)!r}: {getattr(error, 'strerror', None) or error}"
            ) from error
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{str(source)!r} is not valid TOML: {error}") from error


def _put(tree: dict[str, Any], name: str, value: Any) -> None:
    *sections, leaf = name.split(".")
    for section in sections:
        tree = tree.setdefault(section, {})
        if not isinstance(tree, dict):
            raise ConfigError(f"{section!r} in {name!r} is a setting, not a section of settings")
    tree[leaf] = value


def _build(owner: Any, tree: Any, *, prefix: str) -> Any:
    if not isinstance(tree, Mapping):
        raise ConfigError(
            f"{prefix.rstrip('.')} is a section of settings, got {tree!r}: "
            f"name one of them, such as {next(_names())!r}"
        )
    hints = get_type_hints(owner)
    known = {one.name for one in fields(owner)}
    values: dict[str, Any] = {}
    for key, value in tree.items():
        if key not in known:
            within = f".{next(iter(value))}" if isinstance(value, Mapping) and value else ""
            raise ConfigError(_unknown(f"{prefix}{key}{within}"))
        hint = hints[key]
        values[key] = (
            _build(hint, value, prefix=f"{prefix}{key}.")
            if is_dataclass(hint)
            else _convert(value, hint, name=f"{prefix}{key}")
        )
    return owner(**values)


def _names(owner: Any = TrainConfig, prefix: str = "") -> Iterator[str]:
    hints = get_type_hints(owner)
    for one in fields(owner):
        if is_dataclass(hints[one.name]):
            yield from _names(hints[one.name], f"{prefix}{one.name}.")
        else:
            yield f"{prefix}{one.name}"


def _unknown(name: str) -> str:
    names = list(_names())
    by_leaf = [known for known in names if known.rpartition(".")[2] == name.rpartition(".")[2]]
    nearest = by_leaf or difflib.get_close_matches(name, names, n=1, cutoff=0.0)
    return f"unknown setting {name!r}: did you mean {nearest[0]!r}?"


def _convert(value: Any, hint: Any, *, name: str) -> Any:
    options = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    if NoneType in options and (value is None or value == NOTHING):
        return None
    target = next(option for option in options if option is not NoneType)
    if isinstance(value, str) and target is not str:
        value = _parse(value, target)
    converted = _typed(value, target)
    if converted is MISSING:
        raise ConfigError(f"{name} must be {_describe(target)}, got {value!r}")
    return converted


def _parse(text: str, target: Any) -> Any:
    """Text of a command line as TOML would read it; itself where it is none."""
    if get_origin(target) is Literal:
        return text
    if get_origin(target) is tuple and not text.lstrip().startswith("["):
        return [part.strip() for part in text.split(",") if part.strip()]
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _typed(value: Any, target: Any) -> Any:
    """The value as the type that a setting has; MISSING where it is another."""
    if get_origin(target) is Literal:
        return value if value in get_args(target) else MISSING
    if get_origin(target) is tuple:
        item = get_args(target)[0]
        if not isinstance(value, list | tuple):
            value = (value,)
        items = [
            _typed(_parse(v, item) if isinstance(v, str) and item is not str else v, item)
            for v in value
        ]
        return MISSING if MISSING in items else tuple(items)
    if target is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if get_origin(target) is not None:
        if not isinstance(value, Mapping):
            return MISSING
        return {k: _parse(v, object) if isinstance(v, str) else v for k, v in value.items()}
    right = isinstance(value, target) and not (target is int and isinstance(value, bool))
    return value if right else MISSING


def _describe(target: Any) -> str:
    if get_origin(target) is Literal:
        return "one of " + ", ".join(json.dumps(choice) for choice in get_args(target))
    if get_origin(target) is tuple:
        return "a list of " + {str: "names", float: "numbers"}[get_args(target)[0]]
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    return names.get(target, "a table of settings")
