"""What network interfaces and adapters count."""

import socket
import threading

import pytest

from joulelab.sensors.discovery import discover
from joulelab.sensors.interfaces import interfaces_now, read_interfaces
from joulelab.sensors.network import NetworkSensor, with_network
from joulelab.sensors.sensor import DataPlace, Gap, Quantity
from joulelab.sensors.simulated import SimulatedMachine

TABLE = """Inter-|   Receive                   |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs
    lo: 100 1 0 0 0 0 0 0 100 1 0 0 0 0 0 0
  eth0:5035180773 2 0 0 0 0 0 0 7734297 2 0 0 0 0 0 0
docker0: 70 2 0 0 0 0 0 0 60 2 0 0 0 0 0 0
eth1:0: 30 2 0 0 0 0 0 0 20 2 0 0 0 0 0 0
"""


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "dev"
    path.write_text(TABLE)
    return path


def test_interfaces_of_hardware_count_alone(tmp_path, table):
    (tmp_path / "class/net/eth0/device").mkdir(parents=True)
    state = read_interfaces(tmp_path, table)
    assert state[1:] == (7734297, 5035180773, 100, 100)


def test_all_interfaces_count_in_a_container(tmp_path, table):
    state = read_interfaces(tmp_path, table)
    assert state[1:] == (7734297 + 60 + 20, 5035180773 + 70 + 30, 100, 100)


def test_adapters_count_words(tmp_path):
    for port, words in (("mlx5_0/ports/1", 10), ("mlx5_1/ports/1", 5)):
        counters = tmp_path / "class/infiniband" / port / "counters"
        counters.mkdir(parents=True)
        (counters / "port_xmit_data").write_text(f"{words}\n")
        (counters / "port_rcv_data").write_text(f"{2 * words}\n")
    sensor = NetworkSensor(sysfs=tmp_path)
    places = [(one.component, one.quantity) for one in sensor.channels]
    values = {places[one.channel]: one.value for one in sensor.read()}
    assert values[DataPlace.RDMA, Quantity.SENT] == 60
    assert values[DataPlace.RDMA, Quantity.RECEIVED] == 120
    (counters / "port_xmit_data").unlink()
    gaps = [places[one.channel] for one in sensor.read() if isinstance(one, Gap)]
    assert gaps == [(DataPlace.RDMA, Quantity.SENT)]


def test_earlier_state_is_the_first_reading():
    before = read_interfaces()
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as client,
        server.accept()[0] as accepted,
    ):
        reader = threading.Thread(target=accepted.recv, args=(1 << 20, socket.MSG_WAITALL))
        reader.start()
        client.sendall(bytes(1 << 20))
        reader.join()
    sensor = NetworkSensor(before)
    position = [(one.component, one.quantity) for one in sensor.channels].index(
        (DataPlace.LOOPBACK, Quantity.SENT)
    )
    first, last = (one for one in sensor.read() if one.channel == position)
    assert first.t_ns == before.t_ns < last.t_ns
    assert last.value - first.value >= 1 << 20
    assert len([one for one in sensor.read() if one.channel == position]) == 1


def test_simulated_machine_has_no_network():
    found = discover([SimulatedMachine.default().spec()])
    assert with_network(found, interfaces_now()) is found
