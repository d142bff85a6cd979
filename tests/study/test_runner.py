"""The runner with real workers and recorders, undisturbed, disturbed and killed."""

import json
import random
import signal
from functools import partial

import psutil
import pytest

from joulelab.errors import DatasetError, StoreError, UserError
from joulelab.runs.store import Store
from joulelab.study.order import blocks
from joulelab.study.runner import run_study

WORKER, RECORDER = "joulelab.study.worker", "joulelab.recording.recorder"


def cells_of(directory) -> dict:
    """The cells' records without what was measured."""
    return {
        record.run_id: without_measured(record.data)
        for record in Store.open(directory).runs()
        if record.kind == "cell"
    }


def without_measured(data: dict) -> dict:
    measured = {
        "energy", "start_ns", "stop_ns", "started_unix_s", "stopped_unix_s", "duration_s",
        "gpu_utilization_pct", "cpu_utilization_pct", "memory_utilization_pct",
    }  # fmt: skip

    def strip(value):
        if isinstance(value, dict):
            return {key: strip(item) for key, item in value.items() if key not in measured}
        if isinstance(value, list):
            return [strip(item) for item in value]
        return value

    return strip(data)


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
    records = {record.run_id: record for record in Store.open(reference).runs()}
    wanted = {cell.run_id for block in blocks(tiny_plan) for cell in block}
    idles = {f"r{block}-idle-{when}" for block in (0, 1) for when in ("before", "after")}
    assert set(records) == wanted | idles
    assert all(record.status == "done" for record in records.values())
    for record in records.values():
        assert (record.directory / "trace.bin").stat().st_size > 0


def test_a_cell_says_what_was_done_and_what_it_took(reference, tiny_plan):
    cell = blocks(tiny_plan)[1][0]
    run = json.loads((reference / "runs" / cell.run_id / "run.json").read_text())
    assert run["factors"] == cell.factors.to_json() | {
        "resolved_device": run["factors"]["resolved_device"]
    }
    assert run["factors"]["device"] == "auto"
    assert run["factors"]["resolved_device"] in ("cpu", "cuda:0")
    assert (run["block"], run["repeat"], run["order"], run["seed"]) == (1, 1, 0, 1)
    assert run["data"]["real"] is False
    assert run["data"]["image_shape"] == [3, 32, 32]
    assert run["characteristics"]["parameters"] > 0
    assert run["settings"]["train"]["learning_rate"] == 0.01
    assert run["settings"]["infer"]["passes"] == 2
    names = [(span["name"], span["attributes"].get("phase")) for span in run["spans"]]
    assert names == [
        ("warmup", "train"),
        ("epoch", "train"), ("validate", "train"), ("epoch", "train"), ("validate", "train"),
        ("warmup", "infer"),
        ("epoch", "infer"), ("epoch", "infer"),
    ]  # fmt: skip
    for phase, samples, steps in (("train", 128, 8), ("infer", 64, 4)):
        result = run["results"][phase]
        assert (result["samples"], result["steps"], result["epochs"]) == (samples, steps, 2)
        epochs = [epoch for epoch in run["epochs"] if epoch["phase"] == phase]
        assert [epoch["index"] for epoch in epochs] == [0, 1]
        total_j = sum(epoch["energy"]["gross_j"] for epoch in epochs)
        assert result["energy"]["gross_j"] == pytest.approx(total_j)
        assert total_j > 0
        # The study's idle power comes from its own idle runs, some of which are still to come.
        assert result["energy"]["idle_j"] is None
        assert result["energy"]["provenance"] == "simulated"
        assert result["loss"] == epochs[-1]["loss"]
    assert run["results"]["train"]["data_wait_s"] is None


def test_repeats_differ_in_seed_and_their_losses_do_not_depend_on_the_order(
    reference, tiny_plan, tmp_path
):
    alone = tiny_plan.replaced(models=["tiny_models:linear"], repeats=1, idle_s=0.0)
    run_study(tmp_path / "alone", alone)
    (record,) = Store.open(tmp_path / "alone").runs()
    known = {r.run_id: r.data for r in Store.open(reference).runs() if r.kind == "cell"}
    assert record.data["epochs"][-1]["loss"] == known[record.run_id]["epochs"][-1]["loss"]
    other = known[record.run_id.replace("r0-", "r1-")]
    assert other["epochs"][-1]["loss"] != record.data["epochs"][-1]["loss"]


def test_a_finished_study_is_left_as_it_is(reference, tiny_plan):
    before = {path: path.stat().st_mtime_ns for path in (reference / "runs").rglob("*")}
    assert run_study(reference, tiny_plan).cells == 4
    assert {path: path.stat().st_mtime_ns for path in (reference / "runs").rglob("*")} == before


def test_a_missing_idle_run_alone_is_made_good(reference, tiny_plan, tmp_path):
    copy = tmp_path / "copy"
    with Store.create(copy, tiny_plan) as store:
        for record in Store.open(reference).runs():
            if record.run_id != "r1-idle-after":
                store.finish(store.begin(record.run_id), record.data)
    run_study(copy, tiny_plan)
    names = [record.run_id for record in Store.open(copy).runs()]
    assert names == [record.run_id for record in Store.open(reference).runs()]


@pytest.mark.parametrize("target", ["runner", "worker", "recorder", "all"])
def test_killed_at_any_moment_a_study_comes_to_the_same_end(
    reference, tiny_plan, start_study, wait_for, tmp_path, target
):
    """Each round kills at a moment of its own; then the study is let go on."""
    directory, draw = tmp_path / "study", random.Random(target)
    plan = tiny_plan.replaced(repeats=1)
    finished: dict[str, bytes] = {}
    study = start_study(plan)
    for _ in range(2):
        wait_for(study.partial, what="a run under way")
        wait_for(lambda: draw.random() < 0.02, what="the moment")
        if target in ("worker", "recorder"):
            module = WORKER if target == "worker" else RECORDER
            wait_for(partial(study.find, module), what=module).kill()
            continue
        family = study.family()
        for victim in family if target == "all" else family[:1]:
            victim.kill()
        assert study.end() == -signal.SIGKILL
        psutil.wait_procs(family[1:], timeout=60)
        finished |= {
            path.parent.name: path.read_bytes() for path in directory.glob("runs/*/run.json")
        }
        study = start_study(plan)
    assert study.end() == 0, study.log.read_text()
    undisturbed = cells_of(reference)
    assert cells_of(directory) == {
        run_id: run for run_id, run in undisturbed.items() if run["block"] == 0
    }
    for name, content in finished.items():
        assert (directory / "runs" / name / "run.json").read_bytes() == content
    assert not list((directory / ".partial").iterdir())


def test_the_worker_and_the_recorder_die_with_the_runner(tiny_plan, start_study, wait_for):
    study = start_study(tiny_plan)
    recorder = wait_for(lambda: study.find(RECORDER), what="a recorder")
    worker = wait_for(lambda: study.find(WORKER), what="a worker")
    study.process.kill()
    study.process.wait()
    _, alive = psutil.wait_procs([worker, recorder], timeout=60)
    assert not alive


def test_failed_cells_are_recorded_and_the_study_goes_on(tiny_plan, tmp_path):
    models = ["OutOfMemory", "wrong_shape", "broken", "Segfault", "linear"]
    plan = tiny_plan.replaced(
        models=[f"tiny_models:{name}" for name in models], repeats=1, idle_s=0.0
    )
    outcome = run_study(tmp_path / "s", plan)
    assert (outcome.cells, outcome.failed) == (5, 4)
    records = {r.data["factors"]["model"]: r.data for r in Store.open(tmp_path / "s").runs()}
    found = {
        name.removeprefix("tiny_models:"): (data["failure"] or {}) for name, data in records.items()
    }
    assert found["linear"] == {}
    assert found["OutOfMemory"]["kind"] == "out_of_memory"
    assert "Tried to allocate 2.00 GiB" in found["OutOfMemory"]["reason"]
    assert found["wrong_shape"]["kind"] == "unsupported"
    assert "3x32x32" in found["wrong_shape"]["reason"]
    assert "this model cannot be built" in found["broken"]["reason"]
    assert found["Segfault"]["kind"] == "crash"
    assert "killed by SIGSEGV" in found["Segfault"]["reason"]
    assert "worker.log" in found["Segfault"]["reason"]
    assert all("\n" not in failure.get("reason", "") for failure in found.values())

    again = run_study(tmp_path / "s", plan)
    assert (again.cells, again.failed) == (5, 4)
    assert {
        r.data["factors"]["model"]: r.data for r in Store.open(tmp_path / "s").runs()
    } == records


def test_a_failed_cell_is_run_again_on_request_alone(tiny_plan, tmp_path):
    plan = tiny_plan.replaced(models=["tiny_models:unless_refused"], repeats=1, idle_s=0.0)
    (tmp_path / "refused").touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REFUSED", str(tmp_path / "refused"))
        assert run_study(tmp_path / "s", plan).failed == 1
        (tmp_path / "refused").unlink()
        assert run_study(tmp_path / "s", plan).failed == 1
        assert run_study(tmp_path / "s", plan, retry_failed=True).failed == 0


def test_a_hanging_cell_is_stopped(tiny_plan, tmp_path):
    plan = tiny_plan.replaced(models=["tiny_models:Hang"], repeats=1, idle_s=0.0, hang_s=5.0)
    assert run_study(tmp_path / "s", plan).failed == 1
    (record,) = Store.open(tmp_path / "s").runs()
    assert record.data["failure"]["kind"] == "hang"
    assert "raise hang_s in the plan" in record.data["failure"]["reason"]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"data": {"name": "cifar10", "root": "/nowhere"}}, DatasetError, "cifar10|CIFAR-10"),
        ({"sensors": ["gpuu"]}, UserError, "gpu"),
        ({"factors": {"device": ["cuda:99"]}}, UserError, "cuda"),
    ],
)
def test_what_no_cell_could_run_with_is_refused_at_once(
    tiny_plan, tmp_path, monkeypatch, change, error, message
):
    monkeypatch.setenv("JOULELAB_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        run_study(tmp_path / "s", tiny_plan.replaced(**change))
    assert Store.open(tmp_path / "s").runs() == []


def test_another_machines_study_is_not_gone_on_with(reference, tiny_plan, tmp_path):
    with Store.create(tmp_path / "s", tiny_plan) as store:
        record = next(r for r in Store.open(reference).runs() if r.kind == "cell")
        machine = record.data["machine"] | {"cpu_model": "Another CPU"}
        store.finish(store.begin(record.run_id), {**record.data, "machine": machine})
    with pytest.raises(StoreError, match=r"begun on another machine: cpu model is .* there"):
        run_study(tmp_path / "s", tiny_plan)


def test_a_damaged_run_stops_the_study_with_its_name(tiny_plan, tmp_path):
    Store.create(tmp_path / "s", tiny_plan).close()
    (tmp_path / "s" / "runs" / "r0-x").mkdir()
    with pytest.raises(StoreError, match=r"r0-x is damaged: run\.json is missing; remove it"):
        run_study(tmp_path / "s", tiny_plan)
