"""Find and read plans, and explain in one line what is wrong with one."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from joulelab.errors import PlanError, nearest
from joulelab.format import join_words
from joulelab.study.plan import Plan
from joulelab.validation import InvalidData, parse_toml

_PRESETS = resources.files("joulelab.study") / "presets"
_LENGTHS = ("epochs", "passes", "steps", "seconds")


def preset_names() -> list[str]:
    """Return the names of the plans that ship with JouleLab.

    Example:
        >>> preset_names()
        ['batch-size', 'language', 'language-gpu', 'paper', 'paper-profile', 'quick']
    """
    files = (entry.name for entry in _PRESETS.iterdir())
    return sorted(name.removesuffix(".toml") for name in files if name.endswith(".toml"))


def load_plan(path_or_preset: str | Path, *, overrides: Sequence[str] = ()) -> Plan:
    """Load the plan in a TOML file, or a preset.

    Args:
        path_or_preset: A preset, unless a file of that name exists; or a path.
        overrides: ``key=value`` with a dotted key and a TOML value, for example
            ``train.epochs=2`` or ``models=["LeNet"]``, which replace those of the file. Lengths of
            a phase replace all of its lengths in the file.

    Raises:
        PlanError: There is no such plan, or it is malformed; one line that names the file, the
            key, what is wrong and the nearest right key or value.
    """
    path, name = Path(path_or_preset), str(path_or_preset)
    if name in preset_names() and not path.is_file():
        text = (_PRESETS / f"{name}.toml").read_text(encoding="utf-8")
    else:
        text = _read(path)
    try:
        document = parse_toml(text.encode())
    except InvalidData as error:
        raise PlanError(f"{name}: {error}") from None
    entries = [_parse_override(entry) for entry in overrides]
    for key, _, _ in entries:
        if key[-1] in _LENGTHS and len(key) == 2 and isinstance(document.get(key[0]), dict):
            for length in _LENGTHS:
                document[key[0]].pop(length, None)
    for key, value, entry in entries:
        _override(document, key, value, entry)
    return parse(document, name)


def parse(document: Mapping[str, Any], name: str) -> Plan:
    """Check a parsed plan; errors name its file and are those of :func:`load_plan`."""
    if "recorded" in document:
        raise PlanError(
            f"{name} describes a study of recorded logs",
            why="nothing of it can be run",
            hint="name a plan or a preset",
        )
    try:
        return Plan.model_validate(dict(document))
    except ValidationError as error:
        raise PlanError(_explain(error, name)) from None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise PlanError(
            f"no plan {str(path)!r}",
            why="neither a file nor a preset",
            hint=nearest(str(path), preset_names()),
        ) from None
    except UnicodeDecodeError as error:
        raise PlanError(f"{path}: not UTF-8 at byte {error.start}") from None
    except OSError as error:
        raise PlanError(f"{path}: cannot be read", why=error.strerror or str(error)) from None


def _parse_override(entry: str) -> tuple[list[str], Any, str]:
    """Return the path of a key and the value, and the entry for errors."""
    key, equals, value = entry.partition("=")
    path = key.strip().split(".")
    if not equals or not all(path):
        raise PlanError(
            f"--set {entry}: expected key=value", hint="for example --set train.epochs=2"
        )
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except (ValueError, RecursionError):
        parsed = value.strip()  # A bare word is a string, since shells remove quotes.
    return path, parsed, entry


def _override(document: dict[str, Any], path: list[str], value: Any, entry: str) -> None:
    table = document
    for part in path[:-1]:
        inner = table.setdefault(part, {})
        if not isinstance(inner, dict):
            raise PlanError(f"--set {entry}: {part} is not a table")
        table = inner
    table[path[-1]] = value


def _explain(error: ValidationError, name: str) -> str:
    problems = error.errors(include_url=False)
    first = problems[0]
    key = _dotted(first["loc"])
    text = f"{name}: {key + ': ' if key else ''}{_problem(dict(first))}"
    return f"{text} (and {len(problems) - 1} more)" if len(problems) > 1 else text


def _problem(problem: dict[str, Any]) -> str:
    given, message = problem["input"], str(problem["msg"])
    shown = repr(given) if len(repr(given)) <= 60 else f"{given!r:.57}..."
    match problem["type"]:
        case "extra_forbidden":
            text = f"unknown key; {_hint_for_key(problem['loc'])}"
        case "missing":
            text = "required, but missing"
        case "literal_error":
            known = re.findall(r"'([^']*)'", problem["ctx"]["expected"])
            is_text = isinstance(given, str)
            hint = nearest(given, known) if is_text else f"choose from {', '.join(known)}"
            text = f"unknown value {shown}; {hint}"
        case "too_short":
            text = "must not be empty"
        case "model_type":
            text = f"must be a table, is {shown}"
        case "duplicate" | "kind" | "lengths" | "model" | "phases":
            text = message
        case _:
            text = f"{shown} is not valid: {message[:1].lower()}{message[1:]}"
    return text


def _dotted(location: tuple[int | str, ...]) -> str:
    """Write a key as in a plan.

    Example:
        >>> _dotted(("factors", "batch_size", 0))
        'factors.batch_size[0]'
    """
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return text.removeprefix(".")


def _keys(table: type[BaseModel]) -> dict[str, Any]:
    return {field.alias or name: field.annotation for name, field in table.model_fields.items()}


def _hint_for_key(location: tuple[int | str, ...]) -> str:
    """Return the table that an unknown key belongs to, or the nearest key of its own table."""
    table: type[BaseModel] = Plan
    for part in location[:-1]:
        table = _keys(table)[str(part)]
    unknown = str(location[-1])
    tables = {"the top of the file": Plan} | {
        f"[{key}]": kind
        for key, kind in _keys(Plan).items()
        if isinstance(kind, type) and issubclass(kind, BaseModel)
    }
    homes = [home for home, kind in tables.items() if unknown in _keys(kind)]
    return f"it belongs in {join_words(homes, 'or')}" if homes else nearest(unknown, _keys(table))
