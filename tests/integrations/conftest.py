"""A recorder of the simulated machine for the tests of all frameworks, and spans as lists."""

import itertools

import pytest

import joulelab
from joulelab.recording.trace_spans import Window
from joulelab.sensors.simulated import SimulatedMachine, SimulatedSource, Waveform

POWER_W = 150.0
MACHINE = SimulatedMachine(
    (SimulatedSource(component="gpu:0", waveform=Waveform.constant(POWER_W)),)
)


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    """A recording that the meters of most tests join, because starting a recorder takes longest."""
    directory = tmp_path_factory.mktemp("recording")
    with joulelab.Meter(sensors=MACHINE, directory=directory):
        yield directory


@pytest.fixture(autouse=True)
def simulated_machine(request, tmp_path, monkeypatch, recording):
    monkeypatch.setenv("JOULELAB_SENSORS", MACHINE.spec())
    monkeypatch.setenv("JOULELAB_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    if "own_recorder" not in request.fixturenames:
        monkeypatch.setenv("JOULELAB_RECORDING", str(recording))


@pytest.fixture
def own_recorder():
    """Let the meters of a test start their own recorders."""


class Tuning:
    """Takes the place of :class:`joulelab.Tune`, and notes what it is asked to do."""

    def __init__(self):
        self.meter, self.asked = None, []

    def start(self, meter, *, quiet):
        self.meter = meter
        self.asked.append("start quiet" if quiet else "start")
        return self

    def begin_epoch(self):
        opened = [span.name for span in self.meter.spans if span.stop_ns is None]
        self.asked.append(f"begin an epoch in {opened}")

    def close(self):
        opened = [span.name for span in self.meter.spans if span.stop_ns is None]
        self.asked.append(f"close in {opened}")


@pytest.fixture
def tuning():
    return Tuning()


def tree(meter):
    """Return spans as nested lists of names: ``["fit", ["epoch", ["step"], ["step"]]]``."""
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
def check_sums():
    """Check that every span has the energy of the spans within it and of the time between."""

    def check(meter):
        spans = meter.spans
        for parent in spans:
            edges_ns = [parent.start_ns]
            for child in spans:
                if child.parent == parent.index:
                    edges_ns += (child.start_ns, child.stop_ns)
            edges_ns.append(parent.stop_ns)
            assert edges_ns == sorted(edges_ns), "spans overlap, or reach beyond their parent"
            pieces = meter.energies([Window(*piece) for piece in itertools.pairwise(edges_ns)])
            whole_j = meter.energies([parent])[0].gross_j
            assert sum(piece.gross_j for piece in pieces) == pytest.approx(whole_j, rel=1e-6)

    return check


@pytest.fixture
def energy_until():
    """The true energy from the start of one span until the end of another."""
    return lambda first, last: POWER_W * (last.stop_ns - first.start_ns) * 1e-9


@pytest.fixture
def energy_of():
    """The true energy of spans on the simulated machine, whose power is constant."""
    return lambda *spans: POWER_W * sum(span.duration_s for span in spans)
