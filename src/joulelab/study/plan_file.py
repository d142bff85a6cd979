"""Finds and reads plans, and says in one line what is wrong with one."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from joulelab.errors import PlanError, nearest
from joulelab.study.log_plan import RecordedPlan
from joulelab.study.plan import Plan, Table

P = TypeVar("P", bound=Table)
_PRESETS = resources.files("joulelab.study") / "presets"


def preset_names() -> list[str]:
    """The plans that ship with JouleLab.

    Example:
        >>> preset_names()
        ['batch-size', 'paper', 'paper-profile', 'quick']
    """
    files = (entry.name for entry in _PRESETS.iterdir())
    return sorted(name.removesuffix(".toml") for name in files if name.endswith(".toml"))


def load_plan(path_or_preset: str | Path, *, overrides: Sequence[str] = ()) -> Plan:
    """The plan of a TOML file, or of a preset.

    Args:
        path_or_preset: A preset's name, unless a file of that very name exists; or a path.
        overrides: Entries ``key=value`` with a dotted key and a TOML value, as
            ``train.epochs=2`` or ``models=["LeNet"]``, that take the place of the file's.

    Raises:
        PlanError: There is no such plan, or it is malformed; one line that names the file,
            the key, what is wrong and the nearest right key or value.
    """
    path = Path(path_or_preset)
    name = str(path_or_preset)
    if name in preset_names() and not path.is_file():
        text = (_PRESETS / f"{name}.toml").read_text(encoding="utf-8")
    else:
        text = _read(path)
    document = _parse_toml(text, name)
    if "recorded" in document:
        raise PlanError(
            f"{name} is of recorded logs",
            why="nothing can be run from it",
            hint="name a plan or a preset",
        )
    for entry in overrides:
        _override(document, entry)
    return _checked(Plan, document, name)


def parse(document: Mapping[str, Any], name: str) -> Plan | RecordedPlan:
    """Checks what TOML gave: a plan, or what a study of recorded logs has in its place.

    Args:
        document: The parsed plan.
        name: The file's name, for the message.

    Raises:
        PlanError: See :func:`load_plan`.
    """
    if "recorded" in document:
        return _checked(RecordedPlan, document, name)
    return _checked(Plan, document, name)


def _checked(kind: type[P], document: Mapping[str, Any], name: str) -> P:
    try:
        return kind.model_validate(dict(document))
    except ValidationError as error:
        raise PlanError(_explain(error, name, kind)) from None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        presets = preset_names()
        raise PlanError(
            f"no plan {str(path)!r}",
            why="neither a file nor a preset",
            hint=nearest(str(path), presets),
        ) from None
    except UnicodeDecodeError as error:
        raise PlanError(f"{path}: not UTF-8 at byte {error.start}") from None
    except OSError as error:
        raise PlanError(f"{path}: cannot be read", why=error.strerror or str(error)) from None


def _parse_toml(text: str, name: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise PlanError(f"{name}: not TOML", why=str(error)) from None


def _override(document: dict[str, Any], entry: str) -> None:
    key, equals, value = entry.partition("=")
    path = key.strip().split(".")
    if not equals or not all(path):
        raise PlanError(f"--set {entry}: expected key=value", hint="as --set train.epochs=2")
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value.strip()  # A bare word is a string, since shells eat quotes.
    table = document
    for part in path[:-1]:
        inner = table.setdefault(part, {})
        if not isinstance(inner, dict):
            raise PlanError(f"--set {entry}: {part} is no table")
        table = inner
    lengths = {"epochs", "passes", "steps", "seconds"}
    if path[-1] in lengths and len(path) == 2:
        for other in lengths:
            table.pop(other, None)
    table[path[-1]] = parsed


def _explain(error: ValidationError, name: str, kind: type[Table]) -> str:
    problems = error.errors(include_url=False)
    first = problems[0]
    key = _dotted(first["loc"])
    text = f"{name}: {key + ': ' if key else ''}{_what(dict(first), kind)}"
    return f"{text} (and {len(problems) - 1} more)" if len(problems) > 1 else text


def _what(problem: dict[str, Any], kind: type[Table]) -> str:
    given, message = problem["input"], str(problem["msg"])
    match problem["type"]:
        case "extra_forbidden":
            text = f"unknown key; {_nearest_key(problem['loc'], kind)}"
        case "missing":
            text = "required, but missing"
        case "literal_error":
            known = re.findall(r"'([^']*)'", problem["ctx"]["expected"])
            hint = nearest(given, known) if isinstance(given, str) else _choices(known)
            text = f"unknown value {_shown(given)}; {hint}"
        case "too_short":
            text = "must not be empty"
        case "model_type":
            text = f"must be a table, is {_shown(given)}"
        case "duplicate" | "lengths" | "model" | "phases":
            text = message
        case _:
            text = f"{_shown(given)} will not do: {message[:1].lower()}{message[1:]}"
    return text


def _choices(known: Sequence[str]) -> str:
    return f"choose from {', '.join(known)}"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _dotted(location: tuple[int | str, ...]) -> str:
    """The key as a person writes it.

    Example:
        >>> _dotted(("factors", "batch_size", 0))
        'factors.batch_size[0]'
    """
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.removeprefix(".")


def _keys(table: type[BaseModel]) -> dict[str, Any]:
    return {field.alias or name: field for name, field in table.model_fields.items()}


def _nearest_key(location: tuple[int | str, ...], kind: type[Table]) -> str:
    table: type[BaseModel] = kind
    for part in location[:-1]:
        table = _keys(table)[str(part)].annotation
    unknown = str(location[-1])
    tables: dict[str, type[BaseModel]] = {"": kind} | {
        key: field.annotation
        for key, field in _keys(kind).items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
    }
    if unknown not in _keys(table):
        homes = [
            home or "the top of the file" for home, keys in tables.items() if unknown in _keys(keys)
        ]
        if homes:
            homes = [home if home.startswith("the ") else f"[{home}]" for home in homes]
            return f"it belongs in {' or '.join(homes)}"
    return nearest(unknown, _keys(table))
