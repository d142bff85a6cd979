"""The spans of a framework's loops, begun and ended by its hooks."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

from joulelab.errors import JoulelabError
from joulelab.meter import Meter
from joulelab.recording.launcher import current_launch
from joulelab.recording.spans import Span


class Stages:
    """Spans that follow a framework's hooks, which come in pairs only while all goes well.

    The first span opens a meter where none is given, and :meth:`close` closes that one. Where it
    cannot be opened a warning says so, and the training goes on without.

    Args:
        meter: The caller's; it is left open.

    Example:
        >>> with Meter(sensors=["simulated"]) as meter:
        ...     stages = Stages(meter)
        ...     for name in ("fit", "epoch", "step"):
        ...         _ = stages.begin(name)
        ...     _ = stages.end("epoch")
        ...     [(span.name, span.stop_ns is None) for span in meter.spans]
        [('fit', True), ('epoch', False), ('step', False)]
    """

    def __init__(self, meter: Meter | None = None) -> None:
        self.meter = meter
        self._given = meter is not None
        self._recording = self._given
        self._open: list[Span] = []

    def begin(self, name: str, /, **attributes: Any) -> Span | None:
        """Begins a span within the innermost open one; ``None`` where nothing is measured."""
        if not self._recording:
            self._start()
        if self.meter is None:
            return None
        span = self.meter.begin(name, **attributes)
        self._open.append(span)
        return span

    def end(self, name: str) -> Span | None:
        """Ends the innermost open span of that name, and all within it; ``None`` without one."""
        span = self.find(name)
        while span is not None:
            innermost = self._open.pop()
            if innermost.stop_ns is None:
                innermost.end()
            if innermost is span:
                break
        return span

    def find(self, name: str) -> Span | None:
        """The innermost open span of that name."""
        return next((span for span in reversed(self._open) if span.name == name), None)

    def end_all(self) -> None:
        """Ends whatever is open."""
        while self._open:
            self.end(self._open[0].name)

    def close(self) -> None:
        """Ends whatever is open, and the recording where it was begun here.

        Energies can still be asked for; a span begun later has a meter of its own.
        """
        self.end_all()
        if self._recording and not self._given:
            self._recording = False
            if self.meter is not None:
                self.meter.close()

    def _start(self) -> None:
        self._recording = True
        try:
            self.meter = Meter()
        except (JoulelabError, OSError) as error:
            self.meter = None
            warnings.warn(f"energy is not measured: {error}", RuntimeWarning, stacklevel=4)


def takes_part(*, first: bool) -> bool:
    """Whether this process marks what it does.

    All processes of a job that a launcher started do, since they share one recorder on each host.
    Others would each start one, so of them only the host's first does.
    """
    return first or current_launch() is not None


def bracket(
    owner: object, method: str, begin: Callable[[], object], end: Callable[[], object]
) -> Callable[[], None]:
    """Lets an object's method begin and end something, however it ends.

    Frameworks have no hook where saving a checkpoint ends, nor where a call fails.

    Returns:
        What undoes it.
    """
    original = getattr(owner, method)

    @functools.wraps(original)
    def bracketed(*args: Any, **options: Any) -> Any:
        begin()
        try:
            return original(*args, **options)
        finally:
            end()

    def undo() -> None:
        if vars(owner).get(method) is bracketed:
            delattr(owner, method)

    setattr(owner, method, bracketed)
    return undo
