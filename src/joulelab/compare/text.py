"""The text of a comparison."""

from __future__ import annotations

import math
from collections.abc import Iterator

from joulelab.compare.compare import Comparison, Effect
from joulelab.compare.measurement import Group
from joulelab.format import (
    count,
    interval,
    number,
    p_value,
    percent,
    quantity,
    timestamp,
    undetermined,
    watt_hours,
    with_interval,
)
from joulelab.uncertain import MOST_FACTOR, MOST_MULTIPLE, is_determined

NEGLIGIBLE, SMALL, MODERATE = 0.02, 0.05, 0.20
"""Effects below these are negligible, small, moderate; above the last they are large.

Repeats of a training on one machine differ by 1 to 2 % anyway, too little to decide on.
"""


def comparison_lines(comparison: Comparison) -> Iterator[str]:
    """Write a whole comparison."""
    effect, metric = comparison.effect, comparison.metric
    means = (effect.baseline_mean, effect.candidate_mean)
    groups = (comparison.baseline, comparison.candidate)
    baseline, candidate = comparison.costs
    is_same = baseline and candidate and baseline.factor == candidate.factor
    texts = [
        "" if baseline is None else baseline.text(),
        "" if candidate is None else candidate.text(origin=not is_same),
    ]
    for group, mean, costs in zip(groups, means, texts, strict=True):
        yield f"{group.role:11}{_describe(group, mean, metric.unit)}"
        if costs:
            yield f"{'':11}{'total ' if len(group.measurements) > 1 else ''}{costs}"
    if not any(texts):
        yield "carbon and cost unknown: set your location once with `joulelab site`"
    of_span = "" if comparison.baseline.span is None else f" per {comparison.baseline.span}"
    yield f"{metric.label}{of_span}: {verdict(effect, comparison.confidence)}"
    if not math.isnan(effect.difference) and effect_is_determined(effect):
        level, ends = _level(comparison.confidence), effect.difference_interval
        value = with_interval(effect.difference, *ends, metric.unit, level=level)
        yield f"  difference   {'+' if effect.difference > 0 else ''}{value}"
    yield f"  in practice  {practical_meaning(effect)}"
    yield f"  test         {describe_test(effect)}"
    if comparison.cells:
        yield f"{len(comparison.cells)} cells, with Holm's correction for their number:"
        for cell in comparison.cells:
            levels = ", ".join(cell.levels.values())
            yield f"  {levels}: {verdict(cell, comparison.confidence)}"
    if comparison.mismatches:
        yield "baseline and candidate differ in:"
        for mismatch in comparison.mismatches:
            heading = "" if mismatch.name == mismatch.group else f"{mismatch.group}: "
            yield f"  {heading}{mismatch}"
    if comparison.caveats:
        yield "caveats:"
        for caveat in comparison.caveats:
            yield f"  {caveat}"


def verdict(effect: Effect, confidence: float) -> str:
    """Write an effect in one line, which never claims more than was tested."""
    change = effect.difference if math.isnan(effect.ratio) else effect.ratio - 1
    side = "higher" if change > 0 else "lower"
    if math.isnan(effect.ratio):
        text = "no ratio, since a value is not positive"
        is_claimed = effect.significant and not math.isnan(change)
        return f"{text}; significantly {side} in the candidate" if is_claimed else text
    low, high = effect.ratio_interval
    runs = f"{effect.runs_baseline} and {count(effect.runs_candidate, 'run')}"
    if not effect_is_determined(effect):
        if effect.significant:
            return f"significantly {side} in the candidate; {runs} cannot determine by how much"
        why = "which vary too much" if effect.test else "which are too uncertain"
        return f"{undetermined(runs)}, {why}"
    text = f"{percent(abs(change))} {side} in the candidate" if change else "equal"
    ends = f" ({_level(confidence)}{change_range(low - 1, high - 1)})"
    if max(effect.ratio, 1 / effect.ratio) > MOST_MULTIPLE:
        multiple = "more than " if change > 0 else "less than 1/"
        text, ends = f"{multiple}{MOST_MULTIPLE:,} times as much in the candidate", ""
    elif effect.ratio > MOST_FACTOR:
        text = f"{number(effect.ratio)} times as much in the candidate"
        ends = f" ({_level(confidence)}{interval(low, high, effect.ratio)})"
    if math.isnan(low):
        return f"{text}, without an interval"
    if effect.significant is None:
        return f"{text}{ends}: not tested, since one run each cannot show how much runs vary"
    found = "significant" if effect.significant else "no significant difference"
    if effect.significant is False and not low <= 1 <= high:
        found += " after the correction"
    return f"{text}{ends}: {found}"


def practical_meaning(effect: Effect) -> str:
    """Write what an effect means in practice, and what could have been detected."""
    if not effect_is_determined(effect):
        return "unknown"
    text = size(effect.ratio)
    low, high = effect.ratio_interval
    if effect.test and low >= 1 / (1 + NEGLIGIBLE) and high <= 1 + NEGLIGIBLE:
        text = f"no practical difference: the whole interval is within {percent(NEGLIGIBLE, 1)}"
    elif effect.significant is False and not math.isnan(low):
        text += f" if real; the true effect may be {change_range(low - 1, high - 1)}"
    elif effect.significant is None and text not in ("no practical difference", "unknown"):
        text += " if real"
    if math.isnan(effect.detectable_ratio):
        return text
    detectable = percent(effect.detectable_ratio - 1, 2)
    return f"{text}; this many runs can detect an effect of {detectable} (power 0.8)"


def effect_is_determined(effect: Effect) -> bool:
    """Report whether the ratio is known within a factor of 10, or has no interval."""
    low, high = effect.ratio_interval
    return math.isnan(low) or is_determined(effect.ratio, low, high)


def size(ratio: float) -> str:
    """Name how much a ratio matters in practice; the same for a ratio and its inverse.

    Example:
        >>> size(1.01), size(1 / 1.04), size(1.1), size(2.0), size(float("nan"))
        ('no practical difference', 'small', 'moderate', 'large', 'unknown')
    """
    if math.isnan(ratio):
        return "unknown"
    fold = max(ratio, 1 / ratio) - 1
    if fold < NEGLIGIBLE:
        return "no practical difference"
    return "small" if fold < SMALL else "moderate" if fold < MODERATE else "large"


def change_range(low: float, high: float) -> str:
    """Write the two ends of a relative change.

    Example:
        >>> change_range(-0.0123, 0.0456)
        '-1.23 % to +4.56 %'
    """
    return f"{percent(low, signed=True)} to {percent(high, signed=True)}"


def limit_verdict(limit: float, is_above: bool | None, *, each: bool = False) -> str:
    """Write whether the candidate is above a limit.

    Example:
        >>> limit_verdict(0.05, None)
        'limit of +5 %: undecided whether the candidate is above it'
    """
    what = "a cell of the candidate" if each else "the candidate"
    result = {
        True: f"{what} is above it (significant)",
        False: f"{'every cell of ' if each else ''}the candidate is within it",
        None: f"undecided whether {what} is above it",
    }
    return f"limit of +{100 * limit:g} %: {result[is_above]}"


def _level(confidence: float) -> str:
    return f"{100 * confidence:g} % CI "


def _describe(group: Group, mean: float, unit: str) -> str:
    first, last = (timestamp(one) for one in group.started_unix_s)
    names = {one.levels.get("name", group.label) for one in group.measurements}
    name = f" ({names.pop()})" if len(names) == 1 and group.label not in names else ""
    when = first if first == last else f"{first} to {last}"
    text = f"{group.label}{name}: {count(group.runs, 'run')}, {when}"
    values = [quantity(mean, unit), watt_hours(mean) if unit == "J" else ""]
    return text if math.isnan(mean) else ", ".join(filter(None, (text, *values)))


def describe_test(effect: Effect) -> str:
    """Name the test, the numbers of runs and the p-value."""
    runs = f"{effect.runs_baseline} and {count(effect.runs_candidate, 'run')}"
    if not effect.test:
        return f"none: {runs} cannot show how much runs vary; repeat each three times or more"
    scale = "" if math.isnan(effect.ratio) else " on logarithms"
    return f"{effect.test}{scale}, {runs}: {p_value(effect.p)}"
