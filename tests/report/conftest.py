import importlib.util
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def synthetic():
    """The helper that writes study directories with known, invented figures."""
    name = "joulelab_synthetic_study"
    if name not in sys.modules:
        path = Path(__file__).parents[1] / "analysis" / "synthetic_study.py"
        spec = importlib.util.spec_from_file_location(name, path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]
