"""A short part of the benchmark of missing readings."""

from dataclasses import replace

import numpy as np
import pytest
from benchmarks.faults.holes import KINDS, RAPL_WRAP_J, WAVES, measure
from benchmarks.sensor_kinds import kinds

BOARDS = 15


@pytest.mark.parametrize("fault", ["stopped", "silent", "ended"])
@pytest.mark.parametrize("name", ["RAPL", "counter"])
def test_intervals_cover_what_was_not_read_and_are_no_wider_than_needed(fault, name):
    [kind] = [kind for kind in kinds() if kind.name == KINDS[name]]
    [source] = kind.sources
    channel = source.channel
    if channel.wrap:
        channel = replace(channel, wrap=RAPL_WRAP_J)
    kind = replace(kind, sources=(replace(source, channel=channel),))
    covered, half_width = [], []
    for wave in WAVES:
        for place, found in measure(fault, kind, wave, BOARDS, np.random.default_rng(1)).items():
            assert found.wrong_gap == found.without_note == 0
            if place != "outside":
                covered += found.covered
                half_width += found.half_width
    assert len(covered) > 100
    assert 0.93 <= np.mean(covered) <= 0.99
    # The range of all powers as a bound gave 0.7 to 1.2.
    assert np.median(half_width) < 0.5
