"""Claims of the paper next to what studies measured, and whether the two agree by one rule.

The claims are in ``paper_claims.toml``, with their source. Their values here are those of the
studies' findings and tables; nothing is computed a second time.
"""

from __future__ import annotations

import json
import math
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cache
from importlib import resources
from typing import Any, NamedTuple, Self

import pandas as pd

from joulelab.findings.all import Analysis
from joulelab.findings.schema import PHASES, records
from joulelab.format import finite_or_none, join_words, sentence, with_interval

PAPER = (
    "I. Mavromatis, K. Katsaros, A. Khan: Computing Within Limits: An Empirical Study of Energy "
    "Consumption in ML Training and Inference"
)

H100_FILE = "paper_h100.json"
"""The comparison of the recording of an H100, which ``docs/refresh_h100.py`` writes."""

RULE = (
    "A claim agrees if our 95 % interval includes a value that the paper allows and excludes that "
    "there is no effect, or if our finding is a significant test of the claim. It disagrees if the "
    "interval excludes every value that the paper allows, or if a departure is significant. "
    "Anything else is not tested: an interval that allows both answers decides nothing. A claim "
    "that there is no correlation agrees if the interval lies within ±0.5. A claim about most "
    "models agrees or disagrees if it does for more than half of them. One in 20 intervals misses "
    "the true value by chance."
)
"""The rule of :func:`decide` and :func:`decide_most`, for readers."""


class Agreement(StrEnum):
    """Whether a claim holds here, too."""

    YES = "yes"
    NO = "no"
    NOT_TESTED = "not tested"


class Value(NamedTuple):
    """A measured value with its 95 % interval; what is unknown is NaN."""

    estimate: float
    low: float
    high: float


class Verdict(NamedTuple):
    """An agreement and its reason, without capital and full stop."""

    agreement: Agreement
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What the paper states, and where its value here is found; see ``paper_claims.toml``."""

    id: str
    source: str
    text: str
    paper: str
    allowed: Sequence[float] = (-math.inf, math.inf)
    excludes: Sequence[float | str] = ()
    finding: str = ""
    table: str = ""
    where: Mapping[str, str] = field(default_factory=dict)
    columns: Sequence[str] = ()
    unit: str = ""
    digits: int = 3
    limit: bool = False
    departure: bool = False
    requires: Mapping[str, float | str] = field(default_factory=dict)
    needs: str = ""
    phase: str = ""
    untested: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A claim next to its value on one machine."""

    claim: Claim  # The claim.
    machine: str  # The machine, the first one of a claim about several; empty without a value.
    ours: str  # The value with its interval as a text; empty if there is none.
    value: Value  # The value, if it is a single one.
    n: int  # Number of independent points.
    unit: str  # Unit of the value.
    agreement: Agreement  # Whether the claim holds here.
    why: str  # The reason in a sentence.

    def to_json(self) -> dict[str, Any]:
        """Return the fields with those of the claim; unknown values become ``None``."""
        low, high = self.claim.allowed
        row: dict[str, Any] = finite_or_none(
            {name: getattr(self.claim, name) for name in ("id", "source")}
            | {"claim": self.claim.text, "paper": self.claim.paper, "allowed": [low, high]}
            | {"machine": self.machine, "ours": self.ours, **self.value._asdict()}
            | {"n": self.n, "unit": self.unit}
            | {"agreement": str(self.agreement), "why": self.why}
        )
        return row

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_json` returned."""
        (claim,) = (one for one in claims() if one.id == row["id"])
        ends = (math.nan if row[name] is None else row[name] for name in Value._fields)
        named = {name: row[name] for name in ("machine", "ours", "n", "unit", "why")}
        agreement = Agreement(row["agreement"])
        return cls(claim=claim, value=Value(*ends), agreement=agreement, **named)


@cache
def claims() -> tuple[Claim, ...]:
    """Return the claims in the paper's order; one about both phases is two."""
    text = resources.files(__package__).joinpath("paper_claims.toml").read_text("utf-8")
    return tuple(claim for one in tomllib.loads(text)["claim"] for claim in _by_phase(one))


def _by_phase(entry: dict[str, Any]) -> Iterator[Claim]:
    phases = entry.pop("phases", ())
    if not phases:
        yield Claim(**entry)
    for phase in phases:
        claim = Claim(**entry)
        yield replace(
            claim,
            id=f"{claim.id}.{phase}",
            text=f"{claim.text}, in {PHASES[phase]}",
            finding=claim.finding.format(phase=phase),
            where={**claim.where, "phase": phase} if claim.table else {},
            phase=phase,
        )


def decide(
    value: Value,
    allowed: Sequence[float],
    excludes: Sequence[float] = (),
    *,
    significant: bool | None = None,
    departure: bool = False,
) -> Verdict:
    """Decide by our interval whether a claim agrees: the same rule for every claim.

    Args:
        value: Our value with its 95 % interval.
        allowed: The smallest and the largest value that the claim allows.
        excludes: Values that the interval must exclude for the claim to agree. Without any, the
            finding's test must be significant.
        significant: Whether the finding's test is significant.
        departure: Whether that is a test of a departure from the claim.

    Example:
        >>> decide(Value(0.9, 0.7, 0.98), (0.85, 0.95), (0,)).agreement.value
        'yes'
        >>> decide(Value(0.2, -0.3, 0.9), (0.85, 0.95), (0,)).agreement.value
        'not tested'
    """
    included = [f"{one:g}" for one in excludes if value.low <= one <= value.high]
    excluded = join_words([f"{one:g}" for one in excludes])
    agreement, why = Agreement.NOT_TESTED, ""
    if math.isnan(value.estimate):
        why = "no value could be determined"
    elif departure and significant:
        agreement, why = Agreement.NO, "a departure from the claim is significant (95 %)"
    elif math.isnan(value.low) or math.isnan(value.high):
        why = "our value has no interval"
    elif value.high < allowed[0] or value.low > allowed[1]:
        agreement, why = Agreement.NO, f"our interval excludes {_allowed(allowed)}"
    elif included:
        why = f"our interval includes {join_words(included)}; more repeats or models narrow it"
    elif not excludes and not significant:
        why = "our finding is not significant (95 %)"
    elif not excludes:
        agreement, why = Agreement.YES, "our finding is significant (95 %)"
    elif allowed[0] <= value.low and value.high <= allowed[1]:
        agreement, why = Agreement.YES, f"our interval excludes {excluded}"
    else:
        verb = "includes" if allowed[0] == allowed[1] else "overlaps"
        why = f"our interval {verb} {_allowed(allowed)} and excludes {excluded}"
        agreement = Agreement.YES
    if departure and agreement is Agreement.YES:
        why += ", and no departure from the claim is significant"
    return Verdict(agreement, why)


def _allowed(allowed: Sequence[float]) -> str:
    low, high = (f"{one:g}" for one in allowed)
    if low == high:
        return low
    return f"all values above {low}" if high == "inf" else f"{low} to {high}"


def decide_most(verdicts: Sequence[Verdict]) -> Verdict:
    """Decide a claim about most of several models: more than half must agree or disagree."""
    if len(verdicts) == 1:
        return verdicts[0]
    for agreement in Agreement:
        reasons = Counter(one.why for one in verdicts if one.agreement is agreement)
        if 2 * reasons.total() > len(verdicts):
            ((why, _),) = reasons.most_common(1)
            return Verdict(agreement, f"for {reasons.total()} of {len(verdicts)} models, {why}")
    return Verdict(Agreement.NOT_TESTED, "neither more than half agree nor more than half disagree")


def compare_with_paper(analysis: Analysis) -> list[Comparison]:
    """Compare every claim with the studies: a row per claim and machine that measured it.

    Of each machine, the setting with the most models counts, as on the page of a report.
    """
    measured = analysis.tables.measurements
    first = measured[(measured["rank"] == 0) & (measured["unit"] == "sample")]
    groups = records(first.drop_duplicates("group"))
    rows = []
    for claim in claims():
        over_machines = claim.finding.startswith("machines.")
        of_each = groups[:1] if over_machines else groups
        found = [_compare(claim, analysis, group) for group in of_each if not claim.untested]
        none = _without(claim, claim.untested or "there are no runs of image models")
        rows += [row for row in found if row.ours] or found[:1] or [none]
    return rows


def read_h100() -> list[Comparison]:
    """Read the comparison of the recording of sixteen models on an H100, which is shipped."""
    text = resources.files(__package__).joinpath(H100_FILE).read_text("utf-8")
    return [Comparison.from_json(row) for row in json.loads(text)]


def _without(claim: Claim, why: str) -> Comparison:
    return Comparison(
        claim=claim, machine="", ours="", value=Value(*[math.nan] * 3), n=0, unit="",
        agreement=Agreement.NOT_TESTED, why=sentence(why),
    )  # fmt: skip


def _compare(claim: Claim, analysis: Analysis, group: Mapping[str, Any]) -> Comparison:
    find = _from_finding if claim.finding else _from_table
    measured = find(claim, analysis, group)
    if measured is None:
        return _without(claim, f"needs {claim.needs}")
    runs, verdict = analysis.tables.runs, measured.verdict
    if not _meets(claim, runs[runs["study"] == group["study"]]):
        verdict = Verdict(Agreement.NOT_TESTED, f"needs {claim.needs}")
        if math.isnan(measured.value.estimate):
            measured = measured._replace(text="")
    gpu = "" if pd.isna(group["gpu_name"]) else f" ({group['gpu_name']})"
    return Comparison(
        claim=claim, machine=f"{group['machine']}{gpu}", ours=measured.text, value=measured.value,
        n=measured.n, unit=measured.unit, agreement=verdict.agreement, why=sentence(verdict.why),
    )  # fmt: skip


class _Measured(NamedTuple):
    value: Value
    n: int
    unit: str
    text: str
    verdict: Verdict


def _from_finding(claim: Claim, analysis: Analysis, group: Mapping[str, Any]) -> _Measured | None:
    same = (one for one in analysis.findings if one.id == claim.finding)
    found = next((one for one in same if not one.groups or group["group"] in one.groups), None)
    if found is None:
        return None
    value, unit = Value(found.estimate, found.low, found.high), found.unit.removeprefix("1")
    limit_w = _limit_w(claim, analysis, group) if claim.limit else math.nan
    if not math.isnan(limit_w):
        value, unit = Value(*(100 * one / limit_w for one in value)), "%"
    text = _text(value, unit, claim.digits)
    bounds = [float(one) for one in claim.excludes]
    verdict = decide(
        value, claim.allowed, bounds, significant=found.significant, departure=claim.departure
    )
    if claim.limit and math.isnan(limit_w):
        verdict = Verdict(Agreement.NOT_TESTED, f"needs {claim.needs}")
    elif not text:
        verdict = Verdict(Agreement.NOT_TESTED, found.statement.removesuffix("."))
    elif math.isnan(value.low):
        verdict = Verdict(Agreement.NOT_TESTED, f"{verdict.why}; this needs {claim.needs}")
    return _Measured(value, found.n, unit, text, verdict)


def _text(value: Value, unit: str, digits: int) -> str:
    return "" if math.isnan(value.estimate) else with_interval(*value, unit, digits=digits)


def _limit_w(claim: Claim, analysis: Analysis, group: Mapping[str, Any]) -> float:
    _, phase, component = claim.finding.split(".")
    where = {"group": group["group"], "phase": phase, "component": component}
    limits = _rows(analysis.component_power, where)["limit_w"].dropna()
    return float(limits.iloc[0]) if len(limits) else math.nan


def _from_table(claim: Claim, analysis: Analysis, group: Mapping[str, Any]) -> _Measured | None:
    table: pd.DataFrame = getattr(analysis, claim.table)
    named = ("group", "family", "study", "machine")
    where = {name: group[name] for name in named if name in table.columns}
    rows = records(_rows(table, where | dict(claim.where)))
    if not rows:
        return None
    values = [Value(*(_float(row[name]) for name in claim.columns)) for row in rows]
    verdicts = [
        decide(value, claim.allowed, [_float(row.get(str(one), one)) for one in claim.excludes])
        for value, row in zip(values, rows, strict=True)
    ]
    verdict = decide_most(verdicts)
    if len(rows) == 1:
        text = _text(values[0], claim.unit, claim.digits)
        return _Measured(values[0], 1, claim.unit, text, verdict)
    counts = Counter(one.agreement for one in verdicts)
    text = f"{counts[Agreement.YES]} of {len(rows)} agree, {counts[Agreement.NO]} disagree"
    return _Measured(Value(*[math.nan] * 3), len(rows), claim.unit, text, verdict)


def _float(value: Any) -> float:
    return math.nan if pd.isna(value) else float(value)


def _rows(table: pd.DataFrame, where: Mapping[str, Any]) -> pd.DataFrame:
    kept = pd.Series(data=True, index=table.index)
    for name, value in where.items():
        kept &= (table[name] == value).fillna(value=False).astype(bool)
    return table[kept]


def _meets(claim: Claim, runs: pd.DataFrame) -> bool:
    """Return whether runs of one study have what the claim requires."""
    for name, least in claim.requires.items():
        if isinstance(least, str):
            met = runs[name].astype("string").str.contains(least, regex=False)
        else:
            met = runs[name] >= least
        if not met.fillna(value=False).any():
            return False
    return True
