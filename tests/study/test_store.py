"""The directory of a study: written whole or not at all, by one writer."""

import errno
import json
import math
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulelab.errors import StoreError
from joulelab.format import finite_or_none
from joulelab.machine import describe
from joulelab.runs.study_runs import read_study
from joulelab.study.plan import Plan
from joulelab.study.store import StudyStore

PLAN = Plan(name="a", models=["LeNet"])


def record_of(run_id: str, **more) -> dict:
    """The record of an idle run."""
    return {
        "id": run_id,
        "kind": "study",
        "name": f"a/{run_id}",
        "study": "a",
        "idle": True,
        "status": "done",
        "host": "here",
        "machine": describe().to_json(),
        "started_unix_s": 1000.0,
        "block": 0,
        "order": None,
        "repeat": 0,
        "seed": None,
        "phases": ["idle"],
        "characteristics": None,
        "data": {},
        "results": {},
        "epochs": [],
        "measured": [],
    } | more


def open_store(directory, plan=PLAN):
    return StudyStore(directory, plan.to_dict())


def names(directory):
    study = read_study(directory)
    assert study.damaged == ()
    return [run.id for run in study.runs]


def test_a_finished_run_is_read_back(tmp_path):
    settings = {"loss": math.nan, "spans": [{"x": math.inf}]}
    with open_store(tmp_path / "s") as store:
        partial = store.begin("r0-a")
        (partial / "trace.bin").write_bytes(b"readings")
        written = store.finish(partial, record_of("r0-a", settings=settings))
    (run,) = read_study(tmp_path / "s").runs
    assert run.to_json() == written.to_json()
    assert (run.id, run.status) == ("r0-a", "done")
    assert run.settings == {"loss": None, "spans": [{"x": None}]}
    assert (run.directory / "trace.bin").read_bytes() == b"readings"
    assert not list((tmp_path / "s" / ".partial").iterdir())


def test_the_plan_is_saved_with_all_defaults(tmp_path):
    open_store(tmp_path).__exit__()
    study = read_study(tmp_path)
    assert study.plan == PLAN.to_dict()
    assert Plan.model_validate(study.plan) == PLAN
    assert "weight_decay = 0.0005" in study.plan_text


def test_an_unfinished_run_is_removed_at_the_next_start(tmp_path):
    with open_store(tmp_path) as store:
        partial = store.begin("r0-a")
        (partial / "run.json").write_text("{}")
        assert names(tmp_path) == []
    assert partial.exists()
    with open_store(tmp_path):
        assert not partial.exists()
        assert names(tmp_path) == []


def test_beginning_again_empties_the_directory(tmp_path):
    with open_store(tmp_path) as store:
        (store.begin("r0-a") / "old").touch()
        assert list(store.begin("r0-a").iterdir()) == []


def test_a_discarded_run_is_missing(tmp_path):
    with open_store(tmp_path) as store:
        store.finish(store.begin("r0-a"), record_of("r0-a"))
        store.discard("r0-a")
        assert names(tmp_path) == []


def test_another_plan_is_refused_with_the_differences(tmp_path):
    open_store(tmp_path).__exit__()
    other = PLAN.replaced(repeats=3, factors={"batch_size": [64]})
    with pytest.raises(StoreError) as caught:
        open_store(tmp_path, other)
    message = str(caught.value)
    assert "repeats is 1 there and 3 here" in message
    assert "factors.batch_size is [128] there and [64] here" in message
    assert "--out" in message
    assert read_study(tmp_path).plan == PLAN.to_dict()


def test_a_directory_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(StoreError, match=r"is not a study, and not empty: it contains thesis\.tex"):
        open_store(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_study_that_was_killed_before_its_plan_was_written_starts_again(tmp_path):
    (tmp_path / ".lock").touch()
    (tmp_path / ".joulelab-1f.partial").write_text('name = "hal')
    with open_store(tmp_path):
        assert names(tmp_path) == []


def test_tables_and_reports_do_not_disturb(tmp_path):
    open_store(tmp_path).__exit__()
    (tmp_path / "results.csv").touch()
    open_store(tmp_path).__exit__()


def test_a_directory_that_is_not_a_study_cannot_be_read(tmp_path):
    with pytest.raises(StoreError, match=r"is not a study: it has no plan\.toml"):
        read_study(tmp_path)


def test_a_damaged_plan_is_refused(tmp_path):
    (tmp_path / "plan.toml").write_text("models = [")
    for open_it in (read_study, open_store):
        with pytest.raises(StoreError, match=r"plan\.toml is damaged"):
            open_it(tmp_path)


@pytest.mark.parametrize("below", ["file", "file/deeper"])
def test_a_path_that_cannot_be_a_directory_is_refused(tmp_path, below):
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"cannot make .*choose another path"):
        open_store(tmp_path / below)


def test_a_second_runner_is_refused_and_the_lock_ends_with_its_process(tmp_path):
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys; from joulelab.storage import Lock; from pathlib import Path\n"
            "lock = Lock(Path(sys.argv[1])); print('locked', flush=True); sys.stdin.read()",
            str(tmp_path / ".lock"),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"locked\n"
    partial = tmp_path / ".partial" / "r0-a-1"
    partial.mkdir(parents=True)
    with pytest.raises(StoreError, match=f"in use: process {holder.pid} is running"):
        open_store(tmp_path)
    assert partial.exists()
    holder.kill()
    holder.communicate()
    open_store(tmp_path).__exit__()
    assert not partial.exists()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (None, "run.json is missing"),
        ("", "cannot read run.json"),
        ('{"schema": 1', "cannot read run.json"),
        ("[]", "not the record of a run"),
        ('{"schema": 99, "run_id": "x"}', "this version cannot read schema 99"),
        (
            json.dumps({"schema": "joulelab-run-2"} | record_of("r0-b")),
            "run.json is of another run, 'a/r0-b'",
        ),
        (json.dumps({"schema": "joulelab-run-2"} | record_of("r0-a", kind="x")), "kind"),
        (json.dumps({"schema": "joulelab-run-2"} | record_of("r0-a", status="half")), "status"),
    ],
)
def test_damage_is_reported_and_not_hidden(tmp_path, text, problem):
    open_store(tmp_path).__exit__()
    run = tmp_path / "runs" / "r0-a"
    run.mkdir()
    if text is not None:
        (run / "run.json").write_text(text)
    study = read_study(tmp_path)
    assert study.runs == ()
    (damaged,) = study.damaged
    assert damaged.id == "r0-a"
    assert problem in damaged.problem


def test_a_full_disk_loses_nothing_finished(tmp_path, monkeypatch):
    with open_store(tmp_path) as store:
        store.finish(store.begin("r0-a"), record_of("r0-a"))
        partial = store.begin("r0-b")

        def full(_):
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            with pytest.raises(StoreError, match="No space left on device; free some") as caught:
                store.finish(partial, record_of("r0-b"))
        assert "\n" not in str(caught.value)
        assert names(tmp_path) == ["r0-a"]
        store.finish(store.begin("r0-b"), record_of("r0-b"))
        assert names(tmp_path) == ["r0-a", "r0-b"]


@pytest.mark.parametrize("failing", ["fsync", "rename"])
def test_a_run_appears_whole_or_not_at_all(tmp_path, monkeypatch, failing):
    with open_store(tmp_path) as store:
        partial = store.begin("r0-a")

        def fail(*_arguments):
            raise OSError(5, "Input/output error")

        with monkeypatch.context() as patch:
            patch.setattr(os, failing, fail)
            if failing == "rename":
                patch.setattr("pathlib.Path.rename", fail)
            with pytest.raises(StoreError, match="Input/output error"):
                store.finish(partial, record_of("r0-a"))
        assert names(tmp_path) == []
        store.finish(store.begin("r0-a"), record_of("r0-a"))
        assert names(tmp_path) == ["r0-a"]


JSON_LIKE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(JSON_LIKE)
def test_numbers_that_are_not_finite_become_null(value):
    def expected(item):
        if isinstance(item, dict):
            return {key: expected(inner) for key, inner in item.items()}
        if isinstance(item, list):
            return [expected(inner) for inner in item]
        return None if isinstance(item, float) and not math.isfinite(item) else item

    assert json.loads(json.dumps(finite_or_none(value), allow_nan=False)) == expected(value)
