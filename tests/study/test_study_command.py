"""``joulelab study`` as a person runs it."""

import json
import os
import signal
import subprocess
import sys

import pytest

from joulelab.runs.store import Store

JOULELAB = [sys.executable, "-m", "joulelab", "study"]


@pytest.fixture
def plan_file(tmp_path, tiny_plan):
    path = tmp_path / "plan.toml"
    path.write_text(tiny_plan.replaced(models=["tiny_models:linear"]).to_toml())
    return path


def run(*arguments) -> subprocess.CompletedProcess:
    command = [*JOULELAB, *map(str, arguments)]
    return subprocess.run(command, check=False, capture_output=True, text=True)


def test_a_study_ends_with_a_table_results_and_a_report(plan_file, tmp_path):
    out = tmp_path / "out"
    listed = run(plan_file, "--out", out, "--list")
    assert listed.stdout.count(" missing ") == 2
    assert "2 cells, 2 missing: about unknown" in listed.stdout
    assert not out.exists()

    first = run(plan_file, "--out", out)
    assert first.returncode == 0, first.stderr
    lines = first.stdout.splitlines()
    assert lines[0].split()[:2] == ["model", "phase"]
    assert any("train" in line for line in lines)
    assert any("infer" in line for line in lines)
    assert f"Report:  {out / 'report.html'}" in lines
    assert (out / "report.html").stat().st_size > 0
    progress = first.stderr.splitlines()
    assert progress[0].startswith("[0/2] r0-idle-before idle 0.2 s")
    assert sum("linear" in line and "J" in line for line in progress) == 2

    again = run(plan_file, "--out", out, "--json")
    assert again.returncode == 0, again.stderr
    figures = json.loads(again.stdout)
    assert (figures["cells"], figures["failed"]) == (2, 0)
    assert {row["phase"] for row in figures["rows"]} == {"train", "infer"}
    assert all(row["gross_j"] > 0 and row["n"] == 2 for row in figures["rows"])
    assert again.stderr == ""

    listed = json.loads(run(plan_file, "--out", out, "--list", "--json").stdout)
    assert [cell["status"] for cell in listed["cells"]] == ["done", "done"]
    assert all(cell["cost"]["energy_j"] > 0 for cell in listed["cells"])
    assert listed["missing"] == 0

    other = run(plan_file, "--out", out, "--set", "repeats=3")
    assert other.returncode == 2
    assert "holds another plan: repeats is 2 there and 3 here" in other.stderr
    assert len(other.stderr.splitlines()) == 1


def test_a_study_of_which_every_cell_fails_exits_with_1(plan_file, tmp_path):
    out = tmp_path / "out"
    broken = ['--set=models=["tiny_models:broken"]', "--set=repeats=1", "--set=idle_s=0"]
    done = run(plan_file, "--out", out, *broken)
    assert done.returncode == 1, done.stderr
    assert "1 of 1 cells failed" in done.stdout
    assert "this model cannot be built" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["quik"], "joulelab: no plan 'quik': neither a file nor a preset; did you mean quick?"),
        (["quick", "--set", "repeats=0"], "joulelab: quick: repeats: 0 will not do"),
        (["quick", "--out", "/dev/null/x"], "joulelab: cannot make /dev/null/x: Not a directory"),
        (["quick", "--set", 'sensors=["gpuu"]', "--out", "s"], "gpuu"),
    ],
)
def test_a_wrong_request_is_one_line_and_exit_code_2(tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    done = run(*arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""


def test_interrupted_it_says_how_to_go_on(plan_file, tmp_path, wait_for):
    out = tmp_path / "out"
    process = subprocess.Popen(
        [*JOULELAB, str(plan_file), "--out", str(out)], stderr=subprocess.PIPE, text=True
    )
    try:
        wait_for(lambda: list(out.glob("runs/*/run.json")), what="a finished run")
        os.kill(process.pid, signal.SIGINT)
        _, said = process.communicate()
    finally:
        process.kill()
    assert process.returncode == 130
    last = said.splitlines()[-1]
    assert last.startswith("joulelab: interrupted; finished cells are kept")
    assert f"joulelab study {plan_file} --out {out}" in last
    assert all(record.problem is None for record in Store.open(out).runs())


def test_help_has_an_example():
    shown = run("--help")
    assert shown.returncode == 0
    assert "joulelab study quick" in shown.stdout
