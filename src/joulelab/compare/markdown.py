"""A comparison as Markdown, for a comment of a pull request or the summary of a CI job."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from joulelab.compare.caveats import Mismatch
from joulelab.compare.compare import Comparison, Effect
from joulelab.compare.text import (
    describe_test,
    effect_is_determined,
    limit_verdict,
    practical_meaning,
    verdict,
)
from joulelab.format import (
    count,
    markdown_code,
    markdown_text,
    quantity,
    sentence,
    timestamp,
    with_interval,
)

MOST_ROWS = 50
"""Rows of a table; GitHub refuses comments of more than 65,536 characters."""


def comparison_markdown(
    comparison: Comparison,
    limit: float | None = None,
    is_above: bool | None = None,
    *,
    each: bool = False,
) -> str:
    """Return a whole comparison as Markdown, with the verdict on a limit first.

    Args:
        comparison: What was compared.
        limit: The fraction that the candidate may be above the baseline; ``None`` for no limit.
        is_above: Whether it is above the limit, as :meth:`Comparison.is_above` reports.
        each: Whether every cell was checked.
    """
    return "\n".join(_lines(comparison, limit, is_above, each=each)) + "\n"


def _lines(
    comparison: Comparison, limit: float | None, is_above: bool | None, *, each: bool
) -> Iterator[str]:
    effect, metric = comparison.effect, comparison.metric
    of_span = comparison.baseline.span
    what = sentence(metric.label).rstrip(".") + (
        f" per {markdown_code(of_span)}" if of_span else ""
    )
    if limit is not None:
        mark = {True: "❌", False: "✅", None: "⚠️"}[is_above]
        yield f"### {mark} {what}: {markdown_text(limit_verdict(limit, is_above, each=each))}"
    else:
        yield f"### {what}"
    yield ""
    yield sentence(markdown_text(verdict(effect, comparison.confidence)))
    yield ""
    yield from _groups(comparison)
    yield ""
    yield f"In practice: {markdown_text(practical_meaning(effect))}  "
    yield f"Test: {markdown_text(describe_test(effect))}"
    if comparison.cells:
        name = f"{len(comparison.cells)} cells, with Holm's correction for their number"
        cells = [_cell(cell, comparison.confidence) for cell in comparison.cells]
        yield from _details(name, _table(("cell", "candidate relative to baseline"), cells))
    if comparison.mismatches:
        name = f"Baseline and candidate differ in {count(len(comparison.mismatches), 'fact')}"
        rows = [_mismatch(one) for one in comparison.mismatches]
        yield from _details(name, _table(("", "baseline", "candidate"), rows))
    if comparison.caveats:
        caveats = [f"- {sentence(markdown_text(one))}" for one in comparison.caveats]
        yield from _details(count(len(caveats), "caveat"), caveats)


def _groups(comparison: Comparison) -> Iterator[str]:
    """Describe the two groups and the difference between them."""
    effect, unit = comparison.effect, comparison.metric.unit
    means = (effect.baseline_mean, effect.candidate_mean)
    rows = []
    for group, mean, costs in zip(
        (comparison.baseline, comparison.candidate), means, comparison.costs, strict=True
    ):
        first, last = (timestamp(one) for one in group.started_unix_s)
        rows.append((
            f"{group.role}: {markdown_code(group.label)}",
            str(group.runs),
            first if first == last else f"{first} to {last}",
            "" if math.isnan(mean) else quantity(mean, unit),
            markdown_text("" if costs is None else costs.text(origin=False)),
        ))  # fmt: skip
    if not math.isnan(effect.difference) and effect_is_determined(effect):
        sign = "+" if effect.difference > 0 else ""
        level = f"{100 * comparison.confidence:g} % CI "
        ends = effect.difference_interval
        rows.append(
            (
                "difference",
                "",
                "",
                sign + with_interval(effect.difference, *ends, unit, level=level),
                "",
            )
        )
    headings = ("", "runs", "started", comparison.metric.label, "carbon and cost, all runs")
    filled = [i for i in range(len(headings)) if any(row[i] for row in rows)]
    yield from _table([headings[i] for i in filled], [[row[i] for i in filled] for row in rows])


def _cell(effect: Effect, confidence: float) -> Sequence[str]:
    levels = ", ".join(markdown_code(level) for level in effect.levels.values())
    return levels, markdown_text(verdict(effect, confidence))


def _mismatch(one: Mismatch) -> Sequence[str]:
    sides = (
        ", ".join(markdown_code(value) for value in values) or "unknown"
        for values in (one.baseline, one.candidate)
    )
    name = one.name if one.name == one.group else f"{one.group}: {one.name}"
    return (markdown_text(name), *sides)


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(headings)} |"
    yield f"|{'---|' * len(headings)}"
    for row in rows[:MOST_ROWS]:
        yield f"| {' | '.join(row)} |"
    if len(rows) > MOST_ROWS:
        yield ""
        yield f"{len(rows) - MOST_ROWS} more are not shown."


def _details(summary: str, lines: Iterator[str] | Sequence[str]) -> Iterator[str]:
    yield ""
    yield f"<details><summary>{summary}</summary>"
    yield ""
    yield from lines
    yield ""
    yield "</details>"
