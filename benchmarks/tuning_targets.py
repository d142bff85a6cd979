"""Replay energy to a target over batch size and power limit, and trainings that recur.

``python -m benchmarks.tuning_targets target_epochs.csv power_v100.csv power_a40.csv`` (minutes).
The files are from ml-energy/zeus (Apache-2.0, commit 75a8b939): the epochs that several runs took
to a validation metric, by batch size, and time and power of an epoch by batch size and limit. The
targets are those of the paper (You et al., Zeus, NSDI 2023, table 1). The true energy to the target
is the energy of an epoch times the mean epochs of the runs that reached it, divided by the share of
the runs that did.

*Energy to the target*: each probe is a random run, with 1 % noise on time and energy, and the
baseline is each batch size in turn at the highest limit. All methods may measure a third of the
cells. Optuna's samplers are given the same values, and their best cell is chosen by its mean.

*Recurring*: 50 recurrences of a training at the highest limit. A run that is stopped or misses the
target is repeated. Regret is the energy beyond 50 runs of the best batch size, in units of such a
run. *Uniform* chooses at random. *Zeus* is the rule of the paper, sections 4.3 and 4.4: two pruning
passes from the middle batch size, down and then up until a run fails, then Thompson sampling with
the mean and variance of each batch size; runs are stopped at twice the best cost, which is
eta x energy + (1 - eta) x highest power x time.
"""

from __future__ import annotations

import argparse
import csv
import math
from collections import defaultdict
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import optuna

from joulelab.tune.probes import Knob
from joulelab.tune.replay import ReplayTable, replay
from joulelab.tune.settings_search import TO_TARGET, SettingsSearch
from joulelab.tune.thompson import Attempt, choose_batch_size, most_energy_j

RESULT = Path(__file__).parent / "results" / "tuning-targets.md"
TARGETS = {
    "cifar100": 0.6,
    "imagenet": 0.65,
    "librispeech": 40.0,
    "movielens-1m": 0.41,
    "sentiment140": 0.84,
    "squad": 84.0,
}
NOISE = 0.01
RECURRENCES = 50
Cell = tuple[int, int]


@dataclass(frozen=True)
class Job:
    """A training on one GPU: (time, energy) of an epoch by cell, and epochs by batch size.

    Epochs of runs that never reached the target are infinite; ``most`` is where they end.
    """

    name: str
    epoch: Mapping[Cell, tuple[float, float]]
    epochs: Mapping[int, Sequence[float]]
    most: float

    @property
    def sizes(self) -> list[int]:
        """Batch sizes."""
        return sorted({size for size, _ in self.epoch})

    @property
    def limits(self) -> list[int]:
        """Power limits."""
        return sorted({limit for _, limit in self.epoch})

    def work(self, size: int) -> float:
        """Return the expected epochs until a run succeeds; infinite if none does."""
        found = self.epochs[size]
        reached = [one for one in found if math.isfinite(one)]
        return np.mean(reached) * len(found) / len(reached) if reached else math.inf

    def energies_j(self) -> dict[Cell, float]:
        """Return the true energy to the target of each cell."""
        return {cell: one[1] * self.work(cell[0]) for cell, one in self.epoch.items()}


def read_jobs(epochs_path: Path, power_paths: Sequence[Path]) -> list[Job]:
    """Read the trainings of which both the epochs to the target and the power are known."""
    epochs, most = defaultdict(lambda: defaultdict(list)), defaultdict(float)
    for row in _rows(epochs_path):
        key, found = _key(row), float(row["target_epoch"])
        most[key] = max(most[key], 0.0 if math.isnan(found) else found)
        if float(row["target_metric"]) == TARGETS[row["dataset"]]:
            reached = math.inf if math.isnan(found) else found
            epochs[key][int(row["batch_size"])].append(reached)
    jobs = []
    for path in power_paths:
        epoch = defaultdict(dict)
        for row in _rows(path):
            size, time_s = int(row["batch_size"]), float(row["time_per_epoch"])
            if size in epochs.get(_key(row), ()):
                cell = (size, int(row["power_limit"]))
                epoch[_key(row)][cell] = (time_s, time_s * float(row["average_power"]))
        gpu = path.stem.removeprefix("power_").upper()
        jobs += [
            Job(f"{gpu} {key[0]}", epoch[key], epochs[key], most[key]) for key in sorted(epoch)
        ]
    return jobs


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _key(row: Mapping[str, str]) -> tuple[str, ...]:
    return row["dataset"], row["network"], row["optimizer"]


def table_of(job: Job, seed: int) -> ReplayTable:
    """Return the job as a table to replay; the baseline changes with the seed."""
    usable = [size for size in job.sizes if math.isfinite(job.work(size))]
    limits = job.limits
    knobs = (
        Knob("batch_size", tuple(job.sizes), usable[seed % len(usable)]),
        Knob("power_limit", tuple(limits), limits[-1], is_limit=True),
    )
    rows = {cell: [one] * len(job.epochs[cell[0]]) for cell, one in job.epoch.items()}
    return ReplayTable(knobs, rows, {cell: job.epochs[cell[0]] for cell in job.epoch})


def search(job: Job, seed: int) -> tuple[Cell, int, bool]:
    """Return the choice of JouleLab's search, its probes, and whether it covers the saving."""
    table, true_j = table_of(job, seed), job.energies_j()
    one = SettingsSearch(
        table.knobs, math.inf, objective=TO_TARGET, seed=seed, cells=list(job.epoch)
    )
    result = replay(table, one, NOISE, seed)
    cell = (result.settings["batch_size"], result.settings["power_limit"])
    saving = 1 - true_j[cell] / true_j[table.baseline]
    return cell, result.probes, bool(result.saving.low <= saving <= result.saving.high)


def sampled(make: Callable[[int], optuna.samplers.BaseSampler]) -> Callable[[Job, int], Cell]:
    """Return a search by one of Optuna's samplers."""

    def choose(job: Job, seed: int) -> Cell:
        table, rng, sampler = table_of(job, seed), np.random.default_rng(seed), make(seed)
        axes = (job.sizes, job.limits)
        space = {
            name: optuna.distributions.IntDistribution(0, len(axis) - 1)
            for name, axis in zip("ab", axes, strict=True)
        }
        probed: list[tuple[Cell, float]] = []
        work = defaultdict(list)
        cell = table.baseline
        while len(probed) < len(job.epoch) // 3:
            names = {"batch_size": cell[0], "power_limit": cell[1]}
            probe = table.probe(names, NOISE, rng)
            work[cell[0]].append(probe.work_to_target)
            probed.append((cell, math.log(probe.energy_j)))
            study = optuna.create_study(sampler=sampler)
            for (size, limit), value in _to_target(probed, work):
                params = {"a": axes[0].index(size), "b": axes[1].index(limit)}
                study.add_trial(
                    optuna.trial.create_trial(params=params, distributions=space, value=value)
                )
            found = study.ask(space).params
            cell = (axes[0][found["a"]], axes[1][found["b"]])
        values = defaultdict(list)
        for cell, value in _to_target(probed, work):
            values[cell].append(value)
        return min(values, key=lambda one: np.mean(values[one]))

    return choose


def _to_target(
    probed: Sequence[tuple[Cell, float]], work: Mapping[int, Sequence[float]]
) -> list[tuple[Cell, float]]:
    """Add the log of the mean epochs; twice the most if a batch size never succeeded."""
    most = max([one for found in work.values() for one in found if math.isfinite(one)], default=1)
    logs = {
        size: math.log(np.mean([one if math.isfinite(one) else 2 * most for one in found]))
        for size, found in work.items()
    }
    return [(cell, value + logs[cell[0]]) for cell, value in probed]


class Policy(Protocol):
    """Chooses batch sizes."""

    def choose(self) -> int:
        """Return the batch size of the next run."""

    def limit(self) -> float:
        """Return the cost at which it is stopped."""

    def add(self, size: int, cost: float, outcome: str) -> None:
        """Take what a run cost, and how it ended."""


class Uniform:
    def __init__(self, sizes: Sequence[int], seed: int) -> None:
        self._sizes, self._rng = sizes, np.random.default_rng(seed)

    def choose(self) -> int:
        return int(self._rng.choice(self._sizes))

    def limit(self) -> float:
        return math.inf

    def add(self, size: int, cost: float, outcome: str) -> None:
        pass


class Thompson(Uniform):
    """JouleLab's rule."""

    def __init__(self, sizes: Sequence[int], seed: int) -> None:
        super().__init__(sizes, seed)
        self._attempts: list[Attempt] = []

    def choose(self) -> int:
        return choose_batch_size(self._sizes, self._attempts, self._rng)

    def limit(self) -> float:
        return most_energy_j(self._attempts)

    def add(self, size: int, cost: float, outcome: str) -> None:
        self._attempts.append(Attempt(size, cost, outcome))


class Zeus(Uniform):
    """The rule of the paper; see the top of this file."""

    def __init__(self, sizes: Sequence[int], seed: int) -> None:
        super().__init__(sizes, seed)
        self._costs, self._best = defaultdict(list), math.inf
        self._pruning = self._prune()
        self._next: int | None = next(self._pruning)

    def _prune(self) -> Generator[int, tuple[float, bool], None]:
        start = self._sizes[len(self._sizes) // 2]
        for _ in range(2):
            good, least = [], math.inf
            index = self._sizes.index(start)
            for part in (self._sizes[index::-1], self._sizes[index + 1 :]):
                for size in part:
                    cost, has_reached = yield size
                    if not has_reached:
                        break
                    good.append(size)
                    if cost < least:
                        least, start = cost, size
            self._sizes = sorted(good) or self._sizes

    def choose(self) -> int:
        if self._next is not None:
            return self._next
        draws = {
            size: self._rng.normal(np.mean(found), np.std(found) / math.sqrt(len(found)))
            for size in self._sizes
            if (found := self._costs[size])
        }
        return min(draws, key=draws.__getitem__)

    def limit(self) -> float:
        return 2 * self._best

    def add(self, size: int, cost: float, outcome: str) -> None:
        self._costs[size].append(cost)
        if outcome == "reached":
            self._best = min(self._best, cost)
        if self._next is not None:
            try:
                self._next = self._pruning.send((cost, outcome == "reached"))
            except StopIteration:
                self._next = None


def regret(job: Job, policy: Policy, seed: int, eta: float = 1.0) -> tuple[float, float]:
    """Return the regret of all recurrences, and of the second half of them."""
    rng, limit = np.random.default_rng(1000 + seed), job.limits[-1]
    power_w = max(energy_j / time_s for time_s, energy_j in job.epoch.values())
    best_j = min(one for cell, one in job.energies_j().items() if cell[1] == limit)
    used_j = np.zeros(RECURRENCES)
    for index in range(RECURRENCES):
        outcome = ""
        while outcome != "reached":
            size = policy.choose()
            time_s, energy_j = job.epoch[size, limit]
            cost = eta * energy_j + (1 - eta) * power_w * time_s
            epochs = float(rng.choice(job.epochs[size]))
            outcome = "reached" if math.isfinite(epochs) else "missed"
            epochs = min(epochs, job.most)
            if epochs * cost > policy.limit():
                epochs, outcome = policy.limit() / cost, "stopped"
            used_j[index] += epochs * energy_j
            policy.add(size, epochs * cost, outcome)
    excess = used_j / best_j - 1
    return float(excess.sum()), float(excess[RECURRENCES // 2 :].sum())


def target_table(jobs: Sequence[Job], seeds: int) -> str:
    """Return the table of energy to the target."""
    methods = {
        "Optuna GP": sampled(lambda seed: optuna.samplers.GPSampler(seed=seed, n_startup_trials=4)),
        "Optuna TPE": sampled(
            lambda seed: optuna.samplers.TPESampler(seed=seed, n_startup_trials=4)
        ),
        "random": sampled(lambda seed: optuna.samplers.RandomSampler(seed=seed)),
    }
    header = ["training", "cells", "probes per cell", "joulelab tune", "saving covered", *methods]
    rows, means = [header, ["---"] * len(header)], []
    for job in jobs:
        true_j = job.energies_j()
        least_j = min(true_j.values())
        found = [search(job, seed) for seed in range(seeds)]
        values = [
            np.mean([one[1] for one in found]) / len(true_j),
            np.mean([true_j[one[0]] for one in found]) / least_j - 1,
            np.mean([one[2] for one in found]),
            *(
                np.mean([true_j[method(job, seed)] for seed in range(seeds)]) / least_j - 1
                for method in methods.values()
            ),
        ]
        means.append(values)
        rows.append([job.name, str(len(true_j)), *_cells(values)])
    rows.append(["mean", "", *_cells(np.mean(means, axis=0))])
    return _table(rows)


def _cells(values: Sequence[float]) -> list[str]:
    probes, excess, covered, *others = values
    return [f"{probes:.2f}", f"{excess:.1%}", f"{covered:.0%}", *(f"{one:.1%}" for one in others)]


def recurring_table(jobs: Sequence[Job], seeds: int) -> str:
    """Return the table of regrets."""
    header = ["training", "batch sizes"]
    header += ["uniform", "Zeus, eta 1", "second half", "Zeus, eta 0.5", "second half"]
    header += ["joulelab tune", "second half", "uniform / joulelab"]
    rows, ratios = [header, ["---"] * len(header)], []
    for job in jobs:
        found = [
            np.mean(
                [regret(job, make(job.sizes, seed), seed, eta) for seed in range(seeds)], axis=0
            )
            for make, eta in ((Uniform, 1.0), (Zeus, 1.0), (Zeus, 0.5), (Thompson, 1.0))
        ]
        values = [found[0][0], *found[1], *found[2], *found[3]]
        ratios.append(found[0][0] / found[3][0])
        cells = [f"{value:.2f}" if value < 1000 else f"{value:.0f}" for value in values]
        rows.append([job.name, str(len(job.sizes)), *cells, f"{ratios[-1]:.1f}"])
    mean = math.exp(np.mean(np.log(ratios)))
    rows.append(["geometric mean", *[""] * 8, f"{mean:.1f}"])
    return _table(rows)


def _table(rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main() -> None:
    """Write both tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("epochs", type=Path, metavar="EPOCHS")
    parser.add_argument("power", nargs="+", type=Path, metavar="POWER")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    jobs = read_jobs(options.epochs, options.power)
    options.out.write_text(
        "# Energy to a target by replay\n\n`python -m benchmarks.tuning_targets`, whose docstring "
        f"states the data, the rules and the columns: {options.seeds} seeds.\n\n"
        "## Batch size and power limit: energy above the best cell\n\n"
        f"{target_table(jobs, options.seeds)}\n\n"
        f"## Regret of {RECURRENCES} recurrences, in runs of the best batch size\n\n"
        f"{recurring_table(jobs, options.seeds)}\n"
    )
    print(options.out)


if __name__ == "__main__":
    main()
