"""Studies on a Ray cluster with three nodes, which all are this machine."""

import gc
import threading
from functools import partial

import pytest
from waiting import wait_for

from joulelab.errors import UserError
from joulelab.fleet.ray_cluster import RayEngine
from joulelab.runs.study_runs import read_study
from joulelab.study.runner import run_study

ray = pytest.importorskip("ray", reason="ray is not installed")

# Ray 2.55 and older leave files and processes to the garbage collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def cluster(temporary):
    from ray.cluster_utils import Cluster

    patch = pytest.MonkeyPatch()
    patch.setenv("TMPDIR", temporary)
    patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    # Ray 2.55 and older warn otherwise.
    patch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 1, "include_dashboard": False},
    )
    try:
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()
        patch.undo()
        gc.collect()


@pytest.fixture
def on_ray(cluster):
    """The cluster with three nodes."""
    while len(cluster.list_all_nodes()) < 3:
        cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    return cluster


def test_a_study_runs_on_all_nodes(on_ray, make_plan, assert_whole, tmp_path):
    plan = make_plan(repeats=3, address=on_ray.address)
    outcome = run_study(tmp_path / "s", plan, engine=RayEngine)
    assert (outcome.cells, outcome.failed) == (12, 0)
    assert_whole(tmp_path / "s", plan)
    study = read_study(tmp_path / "s")
    assert len({run.host for run in study.runs}) == 3
    assert len({(run.study.block, run.host) for run in study.runs}) == 3


@pytest.mark.parametrize("least", [2, 3, 4])
def test_a_node_that_is_removed_costs_no_cell(on_ray, least, make_plan, assert_whole, tmp_path):
    plan, directory = make_plan(repeats=3, address=on_ray.address), tmp_path / "s"
    study = threading.Thread(target=run_study, args=(directory, plan), kwargs={"engine": RayEngine})
    study.start()
    wait_for(partial(has_more, directory, least), what="records")
    # The head keeps the cluster's state: without it there is no cluster.
    on_ray.remove_node(on_ray.worker_nodes.copy().pop(), allow_graceful=False)
    stored = records(directory)
    on_ray.add_node(num_cpus=1)
    study.join()
    assert_whole(directory, plan)
    assert {path: records(directory)[path] for path in stored} == stored


def records(directory):
    """When each record was written."""
    return {path: path.stat().st_mtime_ns for path in directory.glob("runs/*/run.json")}


def has_more(directory, least):
    return len(records(directory)) >= least


def test_without_a_cluster_the_error_says_how_to_start_one(make_plan, tmp_path, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(UserError, match=r"no Ray cluster to connect to .* `ray start --head`"):
        run_study(tmp_path / "s", make_plan(3, address="127.0.0.1:1"), engine=RayEngine)
