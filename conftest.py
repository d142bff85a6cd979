"""Settings for all tests, including doctests."""

import gc
import os
import signal
from collections.abc import Generator
from importlib.util import find_spec
from pathlib import Path

import pytest

# Keras uses TensorFlow by default.
os.environ.setdefault("KERAS_BACKEND", "torch")
# Training runs as small as those of the tests are faster on one thread.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A shell makes background jobs ignore SIGINT, and programs under test would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

TESTS = Path(__file__).parent / "tests"
# Flower requires certain versions of packages that others use, so it may not be installed.
collect_ignore = (
    []
    if find_spec("flwr")
    else ["src/joulelab/integrations/flower.py", "tests/integrations/federated_app.py"]
)
LONGEST = {TESTS / "documentation", TESTS / "fleet", TESTS / "study", TESTS / "report"}


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collect no garbage during collection, and never scan the imported modules afterwards."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.collect()
        gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest tests, so that several workers finish at the same time."""
    items.sort(key=lambda item: item.path.parent not in LONGEST)
