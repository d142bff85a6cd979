"""A job beside the last one like it: coverage of the ratio's interval, and which one it is."""

import math
import random
import time
from dataclasses import replace

import pytest

from joulelab.accounting.energy import ComponentEnergy, Energy
from joulelab.costs import Costs
from joulelab.jobs.previous import compare, last_like, ratio
from joulelab.jobs.record import read_job
from joulelab.jobs.summary import summary
from joulelab.sensors.sensor import Provenance

GAIN, OFFSET_W, EDGE_J = 0.05, 2.0, 4.0


def seen(rng, true_j, gain, offset_w, duration_s, component="gpu:0"):
    """An energy as one board shows it, with the uncertainties that it states."""
    return ComponentEnergy(
        component=component,
        source="nvml.samples",
        provenance=Provenance.MEASURED,
        duration_s=duration_s,
        gross_j=true_j * gain + offset_w * duration_s + rng.gauss(0, EDGE_J),
        gain_uncertainty=GAIN,
        offset_uncertainty_w=OFFSET_W,
        edge_uncertainty_j=EDGE_J,
    )


@pytest.mark.parametrize("same_boards", [True, False])
def test_the_interval_of_a_ratio_holds_the_true_one(same_boards):
    rng = random.Random(1)
    true = ((1000.0, 400.0, 10.0), (800.0, 500.0, 8.0))
    held, widths = 0, []
    for _ in range(2000):
        boards = None
        energies = []
        for gpu_j, cpu_j, duration_s in true:
            if boards is None or not same_boards:
                boards = [(rng.gauss(1, GAIN), rng.gauss(0, OFFSET_W)) for _ in range(2)]
            parts = [
                seen(rng, true_j, *board, duration_s, name)
                for true_j, board, name in zip(
                    (gpu_j, cpu_j), boards, ("gpu:0", "cpu:0"), strict=True
                )
            ]
            energies.append(
                Energy(duration_s=duration_s, components={one.component: one for one in parts})
            )
        found = ratio(*energies, same_boards=same_boards)
        held += found.low <= 1400 / 1300 <= found.high
        widths.append(found.high / found.low)
    assert 0.93 < held / 2000 < 0.98
    assert (sum(widths) / 2000 < 1.06) == same_boards


def test_other_sensors_have_no_ratio():
    rng = random.Random(1)
    one = seen(rng, 100.0, 1.0, 0.0, 1.0)
    gpu = Energy(duration_s=1.0, components={"gpu:0": one})
    other = Energy(duration_s=1.0, components={"gpu:0": replace(one, source="nvml.power")})
    assert ratio(gpu, other, same_boards=True) is None
    assert ratio(gpu, Energy(duration_s=1.0), same_boards=True) is None


def test_the_last_one_like_it_is_the_newest_that_finished(tmp_path, monkeypatch, finished):
    monkeypatch.setenv("JOULELAB_HOME", str(tmp_path))
    jobs = tmp_path / "jobs"
    data = finished(jobs / "20260101T000000Z-train-0001")
    finished(jobs / "20260102T000000Z-train-0002", command=["python", "train.py", "--lr", "1"])
    finished(jobs / "20260103T000000Z-other-0003", name="other")
    started = {"name": "train", "project": "digits"}
    last = last_like(started, jobs / "20260105T000000Z-train-0005")
    assert last.id == "20260102T000000Z-train-0002"
    assert last_like(started | {"project": None}, jobs / "new") is None
    assert last_like(data, jobs / "20260102T000000Z-train-0002").id == data["id"]


def test_a_summary_says_all_in_one_screen(tmp_path, finished):
    finished(tmp_path / "one", started_unix_s=time.time() - 7 * 86400)
    finished(tmp_path / "two", command=["python", "train.py", "--epochs", "3"])
    one, two = read_job(tmp_path / "one"), read_job(tmp_path / "two")
    costs = Costs(energy_j=two.energy.gross_j, interval_j=two.energy.interval_j)
    lines = summary(two, costs, one)
    text = "\n".join(f"{label} {content}" for label, content in lines)
    assert len(lines) < 24
    for words in (
        "python train.py --epochs 3  exit code 3 after",
        "W on average",
        "`joulelab idle`",
        "simulated (simulated.samples)",
        "epoch",
        "`joulelab site",
        "7 days ago",
        "other arguments",
        "a note",
        str(tmp_path / "two"),
    ):
        assert words in text
    found = compare(two, one)
    assert found.energy.value == pytest.approx(two.energy.gross_j / one.energy.gross_j)
    assert not any(math.isnan(value) for value in (found.energy.low, found.energy.high))
