"""Reading many sensors on few threads."""

import threading
import time

import pytest

from joulelab.recording import sensor_reader
from joulelab.recording.sensor_reader import SensorReader
from joulelab.sensors.sensor import Gap, Reading


class Sensor:
    """Gives the number of the thread that reads it; waits while ``answers`` is not set."""

    channels = (None,)

    def __init__(self):
        self.answers = threading.Event()
        self.answers.set()
        self.called = threading.Event()

    def read(self):
        self.called.set()
        self.answers.wait()
        return [Reading(time.monotonic_ns(), 0, threading.get_ident())]


class Broken(Sensor):
    def read(self):
        raise ZeroDivisionError("a bug")


@pytest.fixture
def read():
    """Make a reader, and return what takes its answers by sensor until a condition holds."""
    readers, sensors = [], []

    def make(*given, interval_s=0.01):
        reader = SensorReader([(one, interval_s) for one in given])
        readers.append(reader)
        sensors.extend(given)
        threads = {one: [] for one in given}

        def take_until(condition):
            until_s = time.monotonic() + 20.0
            for found in threads.values():
                found.clear()
            while not condition(threads):
                assert time.monotonic() < until_s, "the condition never came true"
                for answer in reader.take():
                    threads[given[answer.position]] += [one.value for one in answer.found]
                time.sleep(0.001)
            return [set(found) for found in threads.values()]

        return take_until

    yield make
    for sensor in sensors:
        sensor.answers.set()
    for reader in readers:
        reader.stop()


def enough_of(*sensors):
    return lambda found: all(len(found[one]) > 3 for one in sensors)


def test_all_sensors_are_read_on_one_thread(read):
    first, second = Sensor(), Sensor()
    on_first, on_second = read(first, second)(enough_of(first, second))
    assert len(on_first) == 1
    assert on_first == on_second


def test_a_sensor_that_hangs_stays_on_its_thread_and_the_others_continue_on_another(read):
    hanging, other = Sensor(), Sensor()
    take_until = read(hanging, other)
    shared, _ = take_until(enough_of(hanging, other))
    hanging.answers.clear()
    _, after = take_until(enough_of(other))
    take_until(enough_of(other))
    hanging.answers.set()
    alone, still = take_until(enough_of(hanging, other))
    assert alone == shared
    assert still
    assert still != shared
    assert still <= after


def test_a_sensor_that_hung_once_joins_the_others_again(read, monkeypatch):
    hanging, other = Sensor(), Sensor()
    take_until = read(hanging, other)
    hanging.answers.clear()
    take_until(enough_of(other))
    hanging.answers.set()
    monkeypatch.setattr(sensor_reader, "ALONE_S", 0.0)
    take_until(lambda found: any(one in found[other] for one in found[hanging]))


def test_a_sensor_that_raises_is_a_gap():
    reader = SensorReader([(Broken(), 60.0)])
    [answer] = reader.read_now([0])[-1:]
    assert [type(one) for one in answer.found] == [Gap]
    assert answer.found[0].reason == "ZeroDivisionError: a bug"
    reader.stop()


def test_sensors_are_read_when_asked_though_not_due():
    sensor = Sensor()
    reader = SensorReader([(sensor, 60.0)])
    asked_s = time.monotonic()
    assert reader.read_now([0])[-1].begun_s >= asked_s
    reader.stop()


def test_the_stop_waits_for_calls_unless_they_hang():
    hanging, other = Sensor(), Sensor()
    hanging.answers.clear()
    reader = SensorReader([(hanging, 0.01), (other, 0.01)])
    assert hanging.called.wait(20.0)
    _, idle = reader.stop()
    assert idle == [other]
    hanging.answers.set()
