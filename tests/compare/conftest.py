"""Writes records of jobs with invented figures, as ``joulelab run`` leaves them."""

import json

import pytest
import synthetic_study

from joulelab.runs.job import SCHEMA

DAY_S = 86400.0
NOW_UNIX_S = 1.79e9


def write_job(
    directory,
    gpu_w,
    *,
    duration_s=100.0,
    started_unix_s=NOW_UNIX_S,
    name="train.py",
    tags=None,
    machine=synthetic_study.MACHINE,
    command=("python", "train.py"),
    exit_code=0,
    energy=None,
    **more,
):
    """A job that took ``gpu_w`` on its GPU and 50 W on its CPU for ``duration_s``."""
    directory.mkdir(parents=True)
    if energy is None:
        energy = synthetic_study.energy({"gpu:0": gpu_w, "cpu:0": 50.0}, duration_s)
    data = {
        "schema": SCHEMA,
        "id": directory.name,
        "command": list(command),
        "name": name,
        "project": None,
        "phase": None,
        "tags": tags or {},
        "host": machine.host,
        "machine": machine.to_json(),
        "started_unix_s": started_unix_s,
        "settings": {"sensors": None},
        "ended_unix_s": started_unix_s + duration_s,
        "duration_s": duration_s,
        "exit_code": exit_code,
        "signal": None,
        "energy": energy.to_json(),
        "spans": [],
        "notes": [],
    } | more
    (directory / "run.json").write_text(json.dumps(data), encoding="utf-8")
    return directory


def write_jobs(folder, watts, started_unix_s=NOW_UNIX_S, **options):
    """Repeats, two minutes apart."""
    for index, gpu_w in enumerate(watts):
        write_job(
            folder / f"job-{index}", gpu_w, started_unix_s=started_unix_s + 120 * index, **options
        )
    return folder


@pytest.fixture(name="write_job")
def _write_job():
    return write_job


@pytest.fixture(name="write_jobs")
def _write_jobs():
    return write_jobs


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A place of its own for jobs and the site."""
    monkeypatch.setenv("JOULELAB_HOME", str(tmp_path / "home"))
    return tmp_path / "home"
