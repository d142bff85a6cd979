"""A training loop that is measured, in one line."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Generic, TypeVar, Unpack

from joulelab.errors import UserError
from joulelab.meter import Meter
from joulelab.recording.launcher import current_launch

if TYPE_CHECKING:
    from joulelab.energy.energy import Energy
    from joulelab.forecast.live import EpochOptions
    from joulelab.recording.spans import Span

T = TypeVar("T")
S = TypeVar("S")

FIT = "fit"


class epochs(Generic[T]):  # noqa: N801  (is used as a function, as `range` is)
    """Goes through a training's epochs, measures them, and says what they took.

    Spans are ``fit`` > ``epoch``, and ``step`` within :meth:`steps`. Meanwhile lines on standard
    error say what the loop will take, as :meth:`joulelab.Meter.epochs` does, and one at the end
    what it took; of the processes on one host only the first says so.

    Args:
        items: As ``range(100)``.
        total: How many there are, where the items do not tell.
        meter: The caller's own; ``None``: one is opened for the loop.
        **options: See :class:`~joulelab.forecast.live.EpochOptions`.

    Attributes:
        meter: ``None`` before the loop begins, unless it was given.

    Raises:
        UserError: An option is out of its range.
        BudgetError: The next epoch would go over a budget, and ``on_budget`` is ``"raise"``.

    Example:
        >>> with Meter(sensors=["simulated"]) as meter:
        ...     loop = epochs(range(2), meter=meter, quiet=True)
        ...     for epoch in loop:
        ...         for batch in loop.steps([1.0, 2.0, 3.0]):
        ...             total = sum(range(10000))
        ...     len(meter.spans_named("step")), loop.energy.gross_j > 0
        (6, True)
    """

    def __init__(
        self,
        items: Iterable[T],
        *,
        total: int | None = None,
        meter: Meter | None = None,
        **options: Unpack[EpochOptions],
    ) -> None:
        self.meter = meter
        self._given = meter is not None
        self._items, self._total, self._options = items, total, options
        self._fit: Span | None = None
        launch = current_launch()
        if launch is not None and launch.local_rank:
            self._options["quiet"] = True

    def __iter__(self) -> Iterator[T]:
        meter = self.meter if self._given else Meter()
        assert meter is not None
        self.meter = meter
        try:
            with meter.span(FIT) as self._fit:
                yield from meter.epochs(self._items, total=self._total, **self._options)
        finally:
            if not self._given:
                meter.close()
            self._say_energy()

    def steps(self, batches: Iterable[S]) -> Iterator[S]:
        """Goes through an epoch's batches, each within a span ``step``.

        What the loop waits for the next batch is the epoch's, and no step's.

        Args:
            batches: As a ``torch.utils.data.DataLoader``.

        Raises:
            UserError: The loop over epochs has not begun.
        """
        if self.meter is None:
            raise UserError(
                "steps are within epochs, and none has begun", hint="loop over the epochs first"
            )
        for index, batch in enumerate(batches):
            with self.meter.span("step", index=index):
                yield batch

    @property
    def energy(self) -> Energy:
        """Of the whole loop, the latest time it was gone through.

        Raises:
            UserError: It is not over.
        """
        if self._fit is None or self._fit.stop_ns is None:
            raise UserError("the loop is not over, so its energy is not known yet")
        return self._fit.energy

    def _say_energy(self) -> None:
        if self._options.get("quiet"):
            return
        try:
            sys.stderr.write(f"joulelab: {self.energy}\n")
        except Exception as error:  # noqa: BLE001  (whatever it is, the program goes on)
            warnings.warn(f"the loop's energy is not known: {error}", RuntimeWarning, stacklevel=3)
