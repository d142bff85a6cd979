"""The measured training loop: :func:`joulelab.epochs`."""

from __future__ import annotations

import itertools
import math
import sys
import textwrap
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from joulelab.batches import Tokens, count_tokens
from joulelab.carbon.site import local_costs
from joulelab.errors import UserError
from joulelab.format import with_interval
from joulelab.meter import Meter
from joulelab.recording.launcher import current_launch

if TYPE_CHECKING:
    from joulelab.energy.energy import Energy
    from joulelab.recording.spans import Span

T = TypeVar("T")
S = TypeVar("S")

PREFIX = "joulelab: "


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
        tokens: Number of tokens in this process's batches of :meth:`steps` so far; NaN if it is
            unknown. The energy of one is ``energy.per(tokens)``, unless several processes of a job
            share the host, whose energy it is.

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
        self._tokens: Tokens | None = None
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

    def steps(
        self,
        batches: Iterable[S],
        *,
        accumulate: int = 1,
        tokens_in: Callable[[S], float | Tokens] = count_tokens,
    ) -> Iterator[S]:
        """Iterate over an epoch's batches, each within a span ``step``.

        The time that the loop waits for a batch belongs to the epoch, not to a step, except between
        the batches of one step.

        Args:
            batches: For example a ``torch.utils.data.DataLoader``.
            accumulate: Number of batches whose gradients one step of the optimizer accumulates.
            tokens_in: Counts the tokens of a batch. Default: those of all ``input_ids`` in it,
                without padding if there is an ``attention_mask``.

        Raises:
            UserError: No epoch has begun, or ``accumulate`` is less than 1.
        """
        if self.meter is None:
            raise UserError("no epoch has begun", hint="iterate over the epochs first")
        if accumulate < 1:
            raise UserError(f"accumulate is {accumulate!r}", why="it must be 1 or more")
        remaining = self._counted(batches, tokens_in)
        for index in itertools.count():
            for first in remaining:
                with self.meter.span("step", index=index):
                    yield first
                    yield from itertools.islice(remaining, accumulate - 1)
                break
            else:
                return

    def _counted(
        self, batches: Iterable[S], tokens_in: Callable[[S], float | Tokens]
    ) -> Iterator[S]:
        for batch in batches:
            counted = tokens_in(batch)
            tokens = counted if isinstance(counted, Tokens) else Tokens(counted)
            self._tokens = tokens if self._tokens is None else Tokens.total((self._tokens, tokens))
            yield batch

    @property
    def tokens(self) -> float:
        """Number of tokens so far; waits for the device that counts them."""
        return math.nan if self._tokens is None else float(self._tokens.processed)

    @property
    def energy(self) -> Energy:
        """Energy of the whole loop, after it has ended."""
        if self._fit is None or self._fit.stop_ns is None:
            raise UserError("the energy is unknown until the loop ends")
        return self._fit.energy

    def _print_energy(self) -> None:
        try:
            tokens = self.tokens if current_launch() is None else math.nan
            print_summary([*summary_lines(self.energy), *token_lines(self.energy, tokens)])
        except Exception as error:  # noqa: BLE001  (the program must go on, whatever fails)
            warnings.warn(f"the loop's energy is unknown: {error}", RuntimeWarning, stacklevel=3)


def summary_lines(energy: Energy) -> list[str]:
    """Return the energy of a training in short lines, with its costs at the configured site."""
    costs = local_costs(energy).text()
    return list(filter(None, (*energy.lines(), *costs.split("; "))))


def token_lines(energy: Energy, tokens: float) -> list[str]:
    """Return the energy per token of a training in a line; none if they were not counted."""
    one = energy.per(tokens)
    if math.isnan(one.value):
        return []
    return [f"{with_interval(one.value, one.low, one.high, 'J')} per token, {tokens:,.0f} tokens"]


def print_summary(lines: Sequence[str]) -> None:
    """Print a summary on standard error."""
    text = textwrap.indent("\n".join(lines), " " * len(PREFIX))
    print(PREFIX + text.lstrip(), file=sys.stderr, flush=True)  # noqa: T201
