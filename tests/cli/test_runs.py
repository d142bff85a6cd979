"""``joulelab runs`` as users run it: list, filter, label, prune."""

import csv
import json
import os
import re
import shutil
import time
from functools import partial
from pathlib import Path

import measured_runs
import pytest
from run_records import write_finished, write_started

from joulelab.format import duration
from joulelab.runs.listing import run_caveats
from joulelab.runs.record import read_run

DAY_S = 86400.0
STUDY = Path(__file__).parents[1] / "golden" / "inputs" / "studies" / "small-batches"


joulelab = partial(measured_runs.joulelab, "runs")


@pytest.fixture
def home(tmp_path):
    """A home with three finished runs, of today, ten and a hundred days ago."""
    now = time.time()
    for age_days, name, host, status in (
        (0, "train", "node1", "done"),
        (10, "train-a-model-with-a-long-name", "node2", "failed"),
        (100, "evaluate", "node2", "done"),
    ):
        write_finished(
            tmp_path / "runs" / f"run-{age_days}",
            name=name,
            host=host,
            status=status,
            exit_code=3 if status == "failed" else 0,
            started_unix_s=now - age_days * DAY_S - 60,
            command=("/usr/bin/python", "train.py", "--epochs", "100", "--data", "x" * 60),
            tags={"seed": str(age_days)},
        )
    return tmp_path


def ids(done):
    assert done.returncode == 0, done.stderr
    return [one["id"] for one in json.loads(done.stdout)]


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ((), ["run-0", "run-10", "run-100"]),
        (("--name", "train*"), ["run-0", "run-10"]),
        (("--host", "node2"), ["run-10", "run-100"]),
        (("--tag", "seed"), ["run-0", "run-10", "run-100"]),
        (("--tag", "seed=10*"), ["run-10", "run-100"]),
        (("--since", "30d"), ["run-0", "run-10"]),
        (("--failed",), ["run-10"]),
        (("--failed", "--host", "node1"), []),
    ],
)
def test_filters(home, options, found):
    assert ids(joulelab(*options, "--json", home=home)) == found


def test_a_day_is_the_first_that_counts(home):
    day = time.strftime("%Y-%m-%d", time.gmtime(time.time() - 50 * DAY_S))
    assert ids(joulelab("--since", day, "--json", home=home)) == ["run-0", "run-10"]
    wrong = joulelab("--since", "yesterday", home=home)
    assert wrong.returncode == 2
    assert "write it like 2026-11-01" in wrong.stderr


@pytest.mark.parametrize("columns", [40, 60, 80, 120, 200])
def test_rows_fit_the_terminal_and_values_are_whole(home, columns):
    shown = joulelab(home=home, COLUMNS=str(columns)).stdout
    assert all(len(line) <= columns for line in shown.splitlines())
    rows = json.loads(joulelab("--json", home=home).stdout)
    for row in rows:
        started = time.strftime("%Y-%m-%d %H:%M", time.gmtime(row["started_unix_s"]))
        values = f"{duration(row['duration_s'])} +{row['gross_j']:.1f} J"
        assert re.search(f"{started} +{values}", shown)
    assert "exit 3" in shown


def test_lines_in_a_pipe_are_whole(home):
    shown = joulelab(home=home).stdout
    assert f"python train.py --epochs 100 --data {'x' * 60}" in shown
    assert "train-a-model-with-a-long-name" in shown
    assert "run-100" in shown


def test_csv_has_the_values_of_json(home):
    rows = list(csv.DictReader(joulelab("--csv", home=home).stdout.splitlines()))
    data = json.loads(joulelab("--json", home=home).stdout)
    assert [float(row["gross_j"]) for row in rows] == [row["gross_j"] for row in data]
    assert rows[1]["tags"] == "seed=10"
    assert rows[1]["caveats"].startswith("exit 3")


def test_runs_of_a_study_are_listed_without_its_idle_runs(home):
    found = ids(joulelab(str(STUDY), "--json", home=home))
    assert found
    assert not any("idle" in one for one in found)


def test_no_runs_is_not_an_error(home, tmp_path):
    done = joulelab("--name", "nothing", home=home)
    assert (done.returncode, done.stdout.count("\n")) == (0, 1)
    assert "no runs match" in done.stdout
    assert "no runs here" in joulelab(home=tmp_path / "empty").stdout


def test_caveats_name_the_signal_and_missing_energy(tmp_path):
    killed = write_finished(tmp_path / "killed", exit_code=None, signal=9)
    assert "signal 9" in run_caveats(killed)
    started = write_started(tmp_path / "started")
    assert run_caveats(started) == ["unfinished", "not measured"]


def test_tags_are_set_and_removed(home):
    done = joulelab("tag", "run-10", "--tag", "note=slow", "--remove", "seed", home=home)
    assert done.returncode == 0, done.stderr
    assert read_run(home / "runs" / "run-10").tags == {"note": "slow"}
    before = read_run(home / "runs" / "run-0")
    assert joulelab("tag", "latest", "--project", "digits", home=home).returncode == 0
    after = read_run(home / "runs" / "run-0")
    assert (after.project, after.energy) == ("digits", before.energy)
    wrong = joulelab("tag", "run-0", "--remove", "sed", home=home)
    assert wrong.returncode == 2
    assert "did you mean seed?" in wrong.stderr


def test_prune_asks_and_says_what_it_freed(home):
    answer = joulelab("prune", "--older-than", "30d", home=home, text="n\n")
    assert (answer.returncode, (home / "runs" / "run-100").exists()) == (130, True)
    assert "Delete 1 run, " in answer.stdout
    size_bytes = (home / "runs" / "run-100" / "run.json").stat().st_size
    answer = joulelab("prune", "--older-than", "30d", home=home, text="y\n")
    assert answer.returncode == 0, answer.stderr
    assert f"deleted 1 run, {size_bytes:,} B freed" in answer.stdout
    assert sorted(path.name for path in (home / "runs").iterdir()) == ["run-0", "run-10"]


def test_a_dry_run_deletes_nothing(home):
    done = joulelab("prune", "--older-than", "5d", "--dry-run", "--json", home=home)
    data = json.loads(done.stdout)
    assert (data["dry_run"], data["deleted"]) == (True, ["run-10", "run-100"])
    assert data["freed_bytes"] > 0
    assert len(list((home / "runs").iterdir())) == 3


def test_the_newest_runs_are_kept(home):
    done = joulelab("prune", "--older-than", "5d", "--keep", "2", "--yes", "--json", home=home)
    assert json.loads(done.stdout)["deleted"] == ["run-100"]


def test_only_runs_of_joulelab_are_deleted(home, tmp_path):
    runs = home / "runs"
    (runs / "run-100" / "model.pt").write_bytes(b"weights")
    (runs / "mine").mkdir()
    (runs / "mine" / "run.json").write_text("{}")
    (runs / "notes.txt").write_text("keep")
    outside = tmp_path / "outside"
    write_finished(outside, started_unix_s=1.0)
    (runs / "link").symlink_to(outside)
    shutil.copytree(STUDY, runs / "study")
    running = write_started(runs / "running", started_unix_s=1.0, host=os.uname().nodename, pid=1)
    done = joulelab("prune", "--older-than", "5d", "--yes", "--json", home=home)
    assert done.returncode == 0, done.stderr
    data = json.loads(done.stdout)
    assert data["deleted"] == ["run-10"]
    reasons = {one["id"]: one["reason"] for one in data["kept"]}
    assert reasons["run-100"] == "it has files of something else: model.pt"
    assert reasons[running.id] == "it is still running"
    left = {path.name for path in runs.iterdir()}
    assert left == {"run-0", "run-100", "mine", "notes.txt", "link", "study", "running"}
    assert (outside / "run.json").is_file()
    assert (runs / "study" / "plan.toml").is_file()


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        ((), "give --older-than or --keep"),
        (("--older-than", "90"), "write it like 12h, 90d or 4w"),
        (("--keep", "1", "--json"), "add --yes or --dry-run"),
    ],
)
def test_an_unclear_request_deletes_nothing(home, options, hint):
    done = joulelab("prune", *options, home=home)
    assert (done.returncode, len(list((home / "runs").iterdir()))) == (2, 3)
    assert hint in done.stderr
