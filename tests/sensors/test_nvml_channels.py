"""Update periods observed in the readings themselves, on a simulated clock."""

from hypothesis import given
from hypothesis import strategies as st

from joulelab.sensors import nvml_channels


class Clock:
    def __init__(self, read_s):
        self.now_s = 0.0
        self.read_s = read_s

    def monotonic(self):
        self.now_s += self.read_s
        return self.now_s

    def sleep(self, seconds):
        self.now_s += seconds


@given(
    period_s=st.floats(0.01, 0.12),
    phase=st.floats(0, 1),
    read_s=st.floats(1e-6, 1e-3),
    same=st.integers(0, 10),
)
def test_the_period_is_found_and_is_never_zero(period_s, phase, read_s, same):
    """Also if an update repeats the previous value now and then."""
    clock = Clock(read_s)
    patched, nvml_channels.time = nvml_channels.time, clock
    try:

        def read():
            update = int(clock.now_s / period_s + phase)
            return update - 1 if same and update % 11 == same else update

        [found_s] = nvml_channels.update_periods_s([read])
    finally:
        nvml_channels.time = patched
    assert abs(found_s - period_s) <= 0.004
    assert found_s > 0


def test_a_value_that_always_changes_has_the_period_of_the_polls(monkeypatch):
    clock = Clock(1e-5)
    monkeypatch.setattr(nvml_channels, "time", clock)
    [found_s] = nvml_channels.update_periods_s([lambda: clock.now_s])
    assert found_s == nvml_channels.POLL_S
