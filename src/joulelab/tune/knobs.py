"""Which knobs there are, and how the user writes their levels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from joulelab.errors import UserError, nearest
from joulelab.tune.probes import Level, Settings

DEVICE_KNOBS = {"power_limit": "W", "clock": "MHz", "memory_clock": "MHz", "cpu_power_limit": "W"}
"""Knobs of devices, with their unit. At a higher level, nothing takes longer."""

PROGRAM_KNOBS = ("batch_size", "precision", "compile", "memory_format")
"""Knobs of a study's workload. A command may have others, which its placeholders name."""


def parse_knobs(
    texts: Sequence[str], known: Sequence[str] = (*DEVICE_KNOBS, *PROGRAM_KNOBS)
) -> Mapping[str, tuple[Level, ...]]:
    """Parse ``--knobs``: names of knobs, each with ``=`` and its levels where they are given.

    Returns:
        The levels of each knob; none if they are to be chosen.

    Raises:
        UserError: A knob is unknown, is given twice, or a level is empty or given twice.

    Example:
        >>> parse_knobs(["batch-size=32,64,precision", "compile=false,true"])
        {'batch_size': (32, 64), 'precision': (), 'compile': (False, True)}
    """
    found: dict[str, tuple[Level, ...]] = {}
    name = ""
    for part in (part.strip() for text in texts for part in text.split(",")):
        written, equals, level = part.partition("=")
        candidate = written.strip().replace("-", "_")
        if equals or candidate in known or not name or not found[name]:
            if candidate not in known:
                options = [one.replace("_", "-") for one in known]
                raise UserError(f"no knob {written!r}", hint=nearest(written, options))
            if candidate in found:
                raise UserError(f"knob {written} is given twice", hint="give all its levels once")
            name, found[candidate] = candidate, ()
            if not equals:
                continue
        value = parse_level(level if equals else part)
        if value == "":
            raise UserError(f"--knobs {part}: a level is empty", hint=f"write {written}=A,B")
        if value in found[name]:
            raise UserError(f"--knobs: {name.replace('_', '-')} has the level {value} twice")
        found[name] = (*found[name], value)
    return found


def split_levels(
    levels: Mapping[str, Sequence[Level]],
) -> tuple[dict[str, Sequence[Level]], dict[str, Sequence[Level]]]:
    """Split the levels of knobs into those of devices and those of the program."""
    of_devices = {name: levels[name] for name in levels if name in DEVICE_KNOBS}
    return of_devices, {name: levels[name] for name in levels if name not in DEVICE_KNOBS}


def parse_level(text: str) -> Level:
    """Read a level: a whole number, a number, ``true`` or ``false``, or a text.

    Example:
        >>> parse_level("250"), parse_level("1.5"), parse_level("true"), parse_level("bf16")
        (250, 1.5, True, 'bf16')
    """
    text = text.strip()
    if text in ("true", "false"):
        return text == "true"
    try:
        value = float(text)
    except ValueError:
        return text
    if not math.isfinite(value):
        return text
    return int(value) if value.is_integer() else value


def device_knob(name: str) -> str:
    """Return the device's knob that a name means, which may end in its unit; empty for others.

    Example:
        >>> device_knob("power_limit_w"), device_knob("clock"), device_knob("batch_size")
        ('power_limit', 'clock', '')
    """
    names = (name, *(name.removesuffix(f"_{one.lower()}") for one in DEVICE_KNOBS.values()))
    return next((one for one in names if one in DEVICE_KNOBS), "")


def settings_text(settings: Settings) -> str:
    """Name levels for people.

    Example:
        >>> settings_text({"batch_size": 64, "precision": "bf16", "power_limit": 225.0})
        'batch size 64, precision bf16, power limit 225 W'
    """
    return ", ".join(f"{knob_title(name)} {level_text(name, settings[name])}" for name in settings)


def knob_title(name: str) -> str:
    """Return the name of a knob in words."""
    return (device_knob(name) or name).replace("_", " ")


def level_text(name: str, level: Level) -> str:
    """Format a level with its unit.

    Example:
        >>> level_text("clock", 1410), level_text("compile", True), level_text("lr", 0.00025)
        ('1,410 MHz', 'true', '0.00025')
    """
    is_whole = not isinstance(level, bool | str) and float(level).is_integer()
    text = f"{level:,.0f}" if is_whole else plain_level(level)
    return f"{text} {DEVICE_KNOBS.get(device_knob(name), '')}".rstrip()


def plain_level(level: Level) -> str:
    """Write a level as programs read it.

    Example:
        >>> plain_level(True), plain_level(1410.0), plain_level("bf16")
        ('true', '1410', 'bf16')
    """
    if isinstance(level, bool):
        return str(level).lower()
    return f"{level:.12g}" if isinstance(level, float) else str(level)
