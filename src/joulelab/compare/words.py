"""A comparison as a person reads it."""

from __future__ import annotations

import math
from collections.abc import Iterator

from joulelab.compare.compare import Comparison, Effect
from joulelab.compare.sides import Side
from joulelab.findings.words import counted, moment, number, probability, scaled

NEGLIGIBLE, SMALL, MODERATE = 0.02, 0.05, 0.20
"""Effects below these are of no practical weight, small, moderate; beyond the last they are large.

Runs of one training on one machine differ by 1 to 2 % as it is; nobody decides on less.
"""


def size(ratio: float) -> str:
    """How much a ratio matters in practice; the same for a ratio and its inverse.

    Example:
        >>> size(1.01), size(1 / 1.04), size(1.1), size(2.0), size(float("nan"))
        ('no practical difference', 'small', 'moderate', 'large', 'not known')
    """
    if math.isnan(ratio):
        return "not known"
    fold = max(ratio, 1 / ratio) - 1
    if fold < NEGLIGIBLE:
        return "no practical difference"
    return "small" if fold < SMALL else "moderate" if fold < MODERATE else "large"


def percent(ratio: float, like: float | None = None) -> str:
    """A ratio as a change in per cent.

    Example:
        >>> percent(1.0731), percent(0.5), percent(1.0), percent(3.0)
        ('+7.31 %', '−50.0 %', '0.00 %', '+200 %')
    """
    change = 100 * (ratio - 1)
    text = number(change, like=None if like is None else 100 * (like - 1))
    return f"{'+' if change > 0 else ''}{text} %"


def lines(comparison: Comparison) -> Iterator[str]:
    """The whole, without differences and doubts."""
    effect, metric = comparison.effect, comparison.metric
    sides = (comparison.a, comparison.b)
    for side, costs in zip(sides, comparison.costs, strict=True):
        yield f"{side.letter}  {_side(side)}{_mean(effect, side.letter, metric.unit)}"
        if costs is not None and costs.words():
            altogether = "altogether " if len(side.measurements) > 1 else ""
            yield f"   {altogether}{costs.words()}"
    if not any(costs is not None and costs.words() for costs in comparison.costs):
        yield "   without CO2e and money: `joulelab site` keeps the country and the price"
    of_span = "" if comparison.a.span is None else f" of one {comparison.a.span}"
    yield f"{metric.label}{of_span}: {verdict(comparison)}"
    low, high = effect.difference_interval
    if not math.isnan(effect.difference):
        yield f"  difference  {_change(effect.difference, low, high, metric.unit)}"
    yield f"  in practice {practice(effect)}"
    yield f"  test        {_test(effect)}"


def verdict(comparison: Comparison) -> str:
    """The effect in one line.

    The words never say more than was tested: without a test the effect is not called shown.
    """
    effect = comparison.effect
    if math.isnan(effect.ratio):
        return "no ratio, since a figure is not positive"
    low, high = effect.ratio_interval
    more = "more" if effect.ratio >= 1 else "less"
    text = (
        f"B takes {number(abs(100 * (effect.ratio - 1)))} % {more} than A"
        if effect.ratio != 1
        else "B takes as much as A"
    )
    if math.isnan(low):
        return f"{text}, without an interval"
    between = f"{percent(low, like=effect.ratio)} to {percent(high, like=effect.ratio)}"
    text += f" ({100 * comparison.confidence:g} % interval {between})"
    if effect.shown is None:
        return (
            f"{text} by the sensors; whether runs differ by as much of themselves cannot be told "
            "with one run each"
        )
    return f"{text}: {'shown' if effect.shown else 'not shown'}"


def practice(effect: Effect) -> str:
    """What the effect means in practice, and what that would take to be seen."""
    text = size(effect.ratio)
    low, high = effect.ratio_interval
    if effect.test and low >= 1 / (1 + NEGLIGIBLE) and high <= 1 + NEGLIGIBLE:
        text = "no practical difference: the whole interval is within 2 %"
    elif effect.shown is False:
        text += f", if it is there; it could be anything from {size_range(low, high)}"
    if math.isnan(effect.detectable_ratio):
        return text
    least = number(100 * (effect.detectable_ratio - 1), 2)
    return f"{text}; with so many runs {least} % would be shown four times in five"


def size_range(low: float, high: float) -> str:
    """The ends of an interval as changes."""
    return f"{percent(low)} to {percent(high)}"


def cell_line(effect: Effect) -> str:
    """One cell of several."""
    low, high = effect.ratio_interval
    what = ", ".join(effect.levels.values())
    told = {True: "shown", False: "not shown", None: "one run each"}[effect.shown]
    if math.isnan(effect.ratio):
        return f"  {what}: no ratio, since a figure is not positive"
    between = f"{percent(low, like=effect.ratio)} to {percent(high, like=effect.ratio)}"
    return f"  {what}: {percent(effect.ratio)} ({between}), {told}"


def _side(side: Side) -> str:
    first, last = side.started_unix_s
    count = counted(len(side.measurements), "run")
    when = moment(first) if first == last else f"{moment(first)} to {moment(last)}"
    names = {run.levels.get("name", side.label) for run in side.measurements}
    name = f" ({names.pop()})" if len(names) == 1 and side.label not in names else ""
    return f"{side.label}{name}: {count}, {when}"


def _mean(effect: Effect, name: str, unit: str) -> str:
    value = effect.a if name == "A" else effect.b
    return "" if math.isnan(value) else f", {scaled(value)}{unit}"


def _change(value: float, low: float, high: float, unit: str) -> str:
    text = f"{'+' if value > 0 else ''}{number(value)} {unit}"
    if math.isnan(low):
        return text
    return f"{text} ({number(low, like=value)} to {number(high, like=value)})"


def _test(effect: Effect) -> str:
    runs = f"{effect.n_a} and {counted(effect.n_b, 'run')}"
    if not effect.test:
        return f"none: {runs} do not tell how much runs scatter; repeat each three times or more"
    scale = "" if math.isnan(effect.ratio) else ", on logarithms"
    return f"{effect.test}{scale}, {runs}: {probability(effect.p)}"


def verdict_of_limit(limit: float, above: bool | None, *, each: bool = False) -> str:
    """Whether the second side is above a limit.

    Example:
        >>> verdict_of_limit(0.05, None)
        'limit of 5 %: cannot be told whether B is above it'
    """
    what = "a cell of B" if each else "B"
    told = {
        True: f"{what} is shown to be above it",
        False: f"{'every cell of B' if each else 'B'} is shown to be within it",
        None: f"cannot be told whether {what} is above it",
    }
    return f"limit of {100 * limit:g} %: {told[above]}"
