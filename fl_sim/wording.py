"""Between the command line and Hydra: paths it would take apart, and its errors in a sentence."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, OverrideParseException

from fl_sim.places import config_folder

OPEN = ("model.", "attack.method.", "strategy.", "data.source.", "backend.", "tracker.")
"""Below these, a class decides which keys there are."""


def quoted(argument: str, sweeping: bool) -> str:
    """Quote the path in an override for Hydra where it would read it as something else.

    The folders of sweeps are named after overrides, with commas, equals signs and brackets.

    Parameters
    ----------
    argument : str
        As typed.
    sweeping : bool
        Whether commas separate the values of a sweep.

    Returns
    -------
    str
        As it was, unless its value has a slash, and either is there as a file or folder but would
        not be read as that name, or cannot be read at all and is no list, mapping or quoted text.
    """
    key, equals, value = argument.partition("=")
    if not equals or "/" not in value or argument.startswith("-"):
        return argument
    try:
        override = OverridesParser.create().parse_override(argument)
        if not override.is_sweep_override() and override.value() == value:
            return argument
        broken = False
    except HydraException:
        broken = value[0] not in "[{('\"" and not (sweeping and "," in value)
    try:
        there = os.path.lexists(Path(value).expanduser())
    except (OSError, ValueError, RuntimeError):
        there = False
    return f"{key}={in_quotes(value)}" if there or broken else argument


def in_quotes(value: str) -> str:
    """Return a value as Hydra reads it whatever characters are in it."""
    escaped = re.sub(r"(\\+)(?='|$)", r"\1\1", value).replace("'", "\\'").replace("${", "\\${")
    return f"'{escaped}'"


def unreadable(override: str) -> str:
    """Return what to do about an override that Hydra's grammar does not admit."""
    key, equals, value = override.partition("=")
    if not key or not equals:
        return f"The override {override!r} is not of the form KEY=VALUE."
    plain = f"'{key}=\"{value}\"'"
    typed = shlex.quote(f"{key}={in_quotes(value)}") if set(value) & set("'\"\\$") else plain
    return (
        f"{override} cannot be read: commas, equals signs, brackets, quotes and letters beyond "
        f"a to z have to stand in quotes; if the value is one text, such as a path, type {typed}."
    )


def plain_sentence(error: Exception) -> str:
    """Boil an error of Hydra or omegaconf down to what the user has to change."""
    if isinstance(error, OverrideParseException):
        return unreadable(error.override)
    if ambiguous := re.match(r"Ambiguous value for argument '(.*)'$", str(error), re.MULTILINE):
        return several(ambiguous[1])
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith(("full_key:", "object_type="))]
    if "Config search path:" in lines:
        lines = lines[: lines.index("Config search path:")]
    if unknown := re.match(r"Could not override '(.*)'", lines[0] if lines else ""):
        return unknown_key(unknown[1])
    if scalar := re.match(r"Error merging override ([^\s=]+)=(\S+)", lines[0] if lines else ""):
        key, value = scalar.groups()
        if "is not a ListConfig" in str(error.__cause__):
            return f"{key}={value} has to be a list: write {key}=[{value}]."
    if choice := re.search(r"Could not load '(\w+)/(.*)'", lines[0] if lines else ""):
        return f"{choice[1]} has no {choice[2]!r}; it has {', '.join(choices(choice[1]))}."
    if lines and lines[0].startswith("Error merging override") and error.__cause__ is not None:
        lines = [lines[0].replace("Error merging override ", ""), *_head(error.__cause__)]
    heads = [i for i, line in enumerate(lines) if line.startswith("Available options in")]
    if heads:
        options = ", ".join(lines[heads[0] + 1 :])
        lines = [*lines[: heads[0]], f"{lines[heads[0]]} {options}"]
    return ": ".join(line.rstrip(".:") for line in lines) + "."


def several(override: str) -> str:
    """Return what to do about several values where one is wanted."""
    key, _, value = override.partition("=")
    return (
        f"{override} has several values: add -m to sweep over them, write {key}=[{value}] for a "
        f"list, or type '{key}=\"{value}\"' for one text."
    )


def unknown_key(key: str) -> str:
    """Return what to do about a key that is not there."""
    told = f"{key!r} is not a key of this scenario; `fl-sim --help` lists them all."
    if key.startswith("defense.") and (name := key.split(".")[1]) in choices("defense"):
        return f"{key!r} needs a defense={name}, alone or in a list: defense=[{name},...]."
    if key.startswith(OPEN):
        told += f" An argument of a class of your own is added with a plus: +{key}=VALUE."
    return told


def choices(group: str) -> list[str]:
    """Return the names of a group's files."""
    return sorted(path.stem for path in (config_folder() / group).glob("*.yaml"))


def _head(error: BaseException) -> list[str]:
    return [line.strip() for line in str(error).splitlines() if line.strip()][:1]
