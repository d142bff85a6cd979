"""The measured training loop: :func:`joulelab.epochs`."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from joulelab.errors import UserError
from joulelab.meter import Meter
from joulelab.recording.launcher import current_launch

if TYPE_CHECKING:
    from joulelab.energy.energy import Energy
    from joulelab.recording.spans import Span

T = TypeVar("T")
S = TypeVar("S")


class epochs(Generic[T]):  # noqa: N801  (used like a function, as `range` is)
    """Iterate over the epochs of a training, measure them and print what they used.

    The spans are ``fit`` > ``epoch``, and ``step`` within :meth:`steps`. Forecasts are printed on
    standard error while the loop runs, as by :meth:`joulelab.Meter.epochs`, and the energy at its
    end. Of several processes on one host, only the first prints.

    Args:
        items: For example ``range(100)``.
        total: Number of epochs. Default: the length of ``items``, if it has one.
        meter: Meter to use. Default: a new one for the time of the loop.
        **options: Fields of :class:`~joulelab.forecast.loop.EpochOptions`.

    Attributes:
        meter: The meter; ``None`` before the loop begins, unless it was given.

    Raises:
        UserError: An option is out of range.
        BudgetError: The next epoch would exceed a budget, and ``on_budget`` is ``"raise"``.

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
        self, items: Iterable[T], *, total: int | None = None, meter: Meter | None = None,
        **options: Any,
    ) -> None:  # fmt: skip
        self.meter, self._is_own = meter, meter is None
        self._items, self._options = items, {"total": total, **options}
        self._fit: Span | None = None
        launch = current_launch()
        if launch is not None and launch.local_rank:
            self._options["quiet"] = True

    def __iter__(self) -> Iterator[T]:
        meter = Meter() if self._is_own or self.meter is None else self.meter
        self.meter = meter
        try:
            with meter.span("fit") as self._fit:
                yield from meter.epochs(self._items, **self._options)
        finally:
            if self._is_own:
                meter.close()
            if not self._options.get("quiet"):
                self._print_energy()

    def steps(self, batches: Iterable[S]) -> Iterator[S]:
        """Iterate over an epoch's batches, each within a span ``step``.

        The time that the loop waits for a batch belongs to the epoch, not to a step.

        Args:
            batches: For example a ``torch.utils.data.DataLoader``.
        """
        if self.meter is None:
            raise UserError("no epoch has begun", hint="iterate over the epochs first")
        for index, batch in enumerate(batches):
            with self.meter.span("step", index=index):
                yield batch

    @property
    def energy(self) -> Energy:
        """Energy of the whole loop, after it has ended."""
        if self._fit is None or self._fit.stop_ns is None:
            raise UserError("the energy is unknown until the loop ends")
        return self._fit.energy

    def _print_energy(self) -> None:
        try:
            print(f"joulelab: {self.energy}", file=sys.stderr)  # noqa: T201
        except Exception as error:  # noqa: BLE001  (the program must go on, whatever fails)
            warnings.warn(f"the loop's energy is unknown: {error}", RuntimeWarning, stacklevel=3)
