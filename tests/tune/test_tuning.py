import math
from dataclasses import replace

import pytest
from energy_parts import energy_of

from joulelab.errors import JoulelabError
from joulelab.sensors.sensor import Provenance
from joulelab.tune.level_search import LevelSearch
from joulelab.tune.probes import Knob, Probe
from joulelab.tune.tuning import (
    INTERRUPTED,
    Measured,
    UnmeasurableError,
    WorkEndedError,
    tune,
)

KNOB = Knob("batch_size", (8, 16, 32), 8)
BASELINE = {"batch_size": 8}
ENERGY = energy_of(500.0, 5.0, provenance=Provenance.MEASURED)


class Work:
    """Work whose time and energy per sample halve with each doubling of the batch size."""

    unit, keeps_work, notes = "sample", False, ("a note",)

    def __init__(self, clock, fails=None, energy=ENERGY):
        self.clock, self.fails, self.energy = clock, fails or {}, energy

    def measure(self, settings):
        self.clock.now_s += 10.0
        if settings["batch_size"] in self.fails:
            raise self.fails[settings["batch_size"]]
        duration_s = 8.0 / settings["batch_size"]
        probe = Probe(dict(settings), duration_s, 100.0 * duration_s, work=50)
        return Measured(probe, self.energy)


class Clock:
    now_s = 0.0

    def __call__(self):
        return self.now_s


class Display:
    def __init__(self):
        self.lines = []

    def begin(self, settings):
        self.lines.append(("begin", settings["batch_size"]))

    def measured(self, probe, best):
        self.lines.append(("measured", best and best.settings["batch_size"]))

    def left_out(self, what):
        self.lines.append(("left out", str(what)))


def run(fails=None, **options):
    clock, display = Clock(), Display()
    search = LevelSearch(KNOB, 0.05, max_probes=40)
    outcome = tune(search, BASELINE, Work(clock, fails, **options), display, clock)
    return outcome, display.lines


def test_the_outcome_states_what_the_search_cost_and_when_that_pays_back():
    outcome, _ = run()
    n = len(outcome.measured)
    assert outcome.result.settings == {"batch_size": 32}
    assert (outcome.cost_s, outcome.cost_j) == (10.0 * n, pytest.approx(1000.0 * n))
    # A sample costs 100 J at first, and a quarter of that and of 1 s at batch size 32.
    assert outcome.pays_back_after == pytest.approx(1000.0 * n / 75, rel=0.01)
    assert outcome.pays_back_s == pytest.approx(outcome.pays_back_after / 4, rel=0.01)
    assert " s and about " in outcome.cost_text()
    assert outcome.notes == ("a note",)
    assert outcome.to_json()["unit"] == "sample"


def test_a_run_that_was_over_before_it_was_asked_for_costs_its_time(monkeypatch):
    monkeypatch.setattr(Clock, "now_s", property(lambda _: 0.0, lambda *_: None))
    outcome, _ = run()
    n = len(outcome.measured)
    assert (outcome.cost_s, outcome.cost_j) == (5.0 * n, pytest.approx(500.0 * n))


def test_of_work_that_is_kept_only_the_energy_beyond_the_baseline_is_a_cost(monkeypatch):
    monkeypatch.setattr(Work, "keeps_work", True)
    outcome, _ = run()
    spent_j = sum(one.probe.energy_j * one.probe.work for one in outcome.measured)
    usual_j = 100.0 * 50 * len(outcome.measured)
    assert math.isnan(outcome.cost_s)
    assert outcome.cost_j == pytest.approx(spent_j - usual_j)
    assert outcome.cost_text().startswith("The search cost nothing")


def test_settings_that_fail_are_named_and_left_out():
    outcome, lines = run({32: UnmeasurableError("out of memory")})
    assert outcome.result.settings == {"batch_size": 16}
    assert [str(one) for one in outcome.left_out] == ["batch size 32: out of memory"]
    assert ("left out", "batch size 32: out of memory") in lines
    assert lines.count(("begin", 32)) == 1
    assert outcome.to_json()["left_out"] == [
        {"settings": {"batch_size": 32}, "reason": "out of memory"}
    ]


def test_without_a_baseline_there_is_nothing_to_compare_with():
    with pytest.raises(JoulelabError, match="cannot measure the baseline, batch size 8: too large"):
        run({8: UnmeasurableError("too large")})
    with pytest.raises(KeyboardInterrupt):
        run({8: KeyboardInterrupt()})


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (KeyboardInterrupt(), INTERRUPTED),
        (WorkEndedError("the command ended"), "the command ended"),
    ],
)
def test_what_is_known_is_reported_when_the_search_ends_early(error, reason):
    outcome, _ = run({16: error, 32: error})
    assert outcome.ended_early == reason
    assert outcome.result.settings == BASELINE
    assert not outcome.is_better
    assert math.isnan(outcome.pays_back_after)
    assert outcome.to_json()["pays_back_after"] is None


def test_notes_state_how_the_energy_was_found():
    energy = replace(
        energy_of(500.0, 5.0, provenance=Provenance.ESTIMATED),
        absent={"dram:0": "no RAPL"},
        notes=("other processes also used the CPU: a",),
    )
    outcome, _ = run(energy=energy)
    n = len(outcome.measured)
    assert outcome.notes == (
        "the energy is estimated, not measured",
        "without dram:0: no RAPL",
        f"other processes also used the CPU, in {n} of {n} probes",
        "a note",
    )


def test_progress_shows_the_best_settings_so_far():
    outcome, lines = run()
    assert lines[0] == ("begin", 8)
    assert lines[-1] == ("measured", 32)
    assert len(lines) == 2 * len(outcome.measured)
