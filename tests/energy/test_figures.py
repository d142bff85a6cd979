"""Figures with their errors: coverage of the interval of a ratio."""

import math
import random

import pytest

from joulelab.energy.energy import ComponentEnergy, Energy
from joulelab.sensors.sensor import Provenance
from joulelab.uncertain import METRICS, Figure, figure, ratio

GAIN, OFFSET_W, EDGE_J = 0.05, 2.0, 4.0
TRUE = (({"gpu:0": 1000.0, "cpu:0": 400.0}, 10.0), ({"gpu:0": 800.0, "cpu:0": 500.0}, 8.0))
COMPONENTS = frozenset(TRUE[0][0])


def seen(rng, true_j, gain, offset_w, duration_s, component):
    """An energy as one board shows it, with the uncertainties that it states."""
    return ComponentEnergy(
        component=component,
        source="nvml.samples",
        provenance=Provenance.MEASURED,
        duration_s=duration_s,
        gross_j=true_j * gain + offset_w * duration_s + rng.gauss(0, EDGE_J),
        gain_uncertainty=GAIN,
        offset_uncertainty_w=OFFSET_W,
        edge_uncertainty_j=EDGE_J,
    )


@pytest.mark.parametrize("same_boards", [True, False])
def test_the_interval_of_a_ratio_holds_the_true_one(same_boards):
    rng = random.Random(1)
    held, widths = 0, []
    for _ in range(2000):
        errors = {}
        figures = []
        for number, (true_j, duration_s) in enumerate(TRUE):
            parts, boards = {}, {}
            for name, component_j in true_j.items():
                boards[name] = "the same" if same_boards else number
                board = name, boards[name]
                error = errors.setdefault(board, (rng.gauss(1, GAIN), rng.gauss(0, OFFSET_W)))
                parts[name] = seen(rng, component_j, *error, duration_s, name)
            energy = Energy(duration_s=duration_s, components=parts)
            figures.append(figure(METRICS["gross_j"], energy, math.nan, boards, "", COMPONENTS))
        found = ratio(*figures)
        held += found.low <= 1400 / 1300 <= found.high
        widths.append(found.high / found.low)
    assert 0.93 < held / 2000 < 0.98
    assert (sum(widths) / 2000 < 1.06) == same_boards


@pytest.mark.parametrize("unknown", [math.nan, 0.0, -1.0])
def test_what_is_not_positive_has_no_ratio(unknown):
    assert ratio(Figure(unknown), Figure(1.0)) is None
    assert ratio(Figure(1.0), Figure(unknown)) is None
