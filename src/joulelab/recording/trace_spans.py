"""The spans that a program marked, as a trace's events tell of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from joulelab.energy.estimator import Window


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceSpan:
    """A span that was marked.

    Attributes:
        name: As the program gave it.
        start_ns: CLOCK_MONOTONIC.
        stop_ns: CLOCK_MONOTONIC; ``None`` while it is open.
        key: Tells it from the others.
        parent: Key of the span that it lies in; ``None`` when that is not known.
        attributes: Whatever else the program said of it.
        phase: Its attribute of that name, as ``"train"``; ``None`` when it has none.
        device_start_ns: When a GPU came to its work, where that is known.
        device_stop_ns: When the GPU was done with it.
        device_uncertainty_ns: Standard uncertainty of both.
    """

    name: str
    start_ns: int
    stop_ns: int | None
    key: tuple[int, int]
    parent: tuple[int, int] | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)
    phase: str | None = None
    device_start_ns: int | None = None
    device_stop_ns: int | None = None
    device_uncertainty_ns: int = 0

    @property
    def window(self) -> Window:
        """When it was; it must be over."""
        assert self.stop_ns is not None
        return Window(
            self.start_ns,
            self.stop_ns,
            self.device_start_ns,
            self.device_stop_ns,
            self.device_uncertainty_ns,
        )


def read_spans(events: Sequence[Mapping[str, Any]]) -> list[TraceSpan]:
    """The spans that a trace's events tell of, in the order in which they began."""
    spans: dict[tuple[int, int], Mapping[str, Any]] = {}
    devices: dict[tuple[int, int], Mapping[str, Any]] = {}
    for event in events:
        if event.get("event") == "span":
            spans[event["pid"], event["index"]] = event
        elif event.get("event") == "device":
            devices[event["pid"], event["index"]] = event
    found = [
        TraceSpan(
            name=str(event["name"]),
            start_ns=event["start_ns"],
            stop_ns=event["stop_ns"],
            key=key,
            parent=None if event["parent"] is None else (key[0], event["parent"]),
            attributes=event["attributes"],
            phase=event["attributes"].get("phase"),
            device_start_ns=devices.get(key, {}).get("start_ns"),
            device_stop_ns=devices.get(key, {}).get("stop_ns"),
            device_uncertainty_ns=devices.get(key, {}).get("uncertainty_ns", 0),
        )
        for key, event in spans.items()
    ]
    return sorted(found, key=lambda span: span.start_ns)
