"""What the frameworks' tests share: the simulated machine, and a look at the spans."""

import pytest

from joulelab.sensors.simulated import SimulatedMachine, SimulatedSource, Waveform

POWER_W = 150.0
MACHINE = SimulatedMachine(
    (SimulatedSource(component="gpu:0", waveform=Waveform.constant(POWER_W)),)
)


@pytest.fixture(autouse=True)
def simulated_machine(tmp_path, monkeypatch):
    monkeypatch.setenv("JOULELAB_SENSORS", MACHINE.spec())
    monkeypatch.setenv("JOULELAB_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def tree(meter):
    """The spans as nested lists of their names, as ``["fit", ["epoch", ["step"], ["step"]]]``."""
    nodes, roots = {}, []
    for span in meter.spans:
        assert span.stop_ns is not None, f"{span} was left open"
        node = nodes[span.index] = [span.name]
        (roots if span.parent is None else nodes[span.parent]).append(node)
    return roots


@pytest.fixture
def spans_of():
    return tree


@pytest.fixture
def energy_of():
    """The true energy of spans, on the simulated machine, whose power is always the same."""
    return lambda *spans: POWER_W * sum(span.duration_s for span in spans)
