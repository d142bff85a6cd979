"""Writes the flat TOML that plans are made of; :mod:`tomllib` reads it back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def dumps(data: Mapping[str, Any]) -> str:
    """TOML of scalars, lists of scalars and one level of tables.

    Args:
        data: Values are str, bool, int, finite float, lists of these, or mappings of these.
            ``None`` is left out: TOML has no such value.

    Raises:
        TypeError: A value of another type.

    Example:
        >>> print(dumps({"name": "quick", "train": {"epochs": 1, "steps": None}}), end="")
        name = "quick"
        <BLANKLINE>
        [train]
        epochs = 1
    """
    lines = [_line(key, value) for key, value in data.items() if _is_plain(value)]
    for key, table in data.items():
        if isinstance(table, Mapping):
            lines += ["", f"[{_key(key)}]"]
            lines += [_line(name, value) for name, value in table.items() if value is not None]
    return "\n".join(lines) + "\n"


def _is_plain(value: Any) -> bool:
    return value is not None and not isinstance(value, Mapping)


def _line(key: str, value: Any) -> str:
    return f"{_key(key)} = {_value(value)}"


def _key(key: str) -> str:
    bare = key.isascii() and key.replace("_", "").replace("-", "").isalnum()
    return key if bare else _string(key)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    raise TypeError(f"{type(value).__name__} has no place in a plan")


def _string(text: str) -> str:
    # JSON's escapes are TOML's, but for DEL, which TOML wants escaped too.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
