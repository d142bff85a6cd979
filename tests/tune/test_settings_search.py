"""Several knobs: what is found in recorded and made-up tables, and after how many probes."""

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest

from joulelab.errors import UserError
from joulelab.tune.level_search import LevelSearch
from joulelab.tune.probes import Knob, Probe
from joulelab.tune.replay import read_replay_table, replay
from joulelab.tune.settings_search import LEAST_PROBES, SettingsSearch, search_over

TABLE = Path(__file__).parent / "inputs" / "squad_v100.csv"
KNOBS = ["batch_size", "power_limit"]
BATCH = Knob("batch_size", (8, 16, 32, 64), 16)
LIMIT = Knob("power_limit", (100, 150, 200, 250), 250, is_limit=True)


@pytest.fixture(scope="module")
def table():
    return read_replay_table(TABLE, KNOBS, {"batch_size": "32"})


def to_target(table):
    """Mean energy to the target of each cell."""
    return {
        cell: rows[0][1] * np.mean(table.work_to_target[cell]) for cell, rows in table.rows.items()
    }


def settings_of(result):
    return tuple(result.settings[name] for name in KNOBS)


def smooth(settings, rng, noise=0.005, drift=1.0):
    """Least energy at batch size 32 and 150 W; time falls with both."""
    batch, limit = math.log2(settings["batch_size"] / 32), settings["power_limit"] / 150 - 1
    duration_s = 10 * 1.1**-batch * (1 + 0.03 * max(0, 1 - limit) ** 2)
    energy_j = 1000 * (1 + 0.05 * batch**2 + 0.3 * limit**2)
    scatter = 1 + noise * rng.standard_normal(2)
    return Probe(settings, duration_s * drift * scatter[0], energy_j * drift * scatter[1])


def search_smooth(search, seed=0, drift_per_probe=0.0):
    rng, count = np.random.default_rng(seed), 0
    while (settings := search.next()) is not None:
        search.add(smooth(settings, rng, drift=1 + drift_per_probe * count))
        count += 1
    return search.result()


def test_energy_to_target_is_close_to_the_best_after_a_third_of_the_cells(table):
    true = to_target(table)
    found = []
    for seed in range(4):
        search = SettingsSearch(table.knobs, math.inf, objective="energy-to-target", seed=seed)
        result = replay(table, search, 0.01, seed)
        assert result.probes <= len(true) / 3
        assert result.baseline == {"batch_size": 32, "power_limit": 250}
        found.append(true[settings_of(result)] / min(true.values()) - 1)
    assert np.mean(found) < 0.05


def test_choice_keeps_the_bound_on_time(table):
    seconds = {cell: rows[0][0] for cell, rows in table.rows.items()}
    for seed in range(3):
        result = replay(table, SettingsSearch(table.knobs, 0.05, seed=seed), 0.01, seed)
        assert seconds[settings_of(result)] <= 1.055 * seconds[32, 250]
        assert result.slowdown.high >= result.slowdown.value
        assert result.probes <= len(seconds)


def test_same_seed_gives_the_same_search(table):
    first, second = (
        replay(table, SettingsSearch(table.knobs, 0.1, seed=3), 0.01, 3) for _ in range(2)
    )
    assert first == second


def test_drift_of_the_machine_does_not_change_the_choice():
    for drift in (0.0, 0.003, -0.003):
        result = search_smooth(SettingsSearch([BATCH, LIMIT], 1.0), drift_per_probe=drift)
        assert result.settings == {"batch_size": 32, "power_limit": 150}
        true = 1 - 1000 / (1000 * (1 + 0.05 + 0.3 * (250 / 150 - 1) ** 2))
        assert result.saving.low < true < result.saving.high


def test_each_block_has_one_probe_of_the_baseline():
    search = SettingsSearch([BATCH, LIMIT], 0.2)
    search_smooth(search)
    order = [probe.settings == {"batch_size": 16, "power_limit": 250} for probe in search.probes]
    assert order[0]
    assert sum(order[4:9]) >= 1
    assert len(order) >= 9


@pytest.mark.parametrize("noise", [0.01, 0.1])
def test_no_significantly_better_setting_is_an_answer(noise):
    search = SettingsSearch([BATCH, LIMIT], 0.05)
    rng = np.random.default_rng(0)
    while (settings := search.next()) is not None:
        search.add(Probe(settings, *(np.array([10.0, 100.0]) * (1 + noise * rng.normal(size=2)))))
    result = search.result()
    assert result.settings == result.baseline
    assert "no setting is significantly better" in result.reason
    assert (result.saving.value, result.slowdown.value) == pytest.approx((0, 0), abs=1e-9)


def test_texts_and_switches_are_knobs_too():
    precision = Knob("precision", ("fp32", "tf32", "bf16"), "fp32")
    switch = Knob("compile", (False, True), False)
    search = SettingsSearch([precision, switch], 0.05)
    factors = {"fp32": 1.0, "tf32": 0.8, "bf16": 0.6}
    rng = np.random.default_rng(0)
    while (settings := search.next()) is not None:
        value = factors[settings["precision"]] * (0.9 if settings["compile"] else 1.0)
        search.add(Probe(settings, *(value * (1 + 0.005 * rng.standard_normal(2)))))
    assert search.result().settings == {"precision": "bf16", "compile": True}


def test_settings_that_cannot_be_measured_are_not_proposed_again():
    search = SettingsSearch([BATCH, LIMIT], 1.0)
    rng, refused = np.random.default_rng(0), []
    while (settings := search.next()) is not None:
        if settings["batch_size"] == 64:
            refused.append(tuple(settings.values()))
            search.leave_out(settings)
        else:
            search.add(smooth(settings, rng))
    assert len(refused) == len(set(refused)) > 0
    assert search.result().settings == {"batch_size": 32, "power_limit": 150}


def test_runs_that_never_reach_the_target_are_not_chosen():
    search = SettingsSearch([BATCH, LIMIT], math.inf, objective="energy-to-target", max_probes=16)
    rng = np.random.default_rng(0)
    while (settings := search.next()) is not None:
        one = smooth(settings, rng)
        work = math.inf if settings["batch_size"] >= 32 else 10.0
        search.add(Probe(settings, one.duration_s, one.energy_j, work_to_target=work))
    result = search.result()
    assert result.settings["batch_size"] < 32
    assert all(point.settings["batch_size"] < 32 for point in result.front)


def test_a_target_that_no_run_reached_is_an_error():
    search = SettingsSearch([BATCH, LIMIT], math.inf, objective="energy-to-target")
    while (settings := search.next()) is not None:
        search.add(Probe(settings, 1.0, 1.0, work_to_target=math.inf))
    with pytest.raises(UserError, match="no run reached the target"):
        search.result()


def test_optuna_proposes_where_combinations_are_many():
    levels = tuple(range(1, 8))
    knobs = [Knob(name, levels, 7) for name in "abc"]
    knobs.append(Knob("kind", ("w", "x", "y", "z", "v"), "w"))
    assert math.prod(len(knob.levels) for knob in knobs) > 1500

    def energy(settings):
        distance = sum((math.log(settings[name] / 3)) ** 2 for name in "abc")
        return 100 * (1 + 0.2 * distance) * (0.8 if settings["kind"] == "y" else 1.0)

    search = SettingsSearch(knobs, 0.05, max_probes=24)
    while (settings := search.next()) is not None:
        search.add(Probe(settings, 1.0, energy(settings)))
    result = search.result()
    every = itertools.product(*(knob.levels for knob in knobs))
    rank = sorted(energy(dict(zip(["a", "b", "c", "kind"], one, strict=True))) for one in every)
    assert energy(result.settings) <= rank[len(rank) // 20]


def test_stops_when_another_probe_would_gain_less_than_it_costs():
    search = SettingsSearch([BATCH, LIMIT], 1.0, max_probes=1000)
    result = search_smooth(search)
    assert LEAST_PROBES <= result.probes < 64


def test_one_knob_has_its_own_search():
    assert isinstance(search_over([LIMIT], 0.05), LevelSearch)
    assert isinstance(search_over([LIMIT], 0.05, objective="energy-to-target"), SettingsSearch)


def test_bad_arguments_are_errors():
    with pytest.raises(UserError, match="no objective 'time'"):
        SettingsSearch([BATCH], 0.05, objective="time")
    with pytest.raises(UserError, match="negative"):
        SettingsSearch([BATCH], -0.1)


def test_replay_on_the_command_line(printed):
    options = ["--knobs", "batch-size,power-limit", "--objective", "energy-to-target"]
    options += ["--baseline", "batch_size=32", "--noise", "1%", "--json"]
    out = printed("tune", "--replay", TABLE, *options)
    found = json.loads(out)
    assert set(found["settings"]) == set(KNOBS)
    assert found["probes"] <= 16
    assert found["saving_low"] <= found["saving"] <= found["saving_high"]


def test_rows_without_epochs_are_whole_runs(tmp_path, run):
    path = tmp_path / "table.csv"
    rows = [f"{size},{10 + size / 8},{abs(size - 32) + 50}" for size in (8, 16, 32, 64)]
    path.write_text("\n".join(["batch_size,duration_s,energy_j", *rows]))
    options = ("--knobs", "batch-size", "--json", "--objective", "energy-to-target")
    _, out, err = run("tune", "--replay", path, *options)
    assert json.loads(out)["settings"] == {"batch_size": 32}
    assert "each row is taken as a whole run to the target" in err


def test_column_of_epochs_to_target(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text(
        "batch_size,duration_s,energy_j,epochs_to_target\n8,1,2,4\n8,1,2,\n16,1,3,nan\n"
    )
    table = read_replay_table(path, ["batch_size"])
    assert table.work_to_target == {(8,): [4.0, math.inf], (16,): [math.inf]}
    path.write_text("batch_size,duration_s,energy_j,epochs_to_target\n8,1,2,-1\n")
    with pytest.raises(UserError, match="epochs_to_target in row 2 is '-1'"):
        read_replay_table(path, ["batch_size"])


def test_baseline_must_be_in_the_table(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("batch_size,power_limit,duration_s,energy_j\n8,100,1,2\n16,200,1,3\n")
    with pytest.raises(UserError, match="no row with the baseline 8, 200"):
        read_replay_table(path, KNOBS)
