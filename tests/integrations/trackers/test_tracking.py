"""Trackers are found, fail without harm, and get a record under the documented names."""

import json
import os
import struct
import subprocess
import sys
import threading
import types

import pytest
from hypothesis import given
from hypothesis import strategies as st

import joulelab
from joulelab.errors import UserError
from joulelab.integrations import trackers
from joulelab.integrations.callback import EnergyHooks
from joulelab.integrations.trackers import record_values, tracking, wandb_tracker
from joulelab.run.options import parse
from joulelab.runs.tracker_choice import start_tracking


class Recorded:
    """A tracker that notes what it gets."""

    name, package = "Recorded", "recorded"

    def __init__(self):
        self.tracked, self.attached = [], 0

    def attach(self):
        self.attached += 1
        return True

    def environment(self, run_id):
        return {"RECORDED": run_id}

    def log(self, tracked):
        self.tracked.append(tracked)


class Failing(Recorded):
    name, package = "Failing", "failing"

    def __init__(self, error):
        super().__init__()
        self.error = error

    def log(self, tracked):
        raise self.error


@pytest.fixture(autouse=True)
def no_page(monkeypatch):
    """Leave out the page, which takes seconds."""
    monkeypatch.setattr(tracking, "_page", lambda _: None)


def test_the_record_that_is_logged_is_the_one_that_is_saved():
    tracker = Recorded()
    with joulelab.Meter(tracker=tracker) as meter, meter.span("epoch", index=0):
        pass
    [tracked] = tracker.tracked
    saved = json.loads((meter.directory / "run.json").read_text())
    assert json.loads(tracked.record) == saved
    assert tracked.totals["joulelab_total/gross_j"] == saved["energy"]["gross_j"]


def test_a_tracked_run_is_saved_under_the_id_of_its_label(tmp_path):
    tracker = Recorded()
    with joulelab.Meter(tracker=tracker):
        pass
    [tracked] = tracker.tracked
    assert joulelab.open_run(tracked.labels["joulelab.run_id"]).id == tracked.id
    assert tracked.labels["joulelab.run_directory"] == str(tmp_path / "home" / "runs" / tracked.id)


def test_a_failed_program_is_logged_as_failed():
    tracker = Recorded()
    with pytest.raises(ZeroDivisionError), joulelab.Meter(tracker=tracker):
        1 / 0  # noqa: B018
    assert tracker.tracked[0].labels["joulelab.status"] == "failed"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(28, "No space left on device"), "OSError: [Errno 28] No space left on device"),
        (SystemExit(1), "SystemExit: 1"),
        (UserError("no such place", hint="choose one"), "no such place; choose one"),
    ],
)
def test_a_tracker_that_fails_is_one_warning_and_others_get_the_record(error, reason):
    failing, other = Failing(error), Recorded()
    text = f"Failing does not have the energy of this run: {reason}"
    with pytest.warns(RuntimeWarning) as caught, joulelab.Meter(tracker=[failing, other]) as meter:
        pass
    assert [str(one.message)[: len(text)] for one in caught] == [text]
    assert len(other.tracked) == 1
    assert (meter.directory / "run.json").is_file()


def test_a_tracker_that_hangs_is_left_after_the_deadline(monkeypatch):
    monkeypatch.setattr(tracking, "DEADLINE_S", 0.05)
    answers = threading.Event()

    class Hanging(Recorded):
        def log(self, tracked):
            answers.wait()

    with pytest.warns(RuntimeWarning, match=r"it did not answer within 0\.05 s"):
        joulelab.Meter(tracker=Hanging()).close()
    answers.set()


def test_a_tracker_whose_run_cannot_be_found_does_not_end_the_program():
    class Unattached(Recorded):
        def attach(self):
            raise RuntimeError("no connection")

    tracker = Unattached()
    joulelab.Meter(tracker=tracker).close()
    assert len(tracker.tracked) == 1


def test_only_the_first_process_of_a_job_logs(monkeypatch):
    tracker = Recorded()
    for name, value in {
        "MASTER_ADDR": "localhost", "MASTER_PORT": "29500", "WORLD_SIZE": "2", "RANK": "1",
        "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    found = start_tracking(tracker)
    assert found.finish(None, None, None) == []
    assert (tracker.tracked, tracker.attached) == ([], 0)
    monkeypatch.setenv("RANK", "0")
    found.attach()
    assert tracker.attached == 1


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ("mlfow", r"there is no tracker 'mlfow'.*did you mean mlflow\?"),
        ("mlflow:here", "only tensorboard has a directory"),
        (3, "3 is not a tracker"),
    ],
)
def test_a_tracker_that_does_not_exist_is_an_error(choice, message):
    with pytest.raises(UserError, match=message):
        joulelab.Meter(tracker=choice)
    with pytest.raises(UserError, match=message):
        EnergyHooks(tracker=choice)


def test_a_tracker_that_is_not_installed_is_an_error(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(UserError, match="pip install mlflow"):
        joulelab.Meter(tracker="mlflow")


def fake_mlflow(active):
    """A module that is imported, and has an active run or none."""
    return types.SimpleNamespace(active_run=lambda: active, __spec__=None)


def test_an_imported_tracker_without_an_active_run_gets_nothing(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", fake_mlflow(None))
    assert start_tracking("auto") is None


def test_an_imported_tracker_that_is_broken_does_not_end_the_program(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", types.SimpleNamespace())
    assert start_tracking("auto") is None


@pytest.mark.parametrize(("value", "expected"), [("none", None), ("tensorboard:x", "TensorBoard")])
def test_a_variable_takes_the_place_of_what_is_found(monkeypatch, value, expected):
    pytest.importorskip("tensorboard")
    monkeypatch.setenv("JOULELAB_TRACKER", value)
    found = start_tracking("auto")
    assert expected == (found and found.trackers[0].name)
    assert [one.name for one in start_tracking(Recorded()).trackers] == ["Recorded"]


def test_measuring_a_block_logs_nothing(monkeypatch):
    monkeypatch.setenv("JOULELAB_TRACKER", "no such tracker")
    with joulelab.measure("block"):
        pass


def test_without_a_tracker_none_of_their_modules_is_imported():
    script = (
        "import sys, joulelab; joulelab.Meter(sensors=['simulated']).close(); "
        "print([one for one in sys.modules if 'integrations' in one or one == 'mlflow'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    ("logger", "expected"),
    [("MLFlowLogger", "MLflow"), ("WandbCallback", "Weights & Biases"), ("CSVLogger", None)],
)
def test_trackers_are_found_by_the_loggers_of_frameworks(logger, expected):
    class Base:
        pass

    kind = type("Subclass", (type(logger, (Base,), {}),), {})
    assert [one.name for one in trackers.trackers_of([kind()])] == [expected] * bool(expected)


def test_a_logger_takes_precedence_over_the_active_run(monkeypatch):
    active = types.SimpleNamespace(info=types.SimpleNamespace(run_id="active"))
    monkeypatch.setitem(sys.modules, "mlflow", fake_mlflow(active))
    monkeypatch.setattr("importlib.util.find_spec", lambda _: object())
    logger = type("MLFlowLogger", (), {"run_id": "logged", "experiment": "client"})()
    found = start_tracking([*trackers.trackers_of([logger]), "auto"])
    found.attach()
    assert [one._run_id for one in found.trackers] == ["logged"]


def test_epochs_without_a_step_are_logged_at_their_index():
    tracker = Recorded()
    with joulelab.Meter(tracker=tracker) as meter:
        with meter.span("before"):
            pass
        for index, attributes in ((5, {}), (6, {"step": 20}), (7, {"step": "last"})):
            with meter.span("epoch", index=index, **attributes), meter.span("step"):
                pass
        with meter.span("report"):
            pass
    [tracked] = tracker.tracked
    assert [(row.epoch, row.step) for row in tracked.rows] == [(5, 5), (6, 20), (7, 7)]
    assert tracked.last_step == 20
    times = [row.ended_unix_s for row in tracked.rows]
    assert [tracked.started_unix_s, *times, tracked.ended_unix_s] == sorted(
        [tracked.started_unix_s, *times, tracked.ended_unix_s]
    )
    parts = [{name.rpartition("_duration_s")[0] for name in row.metrics} for row in tracked.rows]
    within = {"", "joulelab/epoch", "joulelab/step"}
    assert parts == [within, within, within | {"joulelab/report"}]


def test_a_repeated_training_within_a_fit_is_in_no_epoch():
    tracker = Recorded()
    with joulelab.Meter(tracker=tracker) as meter:
        for attempt in range(2):
            with meter.span("attempt"), meter.span("epoch", index=attempt):
                pass
    names = {name for row in tracker.tracked[0].rows for name in row.metrics}
    assert not any("attempt" in name for name in names)


def test_names_of_many_spans_are_left_out(monkeypatch):
    monkeypatch.setattr(record_values, "MOST_NAMES", 2)
    tracker = Recorded()
    with joulelab.Meter(tracker=tracker) as meter, meter.span("epoch", index=0):
        for name, count in (("often", 3), ("once", 1)):
            for _ in range(count):
                with meter.span(name):
                    pass
    totals = {name for name in tracker.tracked[0].totals if name.startswith("joulelab_spans/")}
    assert {name.split("/")[1].split("_")[0] for name in totals} == {"epoch", "once"}


def test_a_saved_run_is_logged_later(tmp_path):
    meter = joulelab.Meter(directory=tmp_path / "run", tracker=None)
    with meter, meter.span("epoch", index=0):
        pass
    tracker = Recorded()
    trackers.log_run(tmp_path / "run", tracker)
    [tracked] = tracker.tracked
    assert (
        tracked.totals["joulelab_total/gross_j"]
        == joulelab.open_run(tmp_path / "run").energy.gross_j
    )
    assert [row.step for row in tracked.rows] == [0]


def test_tensorboard_in_a_directory_that_cannot_be_made_is_one_warning(tmp_path):
    pytest.importorskip("tensorboard")
    (tmp_path / "file").write_text("")
    with pytest.warns(RuntimeWarning, match="TensorBoard does not have the energy of this run"):
        joulelab.Meter(tracker=f"tensorboard:{tmp_path / 'file'}").close()


def test_a_command_is_refused_before_it_starts_if_its_tracker_does_not_exist(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "joulelab", "run", "--tracker", "mlfow", "--", "touch", "started"],
        cwd=tmp_path,
        env=os.environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, list(tmp_path.glob("started"))) == (2, [])
    assert "did you mean mlflow?" in done.stderr
    options = parse(["--tracker", "mlflow, tensorboard:a", "--", "ls"])
    assert options.trackers == ["mlflow", "tensorboard:a"]


@given(st.lists(st.integers(0, 70_000), max_size=8))
def test_records_of_wandb_are_read_whatever_their_size(tmp_path_factory, sizes):
    pytest.importorskip("wandb")
    from wandb.proto.wandb_internal_pb2 import Record

    records = [Record(uuid="x" * size) for size in sizes]
    path = tmp_path_factory.mktemp("log") / "run.wandb"
    path.write_bytes(leveldb_log([one.SerializeToString() for one in records]))
    assert list(wandb_tracker.read_records(path)) == records


def leveldb_log(records):
    """Write records in blocks of 32 kB, as LevelDB's documentation describes."""
    log = bytearray(b":W&B" + struct.pack("<HB", 0xBEE1, 0))
    for record in records:
        rest, is_first = record, True
        while is_first or rest:
            left = 32768 - len(log) % 32768
            if left < 7:
                log += bytes(left)
                continue
            piece, rest = rest[: left - 7], rest[left - 7 :]
            kind = {(True, True): 1, (True, False): 2, (False, False): 3, (False, True): 4}[
                is_first, not rest
            ]
            log += struct.pack("<IHB", 0, len(piece), kind) + piece
            is_first = False
    return bytes(log)
