"""Data within windows of time, from counters."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulelab.energy.data_exchange import DataExchange, DataVolume, data_exchanged
from joulelab.recording.trace import Readings, Trace
from joulelab.recording.trace_spans import Window
from joulelab.sensors.sensor import Channel, DataPlace, Provenance, Quantity

NS = 10**9
SENT = (DataPlace.NETWORK, Quantity.SENT)


def trace(t_s, value, place=DataPlace.NETWORK, quantity=Quantity.SENT):
    channel = Channel(
        component=place, quantity=quantity, source="os.network",
        provenance=Provenance.MEASURED, update_period_s=1.0,
    )  # fmt: skip
    t_ns = (np.asarray(t_s) * NS).astype(np.int64)
    readings = Readings(t_ns, np.asarray(value, dtype=float))
    return Trace(header={}, channels=(channel,), series=(readings,), events=[], spans=())


def sent(recorded, *windows, **options):
    found = data_exchanged(recorded, [Window(round(a * NS), round(b * NS)) for a, b in windows],
                           **options)  # fmt: skip
    one = found.volumes[SENT]
    return one.value, one.low, one.high


def test_rate_between_readings_is_constant():
    recorded = trace([0, 1, 2, 3], [50, 150, 150, 450])
    assert sent(recorded, (0, 3)) == (400, 400, 400)
    assert sent(recorded, (0.5, 2.5)) == (200, 0, 400)
    assert sent(recorded, (0, 1), (2, 3)) == (400, 400, 400)


def test_time_in_several_windows_counts_once():
    recorded = trace([0, 1, 2, 3], [50, 150, 150, 450])
    assert sent(recorded, (0, 3), (0, 1), (2, 3)) == (400, 400, 400)
    assert sent(recorded, (2, 3), (0, 1), (0, 1)) == (400, 400, 400)


def test_whole_job_has_all_up_to_the_readings_around_it():
    recorded = trace([0, 1, 2, 3], [50, 150, 150, 450])
    assert sent(recorded, (0.5, 2.5), is_whole=True) == (400, 0, 400)
    assert sent(recorded, (-5, 99), is_whole=True) == (400, 400, 400)


def test_interface_that_is_removed_loses_nothing():
    assert sent(trace([0, 1, 2], [900, 1000, 30]), (0, 2))[0] == 100


def test_gaps_are_bridged_and_a_counter_without_readings_is_unknown():
    assert sent(trace([0, 1, 2], [0, np.nan, 100]), (0, 1))[0] == pytest.approx(50)
    assert data_exchanged(trace([0, 1], [np.nan, 5]), [Window(0, NS)]).volumes == {}


@given(
    st.lists(st.integers(0, 1000), min_size=3, max_size=20),
    st.floats(0, 1), st.floats(0, 1), st.floats(0, 1),
)  # fmt: skip
def test_parts_add_up_to_the_whole_and_lie_within_their_limits(growth, a, b, c):
    recorded = trace(range(len(growth)), np.cumsum(growth))
    a, b, c = sorted(one * (len(growth) - 1) for one in (a, b, c))
    first, second, both = (sent(recorded, one) for one in ((a, b), (b, c), (a, c)))
    assert first[0] + second[0] == pytest.approx(both[0], abs=1e-3)
    for value, low, high in (first, second, both):
        assert low - 1e-3 <= value <= high + 1e-3


def test_record_keeps_all():
    volumes = {SENT: DataVolume(5.0, 4.0, 6.0)}
    stored = DataExchange(volumes).to_json()
    assert DataExchange.of_stored(stored).volumes == volumes


def test_little_data_is_not_shown():
    volumes = {
        SENT: DataVolume(2e6, 2e6, 2e6),
        (DataPlace.FILES, Quantity.READ): DataVolume(12.3e9, 12.3e9, 12.3e9),
    }
    assert list(DataExchange(volumes).lines()) == ["read 12.3 GB in files"]
