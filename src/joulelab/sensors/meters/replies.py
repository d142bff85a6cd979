"""Numbers in the replies of meters: paths into JSON, patterns in text."""

from __future__ import annotations

import json
import re
from typing import Any

from joulelab.validation import InvalidData, parse_json

_STEP = re.compile(r"""\[(\d+|\*)\]|\["([^"]+)"\]|([^.\[\]]+)|\.""")
_SHOWN = 40


class MeterError(Exception):
    """A meter gave no reading. The text is the reason; ``wait_s`` is how long to leave it alone."""

    def __init__(self, reason: str, *, wait_s: float = 0.0) -> None:
        self.wait_s = wait_s
        super().__init__(reason)


def parse_reply(data: bytes, what: str = "answered") -> Any:
    """Parse the JSON of a reply.

    Raises:
        MeterError: It is not JSON.
    """
    text = data.strip()
    if not text:
        raise MeterError(f"{what} with nothing")
    if text[:1] == b"<":
        raise MeterError(f"{what} with a web page, not with JSON: check the address")
    try:
        return parse_json(text)
    except InvalidData:
        raise MeterError(f"{what} with something that is not JSON, or not all of it") from None


def number_at(document: Any, path: str) -> float:
    """Return the number at a path; a list of numbers, and ``[*]`` of any list, is added up.

    Raises:
        MeterError: There is nothing at the path, or it is not a number.

    Example:
        >>> number_at({"ENERGY": {"Power": [40, 2.5]}}, "ENERGY.Power")
        42.5
        >>> number_at({"a": [{"b": "7.1"}, {"b": 2}]}, "a[0].b")
        7.1
        >>> number_at({"a": [{"b": "7.1"}, {"b": 2}]}, "a[*].b")
        9.1
    """
    for step in _STEP.finditer(path):
        index, quoted, key = step.groups()
        name = quoted or key
        if name is not None and isinstance(document, dict) and name in document:
            document = document[name]
        elif index == "*" and isinstance(document, list) and document:
            return sum(number_at(one, path[step.end() :]) for one in document)
        elif index not in (None, "*") and isinstance(document, list) and int(index) < len(document):
            document = document[int(index)]
        elif step[0] != ".":
            raise MeterError(f"the reply has no {path}")
    if isinstance(document, list) and document:
        return sum(_number(one, path) for one in document)
    return _number(document, path)


def _number(value: Any, path: str) -> float:
    if isinstance(value, (int, float, str)) and not isinstance(value, bool):
        try:
            return float(value)
        except (ValueError, OverflowError):
            pass
    shown = json.dumps(value)[:_SHOWN]
    raise MeterError(f"the reply has {shown} at {path}, which is not a number")


def number_in(text: str, pattern: str) -> float:
    """Return the number in the group of a pattern.

    Raises:
        MeterError: The text does not match, or the group is not a number.
    """
    found = re.search(pattern, text)
    if found is None:
        raise MeterError(f"the output does not match {pattern!r}")
    return _number(found[1], "the pattern's group")
