"""The runner: what it runs, records and refuses, and that any kill leads to the same end."""

import json
import random
import re
import shutil
import signal
from functools import partial
from pathlib import Path

import psutil
import pytest
from waiting import wait_for

from joulelab.energy.estimator import EnergyEstimator
from joulelab.errors import DatasetError, StoreError, UserError
from joulelab.recording.trace import read_trace
from joulelab.recording.trace_spans import Window
from joulelab.runs.record import SCHEMA
from joulelab.runs.study_runs import read_study
from joulelab.study.cells import blocks, combinations
from joulelab.study.plan_file import load_plan
from joulelab.study.runner import list_cells, run_study
from joulelab.study.store import StudyStore
from joulelab.study.worker import WorkerFailure, WorkerProcess

OLD_STUDY = Path(__file__).parents[1] / "golden" / "inputs" / "studies" / "small-batches"
# Processes are killed at moments that last a few hundredths of a second.
wait_soon = partial(wait_for, every_s=0.01)
WORKER, RECORDER = "joulelab.study.worker", "joulelab.recording.recorder"
MEASURED = {
    "energy", "start_ns", "stop_ns", "started_unix_s", "ended_unix_s", "duration_s",
    "gross_j", "low_j", "high_j", "net_j",
    "gpu_utilization_pct", "cpu_utilization_pct", "memory_utilization_pct",
}  # fmt: skip


def runs_of(directory) -> dict:
    return {run.id: run for run in read_study(directory).runs}


def records_of(directory) -> dict:
    """The cells' records without what was measured."""
    paths = directory.glob("runs/*/run.json")
    records = {path.parent.name: json.loads(path.read_text()) for path in paths}
    return {name: _strip(data) for name, data in records.items() if not data["idle"]}


def _strip(value):
    if isinstance(value, dict):
        return {key: _strip(item) for key, item in value.items() if key not in MEASURED}
    return [_strip(item) for item in value] if isinstance(value, list) else value


# With real workers and recorders.


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Filled by the first test that runs the whole study."""
    return {}


@pytest.fixture
def reference(undisturbed, tiny_plan, tmp_path_factory):
    """The directory of an undisturbed study; made once."""
    if not undisturbed:
        directory = tmp_path_factory.mktemp("undisturbed")
        undisturbed["outcome"] = run_study(directory, tiny_plan)
        undisturbed["directory"] = directory
    return undisturbed["directory"]


def test_a_study_records_every_cell_and_idle_run(reference, undisturbed, tiny_plan):
    outcome = undisturbed["outcome"]
    assert (outcome.cells, outcome.failed) == (4, 0)
    runs = runs_of(reference)
    wanted = {cell.run_id for block in blocks(tiny_plan) for cell in block}
    idles = {f"r{block}-idle-{when}" for block in (0, 1) for when in ("before", "after")}
    assert set(runs) == wanted | idles
    assert all(run.status == "done" for run in runs.values())
    for run in runs.values():
        assert (run.directory / "trace.bin").stat().st_size > 0


def test_the_record_of_a_cell_is_complete(reference, tiny_plan):
    cell = blocks(tiny_plan)[1][0]
    run = runs_of(reference)[cell.run_id]
    study = run.study
    assert dict(run.factors) == {
        **cell.factors,
        "resolved_device": run.factors["resolved_device"],
    }
    assert run.factors["device"] == "auto"
    assert run.factors["resolved_device"] in ("cpu", "cuda:0")
    assert (study.block, study.repeat, study.order, study.seed) == (1, 1, 0, 1)
    assert study.data["real"] is False
    assert study.data["image_shape"] == [3, 32, 32]
    assert study.characteristics["parameters"] > 0
    assert run.settings["train"]["learning_rate"] == 0.01
    assert run.settings["infer"]["passes"] == 2
    names = [(span.name, span.attributes.get("phase")) for span in study.spans]
    assert names == [
        ("warmup", "train"),
        ("epoch", "train"), ("validate", "train"), ("epoch", "train"), ("validate", "train"),
        ("warmup", "infer"),
        ("epoch", "infer"), ("epoch", "infer"),
    ]  # fmt: skip
    for phase, samples, steps in (("train", 128, 8), ("infer", 64, 4)):
        result = study.results[phase]
        values = result.values
        assert (values["samples"], values["steps"], values["epochs"]) == (samples, steps, 2)
        epochs = [epoch for epoch in study.epochs if epoch.phase == phase]
        assert [epoch.index for epoch in epochs] == [0, 1]
        total_j = sum(epoch.energy.gross_j for epoch in epochs)
        assert result.energy.gross_j == pytest.approx(total_j)
        assert total_j > 0
        assert result.energy.provenance == "simulated"
        assert values["loss"] == epochs[-1].values["loss"]
    assert study.results["train"].values["data_wait_s"] is None
    raw = json.loads((run.directory / "run.json").read_text())
    assert raw["energy"]["gross_j"] == pytest.approx(run.energy.gross_j)
    assert [span["name"] for span in raw["spans"]] == ["warmup", "epoch", "validate"]
    # Idle power comes from the study's own idle runs, some of which come later.
    assert raw["results"]["train"]["energy"]["idle_j"] is None
    assert study.results["train"].energy.idle_j > 0


def test_energies_in_the_record_are_those_of_the_finished_trace(reference):
    for run in runs_of(reference).values():
        raw = json.loads((run.directory / "run.json").read_text())
        windows = [Window(span["start_ns"], span["stop_ns"]) for span in raw["measured"]]
        energies = EnergyEstimator(read_trace(run.directory)).energies(windows)
        for span, energy in zip(raw["measured"], energies, strict=True):
            for component, part in energy.components.items():
                recorded = span["energy"]["components"][component]
                assert recorded["gross_j"] == pytest.approx(part.gross_j, rel=1e-6)
                assert recorded["interval_j"] == pytest.approx(part.interval_j, rel=1e-6)


def test_repeats_differ_in_seed_and_losses_do_not_depend_on_the_order(reference):
    """Tiny and linear models run in another order in each block, in one process per block."""
    runs = [run for run in runs_of(reference).values() if run.model == "tiny_models:linear"]
    first, second = (run.study for run in runs if not run.study.is_idle)
    assert (first.seed, second.seed) == (0, 1)
    assert first.epochs[-1].values["loss"] != second.epochs[-1].values["loss"]


def test_a_finished_study_does_not_change(reference, tiny_plan, fake_worker):
    before = {path: path.stat().st_mtime_ns for path in (reference / "runs").rglob("*")}
    worker = fake_worker()
    assert run_study(reference, tiny_plan, engine=worker.engine).cells == 4
    assert worker.started == 0
    assert {path: path.stat().st_mtime_ns for path in (reference / "runs").rglob("*")} == before
    cells, to_go = list_cells(tiny_plan, reference)
    assert {one.status for one in cells} == {"done"}
    assert all(one.cost.energy_j > 0 for one in cells)
    assert to_go.duration_s == 0


@pytest.mark.parametrize("targets", [("worker", "recorder"), ("runner", "all")])
def test_killed_at_any_moment_a_study_comes_to_the_same_end(
    reference, tiny_plan, start_study, tmp_path, targets
):
    """Each round kills another process at a random moment; then the study goes on."""
    directory, draw = tmp_path / "study", random.Random(targets[0])
    plan = tiny_plan.replaced(repeats=1)
    finished: dict[str, bytes] = {}
    study = start_study(plan)
    for target in targets:
        wait_soon(study.partial, what="a run that is being measured")
        wait_soon(lambda: draw.random() < 0.02, what="the moment")
        if target in ("worker", "recorder"):
            module = WORKER if target == "worker" else RECORDER
            wait_soon(partial(study.find, module), what=module).kill()
            continue
        family = study.family()
        for victim in family if target == "all" else family[:1]:
            victim.kill()
        assert study.end() == -signal.SIGKILL
        # The kernel kills the worker and with it the recorder.
        _, alive = psutil.wait_procs(family[1:])
        assert not alive
        finished |= {
            path.parent.name: path.read_bytes() for path in directory.glob("runs/*/run.json")
        }
        study = start_study(plan)
    assert study.end() == 0, study.log.read_text()
    undisturbed = records_of(reference)
    assert records_of(directory) == {
        run_id: run for run_id, run in undisturbed.items() if run["block"] == 0
    }
    for name, content in finished.items():
        assert (directory / "runs" / name / "run.json").read_bytes() == content
    assert not list((directory / ".partial").iterdir())


def test_a_worker_that_crashes_or_hangs_is_reported(tiny_plan, tmp_path):
    prepare = {"do": "prepare", "plan": tiny_plan.to_dict()}
    (tmp_path / "run").mkdir()
    worker = WorkerProcess(tmp_path / "worker.log")
    worker.ask(prepare, hang_s=60.0)
    factors = {**combinations(tiny_plan)[0], "model": "tiny_models:Segfault"}
    request = {"do": "cell", "factors": factors, "seed": 0, "directory": str(tmp_path / "run")}
    events = []
    with pytest.raises(WorkerFailure, match=r"killed by SIGSEGV: .* in worker\.log") as caught:
        worker.ask(request, hang_s=60.0, on_event=events.append)
    assert caught.value.kind == "crash"
    assert [event["name"] for event in events] == ["warmup"]

    # It cannot import PyTorch that fast.
    worker = WorkerProcess(tmp_path / "worker.log")
    with pytest.raises(WorkerFailure, match="raise hang_s in the plan") as caught:
        worker.ask(prepare, hang_s=0.01)
    assert caught.value.kind == "hang"


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"data": {"name": "cifar10", "root": "/nowhere"}}, DatasetError, "cifar10|CIFAR-10"),
        ({"sensors": ["gpuu"]}, UserError, "gpu"),
        ({"factors": {"device": ["cuda:99"]}}, UserError, "cuda"),
        ({"models": ["LeNet", "nosuchmodule:build"]}, UserError, "nosuchmodule"),
    ],
)
def test_what_no_cell_could_run_with_is_refused_before_the_first(
    tiny_plan, tmp_path, monkeypatch, change, error, message
):
    from joulelab.study.executor import Executor

    monkeypatch.setenv("JOULELAB_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        Executor(tiny_plan.replaced(**change))


# With a worker that only answers.


def test_a_study_of_the_first_version_is_continued(tmp_path, monkeypatch, fake_worker):
    monkeypatch.syspath_prepend(Path(__file__).parent)
    shutil.copytree(OLD_STUDY, tmp_path / "s")
    plan = load_plan(tmp_path / "s" / "plan.toml")
    cells, _ = list_cells(plan, tmp_path / "s")
    assert {one.status for one in cells} == {"done"}
    first = runs_of(tmp_path / "s")
    gone = cells[0].cell.run_id
    shutil.rmtree(first[gone].directory)
    worker = fake_worker()
    there = first[gone].machine.to_json()
    worker.ready["machine"] = there
    run_study(tmp_path / "s", plan, engine=worker.engine)
    again = runs_of(tmp_path / "s")
    assert first.keys() <= again.keys()
    assert json.loads((again[gone].directory / "run.json").read_text())["schema"] == SCHEMA


def test_a_study_with_factors_that_has_old_names_is_complete(
    tiny_plan, tmp_path, monkeypatch, fake_worker
):
    plan = tiny_plan.replaced(factors={"batch_size": 16, "optimizer": ["sgd", "adamw"]})
    with monkeypatch.context() as earlier:
        earlier.setattr("joulelab.study.cells._names_with_levels", lambda *_: [])
        run_study(tmp_path / "s", plan, engine=fake_worker().engine)
    names = set(runs_of(tmp_path / "s"))
    assert sum(bool(re.search(r"-b16-[0-9a-f]{4}$", name)) for name in names) == 8
    worker = fake_worker()
    run_study(tmp_path / "s", plan, engine=worker.engine, retry_failed=True)
    assert (worker.started, set(runs_of(tmp_path / "s"))) == (0, names)
    assert {one.status for one in list_cells(plan, tmp_path / "s")[0]} == {"done"}


def test_a_refusal_of_the_worker_ends_the_study(tiny_plan, tmp_path, fake_worker):
    worker = fake_worker()
    worker.ask = lambda request, hang_s: {"refused": ["DatasetError", "no data", "why", "hint"]}
    with pytest.raises(DatasetError, match="no data: why; hint"):
        run_study(tmp_path / "s", tiny_plan, engine=worker.engine)
    assert runs_of(tmp_path / "s") == {}


def test_a_missing_idle_run_is_measured_again(tiny_plan, tmp_path, fake_worker):
    run_study(tmp_path / "s", tiny_plan, engine=fake_worker().engine)
    names = set(runs_of(tmp_path / "s"))
    shutil.rmtree(tmp_path / "s" / "runs" / "r1-idle-after")
    worker = fake_worker()
    run_study(tmp_path / "s", tiny_plan, engine=worker.engine)
    assert [request["do"] for request in worker.asked] == ["idle"]
    assert set(runs_of(tmp_path / "s")) == names


def test_a_failed_cell_is_run_again_only_on_request(tiny_plan, tmp_path, fake_worker, answer):
    failure = {"kind": "error", "reason": "refused"}

    def refuse(request):
        if request["do"] == "idle" or "linear" not in request["factors"]["model"]:
            return {"body": answer()}
        return {"body": answer(status="failed", failure=failure, results={})}

    worker = fake_worker(refuse)
    plan = tiny_plan.replaced(repeats=1)
    assert run_study(tmp_path / "s", plan, engine=worker.engine).failed == 1
    # A worker that has failed is not used again.
    assert worker.started == 2
    before = records_of(tmp_path / "s")
    works = fake_worker()
    assert run_study(tmp_path / "s", plan, engine=works.engine).failed == 1
    assert (works.started, records_of(tmp_path / "s")) == (0, before)
    done = run_study(tmp_path / "s", plan, engine=works.engine, retry_failed=True)
    assert done.failed == 0


def test_a_disturbed_cell_is_run_again_only_on_request(tiny_plan, tmp_path, fake_worker, answer):
    disturbed = answer()
    share = {"fraction": 0.5, "low": 0.3, "high": 0.7, "method": "CPU time"}
    disturbed["results"]["train"]["energy"]["components"]["gpu:0"]["share"] = share

    def disturb(request):
        is_linear = request["do"] == "cell" and "linear" in request["factors"]["model"]
        return {"body": disturbed if is_linear else answer()}

    plan = tiny_plan.replaced(repeats=1)
    run_study(tmp_path / "s", plan, engine=fake_worker(disturb).engine)
    worker = fake_worker()
    run_study(tmp_path / "s", plan, engine=worker.engine)
    assert worker.asked == []
    run_study(tmp_path / "s", plan, engine=worker.engine, retry_shared=True)
    assert [request["do"] for request in worker.asked] == ["idle", "cell", "idle"]
    assert "linear" in worker.asked[1]["factors"]["model"]


@pytest.mark.parametrize(("kind", "attempts"), [("crash", 3), ("recorder", 3), ("hang", 1)])
def test_a_run_whose_worker_dies_is_tried_again(
    tiny_plan, tmp_path, fake_worker, answer, kind, attempts
):
    def fail(request):
        if request["do"] == "idle":
            return {"body": answer()}
        return WorkerFailure("it died", kind=kind)

    worker = fake_worker(fail)
    plan = tiny_plan.replaced(models=["tiny_models:linear"], repeats=1)
    assert run_study(tmp_path / "s", plan, engine=worker.engine).failed == 1
    assert sum(request["do"] == "cell" for request in worker.asked) == attempts
    (failed,) = read_study(tmp_path / "s").failed()
    assert failed.failure == {"kind": kind, "reason": "it died"}
    assert failed.duration_s >= 0


def test_a_full_disk_ends_the_study(tiny_plan, tmp_path, fake_worker):
    worker = fake_worker(lambda request: {"unrecorded": "No space left on device"})
    with pytest.raises(StoreError, match="free some space"):
        run_study(tmp_path / "s", tiny_plan, engine=worker.engine)


def test_a_study_is_not_continued_on_another_machine(tiny_plan, tmp_path, fake_worker):
    plan = tiny_plan.replaced(repeats=1)
    run_study(tmp_path / "s", plan, engine=fake_worker().engine)
    cell = next(one for one in runs_of(tmp_path / "s").values() if not one.study.is_idle)
    for path in (tmp_path / "s" / "runs").glob("*/run.json"):
        data = json.loads(path.read_text())
        data["machine"]["cpu_model"] = "Another CPU"
        path.write_text(json.dumps(data))
    shutil.rmtree(cell.directory)
    with pytest.raises(StoreError, match=r"started on another machine: cpu model is .* there"):
        run_study(tmp_path / "s", plan, engine=fake_worker().engine)


def test_a_damaged_run_ends_the_study_with_its_name(tiny_plan, tmp_path):
    with StudyStore(tmp_path / "s", tiny_plan.to_dict()):
        (tmp_path / "s" / "runs" / "r0-x").mkdir()
    with pytest.raises(StoreError, match=r"r0-x is damaged: run\.json is missing; remove it"):
        run_study(tmp_path / "s", tiny_plan)
