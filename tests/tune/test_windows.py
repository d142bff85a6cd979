import numpy as np
import pytest
from energy_parts import energy_of

from joulelab.energy.energy import Energy
from joulelab.errors import UserError
from joulelab.tune.windows import probe_of


def test_time_and_energy_are_per_unit_of_work():
    probe = probe_of({"batch_size": 32}, energy_of(300.0, 2.0), [0.5, 0.5, 0.6, 0.4], [32] * 4)
    assert (probe.duration_s, probe.energy_j, probe.work) == (2.0 / 128, 300.0 / 128, 128)
    assert dict(probe.settings) == {"batch_size": 32}


def test_the_uncertainty_is_that_of_the_mean_of_steps():
    draw = np.random.default_rng(0)
    means, stated = [], []
    for _ in range(2000):
        durations = draw.normal(0.1, 0.01, 50)
        probe = probe_of({}, energy_of(100.0, 5.0), durations, [1.0] * 50)
        means.append(probe.duration_s)
        stated.append(probe.duration_uncertainty_s)
    assert np.std(means) == pytest.approx(np.mean(stated), rel=0.05)


def test_errors_that_all_probes_share_are_left_out():
    shared = energy_of(100.0, 4.0, gain_uncertainty=0.1, offset_uncertainty_w=5.0)
    assert probe_of({}, shared, [1.0] * 4, [2.0] * 4).energy_uncertainty_j == 0
    own = energy_of(100.0, 4.0, gain_uncertainty=0.1, edge_uncertainty_j=3.0)
    assert probe_of({}, own, [1.0] * 4, [2.0] * 4).energy_uncertainty_j == pytest.approx(3 / 8)


def test_a_smaller_last_batch_does_not_count_as_scatter():
    probe = probe_of({}, energy_of(100.0, 4.0), [1.0, 1.0, 1.0, 0.25], [8.0, 8.0, 8.0, 2.0])
    assert probe.duration_uncertainty_s == pytest.approx(0)


def test_the_uncertainty_of_a_single_step_is_unknown():
    assert np.isnan(probe_of({}, energy_of(100.0, 4.0), [4.0], [8.0]).duration_uncertainty_s)


def test_without_energy_there_is_nothing_to_tune():
    with pytest.raises(UserError, match="no energy was measured: gpu: no NVIDIA GPU"):
        probe_of({}, Energy(duration_s=1.0, absent={"gpu": "no NVIDIA GPU"}), [1.0], [1.0])
