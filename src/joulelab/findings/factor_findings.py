"""Sentences on the effects of factors, on interactions and on the best setting of each model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from joulelab.findings.cell_means import ACCURACY
from joulelab.findings.schema import (
    ENERGIES,
    INTERVAL,
    NAMES,
    PERCENT_DECIMALS,
    PHASES,
    Finding,
    records,
)
from joulelab.findings.summary import level_text
from joulelab.format import (
    count,
    is_undetermined,
    join_words,
    sentence,
    undetermined,
    with_interval,
)
from joulelab.uncertain import MOST_FACTOR, MOST_MULTIPLE

MOST_PERCENT = 2.0
"""A greater ratio is stated as a multiple, not in percent."""

FEW = 3
"""Of more levels or models than these, one finding is not a detail."""

MOST = 3
"""Interactions that a sentence names."""

REPEATS = "repeats in two blocks or more are needed to test the difference"

FIGURE = "effects"
"""The chart that shows effects and interactions."""

_Row = dict[str, Any]


def factor_findings(effects: pd.DataFrame, settings: pd.DataFrame) -> list[Finding]:
    """State the best setting of each model, the effect of each factor, and the interactions.

    Ids: ``best_setting.<phase>.<net|gross>.<model>``;
    ``factor.<phase>.<quantity>.<factor>.<level>``, of which net and gross energy also state time
    and accuracy; ``interaction.<phase>.<quantity>``, and the strongest of each pair of factors as
    ``interaction.<phase>.<quantity>.<factor>.<other>``. Quantities are ``net``, ``gross``, ``time``
    and ``accuracy``. Of a factor with many levels, only that of the greatest effect is stated.
    """
    found: list[Finding] = []
    keys = ["study", "machine", "phase"]
    of_factors = {key: records(part) for key, part in effects.groupby(keys, sort=False)}
    for key, part in settings.groupby(keys, sort=False):
        rows = of_factors.get(key, [])
        main = [row for row in rows if pd.isna(row["other"])]
        between = [row for row in rows if not pd.isna(row["other"])]
        stated = _best_settings(part)
        for quantity in (*ENERGIES, "time", ACCURACY):
            stated += _of_quantity(quantity, main, between)
            stated += _interactions([row for row in between if row["quantity"] == quantity])
        groups = tuple(int(group) for group in part["group"].unique())
        found += [replace(one, groups=groups) for one in stated]
    return found


def _best_settings(part: pd.DataFrame) -> list[Finding]:
    by_model = [records(of_model) for _, of_model in part.groupby("model", sort=False)]
    found = (
        _best(rows, quantity, detail=len(by_model) > FEW)
        for quantity in ENERGIES
        for rows in by_model
    )
    return [one for one in found if one]


def _of_quantity(quantity: str, main: Sequence[_Row], between: Sequence[_Row]) -> Iterator[Finding]:
    by_factor: dict[str, list[_Row]] = {}
    for row in main:
        if row["quantity"] == quantity:
            by_factor.setdefault(row["factor"], []).append(row)
    for rows in by_factor.values():
        greatest = max(rows, key=_strength)
        for row in rows if len(rows) <= FEW else [greatest]:
            key = row["factor"], row["level"]
            same = [one for one in main if (one["factor"], one["level"]) == key]
            detail = quantity not in ENERGIES or row is not greatest
            yield _effect(row, same, _dependence(row, between), detail=detail)


def _effect(row: _Row, same: Sequence[_Row], dependence: str, *, detail: bool) -> Finding:
    phase, quantity = PHASES[row["phase"]], row["quantity"]
    level, reference = _level(row, "level"), _level(row, "reference")
    over = f" ({_mean(row)} over {row['n']} combinations of model and other factors)"
    over = over if row["n"] > 1 else ""
    texts = [f"{_compared(row, level, reference)} in {phase}{over}"]
    if quantity in ENERGIES:
        others = [one for one in same if one["quantity"] in ("time", ACCURACY)]
        texts += [_clause(one) for one in others]
    texts.append(dependence)
    if _shown(row) is None:
        texts.append(REPEATS)
    return Finding.about(
        row,
        f"factor.{row['phase']}.{quantity}.{row['factor']}.{row['level']}",
        f"Does {level} change the {_name(row)} in {phase}, compared with {reference}?",
        texts,
        answer=_text(texts),
        figure=FIGURE,
        unit="points" if quantity == ACCURACY else "1",
        significant=_shown(row),
        detail=detail,
    )


def _text(texts: Sequence[str]) -> str:
    """Join sentences: what a level saves is no answer without its time and accuracy."""
    return " ".join(sentence(text) for text in texts if text)


def _level(row: _Row, which: str, factor: str = "factor") -> str:
    name = row[factor]
    return str(row[which]) if name == "model" else level_text(name, row[which])


def _name(row: _Row) -> str:
    if row["quantity"] == ACCURACY:
        return "accuracy"
    return f"{NAMES[row['quantity']]} per {row['unit']}"


def _mean(row: _Row) -> str:
    return "mean" if row["quantity"] == ACCURACY else "geometric mean"


def _shown(row: _Row) -> bool | None:
    return None if pd.isna(row["shown"]) else bool(row["shown"])


def _strength(row: _Row) -> float:
    value = float(row["estimate"])
    return abs(value if row["quantity"] == ACCURACY else math.log(value))


def _amount(row: _Row) -> str:
    """Format an effect with its interval, without a sign, for example ``31.0 % less``."""
    if is_undetermined(row["low"], row["high"]):
        return f"an amount that {undetermined()}"
    if row["quantity"] != ACCURACY and row["estimate"] > MOST_PERCENT:
        return f"{with_interval(*(row[end] for end in INTERVAL))} times as much"
    value, low, high, unit = _changes(row)
    if value < 0:
        low, high = -high, -low
    more, less = ("higher", "lower") if row["quantity"] == ACCURACY else ("more", "less")
    return f"{with_interval(abs(value), low, high, unit)} {less if value < 0 else more}"


def _signed(row: _Row) -> str:
    """Format an effect with its interval as a change, for example ``-31.0 % (95 % CI ...)``."""
    if is_undetermined(row["low"], row["high"]):
        return f"the change {undetermined()}"
    if row["quantity"] != ACCURACY and row["estimate"] > MOST_FACTOR:
        if row["estimate"] > MOST_MULTIPLE:
            return f"a factor of more than {MOST_MULTIPLE:,}"
        return f"a factor of {with_interval(*(row[end] for end in INTERVAL))}"
    value, low, high, unit = _changes(row)
    return f"{'+' if value > 0 else ''}{with_interval(value, low, high, unit)}"


def _changes(row: _Row) -> tuple[float, float, float, str]:
    """Return an effect and its interval as changes, and their unit."""
    value, low, high = (float(row[end]) for end in INTERVAL)
    if row["quantity"] == ACCURACY:
        return value, low, high, "points"
    value, low, high = (round(100 * (one - 1), PERCENT_DECIMALS) for one in (value, low, high))
    return value, low, high, "%"


def _compared(row: _Row, level: str, reference: str) -> str:
    """State the effect on the quantity of a row."""
    verb = {"time": "takes", ACCURACY: "has"}.get(row["quantity"], "uses")
    shown = _shown(row)
    name = _name(row)
    if shown is False:
        return (
            f"{level} does not change the {name} significantly, compared with {reference}: "
            f"{_signed(row)}"
        )
    if row["quantity"] == ACCURACY:
        was = "was measured to be" if shown is None else "is"
        return f"with {level} the accuracy {was} {_amount(row)} than with {reference}"
    measured = f"was measured to {verb[:-1]}" if shown is None else verb
    text = _amount(row)
    than = "as" if text.endswith("as much") else "than"
    return f"{level} {measured} {text} {name} {than} {reference}"


def _clause(row: _Row) -> str:
    """State the effect on time or accuracy, after that on energy."""
    name, shown = _name(row), _shown(row)
    if shown is False:
        return f"its {name} does not differ significantly: {_signed(row)}"
    if shown is None:
        return f"its {name} was measured to change by {_signed(row)}"
    return f"its {name} is {_amount(row)}"


def _dependence(row: _Row, between: Sequence[_Row]) -> str:
    """State on which other factors an effect depends significantly, and its range over models."""
    key = row["quantity"], row["factor"], row["level"]
    found: dict[str, None] = {}
    by_model: dict[str, float] = {}
    for one in between:
        if (one["quantity"], one["factor"], one["level"]) == key:
            found |= {one["other"]: None} if _shown(one) else {}
            if one["other"] == "model":
                by_model |= {
                    one["other_reference"]: one["at_reference"],
                    one["other_level"]: one["at"],
                }
        elif (one["quantity"], one["other"], one["other_level"]) == key and _shown(one):
            found |= {one["factor"]: None}
    if not found:
        return ""
    text = join_words([f"the {name.replace('_', ' ')}" for name in found])
    if "model" in found:
        least, most = (choose(by_model, key=by_model.__getitem__) for choose in (min, max))
        low, high = (_change(row, by_model[name]) for name in (least, most))
        text += f", from {low} for {least} to {high} for {most}"
    return f"this is a mean: the effect depends on {text}"


def _interactions(rows: Sequence[_Row]) -> Iterator[Finding]:
    """State the strongest interactions of one phase and quantity."""
    if not rows:
        return
    first, quantity = rows[0], rows[0]["quantity"]
    tested = [row for row in rows if _shown(row) is not None]
    by_pair: dict[tuple[str, str], list[_Row]] = {}
    for row in rows:
        by_pair.setdefault((row["factor"], row["other"]), []).append(row)
    strongest = sorted(
        (
            max(part, key=lambda row: (_shown(row) is True, _strength(row)))
            for part in by_pair.values()
        ),
        key=lambda row: -_strength(row),
    )
    apart = [row for row in strongest if _shown(row)]
    phase, name = PHASES[first["phase"]], _name(first)
    if not tested:
        texts = ["interactions cannot be tested without repeats in two blocks or more"]
    elif not apart:
        texts = [
            f"in {phase}, no effect of a factor on the {name} depends significantly on another "
            f"factor or the model ({count(len(tested), 'comparison')})"
        ]
    else:
        texts = [_depends(row) for row in apart[:MOST]]
        if len(apart) > MOST:
            texts.append(
                f"{count(len(apart) - MOST, 'more pair')} of factors interact significantly"
            )
    yield Finding.about(
        {name: first[name] for name in ("study", "phase", "quantity")},
        f"interaction.{first['phase']}.{quantity}",
        f"Does the effect of a factor on the {name} in {phase} depend on others or on the model?",
        texts,
        n=len(tested),
        figure=FIGURE,
        significant=bool(apart) if tested else None,
        detail=quantity not in ENERGIES,
    )
    for row in strongest:
        level, other = _level(row, "level"), _level(row, "other_level", "other")
        yield Finding.about(
            row,
            f"interaction.{row['phase']}.{quantity}.{row['factor']}.{row['other']}",
            f"Is the effect of {level} on the {name} in {phase} another at {other}?",
            [_depends(row)],
            unit="points" if quantity == ACCURACY else "1",
            figure=FIGURE,
            significant=_shown(row),
            detail=True,
        )


def _depends(row: _Row) -> str:
    """State how the effect of a factor differs between two levels of another."""
    level, reference = _level(row, "level"), _level(row, "reference")
    at, elsewhere = (_level(row, name, "other") for name in ("other_level", "other_reference"))
    prefix = "for" if row["other"] == "model" else "with"
    effect, effect_elsewhere = (_change(row, row[name]) for name in ("at", "at_reference"))
    factor = with_interval(*(row[end] for end in INTERVAL))
    verdict = {
        None: "which is not tested without repeats",
        True: f"the two differ by a factor of {factor}",
        False: f"no significant difference: {_signed(row)}",
    }[_shown(row)]
    if row["quantity"] == ACCURACY and _shown(row):
        verdict = f"the two differ by {_signed(row)}"
    return (
        f"{level} instead of {reference} changes the {_name(row)} by {effect} {prefix} {at}, and "
        f"by {effect_elsewhere} {prefix} {elsewhere}: {verdict}"
    )


def _change(row: _Row, value: float) -> str:
    return _signed(row | {"estimate": value, "low": math.nan, "high": math.nan})


def _best(rows: Sequence[_Row], quantity: str, *, detail: bool) -> Finding | None:
    known = [row for row in rows if row["quantity"] == quantity]
    best = next((row for row in known if row["best"]), None)
    first = next((row for row in known if row["first_setting"]), None)
    if first is None or len(known) < 2:
        return None
    model, phase, name = first["model"], PHASES[first["phase"]], _name(first)
    about: dict[str, Any] = {
        "name": f"best_setting.{first['phase']}.{quantity}.{model}",
        "question": f"Which setting uses the least {name} in {phase} for {model}?",
        "figure": FIGURE,
        "detail": detail,
    }
    if best is None:
        text = (
            f"for {model}, which of {count(len(known), 'setting')} uses the least {name} in "
            f"{phase} {undetermined()}: {NAMES[quantity]} is not above 0 in every repeat of those "
            "that were measured to use less than the others"
        )
        unknown = dict.fromkeys(INTERVAL, math.nan)
        return Finding.about(first | unknown | {"setting": ""}, texts=[text], **about)
    least = f"for {model}, the least {name} in {phase} of {count(len(known), 'setting')}"
    plan = f"the first one of the plan ({first['setting']})"
    shown = _shown(best)
    if best is first:
        texts = [f"{least} was measured with {plan}"]
    elif shown is False:
        texts = [
            f"{least} was measured with {best['setting']}, which does not differ significantly "
            f"from {plan}: {_signed(best)}"
        ]
    else:
        texts = [f"{least} was measured with {best['setting']}: {_amount(best)} than with {plan}"]
        of_best = [row for row in rows if row["group"] == best["group"]]
        costs = [row for row in of_best if row["quantity"] in ("time", ACCURACY)]
        texts += [REPEATS] if shown is None else [_clause(row) for row in costs]
    left_out = sum(row["less_accurate"] for row in known)
    if left_out:
        settings = count(left_out, "setting is", "settings are")
        texts.append(f"{settings} left out as significantly less accurate than the first one")
    return Finding.about(
        best | {"setting": ""},
        texts=texts,
        answer=_text(texts[:3]),
        significant=None if best is first else shown,
        **about,
    )
