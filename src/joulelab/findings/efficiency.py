"""The model to take."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from joulelab.findings.cell_means import Cell, CellMeans
from joulelab.findings.schema import ENERGIES, INTERVAL, KEY, NAMES, PHASES, Finding, frame, records
from joulelab.format import (
    count,
    is_undetermined,
    join_words,
    number,
    sentence,
    undetermined,
    with_interval,
)
from joulelab.stats.blocked_means import CellMean, mean_difference, simultaneous_ratio

MODEL_RATIOS = (
    *KEY, "phase", "quantity", "model", "other", *INTERVAL, "shown", "to_least", "to_choice", "n",
)  # fmt: skip
"""Columns of :func:`model_ratios`: energy per unit of ``model`` over that of ``other``, which is
the model of least energy (``to_least``), the one to take (``to_choice``), or both. Intervals hold
for all pairs of the ``n`` models and all phases together; ``shown`` states whether the interval
excludes 1, and is empty without repeats."""

CLOSE_POINTS = 1.0
"""A lower accuracy is in doubt if it is lower by more percentage points than this. A test set of
10,000 images, such as CIFAR-10's, distinguishes accuracies of about 90 % that differ by 0.8 points
(normal approximation of the binomial distribution, 95 %)."""


def model_ratios(
    measured: pd.DataFrame, means: CellMeans, accuracies: pd.DataFrame
) -> pd.DataFrame:
    """Compare each model with the one of least energy per unit and with the one to take.

    The model to take has the least energy per unit of those that are not significantly less
    accurate than the most accurate one, where accuracies are known, else of all. Ratios are within
    blocks. Models whose net energy is not above 0 in each repeat have none.
    """
    equal = {
        (row["group"], row["phase"], row["quantity"], row["model"])
        for row in records(accuracies)
        if row["equal_to_best"]
    }
    rows: list[dict[str, Any]] = []
    for _, part in measured.groupby("group", sort=False):
        named = {name: part[name].iloc[0] for name in KEY}
        for quantity in ENERGIES:
            by_phase = {phase: _models(part, phase, quantity, means[quantity]) for phase in PHASES}
            pairs = sum(math.comb(len(models), 2) for models in by_phase.values())
            for phase, models in by_phase.items():
                names = list(models)
                best = [name for name in names if (named["group"], phase, quantity, name) in equal]
                key = named | {"phase": phase, "quantity": quantity, "n": len(names)}
                for other in dict.fromkeys([*names[:1], *best[:1]]):
                    ends = {
                        "other": other,
                        "to_least": other == names[0],
                        "to_choice": other == (best or names)[0],
                    }
                    rows += [
                        key | {"model": name} | ends | _ratio([(mean, models[other])], pairs)
                        for name, mean in models.items()
                        if name != other
                    ]
    return frame(rows, MODEL_RATIOS)


def _models(
    part: pd.DataFrame, phase: str, quantity: str, means: Mapping[Cell, CellMean]
) -> dict[str, CellMean]:
    """Return the means of the models of a group, by energy per unit."""
    rows = part[part["phase"] == phase].sort_values(ENERGIES[quantity], kind="stable")
    cells = zip(rows["group"], rows["model"], rows["phase"], strict=True)
    return {cell[1]: means[cell] for cell in cells if cell in means}


def _ratio(pairs: list[tuple[CellMean, CellMean]], comparisons: int) -> dict[str, Any]:
    found = simultaneous_ratio(mean_difference(pairs), comparisons)
    shown = None if math.isnan(found.low) else not found.low <= 1 <= found.high
    ends = {"estimate": found.value, "low": found.low, "high": found.high}
    return ends | {"shown": shown}


def model_findings(
    measured: pd.DataFrame, ratios: pd.DataFrame, accuracies: pd.DataFrame
) -> list[Finding]:
    """State which model to take, and what a more efficient one costs in accuracy.

    Ids: ``models.<phase>.<net|gross>``, and with accuracies ``efficient.<phase>.<net|gross>``, the
    saving over the most accurate model.
    """
    keys = ["group", "phase", "quantity"]
    compared, accurate = (
        {key: records(part) for key, part in table.groupby(keys, sort=False)}
        for table in (ratios, accuracies)
    )
    found: list[Finding] = []
    for group, part in measured.groupby("group", sort=False):
        for quantity, column in ENERGIES.items():
            for phase in PHASES:
                known = part[(part["phase"] == phase) & part[column].notna()]
                rows = records(known.sort_values(column, kind="stable").assign(quantity=quantity))
                key = (group, phase, quantity)
                if rows:
                    answer = _Choice(rows, compared.get(key, []), accurate.get(key, []))
                    found += answer.findings()
    return found


class _Choice:
    """The model to take in one phase by one energy, from the models in order of that energy."""

    def __init__(
        self,
        rows: list[dict[str, Any]],
        ratios: list[dict[str, Any]],
        accuracies: list[dict[str, Any]],
    ) -> None:
        self.rows, self.first = rows, rows[0]
        self.energy = f"{NAMES[self.first['quantity']]} per {self.first['unit']}"
        self.phase = PHASES[self.first["phase"]]
        to_choice = [row for row in ratios if row["to_choice"]]
        self.others = sorted(to_choice, key=lambda row: row["estimate"])
        self.name = self.others[0]["other"] if self.others else self.first["model"]
        compared = {self.name, *(row["model"] for row in self.others)}
        self.left_out = [row["model"] for row in rows if row["model"] not in compared]
        self.accuracies = {row["model"]: row for row in accuracies}
        self.best = next((row for row in accuracies if row["best"]), None)
        equal = {row["model"] for row in accuracies if row["equal_to_best"]}
        self.rivals = [row for row in self.others if not accuracies or row["model"] in equal]
        less_accurate = self.accuracies.keys() - equal
        cheaper = [
            row for row in self.others if row["estimate"] < 1 and row["model"] in less_accurate
        ]
        # Those that use significantly less are first, and of these the most accurate.
        self.cheaper = sorted(
            cheaper,
            key=lambda row: (not _is_shown(row), self.accuracies[row["model"]]["less_pct"]),
        )

    def findings(self) -> Iterator[Finding]:
        about, quantity = self.first, self.first["quantity"]
        name = f"models.{about['phase']}.{quantity}"
        question = f"Which model should I take for the least {self.energy} in {self.phase}?"
        options: dict[str, Any] = {"n": len(self.rows), "figure": "results", "significant": None}
        if len(self.rows) == 1:
            column = ENERGIES[quantity]
            ends = {end: about[column + end] for end in ("", "_low", "_high")}
            estimate, low, high = ends.values()
            texts = [
                f"{self.name} is the only model that was measured: it uses "
                f"{with_interval(estimate, low, high, 'J')} of {self.energy} in {self.phase}",
                "more models are needed for a choice",
            ]
            options |= {"estimate": estimate, "low": low, "high": high, "unit": "J"}
        elif not self.others:
            texts = [
                f"which of {len(self.rows)} models uses the least {self.energy} in {self.phase} "
                f"{undetermined()}"
            ]
        else:
            among = self.rivals or [_inverse(row) for row in self.cheaper] or self.others
            # The value is that of the nearest one which differs significantly, if there is one.
            stated = next(filter(_is_shown, among), among[0])
            options |= {end: stated[end] for end in INTERVAL}
            if not pd.isna(stated["shown"]):
                options["significant"] = _is_shown(stated)
            take, trade_off = [*self._take()], [*self._trade_off()]
            if not self.accuracies:
                take[0] = f"by energy alone, as no accuracy was measured, {take[0]}"
            texts = [*take, *trade_off]
            options["answer"] = " ".join(map(sentence, (take[0], *trade_off[:1])))
        if self.left_out and len(self.rows) > 1:
            texts.append(
                f"{_some(self.left_out)} cannot be compared: {NAMES[quantity]} is not above 0 in "
                "every repeat"
            )
        yield Finding.about(about, name, question, texts, **options)
        if self.best and self.others:
            yield self._saving(self.best["model"])

    def _take(self) -> Iterator[str]:
        """State the choice among equally accurate models, or among all."""
        among, take, doubt = "", f"take {self.name}", ""
        if self.best:
            highest = f"{number(self.best['accuracy_pct'])} %"
            if not self.rivals:
                why = "all others are significantly less accurate (95 %)"
                if math.isnan(self.best["accuracy_low_pct"]):
                    why = "without repeats or a known test set, accuracies have no intervals"
                yield f"take {self.name} for the highest accuracy, {highest}: {why}"
                return
            own = self.accuracies[self.name]["accuracy_pct"]
            if self.accuracies[self.name]["less_pct"] > CLOSE_POINTS:
                doubt = "only if more repeats confirm its accuracy"
            measured = "" if own == self.best["accuracy_pct"] else f"; {self.name}, {number(own)} %"
            among = (
                f" of the {len(self.rivals) + 1} models whose accuracy "
                f"{self._repeats(self.best['model'])} cannot distinguish from the highest "
                f"({self.best['model']}, {highest}{measured})"
            )
        least = f"the least {self.energy} in {self.phase}{among}"
        nearest = self.rivals[0]
        following = f"the next, {nearest['model']}"
        apart = [row for row in self.rivals if _is_shown(row)]
        close = [row["model"] for row in self.rivals if row not in apart]
        if pd.isna(nearest["shown"]):
            yield (
                f"take {self.name} if repeats confirm it: it was measured to use {least}; "
                f"{following}, was measured to use {self._times(nearest)}"
            )
            yield "repeats in two blocks or more are needed to test the difference"
        elif not close:
            take = f"{take} {doubt}".rstrip()
            yield f"{take}: it uses {least}; {following}, uses {self._times(nearest)}"
        elif not apart:
            take = f"{take} for now{', and ' if doubt else ''}{doubt}"
            yield (
                f"{take}: it was measured to use {least}, but no other uses "
                f"significantly more (95 %); {following}, was measured to use "
                f"{self._times(nearest)}"
            )
        else:
            take = f"{take} {doubt}: it" if doubt else f"{take}, which"
            yield (
                f"{take} was measured to use {least}; {_some(close)} cannot be distinguished from "
                "it (95 %)"
            )
        if close and len(apart) > 1:
            first, last = apart[0], apart[-1]
            yield (
                f"{len(apart)} models use significantly more, from {self._times(first)} "
                f"({first['model']}) to {self._times(last)} ({last['model']})"
            )
        elif apart and apart[-1] is not nearest:
            yield f"{apart[-1]['model']} uses the most, {self._times(apart[-1])}"

    def _trade_off(self) -> Iterator[str]:
        """State what the most accurate of the cheaper models uses, and its accuracy."""
        if self.cheaper and self.best:
            cheap = self.cheaper[0]
            accuracy = self.accuracies[cheap["model"]]
            less = with_interval(
                accuracy["less_pct"], accuracy["less_low_pct"], accuracy["less_high_pct"]
            )
            energy = "" if self.rivals else f" {self.energy} in {self.phase}"
            more = f"{self.name} uses {self._times(_inverse(cheap))}{energy} as {cheap['model']}"
            which = ", which"
            if is_undetermined(cheap["low"], cheap["high"]):
                more = (
                    f"how much more{energy} {self.name} uses than {cheap['model']} "
                    f"{undetermined(self._repeats(cheap['model']))}"
                )
                which = f"; {cheap['model']}"
            if pd.isna(cheap["shown"]):
                more += " (repeats are needed to test it)"
            elif not _is_shown(cheap):
                more += " (not significantly more)"
            than = "" if self.best["model"] == self.name else f" than {self.best['model']}"
            yield f"{more}{which} is {less} points less accurate{than}"
            others = len(self.cheaper) - 1
            if others:
                also = count(others, "other model also uses", "other models also use")
                yield f"{also} less and {'is' if others == 1 else 'are'} less accurate"
        unknown = [row["model"] for row in self.rows if row["model"] not in self.accuracies]
        if self.accuracies and unknown:
            yield f"the accuracy of {_some(unknown)} is unknown"

    def _times(self, row: dict[str, Any]) -> str:
        """Say how many times as much a model uses."""
        if is_undetermined(row["low"], row["high"]):
            return f"a multiple that {undetermined(self._repeats(row['model']))}"
        return f"{with_interval(row['estimate'], row['low'], row['high'])} times as much"

    def _repeats(self, other: str) -> str:
        """Count the repeats that the model to take and another both have."""
        own = [row["n"] for row in self.rows if row["model"] in (self.name, other)]
        return count(int(min(own)), "repeat")

    def _saving(self, best: str) -> Finding:
        """State the saving over the most accurate model at equal accuracy."""
        row = next((one for one in self.others if one["model"] == best), None)
        saving, low, high, shown = 0.0, math.nan, math.nan, None
        if row is None:
            text = f"nothing: {best} is the most accurate, and the model to take"
        else:
            over = _inverse(row)
            saving, low, high = (100 * (1 - over[name]) for name in ("estimate", "high", "low"))
            shown = None if pd.isna(row["shown"]) else row["estimate"] > 1 and _is_shown(row)
            text = f"{self.name} saves {with_interval(saving, low, high, '%')} over {best}"
            if math.isinf(low):
                text = f"what {self.name} saves over {best} {undetermined(self._repeats(best))}"
            if shown is None:
                text += "; repeats are needed to test it"
            elif not shown and math.isfinite(low):
                text += ", which is not significant (95 %)"
        return Finding.about(
            self.first,
            f"efficient.{self.first['phase']}.{self.first['quantity']}",
            f"How much {self.energy} in {self.phase} can be saved at the highest accuracy?",
            [text],
            estimate=saving, low=low, high=high, n=len(self.accuracies), unit="%",
            figure="accuracy", detail=True, significant=shown,
        )  # fmt: skip


def _is_shown(row: dict[str, Any]) -> bool:
    return not pd.isna(row["shown"]) and bool(row["shown"])


def _inverse(row: dict[str, Any]) -> dict[str, Any]:
    """Return the ratio of the other model to this one."""
    ends = {"estimate": 1 / row["estimate"], "high": math.inf, "low": 0.0}
    if not math.isinf(row["high"]):
        ends |= {"low": 1 / row["high"], "high": 1 / row["low"]}
    return row | ends


def _some(names: list[str]) -> str:
    left = len(names) - 3
    return join_words([*names[:3], f"{left} others"] if left > 1 else names)
