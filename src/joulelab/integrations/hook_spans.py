"""Spans that follow the hooks of a framework, with the tokens that were processed in them."""

from __future__ import annotations

import math
import os
import time
import warnings
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, TypeVar

from joulelab.batches import UNKNOWN_TOKENS, Tokens, count_tokens
from joulelab.errors import JoulelabError
from joulelab.format import duration
from joulelab.meter import Meter
from joulelab.recording.span_columns import SpanColumns
from joulelab.recording.spans import Span
from joulelab.recording.trace_spans import TraceSpan
from joulelab.runs.tracker_choice import AUTO

T = TypeVar("T")

COUNTED = ("epoch", "validate", "test", "predict")
"""Spans whose tokens are counted, each without those of the spans within it."""
PARTS = {"epoch": "train", "validate": "validate", "checkpoint": "checkpoint"}
"""Spans of the parts of a fit, each without the others within it, and the parts' names."""
WAIT_FOR_PROCESSES_S = 1.0
POLL_S = 0.05
"""Longest time to wait for the numbers of tokens of a host's other processes, and between polls."""


class HookSpans:
    """Spans that follow a framework's hooks, which are called in pairs only while nothing fails.

    The first span opens a meter unless one is given, and :meth:`close` closes it. If it cannot be
    opened, there is a warning and the training continues without it.

    Attributes:
        tokens_in: Counts the tokens of a batch.
        processes: Number of processes of the training on this host; NaN if it is unknown.
        replicas: Number of them that train on batches of their own.
        finished: Spans of parts of the latest attempt of a fit.
        trackers: Trackers of the next meter, as :class:`joulelab.Meter` takes them.
    """

    def __init__(self, meter: Meter | None = None) -> None:
        self.tokens_in: Callable[[Any], Any] = count_tokens
        self.processes = self.replicas = 1.0
        self.finished: list[Span] = []
        self.trackers: Any = AUTO
        self._tokens: dict[Span, Tokens] = {}
        self.meter = meter
        self._is_given = self._is_recording = meter is not None
        self._open: list[Span] = []
        self._last_hook_ns = 0

    @property
    def is_open(self) -> bool:
        """Whether any span is open."""
        return bool(self._open)

    def begin(self, name: str, /, **attributes: Any) -> Span | None:
        """Begin a span within the innermost open one; return ``None`` if nothing is measured."""
        if not self._is_recording:
            self._is_recording = True
            try:
                self.meter = Meter(tracker=self.trackers)
            except (JoulelabError, OSError) as error:
                self.meter = None
                warnings.warn(f"energy is not measured: {error}", RuntimeWarning, stacklevel=3)
        if self.meter is None:
            return None
        span = self.meter.begin(name, **attributes)
        self._open.append(span)
        self._last_hook_ns = span.start_ns
        return span

    def end(self, name: str, stop_ns: int | None = None) -> Span | None:
        """End the innermost open span of that name, and all within it, now or at ``stop_ns``."""
        span = self.find(name)
        while span is not None:
            innermost = self._open.pop()
            if innermost in self._tokens:
                unknown: dict[str, float] = {}
                counted = self._attempt(self._tokens.pop(innermost).attributes, unknown)
                # Another thread may be reading the attributes.
                innermost.attributes = innermost.attributes | counted
            if innermost.stop_ns is None:
                innermost.end(stop_ns)
            if innermost.name in PARTS:
                self.finished.append(innermost)
            if innermost is span:
                self._last_hook_ns = span.stop_ns or 0
                break
        return span

    def count(self, batch: Any) -> Tokens:
        """Count the tokens of a batch, which the framework may change when it is processed."""

        def counted() -> Tokens:
            tokens = self.tokens_in(batch)
            return tokens if isinstance(tokens, Tokens) else Tokens(tokens)

        return self._attempt(counted, UNKNOWN_TOKENS)

    def add(self, tokens: Tokens) -> None:
        """Add the tokens of a batch that was processed to the innermost span that counts them."""
        span = next((span for span in reversed(self._open) if span.name in COUNTED), None)
        if span is not None:
            before = [self._tokens[span]] if span in self._tokens else []
            self._tokens[span] = self._attempt(
                lambda: Tokens.total([*before, tokens]), UNKNOWN_TOKENS
            )

    def _attempt(self, work: Callable[[], T], otherwise: T) -> T:
        """Count something. If that fails, warn once, and tokens are unknown from then on."""
        try:
            return work()
        except Exception as error:  # noqa: BLE001  (the training must go on, whatever fails)
            warnings.warn(f"tokens are not counted: {error!r}", RuntimeWarning, stacklevel=5)
            self.tokens_in = lambda _: UNKNOWN_TOKENS
            return otherwise

    def epoch_tokens(self) -> Tokens:
        """Return the tokens of the open epoch so far; waits for the device."""
        span = self.find("epoch")
        tokens = UNKNOWN_TOKENS if span is None else self._tokens.get(span, UNKNOWN_TOKENS)
        unknown: dict[str, float] = {}
        return Tokens.of_attributes(self._attempt(tokens.attributes, unknown)).scaled(self.replicas)

    def host_tokens(self, spans: Sequence[Span]) -> list[Tokens]:
        """Return the tokens of finished spans, added up over the training's processes on this host.

        The spans of other processes are in the same recording, in the same order. If some do not
        arrive, there is a warning, and each process counts as this one.
        """
        own = [Tokens.of_attributes(span.attributes).scaled(self.replicas) for span in spans]
        if not self.processes > 1 or all(math.isnan(one.processed) for one in own):
            return own
        until_s = time.monotonic() + WAIT_FOR_PROCESSES_S
        while (found := self._of_all_processes(spans)) is None:
            if time.monotonic() > until_s:
                warnings.warn(
                    "the tokens of other processes are unknown: each counts as many as this one",
                    RuntimeWarning,
                    stacklevel=2,
                )
                self.processes = 1.0
                return own
            time.sleep(POLL_S)
        return [one.scaled(self.replicas / self.processes) for one in found]

    def _of_all_processes(self, spans: Sequence[Span]) -> list[Tokens] | None:
        """Return the sum over the host's processes for each span; ``None`` if some are missing."""
        if self.meter is None:
            return None
        recorded = SpanColumns.of(self.meter.trace.spans)
        by_name: dict[str, dict[int, list[TraceSpan]]] = {}
        for name in {span.name for span in spans}:
            series = by_name.setdefault(name, {})
            for one in recorded.named(name):
                series.setdefault(one.key[0], []).append(one)
        sums = []
        for span in spans:
            processes = by_name[span.name]
            mine = [one.key[1] for one in processes.get(os.getpid(), ())]
            if span.index not in mine:
                return None
            position = mine.index(span.index)
            same = [
                Tokens.of_attributes(series[position].attributes)
                for series in processes.values()
                if len(series) > position and series[position].stop_ns
            ]
            if len(same) != self.processes:
                return None
            sums.append(Tokens.total(same))
        return sums

    def find(self, name: str) -> Span | None:
        """Return the innermost open span of that name."""
        return next((span for span in reversed(self._open) if span.name == name), None)

    def end_all(self) -> None:
        """End all open spans."""
        while self._open:
            self.end(self._open[0].name)

    def end_at_last_hook(self) -> None:
        """End the spans of a failed call, whose end the framework did not report."""
        if not self._open:
            return
        name, last_ns = self._open[0].name, self._last_hook_ns
        while self._open:
            self.end(self._open[0].name, last_ns)
        unseen_s = (time.monotonic_ns() - last_ns) * 1e-9
        warnings.warn(
            f"{name} ended without notice: its energy counts until the last hook, "
            f"{duration(unseen_s)} ago; to measure a failed call whole, call close() after it",
            RuntimeWarning,
            stacklevel=4,
        )

    def close(self) -> None:
        """End all open spans, and the recording unless its meter is the user's."""
        self.end_all()
        if self._is_recording and not self._is_given:
            self._is_recording = False
            if self.meter is not None:
                self.meter.close()


def wrap_method(
    owner: object, method: str, begin: Callable[[], object], end: Callable[[], object]
) -> Callable[[], None]:
    """Call functions before and after a method, even if it fails; return how to restore it.

    Frameworks have no hook after saving a checkpoint, and none where a call fails.
    """
    original = getattr(owner, method)

    @wraps(original)
    def wrapped(*args: Any, **options: Any) -> Any:
        begin()
        try:
            return original(*args, **options)
        finally:
            end()

    return _replace(owner, method, wrapped)


def wrap_step(owner: object, method: str, spans: HookSpans) -> Callable[[], None]:
    """Count the tokens of the batches that a method of a model and a batch processes.

    Return how to restore the method. Only batches whose processing did not fail count.
    """
    original = getattr(owner, method)

    @wraps(original)
    def wrapped(model: Any, inputs: Any, *args: Any, **options: Any) -> Any:
        tokens = spans.count(inputs)
        result = original(model, inputs, *args, **options)
        spans.add(tokens)
        return result

    return _replace(owner, method, wrapped)


def _replace(owner: object, method: str, wrapped: Callable[..., Any]) -> Callable[[], None]:
    own = vars(owner)
    before = {method: own[method]} if method in own else {}

    def restore() -> None:
        if own.get(method) is wrapped:
            delattr(owner, method)
            own.update(before)

    setattr(owner, method, wrapped)
    return restore
