"""``joulelab study`` as a user runs it."""

import json
import os
import signal
import subprocess
import sys
from functools import partial

import pytest

from joulelab.runs.study_runs import read_study
from joulelab.study import runner


@pytest.fixture
def plan_file(tmp_path, tiny_plan):
    path = tmp_path / "plan.toml"
    path.write_text(tiny_plan.replaced(models=["tiny_models:linear"]).to_toml())
    return path


def test_a_study_ends_with_a_table_results_and_a_report(plan_file, tmp_path, run):
    out = tmp_path / "out"
    code, listed, _ = run("study", plan_file, "--out", out, "--list")
    assert (code, listed.count(" missing ")) == (0, 2)
    assert "2 cells, 2 missing, estimated: unknown" in listed
    assert not out.exists()

    code, printed, progress = run("study", plan_file, "--out", out)
    assert code == 0, progress
    lines = printed.splitlines()
    assert any(line.split()[:2] == ["model", "phase"] for line in lines)
    assert any("train" in line for line in lines)
    assert any("infer" in line for line in lines)
    assert f"Report:  {out / 'report.html'}" in lines
    assert (out / "report.html").stat().st_size > 0
    progress = progress.splitlines()
    assert progress[0].startswith("[0/2] r0-idle-before idle ")
    assert sum("linear" in line and "J" in line for line in progress) == 2

    code, printed, progress = run("study", plan_file, "--out", out, "--json")
    assert (code, progress) == (0, "")
    figures = json.loads(printed)
    assert (figures["cells"], figures["failed"]) == (2, 0)
    assert {row["phase"] for row in figures["rows"]} == {"train", "infer"}
    assert all(row["gross_j"] > 0 and row["n"] == 2 for row in figures["rows"])

    listed = json.loads(run("study", plan_file, "--out", out, "--list", "--json")[1])
    assert [cell["status"] for cell in listed["cells"]] == ["done", "done"]
    assert all(cell["cost"]["energy_j"] > 0 for cell in listed["cells"])
    assert listed["missing"] == 0

    code, _, message = run("study", plan_file, "--out", out, "--set", "repeats=3")
    assert code == 2
    assert "has another plan: repeats is 2 there and 3 here" in message
    assert len(message.splitlines()) == 1


def test_a_study_in_which_every_cell_fails_exits_with_1(
    plan_file, tmp_path, run, monkeypatch, fake_worker, answer
):
    failure = {"kind": "error", "reason": "this model cannot be built"}
    worker = fake_worker(
        lambda request: {"body": answer(status="failed", failure=failure, results={}, measured=[])}
    )
    start = partial(runner.run_study, engine=worker.engine)
    monkeypatch.setattr(runner, "run_study", start)
    code, printed, message = run(
        "study", plan_file, "--out", tmp_path / "out", "--set=repeats=1", "--set=idle_s=0"
    )
    assert code == 1, message
    assert "1 of 1 cell failed" in printed
    assert "this model cannot be built" in message


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["quik"], "joulelab: no plan 'quik': neither a file nor a preset; did you mean quick?"),
        (["quick", "--set", "repeats=0"], "joulelab: quick: repeats: 0 is not valid"),
        (["quick", "--out", "/dev/null/x"], "joulelab: cannot make /dev/null/x: Not a directory"),
    ],
)
def test_a_wrong_request_is_one_line_and_exit_code_2(tmp_path, monkeypatch, run, arguments, said):
    monkeypatch.chdir(tmp_path)
    code, printed, message = run("study", *arguments)
    assert (code, printed) == (2, "")
    assert said in message
    assert len(message.splitlines()) == 1


def test_when_interrupted_it_says_how_to_continue(plan_file, tmp_path, wait_for):
    out = tmp_path / "out"
    command = [sys.executable, "-m", "joulelab", "study", str(plan_file), "--out", str(out)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        wait_for(lambda: list(out.glob("runs/*/run.json")), what="a finished run")
        os.kill(process.pid, signal.SIGINT)
        _, message = process.communicate()
    finally:
        process.kill()
    assert process.returncode == 130
    last = message.splitlines()[-1]
    assert last.startswith("joulelab: interrupted; finished cells are saved")
    assert f"joulelab study {plan_file} --out {out}" in last
    assert read_study(out).damaged == ()
