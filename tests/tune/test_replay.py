"""Recorded tables: what is accepted, and one line for what is not."""

import json
import math

import numpy as np
import pytest

from joulelab.errors import UserError
from joulelab.tune.replay import read_replay_table

CURVE = """power_limit,duration_s,power_w
100,6781.2,98.4
150,4148.7,144.6
200,3701.0,184.9
225,3584.3,205.4
250,3515.0,220.3
"""


@pytest.fixture
def write(tmp_path):
    def write(text):
        path = tmp_path / "table.csv"
        path.write_text(text)
        return path

    return write


def test_energy_is_time_times_power_and_the_baseline_is_the_highest_limit(write):
    table = read_replay_table(write(CURVE), ["power_limit"])
    knob = table.knobs[0]
    assert knob.levels == (100, 150, 200, 225, 250)
    assert knob.baseline == 250
    assert knob.is_limit
    assert table.rows[150,] == [(4148.7, 4148.7 * 144.6)]


def test_a_probe_without_noise_is_the_row_and_with_noise_scatters_by_it(write):
    table = read_replay_table(write(CURVE), ["power_limit"])
    rng = np.random.default_rng(1)
    settings = {"power_limit": 200}
    probe = table.probe(settings, 0.0, rng)
    assert (probe.duration_s, probe.energy_j) == (3701.0, 3701.0 * 184.9)
    probes = [table.probe(settings, 0.02, rng) for _ in range(2000)]
    times = np.array([probe.duration_s for probe in probes]) / 3701.0 - 1
    energies = np.array([probe.energy_j for probe in probes]) / (3701.0 * 184.9) - 1
    assert times.std() == pytest.approx(0.02, rel=0.1)
    assert energies.std() == pytest.approx(0.02, rel=0.1)
    assert abs(np.corrcoef(times, energies)[0, 1]) < 0.1


def test_repeated_rows_are_drawn_at_random(write):
    text = "batch-size,energy_j,duration_s,seed\n32,5,1,1\n32,6,2,2\n64,4,1,1\n"
    table = read_replay_table(write(text), ["batch_size"])
    assert table.knobs[0].baseline == 32
    assert not table.knobs[0].is_limit
    rng = np.random.default_rng(0)
    drawn = {table.probe({"batch_size": 32}, 0.0, rng).energy_j for _ in range(50)}
    assert drawn == {5.0, 6.0}


def test_a_stated_baseline_is_used(write):
    knob = read_replay_table(write(CURVE), ["power_limit"], {"power_limit": "200"}).knobs[0]
    assert knob.baseline == 200
    with pytest.raises(UserError, match="no row with power_limit 300"):
        read_replay_table(write(CURVE), ["power_limit"], {"power_limit": "300"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no column 'power_limit'"),
        ("power_limit,duration_s,power_w\n", "no rows of data"),
        ("power_limit,power_w\n100,3\n", "no column 'duration_s'"),
        ("power_limit,duration_s\n100,3\n", "no column 'energy_j' or 'power_w'"),
        ("power_limit,duration_s,energy_j\n100,nan,3\n", "duration_s in row 2 is 'nan'"),
        ("power_limit,duration_s,energy_j\n100,-1,3\n", "duration_s in row 2 is '-1'"),
        ("power_limit,duration_s,energy_j\n100,1,0\n", "energy_j in row 2 is '0'"),
        ("power_limit,duration_s,energy_j\n100,1,\n", "energy_j in row 2 is ''"),
        ("power_limit,duration_s,energy_j\n,1,2\n", "power_limit in row 2 is ''"),
        ("power_limit,duration_s,energy_j\n100,inf,3\n", "duration_s in row 2 is 'inf'"),
        ("power_limit,duration_s,energy_j\n100,1\n", "row 2 has 2 cells, not 3"),
        (
            "network,power_limit,duration_s,energy_j\nncf,100,1,2\nbert,100,3,4\n",
            "contains more than one workload",
        ),
    ],
)
def test_a_table_that_cannot_be_used_is_one_line_and_exit_code_2(write, refused, text, message):
    assert message in refused("tune", "--replay", write(text), "--knobs", "power-limit")


def test_knobs_of_a_table_are_found_by_their_names(write, printed, refused):
    text = "batch_size,power_limit_w,precision,host,duration_s,energy_j\n"
    text += "".join(f"{b},{w},bf16,a,{b},{w}\n" for b in (8, 16) for w in (100, 200)) + "\n"
    table = read_replay_table(write(text))
    assert [(knob.name, knob.baseline) for knob in table.knobs] == [
        ("batch_size", 8), ("power_limit_w", 200)
    ]  # fmt: skip
    assert table.knobs[1].is_limit
    assert "batch size 8, power limit 200 W" in printed(
        "tune", "--replay", write(text), "--baseline", "power-limit-w=200"
    )
    other = "x,batch_size,duration_s,energy_j\n1,8,1,2\n2,8,1,2\n"
    assert "with --knobs: x, " in refused("tune", "--replay", write(other))
    assert "'batch' is no knob" in refused("tune", "--replay", write(text), "--baseline", "batch=8")


def test_the_table_of_results_has_the_baseline_that_is_kept(write, printed):
    text = "batch_size,duration_s,energy_j,epochs_to_target\n"
    text += "".join(f"{batch_size},10,1000,20\n" for batch_size in (16, 32, 64, 128, 256))
    for seed in range(3):
        out = printed(
            "tune", "--replay", write(text), "--objective", "energy-to-target", "--noise", "3%",
            "--seed", str(seed),
        )  # fmt: skip
        assert out.startswith("Keep batch size 16: ")
        assert len([line for line in out.splitlines() if "baseline" in line]) == 2


def test_the_command_prints_the_documented_json(write, printed):
    out = printed("tune", "--replay", write(CURVE), "--noise", "1%", "--seed", "3", "--json")
    found = json.loads(out)
    assert found["baseline"] == {"power_limit": 250}
    assert found["settings"]["power_limit"] in (100, 150, 200, 225, 250)
    for name in ("saving", "slowdown"):
        assert found[f"{name}_low"] <= found[name] <= found[f"{name}_high"]
    assert isinstance(found["probes"], int)
    assert all(math.isfinite(point["energy_j"]) for point in found["front"])
    assert set(found["front"][0]) == {
        "settings", "duration_s", "duration_low_s", "duration_high_s",
        "energy_j", "energy_low_j", "energy_high_j",
    }  # fmt: skip


def test_repeats_that_differ_widen_the_interval_of_what_is_saved(write, printed):
    """A few probes may agree by chance, so that only the repeats show how much they can differ."""
    levels = (100, 150, 200, 250, 300, 350)
    missed = 0
    for seed in range(8):
        rng = np.random.default_rng(seed)
        rows = [
            f"{limit},{(10 + 500 / limit) * factor:.4f},{9 * limit * factor:.2f}"
            for limit in levels
            for factor in rng.normal(1.0, 0.1, 2)
        ]
        table = write("power_limit,duration_s,energy_j\n" + "\n".join(rows) + "\n")
        found = json.loads(
            printed(
                "tune", "--replay", table, "--knobs", "power-limit", "--max-slowdown", "50%",
                "--seed", seed, "--json",
            )
        )  # fmt: skip
        true = 1 - found["settings"]["power_limit"] / 350
        missed += not found["saving_low"] <= true <= found["saving_high"]
    assert missed <= 1


def test_rows_without_repeats_state_no_scatter(write):
    assert np.isnan(read_replay_table(write(CURVE), ["power_limit"]).scatter).all()
