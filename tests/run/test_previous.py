"""A job beside the last one like it: which one it is, and what is said of the two."""

import math
import time
from dataclasses import replace

import pytest

from joulelab.carbon.costs import Costs
from joulelab.energy.energy import Energy
from joulelab.run.previous import compare, last_like
from joulelab.run.summary import summary
from joulelab.runs.job import read_job


def test_jobs_of_other_sensors_do_not_compare(tmp_path, finished):
    finished(tmp_path / "one")
    finished(tmp_path / "two")
    one, two = read_job(tmp_path / "one"), read_job(tmp_path / "two")
    assert compare(two, one) is not None
    (part,) = one.energy.components.values()
    other = Energy(duration_s=1.0, components={"gpu:0": replace(part, source="nvml.power")})
    assert compare(two, replace(one, energy=other)) is None
    assert compare(two, replace(one, energy=Energy(duration_s=1.0))) is None
    assert compare(two, None) is None


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
