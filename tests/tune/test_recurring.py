"""Recurring jobs: which batch size comes next, when a run is stopped, and what is saved."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulelab.cli.app import main
from joulelab.errors import UserError
from joulelab.runs.record import read_record
from joulelab.tune.recurring import Job, Target, parse_target
from joulelab.tune.thompson import Attempt, choose_batch_size, mean_energies_j, most_energy_j

SIZES = (8, 16, 32, 64, 128)
PROGRAM = """
import sys, time
import joulelab
size = int(sys.argv[1])
with joulelab.Meter() as meter:
    for epoch in range(400 if size == 64 else 4):
        with meter.span("epoch", index=epoch):
            time.sleep(0.05)
        joulelab.report_metrics(accuracy=0.0 if size == 64 else 0.3 * epoch)
sys.exit(3 if size == 7 else 0)
"""


def simulate(energies_j, seed, runs=50, noise=0.05):
    """Return the batch sizes that are chosen, and the energy of all runs."""
    rng, attempts, total_j = np.random.default_rng(seed), [], 0.0
    while sum(one.outcome == "reached" for one in attempts) < runs:
        size = choose_batch_size(energies_j, attempts, rng)
        energy_j = energies_j[size] * np.exp(noise * rng.standard_normal())
        limit_j = most_energy_j(attempts)
        outcome = "reached" if energy_j <= limit_j else "stopped"
        attempts.append(Attempt(size, min(energy_j, limit_j), outcome))
        total_j += attempts[-1].energy_j
    return [one.batch_size for one in attempts], total_j


def test_the_first_run_takes_the_middle_batch_size():
    assert choose_batch_size(SIZES, [], np.random.default_rng(0)) == 32


def test_the_best_batch_size_is_found_and_regret_is_small():
    energies_j = dict(zip(SIZES, (9e3, 5e3, 3e3, 2e3, 2.6e3), strict=True))
    for seed in range(3):
        chosen, total_j = simulate(energies_j, seed)
        assert chosen[-10:].count(64) >= 8
        uniform_j = 50 * (np.mean(list(energies_j.values())) - 2e3)
        assert total_j - 50 * 2e3 < uniform_j / 5


@given(st.lists(st.sampled_from(SIZES), max_size=12), st.integers(0, 99))
def test_a_choice_is_always_one_of_the_batch_sizes(history, seed):
    rng = np.random.default_rng(seed)
    outcomes = ("reached", "missed", "stopped", "failed")
    attempts = [
        Attempt(size, float(rng.uniform(1, 9)), outcomes[int(rng.integers(4))]) for size in history
    ]
    assert choose_batch_size((16, 64), attempts, rng) in (16, 64)


def test_a_batch_size_that_fails_is_soon_left_alone():
    rng, attempts = np.random.default_rng(0), []
    for _ in range(40):
        size = choose_batch_size((32, 64), attempts, rng)
        outcome = "failed" if size == 64 else "reached"
        attempts.append(Attempt(size, np.nan if size == 64 else 100.0, outcome))
    assert 1 <= sum(one.outcome == "failed" for one in attempts) <= 8


def test_a_run_is_stopped_at_twice_the_energy_of_the_best_batch_size():
    attempts = [Attempt(32, 10.0, "reached"), Attempt(32, 14.0, "reached")]
    assert most_energy_j(attempts[:0]) == np.inf
    assert most_energy_j([*attempts, Attempt(64, 20.0, "reached")]) == 24.0
    assert most_energy_j([*attempts, Attempt(64, 1.0, "failed")]) == 24.0
    assert mean_energies_j(attempts) == {32: 12.0}


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("accuracy=0.9", Target("accuracy", 0.9)),
        ("accuracy >= 0.9", Target("accuracy", 0.9)),
        ("val_loss<=2e-1", Target("val_loss", 0.2, is_at_most=True)),
    ],
)
def test_targets(text, target):
    assert parse_target(text) == target
    assert parse_target(str(target)) == target


@pytest.mark.parametrize("text", ["accuracy", "=0.9", "accuracy=high", "0.9=accuracy", ""])
def test_bad_targets_are_errors(text):
    with pytest.raises(UserError, match="is no target"):
        parse_target(text)


def test_a_command_without_the_placeholder_is_an_error():
    with pytest.raises(UserError, match=r"no argument of the command has \{batch_size\}"):
        Job("nightly", (32,), None, ("python", "train.py"))
    with pytest.raises(UserError, match="1 or more"):
        Job("nightly", (0,), None, ("train", "{batch_size}"))


@pytest.fixture
def recur(tmp_path, monkeypatch, capfd):
    """Run the program as a recurring job; return exit code, JSON and the messages."""
    monkeypatch.setenv("JOULELAB_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("JOULELAB_SENSORS", "simulated")
    program = tmp_path / "train.py"
    program.write_text(PROGRAM)

    def recur(sizes, *options):
        options = ("--recurring", "nightly", "--batch-sizes", sizes, "--json", *options)
        command = [sys.executable, str(program), "{batch_size}"]
        with pytest.raises(SystemExit) as ended:
            main(["tune", *options, "--", *command])
        output = capfd.readouterr()
        return ended.value.code, output.out and json.loads(output.out), output.err

    return recur


def test_runs_are_saved_with_their_outcome_and_costly_ones_are_stopped(recur):
    code, found, _ = recur("32", "--target", "accuracy=0.5")
    assert code == 0
    assert (found["batch_size"], found["outcome"]) == (32, "reached")
    record = read_record(Path(found["run"]))
    assert record["tags"]["recurring"] == "nightly"
    assert record["tags"]["outcome"] == "reached"
    # The third of four epochs reached the target.
    assert 0 < found["energy_to_target_j"] < record["energy"]["gross_j"]

    code, found, errors = recur("64", "--target", "accuracy=0.5")
    assert code != 0
    assert (found["batch_size"], found["outcome"]) == (64, "stopped")
    assert "2 times what the best batch size needs" in errors
    assert list(found["mean_energies_j"]) == ["32"]


def test_a_program_that_fails_or_reports_nothing(recur):
    code, found, _ = recur("7")
    assert (code, found["outcome"]) == (3, "failed")
    code, _, errors = recur("5", "--target", "f1=0.5")
    assert code == 2
    assert "the program reported no f1" in errors
    assert "joulelab.report_metrics(f1=value)" in errors


def test_options_of_recurring_jobs_belong_together(refused):
    assert "--recurring needs --batch-sizes" in refused(
        "tune", "--recurring", "nightly", "--", "train", "{batch_size}"
    )
    assert "belong to --recurring" in refused("tune", "--target", "accuracy=1", "--", "train")
