"""Which runs other processes disturbed, and the caveats that follow."""

from dataclasses import replace

import pytest
from energy_parts import component_energy, idle_point

from joulelab.energy.attribution import Share
from joulelab.energy.baseline import Baseline, Load
from joulelab.energy.energy import Energy
from joulelab.runs.record import read_record, write_record
from joulelab.runs.shared_machine import Sharing, is_shared, other_users, study_caveats, was_shared
from joulelab.runs.study_runs import read_study
from joulelab.sensors.sensor import Provenance

ALONE = Share(fraction=1.0, low=1.0, high=1.0, method="CPU time")
HALF = Share(fraction=0.5, low=0.3, high=0.7, method="CPU time", users=("make (pid 7)",))


def energy(*shares):
    parts = {
        f"cpu:{i}": component_energy(
            f"cpu:{i}", 10.0, provenance=Provenance.MEASURED, duration_s=1.0, share=share
        )
        for i, share in enumerate(shares)
    }
    return Energy(duration_s=1.0, components=parts)


@pytest.mark.parametrize(
    ("shares", "shared", "known"),
    [
        ([], False, None),
        ([ALONE], False, False),
        ([None], False, None),
        ([ALONE, None], False, None),
        ([HALF, None], True, True),
        ([ALONE, HALF], True, True),
    ],
)
def test_an_energy_is_shared_if_others_are_known_to_have_used_it(shares, shared, known):
    assert is_shared(energy(*shares)) is shared
    assert was_shared(energy(*shares)) is known


@pytest.mark.parametrize(
    ("note", "component", "users"),
    [
        ("other processes also used the CPU: make (pid 7), ld (pid 8) and 3 more", "the CPU",
         ["make", "ld"]),
        ("node1: other processes also used gpu:10: a b (pid 1)", "gpu:10", ["a b"]),
        ("other processes also used the CPU", "the CPU", []),
        ("the CPU was used by others, too: make (pid 7)", "the CPU", ["make"]),
        ("gpu:0 was used by others, too: processes that were not seen", "gpu:0", []),
        ("the CPU: this job's share is unknown: nothing was sampled", None, []),
    ],
)  # fmt: skip
def test_a_note_states_sharing_where_no_share_is_known(note, component, users):
    noted = replace(energy(None), notes=(note,))
    assert other_users(noted) == ({component: users} if component else {})
    assert is_shared(noted) is (component is not None)
    if component is not None:
        assert Sharing.of([("a", noted)]).components == (component,)


def test_several_runs_are_summarised():
    third = replace(HALF, users=("make (pid 9)", "node (pid 4)"))
    sharing = Sharing.of([("a", energy(HALF)), ("b", energy(ALONE)), ("c", energy(third))])
    assert sharing.runs == ("a", "c")
    assert str(sharing) == (
        "2 of 3 runs were measured on a busy machine: other processes (make and node) also used "
        "the CPU"
    )
    assert Sharing.of([("b", energy(ALONE))]) is None
    used = tuple(f"{name} (pid 1)" for name in "qwertz")
    assert Sharing.of([("a", energy(replace(HALF, users=used)))]).users == tuple("qwertz")
    without_names = replace(HALF, users=())
    text = "measured on a busy machine: other processes also used the CPU during the run"
    assert str(Sharing.of([("a", energy(without_names))])) == text


def test_a_study_states_what_disturbed_it(synthetic, tmp_path):
    writer = synthetic.Writer(tmp_path / "s", models=["LeNet", "VGG16"])
    writer.idle(0, "before")
    writer.cell("LeNet", 0)
    writer.cell("VGG16", 0, change=synthetic.disturb)
    writer.idle(0, "after")
    study = read_study(tmp_path / "s")
    (caveat,) = study_caveats(study)
    assert caveat == (
        "1 of 2 runs was measured on a busy machine: other processes (make) also used the CPU. "
        "The energies include what the other processes used, and the times are longer where they "
        "competed for the machine; no interval covers this. On a quiet machine, "
        f"`joulelab study {study.directory}/plan.toml --out {study.directory} --retry-shared` "
        "measures again what was affected: r0-vgg16."
    )


def test_a_study_states_which_phases_were_cut_short(synthetic, tmp_path):
    writer = synthetic.Writer(tmp_path / "s", models=["LeNet", "VGG16"], repeats=2)

    def cut(run):
        run["results"]["train"]["complete"] = False

    for block in range(2):
        writer.cell("LeNet", block)
        writer.cell("VGG16", block, change=cut)
    assert study_caveats(read_study(tmp_path / "s")) == [
        "2 of 4 runs did less work than planned within the seconds of the plan (VGG16 in train): "
        "compare their energies per sample."
    ]


def test_an_idle_run_on_a_busy_machine_passes_its_doubt_on(synthetic, tmp_path):
    writer = synthetic.Writer(tmp_path / "s", models=["LeNet"])
    writer.idle(0, "before")
    writer.cell("LeNet", 0)
    directory = tmp_path / "s" / "runs" / "r0-idle-before"
    quiet = read_study(tmp_path / "s")
    assert study_caveats(quiet) == []
    point = idle_point(
        {"cpu:0": 20.0},
        uncertainty_w=9.0,
        source=synthetic.SOURCE["cpu:0"],
        time_s=1005.0,
        duration_s=10.0,
        load={"cpu": Load(0.5, "make (pid 7)")},
        busy_w={"cpu:0": 38.0},
    )
    baseline = Baseline((point,)).to_json()
    write_record(directory, read_record(directory) | {"baseline": baseline})
    study = read_study(tmp_path / "s")
    (caveat,) = study_caveats(study)
    assert caveat == (
        "Idle power was measured on a busy machine in 1 of 1 measurement (up to 50 % of the CPU "
        "used by make (pid 7)): net energies may be too high or too low, and their intervals are "
        "wider for it; to be sure, run the study again in a new directory."
    )
    (cell,) = study.cells()
    train = cell.study.results["train"].energy
    assert any("idle power was measured on a busy machine" in note for note in train.notes)
    low_j, high_j = train.components["cpu:0"].net_interval_j
    assert high_j - low_j > 2 * 9.0 * train.components["cpu:0"].duration_s
