"""Studies on a real Slurm with two nodes, which both are this machine."""

import subprocess
import sys
import threading
import time
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
from slurm_cluster import SlurmCluster, why_not
from waiting import wait_for

from joulelab.errors import UserError
from joulelab.fleet import slurm
from joulelab.fleet.slurm import SlurmEngine
from joulelab.runs.study_runs import read_study
from joulelab.study.runner import run_study

LATE_S = 4.0

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not() or "it is there")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with SlurmCluster(tmp_path_factory.mktemp("slurm")) as cluster:
        yield cluster


@pytest.fixture
def on_slurm(cluster, monkeypatch, temporary):
    """The cluster, with all nodes idle, as this process sees it."""
    monkeypatch.setenv("TMPDIR", temporary)
    for name, value in cluster.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(slurm, "ASK_S", 0.5)
    cluster.wait_until_idle()
    return cluster


class LateEngine(SlurmEngine):
    """Sees each file some seconds after it was written, as on a network file system."""

    started = 0

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self._written, self._reports = self._reports, self._reports.with_name("seen")
        self._reports.mkdir()

    def start(self, share):
        type(self).started += 1
        super().start(share)

    def _scan(self):
        for path in self._written.glob("*.report"):
            if time.time() - path.stat().st_mtime > LATE_S:
                path.rename(self._reports / path.name)
        yield from super()._scan()


def test_a_study_runs_on_both_nodes_although_its_files_appear_late(
    on_slurm, make_plan, assert_whole, tmp_path
):
    plan = make_plan(repeats=2)
    outcome = run_study(tmp_path / "s", plan, engine=LateEngine)
    assert (outcome.cells, outcome.failed) == (12, 0)
    assert_whole(tmp_path / "s", plan)
    assert LateEngine.started == 2, "a share that had ended was started again"
    study = read_study(tmp_path / "s")
    assert {(run.study.block, run.host) for run in study.runs} in (
        {(0, "n1"), (1, "n2")},
        {(0, "n2"), (1, "n1")},
    )


@pytest.mark.parametrize(
    ("kill", "least"), [("kill_node", 2), ("kill_daemon", 2), ("kill_node", 4)]
)
def test_a_node_that_dies_costs_no_cell(on_slurm, kill, least, make_plan, assert_whole, tmp_path):
    plan, directory = make_plan(repeats=3), tmp_path / "s"
    study = start_study(directory, plan)
    busy = wait_for(partial(busy_node, on_slurm, directory, least), what="a busy node")
    getattr(on_slurm, kill)(busy)
    stored = records(directory)
    wait_for(partial(is_down, on_slurm, busy), what="its end")
    on_slurm.start_node(busy)
    study.join()
    assert_whole(directory, plan)
    assert {path: records(directory)[path] for path in stored} == stored


def start_study(directory, plan):
    options = {"engine": SlurmEngine}
    study = threading.Thread(target=run_study, args=(directory, plan), kwargs=options)
    study.start()
    return study


def records(directory) -> dict[Path, int]:
    """When each record was written."""
    return {path: path.stat().st_mtime_ns for path in directory.glob("runs/*/run.json")}


def busy_node(cluster, directory, least: int) -> str:
    """A node with a job, once this many runs are stored."""
    if len(records(directory)) < least:
        return ""
    nodes = cluster.ask("squeue", "--noheader", "--states=RUNNING", "--format=%N").split()
    return nodes[0] if nodes else ""


def is_down(cluster, node) -> bool:
    return cluster.states()[node].startswith("down")


def test_after_preemption_and_sigterm_a_study_goes_on(on_slurm, make_plan, assert_whole, tmp_path):
    plan, directory = make_plan(repeats=2, nodes=1), tmp_path / "s"
    path = tmp_path / "plan.toml"
    path.write_text(plan.to_toml())
    command = [sys.executable, "-m", "joulelab", "study", path, "--out", directory, "--on", "slurm"]
    log = tmp_path / "driver.log"
    with log.open("w") as stderr:
        driver = subprocess.Popen(command, stderr=stderr, stdout=subprocess.DEVNULL)
    wait_for(lambda: len(records(directory)) >= 2, what="some runs")
    # What Slurm sends to a job that it preempts.
    on_slurm.ask("scancel", "--signal=TERM", *on_slurm.ask("squeue", "-h", "-o", "%i").split())
    wait_for(lambda: "was taken away (SIGTERM)" in log.read_text(), what="the preemption")
    seen = len(records(directory))
    wait_for(lambda: len(records(directory)) > seen, what="more runs")
    driver.terminate()
    assert driver.wait(60) == 143
    assert {*on_slurm.jobs()} <= {"COMPLETING"}
    before = records(directory)
    assert run_study(directory, plan, engine=SlurmEngine).cells == 12
    assert_whole(directory, plan)
    assert {path: records(directory)[path] for path in before} == before


def test_a_drained_node_gets_no_cell_and_a_refused_option_is_explained(
    on_slurm, make_plan, tmp_path
):
    with pytest.raises(UserError, match="no node for the study: partition 'nowhere' has none"):
        run_study(tmp_path / "s", make_plan(2, partition="nowhere"), engine=SlurmEngine)
    with pytest.raises(UserError, match=r"Slurm does not accept a job .* generic resource"):
        run_study(tmp_path / "s", make_plan(2, gres="abacus:1"), engine=SlurmEngine)
    for node in on_slurm.nodes:
        on_slurm.ask("scontrol", "update", f"nodename={node}", "state=drain", "reason=test")
    try:
        with pytest.raises(UserError, match="no host is left"):
            run_study(tmp_path / "t", make_plan(2), engine=SlurmEngine)
    finally:
        for node in on_slurm.nodes:
            on_slurm.ask("scontrol", "update", f"nodename={node}", "state=resume")


def test_shares_that_slurm_packs_on_a_node_run_one_after_another(
    on_slurm, make_plan, assert_whole, tmp_path
):
    plan = make_plan(repeats=2, exclusive=False, gres="gpu:1", sbatch={"nodelist": "n1"})
    assert run_study(tmp_path / "s", plan, engine=SlurmEngine).cells == 12
    assert_whole(tmp_path / "s", plan)
    study = read_study(tmp_path / "s")
    assert {run.host for run in study.runs} == {"n1"}
    times = sorted(
        (span.start_ns, span.stop_ns, run.study.block)
        for run in study.runs
        for span in run.study.spans
    )
    assert all(stop <= start for (_, stop, _), (start, *_) in pairwise(times))
