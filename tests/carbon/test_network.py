"""Energy of networks per byte."""

import pytest

from joulelab.carbon.network import BASES, NetworkEnergy, network_intensity
from joulelab.carbon.site import Site, local_network_energy
from joulelab.energy.data_exchange import DataExchange, DataVolume
from joulelab.errors import UserError
from joulelab.sensors.sensor import DataPlace, Quantity

GB = DataVolume(1e9, 1e9, 1e9)


@pytest.mark.parametrize("access", ["fixed", "mobile", "core"])
def test_estimate_is_within_its_range_and_marginal_is_below_average(access):
    found = NetworkEnergy.of(GB, access)
    for basis in BASES:
        energy_j, low_j, high_j = found.energy(basis)
        assert 0 < low_j < energy_j < high_j
    assert found.energy("marginal")[0] < found.energy("average")[0]


def test_published_values():
    """1 W per Mbit/s is 8,000 J per GB: Malmodin (2020) gives 0.05 for fixed networks."""
    assert network_intensity("fixed").j_per_byte * 1e9 == pytest.approx(0.03 * 3.6e6)
    marginal = network_intensity("fixed", "marginal")
    assert marginal.j_per_byte * 1e9 == pytest.approx(0.05 * 8000, rel=0.01)
    mobile = network_intensity("mobile", "marginal")
    assert mobile.j_per_byte * 1e9 == pytest.approx(1.53 * 8000, rel=0.01)
    assert all(any(year in one for year in ("2015", "2020", "2021", "2022"))
               for one in mobile.sources)  # fmt: skip


def test_unknown_network_is_refused():
    with pytest.raises(UserError, match="no network 'mobil'"):
        Site(network="mobil")


def test_only_what_leaves_the_machine_counts(monkeypatch, tmp_path):
    monkeypatch.setenv("JOULELAB_HOME", str(tmp_path))
    monkeypatch.setenv("JOULELAB_NETWORK", "mobile")
    volumes = {
        (DataPlace.NETWORK, Quantity.SENT): GB,
        (DataPlace.RDMA, Quantity.RECEIVED): GB,
        (DataPlace.LOOPBACK, Quantity.SENT): GB,
        (DataPlace.FILES, Quantity.READ): GB,
    }
    found = local_network_energy(DataExchange(volumes))
    assert found.volume.value == 2e9
    assert found.to_json()["average_j"] == pytest.approx(2 * 0.14 * 3.6e6)
    assert found.to_json()["provenance"] == "derived"
    del volumes[DataPlace.NETWORK, Quantity.SENT], volumes[DataPlace.RDMA, Quantity.RECEIVED]
    assert local_network_energy(DataExchange(volumes)) is None
