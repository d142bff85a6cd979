"""What the frameworks' tests share: the simulated machine, and a look at the spans."""

import pytest

SENSORS = "simulated"


@pytest.fixture(autouse=True)
def simulated_machine(tmp_path, monkeypatch):
    monkeypatch.setenv("JOULELAB_SENSORS", SENSORS)
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
