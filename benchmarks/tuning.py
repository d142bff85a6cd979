"""Replay recorded power limits: ``python -m benchmarks.tuning power_v100.csv power_a40.csv``.

The files are from ml-energy/zeus (Apache-2.0, commit 75a8b939): one epoch of a workload at each
power limit of a GPU, with the columns ``dataset``, ``network``, ``batch_size``, ``optimizer``,
``power_limit`` (W), ``time_per_epoch`` (s) and ``average_power`` (W). A recorded value is taken as
the truth; each probe gets independent relative noise on time and on energy.

The simple rules measure each limit once. *Lowest limit* chooses the lowest that seems to keep the
bound, as ``MaxSlowdownConstraint`` of Zeus does; *least energy* chooses the least energy among
those. The table states:

- excess: true energy of the choice over that of the best limit that truly keeps the bound, on
  average and at the 95th percentile. It is below 0 where a choice exceeds the bound a little; the
  next column counts these as 0.
- broken: how often the true slow-down is more than half a point beyond the bound, and the largest
  excess of a slow-down over its bound, in points.
- probes per limit, those of the baseline included.
- covered: how often the stated interval contains the true saving, and the true slow-down.
"""

from __future__ import annotations

import argparse
import csv
import functools
import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from joulelab.arrays import Floats
from joulelab.format import count
from joulelab.tune.level_search import LevelSearch
from joulelab.tune.probes import Knob, Probe

RESULT = Path(__file__).parent / "results" / "tuning.md"
CURVE = ("dataset", "network", "batch_size", "optimizer")
MAX_SLOWDOWNS = (0.05, 0.02, 0.10, 0.25)
NOISES = (0.01, 0.003)
BROKEN = 0.005
SEEDS = 1


@dataclass(frozen=True, eq=False)
class Curve:
    """Truth of one workload on one GPU; limits in order."""

    gpu: str
    limits: tuple[int, ...]
    times_s: Floats
    energies_j: Floats

    def slowdown(self, index: int) -> float:
        """Return the true slow-down at a limit."""
        return float(self.times_s[index] / self.times_s[-1] - 1)

    def least_energy_j(self, max_slowdown: float) -> float:
        """Return the least energy of the limits that truly keep the bound."""
        keeps = self.times_s <= self.times_s[-1] * (1 + max_slowdown) * (1 + 1e-12)
        return float(self.energies_j[keeps].min())


@dataclass(frozen=True)
class Outcome:
    """One choice: index of the limit, number of probes, and whether intervals cover the truth."""

    choice: int
    probes: int
    covers_saving: bool | None = None
    covers_slowdown: bool | None = None


Rule = Callable[[Curve, float, float, int], Outcome]


def read_curves(path: Path) -> list[Curve]:
    """Read the curves of a file, which is named after its GPU."""
    rows = defaultdict(list)
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            time_s, power_w = float(row["time_per_epoch"]), float(row["average_power"])
            curve = tuple(row[name] for name in CURVE)
            rows[curve].append((int(row["power_limit"]), time_s, time_s * power_w))
    gpu = path.stem.removeprefix("power_").upper()
    return [_curve(gpu, sorted(values)) for values in rows.values()]


def _curve(gpu: str, values: Sequence[tuple[int, float, float]]) -> Curve:
    limits, times_s, energies_j = zip(*values, strict=True)
    return Curve(gpu, limits, np.array(times_s), np.array(energies_j))


def lowest_limit(curve: Curve, max_slowdown: float, noise: float, seed: int) -> Outcome:
    """Choose the lowest limit that seems to keep the bound, by one probe of each."""
    keeps, _ = _probe_once(curve, max_slowdown, noise, seed)
    return Outcome(int(np.argmax(keeps)), len(keeps))


def least_energy(curve: Curve, max_slowdown: float, noise: float, seed: int) -> Outcome:
    """Choose the least energy of those that seem to keep the bound, by one probe of each."""
    keeps, energies_j = _probe_once(curve, max_slowdown, noise, seed)
    return Outcome(int(np.argmin(np.where(keeps, energies_j, np.inf))), len(keeps))


def _probe_once(
    curve: Curve, max_slowdown: float, noise: float, seed: int
) -> tuple[NDArray[np.bool_], Floats]:
    rng = np.random.default_rng(seed)
    times_s, energies_j = (
        values * (1 + noise * rng.standard_normal(len(values)))
        for values in (curve.times_s, curve.energies_j)
    )
    return times_s <= times_s[-1] * (1 + max_slowdown), energies_j


@functools.cache
def search(curve: Curve, max_slowdown: float, noise: float, seed: int) -> Outcome:
    """Choose by JouleLab's search."""
    rng = np.random.default_rng(seed)
    knob = Knob("power_limit", curve.limits, curve.limits[-1], is_limit=True)
    one = LevelSearch(knob, max_slowdown, seed=seed)
    while (settings := one.next()) is not None:
        index = curve.limits.index(settings["power_limit"])
        factors = 1 + noise * rng.standard_normal(2)
        one.add(
            Probe(settings, curve.times_s[index] * factors[0], curve.energies_j[index] * factors[1])
        )
    result = one.result()
    choice = curve.limits.index(result.settings["power_limit"])
    saving = 1 - curve.energies_j[choice] / curve.energies_j[-1]
    return Outcome(
        choice,
        result.probes,
        bool(result.saving.low <= saving <= result.saving.high),
        bool(result.slowdown.low <= curve.slowdown(choice) <= result.slowdown.high),
    )


RULES: dict[str, Rule] = {
    "lowest limit": lowest_limit,
    "least energy": least_energy,
    "joulelab tune": search,
}


def evaluate(outcomes: Sequence[tuple[Curve, Outcome]], max_slowdown: float) -> list[str]:
    """Return the cells of a row: what a rule achieves."""
    excess = 100 * np.array(
        [
            curve.energies_j[one.choice] / curve.least_energy_j(max_slowdown) - 1
            for curve, one in outcomes
        ]
    )
    beyond = np.array([curve.slowdown(one.choice) - max_slowdown for curve, one in outcomes])
    probes = np.mean([one.probes / len(curve.limits) for curve, one in outcomes])
    return [
        f"{excess.mean():.2f} %",
        f"{np.maximum(excess, 0).mean():.2f} %",
        f"{np.quantile(excess, 0.95):.2f} %",
        f"{100 * np.mean(beyond > BROKEN):.1f} %",
        f"{100 * beyond.max():+.1f}",
        f"{probes:.2f}",
        _share(one.covers_saving for _, one in outcomes),
        _share(one.covers_slowdown for _, one in outcomes),
    ]


def _share(values: Iterable[bool | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{100 * np.mean(known):.0f} %" if known else "–"


def markdown(curves: Sequence[Curve], seeds: int) -> str:
    """Return the page with the table."""
    gpus = sorted({curve.gpu for curve in curves})
    header = [
        "slow-down", "noise", "GPU", "rule", "excess", "excess, at least 0", "95th percentile",
        "broken", "furthest", "probes per limit", "saving covered", "slow-down covered",
    ]  # fmt: skip
    rows = [header, ["---"] * len(header)]
    for max_slowdown, noise in itertools.product(MAX_SLOWDOWNS, NOISES):
        for gpu in ("all", *(gpus if max_slowdown == MAX_SLOWDOWNS[0] else ())):
            for label, rule in RULES.items():
                outcomes = [
                    (curve, rule(curve, max_slowdown, noise, 1000 * seed + index))
                    for seed in range(seeds)
                    for index, curve in enumerate(curves)
                    if gpu in {"all", curve.gpu}
                ]
                cells = evaluate(outcomes, max_slowdown)
                rows.append([f"{max_slowdown:.0%}", f"{noise:.1%}", gpu, label, *cells])
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return (
        f"# Power limits by replay\n\n`python -m benchmarks.tuning`, whose docstring states the "
        f"data, the rules and the columns: {len(curves)} curves ({', '.join(gpus)}), "
        f"{count(seeds, 'seed')}. Each percentage of covered or broken has a standard error of 1 "
        f"to 3 points.\n\n{table}\n"
    )


def main() -> None:
    """Write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("tables", nargs="+", type=Path, metavar="TABLE")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    curves = [curve for path in options.tables for curve in read_curves(path)]
    options.out.write_text(markdown(curves, options.seeds))
    print(options.out)


if __name__ == "__main__":
    main()
