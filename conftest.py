"""What every test needs, those in docstrings included."""

import gc
import os
import signal
from collections.abc import Generator
from pathlib import Path

import pytest

# Without it Keras wants TensorFlow.
os.environ.setdefault("KERAS_BACKEND", "torch")
# Trainings as small as the tests' only wait for threads, the longer the busier the machine is.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A shell lets what runs in its background ignore it, and so would the programs under test.
signal.signal(signal.SIGINT, signal.default_int_handler)

TESTS = Path(__file__).parent / "tests"
LONGEST = {TESTS / "documentation", TESTS / "study", TESTS / "report"}


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collects no garbage meanwhile, nor later what was imported: it stays until the end."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.collect()
        gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begins with the longest: with several workers, what is left for the end is then short."""
    items.sort(key=lambda item: item.path.parent not in LONGEST)
