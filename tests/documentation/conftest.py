import fcntl

import command_server
import pytest
from desk import PLAN, lay_out, run


@pytest.fixture(scope="session", autouse=True)
def commands(tmp_path_factory):
    """Put the shim of a command server first on the path."""
    folder = tmp_path_factory.mktemp("commands")
    server = command_server.start(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COMMANDS", str(folder))
        yield
    server.kill()
    server.communicate()


@pytest.fixture(scope="session")
def study(tmp_path_factory, worker_id, commands):
    """A small study on a simulated machine, made once for all workers."""
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "study-of-the-pages"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "plan.toml").exists():
            (folder / "plan.toml").write_text(PLAN)
            result = run("joulelab study plan.toml --out mine", folder)
            assert result.returncode == 0, result.stderr
    return folder / "mine"


@pytest.fixture
def desk(tmp_path):
    """A directory with the files that the examples use."""
    lay_out(tmp_path)
    return tmp_path
