"""The study's directory: whole or not at all, one writer, nothing hidden."""

import json
import math
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulelab.errors import StoreError
from joulelab.runs.store import SCHEMA, Store, plain
from joulelab.study.plan import Plan

PLAN = Plan(name="a", models=["LeNet"])


def run_of(run_id: str, **more) -> dict:
    return {"schema": SCHEMA, "run_id": run_id, "kind": "cell", "status": "done"} | more


def test_a_finished_run_is_read_back(tmp_path):
    with Store.create(tmp_path / "s", PLAN) as store:
        partial = store.begin("r0-a")
        (partial / "trace.bin").write_bytes(b"readings")
        store.finish(partial, run_of("r0-a", loss=math.nan, spans=[{"x": math.inf}]))
    (record,) = Store.open(tmp_path / "s").runs()
    assert (record.run_id, record.status, record.problem) == ("r0-a", "done", None)
    assert record.data["loss"] is None
    assert record.data["spans"] == [{"x": None}]
    assert (record.directory / "trace.bin").read_bytes() == b"readings"
    assert not list((tmp_path / "s" / ".partial").iterdir())


def test_the_plan_is_kept_with_all_defaults(tmp_path):
    Store.create(tmp_path, PLAN).close()
    assert Store.open(tmp_path).plan == PLAN
    assert "weight_decay = 0.0005" in (tmp_path / "plan.toml").read_text()


def test_what_is_under_way_is_no_run_and_is_swept_away(tmp_path):
    with Store.create(tmp_path, PLAN) as store:
        partial = store.begin("r0-a")
        (partial / "run.json").write_text("{}")
        assert store.runs() == []
    assert partial.exists()
    with Store.create(tmp_path, PLAN) as store:
        assert not partial.exists()
        assert store.runs() == []


def test_beginning_again_empties_the_directory(tmp_path):
    with Store.create(tmp_path, PLAN) as store:
        (store.begin("r0-a") / "old").touch()
        assert list(store.begin("r0-a").iterdir()) == []


def test_discarding_makes_a_run_missing(tmp_path):
    with Store.create(tmp_path, PLAN) as store:
        store.finish(store.begin("r0-a"), run_of("r0-a"))
        store.discard("r0-a")
        assert store.runs() == []


def test_another_plan_is_refused_and_named(tmp_path):
    Store.create(tmp_path, PLAN).close()
    other = PLAN.replaced(repeats=3, factors={"batch_size": [64]})
    with pytest.raises(StoreError) as caught:
        Store.create(tmp_path, other)
    said = str(caught.value)
    assert "repeats is 1 there and 3 here" in said
    assert "factors.batch_size is [128] there and [64] here" in said
    assert "--out" in said
    assert Store.open(tmp_path).plan == PLAN


def test_a_directory_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(StoreError, match=r"is no study, and not empty: it holds thesis\.tex"):
        Store.create(tmp_path, PLAN)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_study_that_was_killed_before_its_plan_was_written_begins_anew(tmp_path):
    (tmp_path / ".lock").touch()
    (tmp_path / ".plan.toml.77.new").write_text('name = "hal')
    with Store.create(tmp_path, PLAN) as store:
        assert store.runs() == []


def test_the_files_of_tables_and_reports_do_not_disturb(tmp_path):
    Store.create(tmp_path, PLAN).close()
    (tmp_path / "results.csv").touch()
    Store.create(tmp_path, PLAN).close()


def test_a_directory_that_is_no_study_cannot_be_read(tmp_path):
    with pytest.raises(StoreError, match=r"is no study: it has no plan\.toml"):
        Store.open(tmp_path)


def test_a_damaged_plan_is_a_store_error(tmp_path):
    (tmp_path / "plan.toml").write_text("models = [")
    with pytest.raises(StoreError, match=r"plan\.toml is damaged"):
        Store.open(tmp_path)
    with pytest.raises(StoreError, match=r"plan\.toml is damaged"):
        Store.create(tmp_path, PLAN)


@pytest.mark.parametrize("below", ["file", "file/deeper"])
def test_a_path_that_cannot_be_a_directory(tmp_path, below):
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"cannot make .*choose another path"):
        Store.create(tmp_path / below, PLAN)


def test_a_second_runner_is_refused_and_the_lock_ends_with_its_holder(tmp_path):
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys; from joulelab.storage import Lock; from pathlib import Path\n"
            "lock = Lock(Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()",
            str(tmp_path / ".lock"),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    partial = tmp_path / ".partial" / "r0-a-1"
    partial.mkdir(parents=True)
    with pytest.raises(StoreError, match=f"in use: process {holder.pid} is running"):
        Store.create(tmp_path, PLAN)
    assert partial.exists()
    holder.kill()
    holder.communicate()
    Store.create(tmp_path, PLAN).close()
    assert not partial.exists()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (None, "run.json is missing"),
        ("", "run.json is not JSON"),
        ('{"schema": 1', "run.json is not JSON"),
        ("[]", "run.json is no object"),
        ('{"schema": 99}', "has schema 99; this version reads 1"),
        (json.dumps(run_of("r0-b")), "is of run 'r0-b'"),
        (json.dumps(run_of("r0-a", kind="x")), "has no kind or no status"),
        (json.dumps(run_of("r0-a", status="half")), "has no kind or no status"),
    ],
)
def test_damage_is_told_and_not_hidden(tmp_path, text, problem):
    Store.create(tmp_path, PLAN).close()
    run = tmp_path / "runs" / "r0-a"
    run.mkdir()
    if text is not None:
        (run / "run.json").write_text(text)
    (record,) = Store.open(tmp_path).runs()
    assert (record.run_id, record.status, record.data) == ("r0-a", "damaged", {})
    assert problem in record.problem


def test_a_full_disk_loses_nothing_finished(tmp_path):
    with Store.create(tmp_path, PLAN) as store:
        store.finish(store.begin("r0-a"), run_of("r0-a"))
        partial = store.begin("r0-b")
        # Every write to /dev/full fails as on a full disk.
        (partial / f".run.json.{os.getpid()}.partial").symlink_to("/dev/full")
        with pytest.raises(StoreError, match="No space left on device; free some space") as caught:
            store.finish(partial, run_of("r0-b"))
        assert "\n" not in str(caught.value)
        assert [record.run_id for record in store.runs()] == ["r0-a"]
        store.finish(store.begin("r0-b"), run_of("r0-b"))
        assert [record.run_id for record in store.runs()] == ["r0-a", "r0-b"]


@pytest.mark.parametrize("failing", ["fsync", "rename"])
def test_a_run_appears_whole_or_not_at_all(tmp_path, monkeypatch, failing):
    with Store.create(tmp_path, PLAN) as store:
        partial = store.begin("r0-a")

        def fail(*_arguments):
            raise OSError(5, "Input/output error")

        with monkeypatch.context() as patch:
            patch.setattr(os, failing, fail)
            if failing == "rename":
                patch.setattr("pathlib.Path.rename", fail)
            with pytest.raises(StoreError, match="Input/output error"):
                store.finish(partial, run_of("r0-a"))
        assert store.runs() == []
        store.finish(store.begin("r0-a"), run_of("r0-a"))
        assert len(store.runs()) == 1


JSON_LIKE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(JSON_LIKE)
def test_what_is_not_finite_becomes_null_and_all_else_stays(value):
    def expected(item):
        if isinstance(item, dict):
            return {key: expected(inner) for key, inner in item.items()}
        if isinstance(item, list):
            return [expected(inner) for inner in item]
        return None if isinstance(item, float) and not math.isfinite(item) else item

    assert json.loads(json.dumps(plain(value), allow_nan=False)) == expected(value)
