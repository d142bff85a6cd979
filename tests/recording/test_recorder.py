"""The recorder's reading of sensors of which one does not answer."""

import os
import threading
import time
from dataclasses import replace

import pytest
from energy_parts import make_channel

from joulelab.recording.recorder import Recorder
from joulelab.recording.trace import read_trace
from joulelab.sensors.sensor import Discovery, Quantity, Reading

INTERVAL_S = 0.02


class Sensor:
    """A counter; its calls wait while ``answers`` is not set."""

    interval_s = INTERVAL_S

    def __init__(self, component):
        self.answers = threading.Event()
        self.answers.set()
        self.called = threading.Event()
        self.closed = False
        self.channels = (
            make_channel(component, Quantity.ENERGY, source="counter", update_period_s=INTERVAL_S),
        )

    def read(self):
        self.called.set()
        self.answers.wait()
        t_ns = time.monotonic_ns()
        return [Reading(t_ns, 0, t_ns * 1e-7)]

    def close(self):
        self.closed = True


@pytest.fixture
def sensors():
    found = Sensor("gpu:0"), Sensor("cpu:0")
    yield found
    for sensor in found:
        sensor.answers.set()


@pytest.fixture
def recorder(sensors, tmp_path):
    return Recorder(
        tmp_path, Discovery(sensors, ()), None, parent_pid=os.getpid(), socket_path=None
    )


@pytest.fixture
def read_ns(tmp_path):
    def times(channel, after_ns=0):
        """When a channel was read, after a time."""
        t_ns = read_trace(tmp_path).series[channel].t_ns
        return t_ns[t_ns > after_ns]

    return times


def read_until(recorder, condition):
    until_s = time.monotonic() + 20.0
    while not condition():
        assert time.monotonic() < until_s, "the condition never came true"
        recorder.take_readings()
        time.sleep(0.005)


def test_one_sensor_that_hangs_makes_no_hole_in_the_others(recorder, sensors, read_ns):
    hanging, _ = sensors
    read_until(recorder, lambda: read_ns(0).size > 2)
    hanging.answers.clear()
    begin_ns = time.monotonic_ns()
    read_until(recorder, lambda: read_ns(1, begin_ns).size > 20)
    assert read_ns(0, begin_ns).size <= 1
    hanging.answers.set()
    released_ns = time.monotonic_ns()
    read_until(recorder, lambda: read_ns(0, released_ns).size > 2)


def test_a_request_waits_for_a_sensor_that_hangs_but_not_for_ever(sensors, tmp_path, read_ns):
    hanging, _ = sensors
    hanging.answers.clear()
    recorder = Recorder(
        tmp_path, Discovery(sensors, ()), None, parent_pid=os.getpid(), socket_path=None
    )
    begin_ns = time.monotonic_ns()
    recorder.cover(begin_ns)
    assert time.monotonic_ns() - begin_ns < 10e9
    assert read_ns(0).size == 0
    assert read_ns(1, begin_ns).size > 10


def test_the_end_does_not_wait_for_a_sensor_that_hangs(recorder, sensors):
    hanging, other = sensors
    hanging.answers.clear()
    hanging.called.clear()
    recorder.cover(time.monotonic_ns())
    assert hanging.called.is_set()
    recorder.finish("the test ended")
    assert other.closed
    assert not hanging.closed


class SlowMeter(Sensor):
    """A meter that has a reading when it is asked for the thirtieth time."""

    interval_s = 60.0

    def __init__(self):
        super().__init__("plug:desk")
        self.channels = tuple(replace(one, update_period_s=1.0) for one in self.channels)
        self.calls = 0

    def read(self):
        self.calls += 1
        t_ns = time.monotonic_ns() + 10**10
        return [Reading(t_ns, 0, 1.0)] if self.calls >= 30 else []


def test_only_the_end_waits_for_a_slow_meter(sensors, tmp_path):
    meter = SlowMeter()
    discovery = Discovery((sensors[1], meter), ())
    recorder = Recorder(tmp_path, discovery, None, parent_pid=os.getpid(), socket_path=None)
    recorder.cover(time.monotonic_ns())
    assert meter.calls <= 1
    recorder.cover(time.monotonic_ns(), is_end=True)
    assert meter.calls >= 30
