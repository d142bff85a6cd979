"""Records of runs with invented values, like those of ``joulelab run``."""

import pytest
import synthetic_study

from joulelab.runs.record import Run, write_record

DAY_S = 86400.0
NOW_UNIX_S = 1.79e9


def write_run(
    directory,
    gpu_w,
    *,
    duration_s=100.0,
    started_unix_s=NOW_UNIX_S,
    machine=synthetic_study.MACHINE,
    exit_code=0,
    energy=None,
    **more,
):
    """A run with ``gpu_w`` on its GPU and 50 W on its CPU for ``duration_s``."""
    directory.mkdir(parents=True, exist_ok=True)
    if energy is None:
        energy = synthetic_study.energy({"gpu:0": gpu_w, "cpu:0": 50.0}, duration_s)
    values = {
        "id": directory.name,
        "kind": "command",
        "command": ("python", "train.py"),
        "name": "train.py",
        "settings": {"sensors": None},
        "status": "failed" if exit_code else "done",
    }
    run = Run(
        directory=directory,
        host=machine.host,
        machine=machine,
        started_unix_s=started_unix_s,
        ended_unix_s=started_unix_s + duration_s,
        duration_s=duration_s,
        exit_code=exit_code,
        energy=energy,
        **values | more,
    )
    write_record(directory, run.to_json())
    return directory


def write_runs(directory, watts, started_unix_s=NOW_UNIX_S, **options):
    """Repeats, two minutes apart."""
    for index, gpu_w in enumerate(watts):
        started = started_unix_s + 120 * index
        write_run(directory / f"run-{index}", gpu_w, started_unix_s=started, **options)
    return directory


@pytest.fixture(name="write_run")
def _write_run():
    return write_run


@pytest.fixture(name="write_runs")
def _write_runs():
    return write_runs


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A directory of its own for saved runs and the site."""
    monkeypatch.setenv("JOULELAB_HOME", str(tmp_path / "home"))
    return tmp_path / "home"
