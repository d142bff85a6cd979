"""What the watcher shows at one time: frozen values computed from a trace."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass
from typing import Any, Literal

from joulelab.carbon.costs import Costs
from joulelab.energy.energy import Energy
from joulelab.forecast.profile import Forecast
from joulelab.format import finite_or_none
from joulelab.runs.record import SpanTotal
from joulelab.sensors.sensor import Quantity

BIN_S = 2.0
"""Length of a step of the power history; NVML's buffer of readings is also read that often."""

State = Literal["waiting", "live", "ended", "lost"]
"""Waiting for the first readings, or lost if the recorder disappeared without a reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """Current power of a component, its mean in each step of :data:`BIN_S`, and its energy.

    Values that were not measured are NaN, also gaps of the history, which begins with the oldest.
    """

    name: str
    power_w: float
    history_w: tuple[float, ...]
    gross_j: float
    source: str
    provenance: str
    is_added: bool = True  # Meters around others, and estimates within a meter, are not.


@dataclass(frozen=True, slots=True, kw_only=True)
class Gauge:
    """The latest reading of another quantity, in its unit; NaN if the sensor has no value."""

    component: str
    quantity: Quantity
    value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenSpan:
    """A span that has not ended, with its attributes ``index`` and ``total`` if it has them."""

    name: str
    index: int | None
    total: int | None
    elapsed_s: float

    @property
    def label(self) -> str:
        """Name and position of the span, for example ``epoch 4/10`` or ``step #3``."""
        if self.index is None:
            return self.name
        if self.total is None or not 0 <= self.index < self.total:
            return f"{self.name} #{self.index}"
        return f"{self.name} {self.index + 1}/{self.total}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """The open spans of one thread of a process, the outermost first."""

    pid: int
    spans: tuple[OpenSpan, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """Finished spans of one name and the latest of them; unknown values are NaN or ``None``."""

    name: str
    count: int
    duration_s: float
    energy: Energy | SpanTotal | None = None
    last_duration_s: float = math.nan
    last: Energy | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """Progress of a study."""

    name: str
    cells: int
    done: int  # number of recorded cells, including failed ones
    failed: int
    running: str  # id of the current run; empty if there is none
    running_s: float
    spent: str  # time and energy of all finished runs
    to_go: str  # estimated time and energy of the missing cells; empty if unknown
    last: tuple[str, ...] = ()  # one line for each of the latest finished runs, oldest first


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """Everything that is shown at one time. Values that were not measured are NaN or absent."""

    title: str
    detail: str = ""  # more about what is watched, for example the command of a run
    state: State
    state_words: str = ""  # how it ended, or why it is waiting
    elapsed_s: float = math.nan  # so far, or in total; NaN if unknown, and for a study
    components: tuple[Component, ...] = ()
    power_w: float = math.nan  # of all components; NaN while one is unknown
    energy: Energy | None = None  # since the beginning; None before the first readings
    job_words: str = ""  # this run's share of the energy, if others used the machine
    gauges: tuple[Gauge, ...] = ()
    stacks: tuple[Stack, ...] = ()
    ended: tuple[Ended, ...] = ()  # finished spans by name, the latest first
    forecast: Forecast | None = None
    forecast_words: str = ""  # the forecast, or why there is none; may be empty
    costs: Costs | None = None
    absent: Mapping[str, str] = field(default_factory=dict)  # why each component is missing
    notes: tuple[str, ...] = ()
    study: Study | None = None
    hints: tuple[str, ...] = ()  # commands that watch something else

    @property
    def is_over(self) -> bool:
        """Whether nothing new will be recorded."""
        return self.state in ("ended", "lost")

    def to_json(self) -> dict[str, Any]:
        """Return every value under its attribute's name, with ``None`` for NaN."""
        data: dict[str, Any] = finite_or_none(_fields(self) | {"bin_s": BIN_S})
        return data


def total_history(components: Sequence[Component]) -> tuple[float, ...]:
    """Add up the power of the components of the total; NaN where one of them has a gap."""
    added = (one.history_w for one in components if one.is_added)
    return tuple(map(math.fsum, zip(*added, strict=True)))


def _fields(value: Any) -> dict[str, Any]:
    return {name: _plain(getattr(value, name)) for name in value.__dataclass_fields__}


def _plain(value: Any) -> Any:
    if hasattr(value, "to_json"):
        return value.to_json()
    if is_dataclass(value):
        return _fields(value)
    return [_plain(item) for item in value] if isinstance(value, tuple) else value
