from __future__ import annotations

import pytest
import torch
from torch import nn

from joulelab.workloads.datasets import SyntheticOptions, load_dataset
from joulelab.workloads.images import ImageData
from joulelab.workloads.torch_runtime import build_seeded


class Recorder:
    """An observer that records all calls in order."""

    def __init__(self):
        self.calls = []

    def begin(self, name, **attributes):
        self.calls.append(("begin", name, attributes))
        return (name, attributes)

    def end(self, span):
        name, attributes = span
        self.calls.append(("end", name, attributes))

    def spans(self, name):
        return [
            attributes for what, found, attributes in self.calls if (what, found) == ("begin", name)
        ]

    @property
    def balanced(self):
        """Whether each end closes the span that was opened last, and all spans are closed."""
        opened = []
        for what, name, attributes in self.calls:
            if what == "begin":
                opened.append((name, attributes))
            elif not opened or opened.pop() != (name, attributes):
                return False
        return not opened


class Clock:
    """A clock that moves only when a test moves it."""

    def __init__(self):
        self.now_s = 0.0

    def __call__(self):
        return self.now_s


def tiny_network():
    return nn.Sequential(
        nn.Conv2d(3, 12, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        nn.Conv2d(12, 24, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Dropout(0.1),
        nn.Linear(24 * 16, 10),
    )


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def network() -> nn.Module:
    return build_seeded(tiny_network, seed=0)


@pytest.fixture
def new_network():
    """Builds the same network on each call."""
    return lambda: build_seeded(tiny_network, seed=0)


@pytest.fixture(scope="session")
def small() -> ImageData:
    return load_dataset(
        "synthetic", synthetic=SyntheticOptions(train_count=70, test_count=30, seed=1)
    )


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
