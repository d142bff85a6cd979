"""The replay of trainings that recur, on a small made-up table."""

import math

import pytest
from benchmarks.tuning_targets import Thompson, Uniform, Zeus, read_jobs, regret, search

POWER = "dataset,network,batch_size,optimizer,power_limit,time_per_epoch,average_power\n"
EPOCHS = "dataset,network,batch_size,optimizer,learning_rate,run,target_metric,target_epoch\n"


@pytest.fixture
def job(tmp_path):
    power, epochs = tmp_path / "power_v100.csv", tmp_path / "target_epochs.csv"
    power.write_text(
        POWER
        + "".join(
            f"squad,bert,{size},adamw,{limit},{100 - 5 * index},{limit * 0.8}\n"
            for index, size in enumerate((8, 16, 32, 64))
            for limit in (150, 200, 250)
        )
    )
    runs = {8: (10, 11), 16: (4, 4), 32: (5, 6), 64: (9, "nan")}
    epochs.write_text(
        EPOCHS
        + "".join(
            f"squad,bert,{size},adamw,1e-6,{run},84.0,{found}\n"
            for size, pair in runs.items()
            for run, found in enumerate(pair)
        )
    )
    (found,) = read_jobs(epochs, [power])
    return found


def test_expected_epochs_count_failed_runs(job):
    assert [job.work(size) for size in job.sizes] == [10.5, 4.0, 5.5, 18.0]
    assert job.most == 11
    assert job.energies_j()[16, 150] == pytest.approx(4 * 95 * 120)


def test_the_search_finds_the_best_cell(job):
    cell, probes, _ = search(job, seed=0)
    assert cell == (16, 150)
    assert probes <= 6


def test_regret_falls_well_below_that_of_uniform_exploration(job):
    uniform, zeus, thompson = (
        regret(job, make(job.sizes, 0), 0)[0] for make in (Uniform, Zeus, Thompson)
    )
    assert thompson < uniform / 3
    assert zeus < uniform
    assert all(math.isfinite(one) for one in (uniform, zeus, thompson))
