"""Records of runs: written and read, computed from a trace, refused when damaged."""

import json
import math
import os
import shutil
import time
from pathlib import Path

import pytest
from run_records import MACHINE, measured, write_finished, write_started

from joulelab import Meter
from joulelab.errors import UserError
from joulelab.machine import describe
from joulelab.report.recorded_run import open_recorded
from joulelab.runs.record import is_run, read_run
from joulelab.runs.selection import open_run, open_runs, select
from joulelab.runs.study_runs import read_studies, study_labels

OLD = Path(__file__).parents[1] / "golden" / "inputs"
"""Records written by the version before this schema."""

pytestmark = pytest.mark.usefixtures("home")


def test_a_finished_run_reads_back_equal(tmp_path):
    written = write_finished(tmp_path / "one")
    run = read_run(tmp_path / "one")
    assert is_run(tmp_path / "one")
    assert run.finished
    assert run.to_json() == written.to_json()
    assert (run.exit_code, run.signal, run.notes) == (3, None, ("a note",))
    assert (run.command, run.project, run.phase) == (("python", "train.py"), "digits", "train")
    assert run.tags == {"seed": "1"}
    assert run.machine == describe()
    low_j, high_j = run.energy.interval_j
    assert low_j <= 200 * run.duration_s <= high_j
    (span,) = run.spans
    assert (span.name, span.count) == ("epoch", 1)
    assert span.low_j <= 200 * span.duration_s <= span.high_j
    assert math.isnan(span.net_j)
    text = (tmp_path / "one" / "run.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail)["spans"][0]["net_j"] is None


def test_the_energy_of_a_killed_run_comes_from_its_trace(tmp_path):
    with Meter(sensors=MACHINE, directory=tmp_path / "cut", record=False) as meter:
        # The run begins when it is recorded, however long the recorder took to start.
        write_started(tmp_path / "cut")
        with meter.span("step"):
            time.sleep(0.3)
    run = open_run(tmp_path / "cut")
    assert (run.status, run.exit_code) == ("unfinished", None)
    low_j, high_j = run.energy.interval_j
    assert low_j <= 200 * run.duration_s <= high_j
    assert [span.name for span in run.spans] == ["step"]
    assert run.ended_unix_s == run.started_unix_s + run.duration_s
    # Without any record it is the run of a meter.
    (tmp_path / "cut" / "run.json").unlink()
    bare = open_run(tmp_path / "cut")
    assert (bare.kind, bare.name, bare.status) == ("meter", "cut", "done")
    assert bare.energy.gross_j >= run.energy.gross_j
    assert [one.id for one in open_runs(tmp_path)] == ["cut"]


@pytest.mark.parametrize("inside", [None, Path("/somewhere")])
def test_a_run_without_readings_has_no_energy(tmp_path, inside):
    write_started(tmp_path / "bare", inside=inside)
    run = read_run(tmp_path / "bare")
    assert math.isnan(run.energy.gross_j)
    assert math.isnan(run.duration_s)
    assert run.energy.absent


def test_runs_are_found_oldest_first_wherever_they_are(home):
    assert open_runs() == []
    for place, started_unix_s in (("runs/b/c", 3.0), ("runs/a", 5.0), ("jobs/z", 1.0)):
        write_started(home / place, started_unix_s=started_unix_s)
    (home / "runs" / "other").mkdir()
    (home / "runs" / "other" / "run.json").write_text('{"schema": 1, "by": "another program"}')
    assert [run.id for run in open_runs()] == ["z", "c", "a"]
    assert [run.id for run in open_runs(home / "runs" / "b", home / "runs" / "a")] == ["c", "a"]


@pytest.mark.parametrize(
    "content",
    [
        '{"schema": "joulelab-job-1"}',
        '{"schema": "jou',
        "\xff",
        '{"schema": "joulelab-run-2"}',
        '{"schema": "joulelab-run-2", "x": ' + "[" * 100_000 + "]" * 100_000 + "}",
        '{"schema": 1, "run_id": 5, "kind": "cell", "machine": [], "study": null}',
        '{"schema": ["joulelab"], "kind": []}',
    ],
    ids=range(7),
)
def test_a_damaged_record_is_reported_and_left_out(tmp_path, content):
    write_started(tmp_path / "good")
    write_started(tmp_path / "bad")
    (tmp_path / "bad" / "run.json").write_text(content, encoding="latin-1")
    with pytest.raises(UserError, match=r"run\.json"):
        open_runs(tmp_path)
    errors = []
    assert [run.id for run in open_runs(tmp_path, on_error=errors.append)] == ["good"]
    assert len(errors) == 1


@pytest.mark.parametrize("name", ["run.json", "trace.bin"])
def test_a_pipe_is_reported_and_not_waited_for(tmp_path, name):
    write_started(tmp_path / "good")
    (tmp_path / "bad").mkdir()
    os.mkfifo(tmp_path / "bad" / name)
    errors = []
    assert [run.id for run in open_runs(tmp_path, on_error=errors.append)] == ["good"]
    assert len(errors) == (name == "run.json")


def test_what_is_not_a_run_is_refused(tmp_path):
    assert not is_run(tmp_path)
    assert not is_run(tmp_path / "absent")
    with pytest.raises(UserError, match="is not a run"):
        open_run(tmp_path)
    with pytest.raises(UserError, match="no directory"):
        open_runs(tmp_path / "absent")
    with pytest.raises(UserError, match="is a study"):
        open_run(OLD / "studies" / "small-batches")


def test_saved_runs_are_named_by_time_name_and_id(home):
    for day, name in ((1, "train"), (2, "train"), (9, "train"), (8, "other")):
        write_finished(home / "runs" / f"{day}-{name}", name=name, started_unix_s=86400.0 * day)
    assert open_run("latest").id == "9-train"
    assert open_run("previous").id == "2-train"
    assert open_run("7d").id == "2-train"
    assert [run.id for run in select("train")] == ["1-train", "2-train", "9-train"]
    assert open_run("8-other").name == "other"
    assert len(select(str(home / "runs" / "*-train"))) == 3
    with pytest.raises(UserError, match="did you mean train"):
        open_run("trian")


def test_a_saved_run_opens_although_a_file_or_directory_has_its_name(home, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("train", "serve.py", "latest"):
        write_finished(home / "runs" / name, name=name)
    (tmp_path / "train" / "images").mkdir(parents=True)
    (tmp_path / "serve.py").touch()
    assert open_run("train").name == open_recorded("train").run.name == "train"
    assert open_run("serve.py").name == open_recorded("serve.py").run.name == "serve.py"
    write_finished(tmp_path / "train" / "1", name="inner")
    assert open_run("train").name == "inner", "what the directory contains comes first"


# Programs with a meter.


def test_a_meter_with_a_directory_writes_a_record(tmp_path, monkeypatch):
    monkeypatch.setenv("JOULELAB_PROJECT", "digits")
    monkeypatch.setenv("JOULELAB_PHASE", "training")
    with Meter(sensors=MACHINE, directory=tmp_path / "mine") as meter, meter.span("epoch"):
        time.sleep(0.1)
    run = open_run(tmp_path / "mine")
    assert (run.kind, run.status, run.project, run.phase) == ("meter", "done", "digits", "train")
    assert run.machine == describe()
    assert run.command
    assert run.name
    (span,) = run.spans
    assert span.gross_j == meter.energy("epoch").gross_j
    assert run.energy.gross_j >= span.gross_j


def test_a_program_that_fails_leaves_a_failed_run(tmp_path):
    with pytest.raises(ZeroDivisionError), Meter(sensors=MACHINE, directory=tmp_path / "mine"):
        raise ZeroDivisionError
    run = open_run(tmp_path / "mine")
    assert run.status == "failed"
    assert run.failure["kind"] == "ZeroDivisionError"


def test_a_second_run_with_the_same_directory_gets_one_next_to_it(tmp_path):
    for expected in ("mine", "mine-2", "mine-3"):
        if expected == "mine":
            meter = Meter(sensors=MACHINE, directory=tmp_path / "mine")
        else:
            with pytest.warns(UserWarning, match=f"this run is saved in .*{expected}"):
                meter = Meter(sensors=MACHINE, directory=tmp_path / "mine")
        meter.close()
        assert meter.directory == tmp_path / expected
    assert len(open_runs(tmp_path)) == 3


def test_every_command_takes_the_run_of_a_meter(tmp_path, run):
    for name in ("one", "two"):
        with Meter(sensors=MACHINE, directory=tmp_path / name) as meter:
            for index in range(3):
                with meter.span("epoch", index=index):
                    time.sleep(0.1)
    one, two = (str(tmp_path / name) for name in ("one", "two"))
    code, printed, _ = run("ledger", tmp_path, "--json")
    assert (code, json.loads(printed)["total"]["records"]) == (0, 2)
    code, printed, _ = run("compare", one, two, "--span", "epoch", "--json")
    assert code == 0
    assert json.loads(printed)["effect"]["ratio"] > 0
    code, printed, _ = run("forecast", one, "--epochs", "100", "--json")
    assert code == 0
    assert json.loads(printed)["gross_j"] > 0
    code, printed, _ = run("watch", one, "--once")
    assert code == 0
    assert "ended" in printed


# Records of earlier versions.


def test_jobs_of_the_first_version_open_as_runs():
    runs = open_runs(OLD / "jobs")
    assert {run.id for run in runs} >= {path.name for path in (OLD / "jobs").glob("*/*")}
    assert all(run.kind == "command" for run in runs)
    train, killed = open_run(OLD / "jobs/before/job-0"), open_run(OLD / "jobs/killed/job-0")
    raw = json.loads((OLD / "jobs/before/job-0/run.json").read_text())
    assert raw["phase"] == "training"
    assert (train.phase, train.status) == ("train", "done")
    assert train.energy.to_json() == raw["energy"] | {"notes": list(train.energy.notes)}
    assert [span.name for span in train.spans] == [span["name"] for span in raw["spans"]]
    assert (killed.status, killed.exit_code) == ("unfinished", None)
    assert killed.energy.gross_j > 0


def test_studies_of_the_first_version_open_with_net_energies():
    small, large = read_studies([OLD / "studies" / f"{one}-batches" for one in ("small", "large")])
    assert (small.label, large.label) == ("small-batches", "large-batches")
    for study in (small, large):
        assert len(study.cells()) == study.cells_planned == 4
        assert len(study.idles()) == 4
        assert study.damaged == ()
        (machine,) = study.machines()
        for run in study.cells():
            raw = json.loads((run.directory / "run.json").read_text())
            assert (run.model, run.machine) == (raw["factors"]["model"], machine)
            for phase, result in run.study.results.items():
                assert result.energy.gross_j == raw["results"][phase]["energy"]["gross_j"]
                assert not math.isnan(result.energy.net_j)
                assert result.values["samples"] == raw["results"][phase]["samples"]
            assert len(run.study.epochs) == len(raw["epochs"])
            assert not any(math.isnan(epoch.energy.net_j) for epoch in run.study.epochs)
            assert open_run(run.directory).to_json() == run.to_json()
    everything = select(str(OLD / "studies"))
    assert len(everything) == 8


def test_a_damaged_run_of_a_study_is_listed_with_its_problem(tmp_path):
    shutil.copytree(OLD / "studies" / "small-batches", tmp_path / "study")
    first, second, third, *_ = sorted((tmp_path / "study" / "runs").iterdir())
    (first / "run.json").write_text("{")
    (second / "run.json").unlink()
    (third / "run.json").write_text(json.dumps({"schema": 99, "run_id": third.name}))
    (study,) = read_studies([tmp_path / "study", tmp_path / "study" / ".." / "study"])
    assert [one.id for one in study.damaged] == [first.name, second.name, third.name]
    assert "run.json" in study.damaged[1].problem
    assert "99" in study.damaged[2].problem
    errors = []
    assert len(open_runs(tmp_path, on_error=errors.append)) == 5
    assert len(errors) == 3


def test_an_epoch_of_an_unknown_phase_is_refused(tmp_path):
    path, *_ = sorted((OLD / "studies").rglob("*-linear-*/run.json"))
    record = json.loads(path.read_text())
    del record["epochs"][0]["phase"]
    (tmp_path / "run.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match=r"is damaged.*phase"):
        read_run(tmp_path)


def test_the_project_of_a_study_is_that_of_its_runs(tmp_path):
    shutil.copytree(OLD / "studies" / "small-batches", tmp_path / "study")
    labels = {"schema": "joulelab-ledger-1", "project": "digits", "phase": "experimentation"}
    (tmp_path / "study" / "ledger.json").write_text(json.dumps(labels))
    assert study_labels(tmp_path / "study") == ("digits", "experiment")
    assert {run.project for run in open_runs(tmp_path)} == {"digits"}
    (tmp_path / "study" / "ledger.json").write_text("{}")
    with pytest.raises(UserError, match="tag the study again"):
        study_labels(tmp_path / "study")


def test_the_sum_of_spans_keeps_a_component_that_one_of_them_lacks():
    from joulelab.energy.energy import Energy
    from joulelab.runs.record import sum_of_known

    energy = measured()[0]["energy"]
    found = sum_of_known([energy, Energy(duration_s=1.0, absent={"gpu:0": "too short"}), energy])
    assert found.gross_j == 2 * energy.gross_j
    assert found.duration_s == pytest.approx(2 * energy.duration_s + 1.0)
    assert found.absent == {}


def test_a_directory_with_one_run_stands_for_it(tmp_path):
    run = write_finished(tmp_path / "job" / "node1" / "1")
    assert open_run(tmp_path / "job").id == run.id
    write_finished(tmp_path / "job" / "node2" / "1")
    with pytest.raises(UserError, match=r"contains 2 runs .* `joulelab gather "):
        open_run(tmp_path / "job")
