"""The cost of a study so far, its estimate, and its progress on standard error."""

import math
from dataclasses import replace

import pytest

from joulelab.runs.study_runs import read_study
from joulelab.study.cells import blocks
from joulelab.study.progress import Cost, Display, cost_of_all, describe_run, spent
from joulelab.study.runner import run_study


@pytest.fixture
def runs(tiny_plan, tmp_path, fake_worker, answer):
    """The runs of a study whose linear cell fails; each takes 3 s, and 400 J if it succeeds."""
    failure = {"kind": "error", "reason": "no memory"}

    def each(request):
        if request["do"] == "idle" or "linear" not in request["factors"]["model"]:
            return {"body": answer()}
        return {"body": answer(status="failed", failure=failure, results={}, measured=[])}

    plan = tiny_plan.replaced(repeats=1)
    run_study(tmp_path / "s", plan, engine=fake_worker(each).engine)
    return {run.id: run for run in read_study(tmp_path / "s").runs}


def test_costs_are_added_up_and_estimated_from_like_runs(tiny_plan, runs):
    assert spent(runs.values()) == Cost(12.0, 1200.0)
    assert math.isnan(spent([]).energy_j)
    cells = [cell for block in blocks(tiny_plan) for cell in block]
    estimate = cost_of_all(cells, tiny_plan, list(runs.values()))
    assert (estimate.duration_s, estimate.energy_j) == (12.0, 1600.0)
    assert math.isnan(cost_of_all(cells, tiny_plan, []).duration_s)


def test_a_run_is_described_in_one_line(runs):
    texts = [describe_run(run) for run in runs.values()]
    assert sum(text.endswith("failed (error): no memory") for text in texts) == 1
    assert sum("train 2.00 s, 400 J" in text for text in texts) == 1
    assert "r0-idle-before idle" in " ".join(texts)


def test_seconds_that_bound_another_length_are_the_longest_time(tiny_plan):
    plan = tiny_plan.replaced(
        train={"epochs": 2, "seconds": 9.0}, infer={"seconds": 1.0}, repeats=1
    )
    cells = blocks(plan)[0]
    assert cost_of_all(cells, plan, []).estimate == "at most 20.0 s"
    timed = plan.replaced(train={"seconds": 9.0})
    assert cost_of_all(cells, timed, []).estimate == "about 20.0 s"
    assert cost_of_all(cells, tiny_plan, []).estimate == ""


def test_a_phase_that_was_cut_short_says_so(runs):
    run = next(run for run in runs.values() if not run.study.is_idle and run.study.results)
    result = replace(run.study.results["train"], complete=False)
    cut = replace(run, study=replace(run.study, results={"train": result}))
    assert "train 2.00 s, 400 J, cut short by its limit in seconds" in describe_run(cut)


@pytest.mark.parametrize("terminal", [False, True])
def test_progress_is_a_bar_on_a_terminal_and_lines_elsewhere(runs, monkeypatch, capsys, terminal):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERM", "xterm")
    if terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")
    with Display(2, 0, Cost()) as display:
        for name, run in runs.items():
            display.start(name)
            display.phase({"name": "epoch", "phase": "train", "index": 1})
            display.finish(run, Cost(3.0, 400.0), Cost(6.0))
    printed = capsys.readouterr().err
    assert printed.count("r0-tiny-models-linear") >= 1
    assert "2/2" in printed
    assert ("\x1b[" in printed) is terminal
    if not terminal:
        assert len(printed.splitlines()) == len(runs)
        lines = printed.splitlines()
        assert lines[0].endswith("; so far 3.00 s, 400 J, about 6.00 s to go")
        assert lines[-1].endswith("; so far 3.00 s, 400 J")


def test_what_is_left_is_counted_until_it_can_be_estimated(runs, capsys):
    run = next(run for run in runs.values() if run.study.is_idle)
    with Display(2, 0, Cost()) as display:
        display.start(run.id)
        display.finish(run, Cost(3.0), Cost())
    assert capsys.readouterr().err.endswith("; so far 3.00 s, energy unknown, 2 cells to go\n")


def test_a_name_without_levels_is_followed_by_them(runs, capsys):
    run = next(run for run in runs.values() if not run.study.is_idle)
    with Display(1, 0, Cost()) as display:
        display.finish(run, Cost(3.0, 1.0), Cost(), label="r0-a-2df7 (bf16 and adamw) on node7")
    assert "[1/1] r0-a-2df7 (bf16 and adamw) on node7 " in capsys.readouterr().err
