"""A runtime directory of each test's own, and processes of jobs."""

import os

import pytest
from told import MACHINE, WITHOUT, Told, torchrun


@pytest.fixture
def private(tmp_path, monkeypatch):
    """A runtime directory and a home of the test's own, and no launcher's variables."""
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
    told = []

    def start(rank=None, *, job="job", world_size=4, environment=None, **options):
        options.setdefault("sensors", [MACHINE.spec()])
        launcher = {} if rank is None else torchrun(rank, world_size, job)
        told.append(Told({**os.environ, **launcher, **(environment or {})}, options))
        return told[-1]

    yield start
    for one in told:
        one.give_up()
