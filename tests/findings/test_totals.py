"""Total energy and time of a study on each machine."""

import math

import pytest

from joulelab.findings.tables import StudyTables
from joulelab.findings.totals import study_totals
from joulelab.runs.record import read_record, write_record
from joulelab.runs.study_runs import read_study

EDGE_J = 1.0


@pytest.fixture
def study(synthetic, tmp_path):
    """Two runs of LeNet: 840 J of training and 49 J of inference each."""
    writer = synthetic.Writer(tmp_path / "s", models=["LeNet"], repeats=2)
    for block in range(2):
        writer.idle(block, "before")
        writer.cell("LeNet", block)
        writer.idle(block, "after")
    return read_study(tmp_path / "s")


def test_gains_add_up_and_edges_add_in_quadrature(study, synthetic):
    (total,) = study_totals(study)
    runs = StudyTables.of([study]).runs
    assert total.gross.value == pytest.approx(math.fsum(runs["gross_j"]), rel=1e-12)
    assert total.net.value == pytest.approx(math.fsum(runs["net_j"]), rel=1e-12)
    assert total.duration_s == pytest.approx(math.fsum(runs["duration_s"]), rel=1e-12)
    gains_j = [gain * math.fsum(runs[f"{kind}_j"]) for kind, gain in
               (("gpu", synthetic.GAIN["gpu:0"]), ("cpu", synthetic.GAIN["cpu:0"]))]  # fmt: skip
    assert total.gross.shared_uncertainty == pytest.approx(math.hypot(*gains_j), rel=1e-9)
    edges = 2 * 2 * (synthetic.EPOCHS["train"] + synthetic.EPOCHS["infer"])  # Runs, components.
    assert total.gross.own == pytest.approx(EDGE_J * math.sqrt(edges), rel=1e-9)


def test_phases_add_up_to_the_total(study):
    (total,) = study_totals(study)
    energies_j, durations_s = zip(*total.phases.values(), strict=True)
    assert list(total.phases) == ["train", "infer"]
    assert math.fsum(energies_j) == pytest.approx(total.gross.value, rel=1e-12)
    assert math.fsum(durations_s) == pytest.approx(total.duration_s, rel=1e-12)
    assert total.sources == {("gpu:0", "measured"), ("cpu:0", "estimated")}


def test_net_energy_is_unknown_if_one_run_lacks_it(study):
    directory = study.cells()[0].directory
    data = read_record(directory)
    write_record(directory, data | {"boot_id": "another boot"})
    (total,) = study_totals(read_study(study.directory))
    assert math.isnan(total.net.value)
    assert math.isfinite(total.gross.value)


def test_machines_are_apart(factor_studies):
    totals = [total for path in factor_studies for total in study_totals(read_study(path))]
    assert [total.machine.host for total in totals] == ["workstation", "server"]
