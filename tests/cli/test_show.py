"""``joulelab show`` as users run it."""

import json
import re
from functools import partial

import pytest
from measured_runs import joulelab

from joulelab.format import duration, joules


@pytest.fixture
def show(two_runs):
    """A function that shows one of two runs of a script."""
    home, _ = two_runs
    return partial(joulelab, "show", home=home)


def test_show_prints_what_run_printed_and_more(show, two_runs):
    _, printed = two_runs
    shown = show().stdout.splitlines()
    missing = [line for line in printed.splitlines() if line not in shown]
    assert missing == []
    added = "\n".join(line for line in shown if line not in printed.splitlines())
    assert added.startswith("run ")
    assert "labels    name=nested" in added
    assert "epochs " in added


def test_spans_are_nested_and_state_total_and_each(show):
    shown = show("latest").stdout
    (total,) = json.loads(show("--json", "latest").stdout)["span_tree"]
    (epoch,) = re.findall(r"^spans     epoch +(3 times, .*)$", shown, re.MULTILINE)
    total_s, each_s = duration(total["duration_s"]), duration(total["mean_s"])
    assert epoch.startswith(f"3 times, {total_s} in total, {each_s} each ")
    assert re.search(r"J each, [\d.]+ J outside the spans below$", epoch)
    assert re.search(r"^            step +3 times, ", shown, re.MULTILINE)


def test_json_has_the_same_values(show):
    shown = show().stdout
    data = json.loads(show("--json").stdout)
    (epoch,) = data["span_tree"]
    (step,) = epoch["children"]
    assert (epoch["count"], step["count"]) == (3, 3)
    parts_j = epoch["self_j"] + step["gross_j"]
    assert parts_j == pytest.approx(epoch["gross_j"], rel=1e-9)
    (total,) = [one for one in data["spans"] if one["name"] == "epoch"]
    assert total["gross_j"] == pytest.approx(epoch["gross_j"], rel=1e-9)
    epochs_j = [one["gross_j"] for one in data["epochs"]]
    assert sum(epochs_j) == pytest.approx(epoch["gross_j"], rel=1e-9)
    assert data["last_time"]["id"] != data["id"]
    assert joules(data["energy"]["gross_j"], *data["energy"]["interval_j"]) in shown


@pytest.mark.parametrize("columns", [40, 60, 80, 120, 200])
def test_every_line_fits_the_terminal(show, columns):
    wide = show().stdout
    shown = show(COLUMNS=str(columns)).stdout
    assert shown.split() == wide.split()
    for line in shown.splitlines():
        has_long_word = max(map(len, line.split())) > columns - 10
        assert len(line) <= columns or has_long_word, line
    assert not re.search(r"\d\n +(J|W|Wh|ms|s|%)\b", shown), "a value has lost its unit"


def test_the_earlier_of_two_runs_is_not_compared_with_the_later_one(show):
    shown = show("previous")
    assert shown.returncode == 0
    assert "last time" not in shown.stdout


def test_a_run_without_its_trace_is_shown_from_its_record(show, tmp_path):
    record = json.loads(show("--json").stdout)
    copy = tmp_path / "copy"
    copy.mkdir()
    names = ("costs", "span_tree", "last_time", "epochs")
    (copy / "run.json").write_text(
        json.dumps({name: value for name, value in record.items() if name not in names})
    )
    shown = show(copy)
    assert shown.returncode == 0, shown.stderr
    assert re.search(r"^spans     epoch +3 times, ", shown.stdout, re.MULTILINE)
    assert "outside the spans below" not in shown.stdout


def test_a_run_that_does_not_exist_is_one_line_with_a_hint(show):
    done = show("nestd")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert "did you mean nested?" in done.stderr
