"""Check what another process, another version or a person has written, at the place of reading.

Types are dataclasses, TypedDicts or structs; the ranges of their values are annotations of the
fields. Fields that a type does not have are ignored, since a later version may write them.
"""

from __future__ import annotations

import json
import tomllib
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

MOST = 1e15
"""No value that is measured, in SI units, and no energy of a data centre in a year is larger."""
MOST_NS = 2**62

Finite = Annotated[float, Meta(ge=-MOST, le=MOST)]
NotNegative = Annotated[float, Meta(ge=0, le=MOST)]
Positive = Annotated[float, Meta(gt=0, le=MOST)]
MOST_S = 1e8
"""No sensor waits, averages or is late for longer: three years. Added to a time it still fits."""
Seconds = Annotated[float, Meta(ge=0, le=MOST_S)]
Period = Annotated[float, Meta(gt=0, le=MOST_S)]
Delay = Annotated[float, Meta(ge=-MOST_S, le=MOST_S)]
Gain = Annotated[float, Meta(ge=1e-3, le=1e3)]
"""A reading over its true value: no sensor is further off, and its unit is another matter."""
Count = Annotated[int, Meta(ge=0, le=MOST_NS)]
Pid = Annotated[int, Meta(ge=0, lt=2**31)]
Nanoseconds = Annotated[int, Meta(ge=0, le=MOST_NS)]
"""A time on CLOCK_MONOTONIC: at most 146 years after the machine started."""
UnixTime = Annotated[float, Meta(ge=0, le=7258118400)]
"""A wall-clock time from 1970 to 2200: others are no times of a measurement."""

T = TypeVar("T")


class InvalidData(ValueError):
    """The data is damaged: not JSON, or a value is missing, of another type or out of range."""


def parse_json(data: bytes | str) -> Any:
    """Parse JSON of any content, which may have NaN and infinities.

    Raises:
        InvalidData: It is not JSON, or nested too deeply.
    """
    try:
        return json.loads(data)
    except RecursionError:
        raise InvalidData("it is nested too deeply") from None
    except ValueError as error:
        raise InvalidData(f"it is not JSON: {error}") from error


def parse_toml(data: bytes) -> dict[str, Any]:
    """Parse TOML of any content.

    Raises:
        InvalidData: It is not TOML, or nested too deeply.
    """
    try:
        return tomllib.loads(data.decode())
    except RecursionError:
        raise InvalidData("it is nested too deeply") from None
    except ValueError as error:
        raise InvalidData(f"not TOML: {error}") from error


def convert(value: Any, kind: type[T]) -> T:
    """Check a value of JSON or TOML, and make it what ``kind`` says.

    Raises:
        InvalidData: The value is not of that type or out of its range; the text names the field.
    """
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise InvalidData(str(error).replace("`", "")) from error
    except RecursionError:
        raise InvalidData("it is nested too deeply") from None


def decode(data: bytes | str, kind: type[T]) -> T:
    """Parse JSON and check it, as :func:`convert` does.

    Raises:
        InvalidData: It is not JSON, or not of that type.
    """
    return convert(parse_json(data), kind)
