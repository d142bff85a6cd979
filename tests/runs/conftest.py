"""A runtime directory for each test, and processes of jobs."""

import os

import pytest
from ranks import MACHINE, WITHOUT, Rank, torchrun


@pytest.fixture
def private(tmp_path, monkeypatch):
    """Another runtime directory and home for the test, and no variables of launchers."""
    runtime = tmp_path / "runtime"
    runtime.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    monkeypatch.setenv("JOULELAB_HOME", str(tmp_path / "home"))
    for name in WITHOUT:
        monkeypatch.delenv(name, raising=False)
    return runtime / "joulelab"


@pytest.fixture
def start(private):
    """Starts a process of a job: ``start(rank, job=..., **options)``."""
    started = []

    def start(rank=None, *, job="job", world_size=4, environment=None, **options):
        options.setdefault("sensors", [MACHINE.spec()])
        launcher = {} if rank is None else torchrun(rank, world_size, job)
        started.append(Rank({**os.environ, **launcher, **(environment or {})}, options))
        return started[-1]

    yield start
    for one in started:
        one.clean_up()
