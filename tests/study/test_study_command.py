"""``joulelab study`` as a user runs it."""

import json
import os
import signal
import subprocess
import sys

import pytest
from waiting import wait_for

from joulelab.runs.study_runs import read_study


@pytest.fixture
def plan_file(tmp_path, tiny_plan):
    path = tmp_path / "plan.toml"
    path.write_text(tiny_plan.replaced(models=["tiny_models:linear"]).to_toml())
    return path


def test_a_study_ends_with_a_table_results_and_a_report(plan_file, tmp_path, run):
    out = tmp_path / "out"
    code, listed, _ = run("study", plan_file, "--out", out, "--list")
    assert code == 0
    rows = [line.split() for line in listed.splitlines()]
    assert ["model", "done", "missing"] in rows
    assert ["tiny_models:linear", "0", "2"] in rows
    assert (
        "2 cells in 2 blocks, 2 missing, and 0.2 s of idle before and after each block." in listed
    )
    assert listed.count("unknown") == 1
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


def test_a_list_ends_with_what_the_run_would_refuse(tmp_path, tiny_plan, run):
    path = tmp_path / "plan.toml"
    path.write_text(tiny_plan.replaced(models=["tiny_models:linear", "tiny_models:cube"]).to_toml())
    code, listed, error = run("study", path, "--out", tmp_path / "out", "--list")
    assert code == 2
    assert "4 cells in 2 blocks" in listed
    assert "no model 'tiny_models:cube': tiny_models has no 'cube'" in error


def test_a_list_has_a_column_for_each_varying_factor_and_says_once_what_is_unknown(
    tiny_plan, tmp_path, run
):
    factors = {"batch_size": [16, 8], "precision": ["fp32", "bf16"], "optimizer": ["sgd"]}
    plan = tiny_plan.replaced(
        factors=factors, repeats=1, train={"seconds": 2.0}, infer={"seconds": 1.0}
    )
    (tmp_path / "plan.toml").write_text(plan.to_toml())
    code, listed, _ = run("study", tmp_path / "plan.toml", "--out", tmp_path / "out", "--list")
    assert code == 0
    header, *rows = [line.split() for line in listed.splitlines() if " s" in line or "mod" in line]
    assert header == ["model", "batch_size", "precision", "done", "missing", "time"]
    assert rows[:2] == [
        ["tiny_models:tiny", "16", "fp32", "0", "1", "3.00", "s"],
        ["tiny_models:tiny", "16", "bf16", "0", "1", "3.00", "s"],
    ]
    assert "8 cells in 1 block, 8 missing: about 24.0 s, and 0.2 s of idle" in listed
    assert listed.count("unknown") == 1
    assert "The energy of a cell is unknown until one has run." in listed


def test_a_study_in_which_every_cell_fails_exits_with_1(
    plan_file, tmp_path, run, monkeypatch, fake_worker, answer
):
    failure = {"kind": "error", "reason": "this model cannot be built"}
    worker = fake_worker(
        lambda request: {"body": answer(status="failed", failure=failure, results={}, measured=[])}
    )
    monkeypatch.setattr("joulelab.fleet.engines.engine_named", lambda name: worker.engine)
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
        ([], "joulelab: a study needs a plan; name a TOML file or a preset: batch-size, language"),
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


def test_when_interrupted_it_says_how_to_continue(plan_file, tmp_path):
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
