"""Comparisons of runs and studies, on records with invented values."""

import json
import math
import re
import shutil
import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulelab import Meter
from joulelab.carbon.site import Site
from joulelab.compare.compare import compare, estimate_effect
from joulelab.compare.measurement import BASELINE, CANDIDATE, read_group
from joulelab.compare.text import comparison_lines, practical_meaning, verdict
from joulelab.energy.attribution import ALSO_USED, Share
from joulelab.energy.baseline import BUSY_IDLE, Baseline, IdlePoint
from joulelab.energy.energy import NEGATIVE_NET, ComponentEnergy, Energy
from joulelab.energy.uncertainty import METRICS
from joulelab.errors import UserError
from joulelab.ledger.ledger import read_ledger
from joulelab.run import summary
from joulelab.runs.record import read_run
from joulelab.sensors.sensor import Provenance
from joulelab.sensors.simulated import SimulatedMachine, SimulatedSource, Waveform
from joulelab.stats.difference import Cell, Repeats
from joulelab.uncertain import UncertainValue

DAY_S = 86400.0
NOW_UNIX_S = 1.79e9


def compared(a, b, metric="gross_j", **options):
    groups = read_group(str(a), BASELINE), read_group(str(b), CANDIDATE)
    return compare(*groups, METRICS[metric], **options)


def text_of(comparison):
    return "\n".join(comparison_lines(comparison))


def test_one_run_each_has_the_interval_of_the_sensors_and_is_not_tested(tmp_path, write_run):
    a = write_run(tmp_path / "a", 300.0)
    b = write_run(tmp_path / "b", 360.0)
    found = compared(a, b)
    effect = found.effect
    assert effect.ratio == pytest.approx(410 / 350)
    assert effect.difference == pytest.approx(6000.0)
    assert (effect.significant, effect.test) == (None, "")
    assert math.isnan(effect.p)
    # The same boards: what is left of a 5 % gain is the GPU's share, 300/350 against 360/410.
    gains = math.hypot(0.05 * (360 / 410 - 300 / 350), 0.25 * (50 / 410 - 50 / 350))
    edges = math.hypot(2**0.5 / 35000, 2**0.5 / 41000)
    half = math.log(effect.ratio_interval[1] / effect.ratio)
    assert half == pytest.approx(1.959964 * math.hypot(gains, edges), rel=1e-4)
    text = verdict(effect, 0.95)
    assert text.startswith("17.1 % higher in the candidate (95 % CI +1")
    assert text.endswith("not tested, since one run each cannot show how much runs vary")
    assert found.is_above(0.05) is None


def test_on_another_board_the_gain_does_not_cancel(tmp_path, write_run, synthetic):
    gpu = replace(synthetic.MACHINE.gpus[0], uuid="GPU-1")
    other = synthetic.other_machine(gpus=(gpu,), host="elsewhere")
    a = write_run(tmp_path / "a", 300.0)
    near = compared(a, write_run(tmp_path / "near", 300.0))
    far = compared(a, write_run(tmp_path / "far", 300.0, machine=other))
    shares = math.hypot(0.05 * 300 / 350, 0.25 * 50 / 350)
    half = math.log(far.effect.ratio_interval[1])
    assert half == pytest.approx(1.959964 * shares * 2**0.5, rel=1e-3)
    assert math.log(near.effect.ratio_interval[1]) < half / 100
    assert [str(difference) for difference in far.mismatches] == [
        "host: workstation (baseline), elsewhere (candidate)"
    ]


def test_repeats_are_tested_and_the_interval_decides_about_a_limit(tmp_path, write_runs):
    a = write_runs(tmp_path / "a", [300, 302, 298])
    b = write_runs(tmp_path / "b", [340, 342, 338], started_unix_s=NOW_UNIX_S + 60)
    found = compared(a, b)
    assert found.effect.significant is True
    assert found.effect.test == "Welch's t test"
    low, high = found.effect.ratio_interval
    assert low < 390 / 350 < high
    assert [found.is_above(limit) for limit in (0.05, low - 1 + 1e-3, high - 1)] == [
        True,
        None,
        False,
    ]
    assert "moderate" in text_of(found)
    same = compared(a, write_runs(tmp_path / "c", [301, 299, 300.5]))
    assert same.effect.significant is False
    assert same.is_above(0.05) is False
    meaning = practical_meaning(same.effect)
    assert meaning.startswith("no practical difference: the whole interval is within 2 %")
    assert verdict(same.effect, 0.95).endswith(": no significant difference")
    corrected = replace(found.effect, significant=False)
    text = ": no significant difference after the correction"
    assert verdict(corrected, 0.95).endswith(text)


# Larger ratios are not computed.
ENERGIES_J = st.lists(st.floats(1e-6, 1e10), min_size=1, max_size=5)
SCATTER = st.sampled_from([0.0, 1e-3, 0.02, 0.1, 1.0, 5.0])


@given(ENERGIES_J, ENERGIES_J, SCATTER, st.sampled_from([0.0, 0.05, 2.0]))
def test_no_interval_is_impossible_or_contradicts_the_test(baseline, candidate, scatter, gain):
    def repeats(values_j, cause):
        near_j = [values_j[0] * math.exp(scatter * math.sin(one)) for one in values_j]
        values = tuple(UncertainValue(one, {cause: gain * one}) for one in near_j)
        return Repeats(values, tuple((cause, index) for index in range(len(values))))

    found = estimate_effect([Cell(repeats(baseline, "a"), repeats(candidate, "b"))])
    low, high = found.ratio_interval
    assert low <= found.ratio <= high
    assert (low, high) == (0.0, math.inf) or found.significant or high / low <= 100.001
    least_j, most_j = found.difference_interval
    assert least_j <= found.difference <= most_j
    if found.significant is not None:
        assert found.significant == (low > 1 or high < 1)
        assert found.significant == (least_j > 0 or most_j < 0) or 0 in (least_j, most_j)
        assert least_j >= -found.baseline_mean * (1 + 1e-9)
    # A dash is that of a range, never that of a value that is not known.
    assert not re.search(r"(?<!\d)–|–(?!\d)", verdict(found, 0.95))
    assert not re.search(r"(,\d{3}){2}", verdict(found, 0.95) + practical_meaning(found))


@pytest.mark.parametrize(
    ("baseline", "candidate", "text"),
    [
        ([100.0, 101.0], [100.0, 300.0], "cannot be determined from 2 and 2 runs, which vary"),
        ([1.0, 1.01], [50.0, 51.0], "50.2 times as much in the candidate (95 % CI 46.9–53.8)"),
        ([1.0, 1.01], [1e9, 1.01e9], "more than 1,000 times as much in the candidate: signif"),
        ([1e9, 1.01e9], [1.0, 1.01], "less than 1/1,000 times as much in the candidate: signif"),
        ([10.0, 10.1], [0.0, 0.0], "no ratio, since a value is not positive; significantly lower"),
        ([0.0, 1.0], [0.0, 2.0], "no ratio, since a value is not positive"),
        ([1e-9, 1e12], [1e-9, 1e12], "cannot be determined from 2 and 2 runs, which vary"),
    ],
)
def test_no_multiple_is_stated_that_means_nothing(baseline, candidate, text):
    found = estimate_effect([Cell(Repeats.of(*baseline), Repeats.of(*candidate))])
    assert verdict(found, 0.95).startswith(text)
    assert "–" not in practical_meaning(found)


def test_a_single_run_with_an_uncertain_sensor_does_not_vary():
    one = Repeats((UncertainValue(10.0, own=20.0),), ("a",))
    text = verdict(estimate_effect([Cell(one, one)]), 0.95)
    assert text == "cannot be determined from 1 and 1 run, which are too uncertain"


def test_a_new_run_against_a_baseline_of_several(tmp_path, write_run, write_runs):
    a = write_runs(tmp_path / "a", [300, 302, 298, 301])
    found = compared(a, write_run(tmp_path / "b", 340.0))
    assert found.effect.test == "Student's t test of one run"
    assert found.effect.significant is True


def test_an_assumed_scatter_replaces_repeats(tmp_path, write_run):
    a, b = write_run(tmp_path / "a", 300.0), write_run(tmp_path / "b", 340.0)
    assert compared(a, b, assumed_scatter=0.02).effect.significant is True
    assert compared(a, b, assumed_scatter=0.2).effect.significant is False
    assert compared(a, b).effect.significant is None


def test_differences_between_the_groups_are_listed(tmp_path, write_run, synthetic):
    other = synthetic.other_machine(
        packages={"torch": "2.11.0"},
        gpus=(replace(synthetic.MACHINE.gpus[0], power_limit_w=250.0),),
    )
    a = write_run(tmp_path / "a", 300.0, started_unix_s=NOW_UNIX_S - 9 * DAY_S)
    b = write_run(
        tmp_path / "b",
        300.0,
        machine=other,
        command=("python", "train.py", "--fast"),
        exit_code=3,
        energy=replace(
            synthetic.energy({"gpu:0": 300.0, "cpu:0": 50.0}, 100.0),
            notes=("another process used gpu:0",),
        ),
    )
    found = compared(a, b)
    assert {f"{one.group}: {one}" for one in found.mismatches} == {
        "command: command: python train.py (baseline), python train.py --fast (candidate)",
        "machine: gpu power limits (W): 350.0 (baseline), 250.0 (candidate)",
        "software: torch: 2.14.1 (baseline), 2.11.0 (candidate)",
    }
    for caveat in (
        "candidate: ended with exit code 3",
        "candidate: another process used gpu:0",
        "candidate: cpu:0 estimated, not measured",
        "candidate measured 9.00 days after the baseline: the effect includes whatever else "
        "changed in between",
    ):
        assert caveat in found.caveats


def test_a_setting_that_is_off_or_absent_is_not_set(tmp_path, write_run):
    a = write_run(tmp_path / "a", 300.0, settings={"sensors": None, "wait": False, "span": None})
    b = write_run(tmp_path / "b", 300.0, settings={"sensors": ["gpu"], "interval_s": None})
    c = write_run(tmp_path / "c", 300.0, settings={"sensors": ["gpu"], "augment": True})
    text = "sensors: not set (baseline), ['gpu'] (candidate)"
    assert list(map(str, compared(a, b).mismatches)) == [text]
    text = "augment: True (baseline), not set (candidate)"
    assert list(map(str, compared(c, b).mismatches)) == [text]


def test_a_component_that_one_group_lacks_is_not_compared(tmp_path, write_run, synthetic):
    a = write_run(tmp_path / "a", 300.0)
    b = write_run(tmp_path / "b", 0.0, energy=synthetic.energy({"gpu:0": 300.0}, 100.0))
    found = compared(a, b)
    assert found.effect.ratio == pytest.approx(1.0)
    assert "cpu:0 not compared: not measured in every run" in found.caveats
    c = write_run(tmp_path / "c", 0.0, energy=synthetic.energy({"cpu:0": 50.0}, 100.0))
    with pytest.raises(UserError, match="no component was measured in both groups"):
        compared(b, c)


def test_net_energy_that_is_not_positive_has_a_difference_and_no_ratio(
    tmp_path, write_run, synthetic
):
    def net(gpu_w):
        point = IdlePoint(
            time_s=50.0,
            duration_s=10.0,
            power_w={"gpu:0": 100.5, "cpu:0": 50.0},
            uncertainty_w={"gpu:0": 0.1, "cpu:0": 0.1},
            source=synthetic.SOURCE,
        )
        energy = synthetic.energy({"gpu:0": gpu_w, "cpu:0": 50.0}, 100.0)
        return Baseline((point,)).subtract(energy, 0.0, 100.0)

    a = write_run(tmp_path / "a", 0.0, energy=net(100.0))
    b = write_run(tmp_path / "b", 0.0, energy=net(110.0))
    found = compared(a, b, "net_j")
    assert math.isnan(found.effect.ratio)
    assert f"baseline: {NEGATIVE_NET}" in found.caveats
    assert not any(NEGATIVE_NET in caveat for caveat in compared(a, b).caveats)
    assert found.effect.difference == pytest.approx(1000.0)
    assert found.is_above(0.05) is None
    assert "no ratio" in verdict(found.effect, 0.95)


def test_other_users_are_a_caveat_of_the_whole_group(tmp_path, write_run, synthetic):
    share = Share(fraction=0.5, low=0.3, high=0.7, method="CPU time", users=("make (pid 7)",))
    energy = synthetic.energy({"gpu:0": 300.0, "cpu:0": 50.0}, 100.0)
    parts = {name: replace(part, idle_j=90.0) for name, part in energy.components.items()}
    alone = replace(energy, components=parts)
    for index, is_shared in enumerate((True, False, True)):
        energy = alone
        if is_shared:
            part = replace(energy.components["cpu:0"], share=share)
            notes = (f"{ALSO_USED} the CPU: make (pid {index})", f"{BUSY_IDLE} (50 %): uncertain")
            parts = {**energy.components, "cpu:0": part}
            energy = replace(energy, components=parts, notes=notes)
        write_run(tmp_path / "a" / str(index), 0.0, energy=energy)
    write_run(tmp_path / "b", 0.0, energy=alone)
    text = (
        "baseline: 2 of 3 runs were measured on a busy machine: other processes (make) also used "
        "the CPU"
    )
    for metric in ("gross_j", "duration_s", "net_j"):
        caveats = compared(tmp_path / "a", tmp_path / "b", metric).caveats
        assert text in caveats
        assert not any(ALSO_USED in caveat for caveat in caveats)
        assert any(BUSY_IDLE in caveat for caveat in caveats) is (metric == "net_j")


def test_runs_of_several_programs_are_compared_by_name(tmp_path, write_run):
    for group, watts in (("a", (300, 100)), ("b", (330, 105))):
        for name, gpu_w in zip(("train.py", "eval.py"), watts, strict=True):
            write_run(tmp_path / group / name, gpu_w, name=name)
    found = compared(tmp_path / "a", tmp_path / "b")
    assert [cell.levels for cell in found.cells] == [{"name": "eval.py"}, {"name": "train.py"}]
    assert found.effect.test == "paired t test over 2 cells"
    assert math.isnan(found.effect.difference)


def test_values_per_sample_need_the_tag(tmp_path, write_run):
    a = write_run(tmp_path / "a", 300.0, tags={"samples": "1000"})
    b = write_run(tmp_path / "b", 300.0, tags={"samples": "2000"})
    assert compared(a, b, "gross_j_per_sample").effect.ratio == pytest.approx(0.5)
    with pytest.raises(UserError, match="--tag samples=N"):
        compared(a, write_run(tmp_path / "c", 300.0), "gross_j_per_sample")


def test_studies_are_paired_by_cell_and_a_block_is_one_error(tmp_path, synthetic):
    synthetic.write_study(tmp_path / "a", repeats=3)
    writer = synthetic.Writer(tmp_path / "b", models=list(synthetic.SCALE), repeats=3)
    for block in range(3):
        writer.idle(block, "before")
        for model in synthetic.SCALE:
            writer.cell(model, block, stretch=1.1 * (1 + 0.02 * block))
        writer.idle(block, "after")
    writer.failed("DLA", 0)
    found = compared(tmp_path / "a", tmp_path / "b", "gross_j_per_sample")
    assert "candidate: 1 failed run left out" in found.caveats
    assert len(found.cells) == 8
    assert found.effect.ratio == pytest.approx(1.1)
    for cell in found.cells:
        assert cell.ratio == pytest.approx(1.1)
        # All cells of a block are longer by the same: eight cells say no more than one.
        assert cell.ratio_interval == pytest.approx(found.effect.ratio_interval, rel=1e-6)
    by_model = compared(tmp_path / "a", tmp_path / "b", "duration_s", by=["model", "phase"])
    assert by_model.effect.ratio == pytest.approx(1.1)


def test_a_factor_with_one_level_per_study_is_compared_and_listed(tmp_path, synthetic):
    for name, batch_size in (("a", 64), ("b", 128)):
        writer = synthetic.Writer(tmp_path / name, models=["LeNet"], repeats=2)
        for block in range(2):
            writer.cell("LeNet", block, batch_size=batch_size, stretch=1 + 0.01 * block)
    found = compared(tmp_path / "a", tmp_path / "b", "duration_s_per_sample")
    assert [str(one) for one in found.mismatches] == ["batch_size: 64 (baseline), 128 (candidate)"]
    with pytest.raises(UserError, match="no cell in common"):
        compared(tmp_path / "a", tmp_path / "b", "duration_s", by=["batch_size"])


@pytest.fixture
def factorial(tmp_path, synthetic):
    """Two models at two batch sizes and precisions in three blocks; bf16 takes 20 % less time.

    Each block is slower than the one before it by more than that.
    """
    writer = synthetic.Writer(
        tmp_path / "s",
        models=["LeNet", "VGG16"],
        repeats=3,
        factors={"batch_size": [64, 128], "precision": ["fp32", "bf16"]},
    )
    for block in range(3):
        writer.idle(block, "before")
        for model in ("LeNet", "VGG16"):
            for batch_size in (64, 128):
                for precision, factor in (("fp32", 1.0), ("bf16", 0.8 + 0.001 * block)):
                    writer.cell(
                        model,
                        block,
                        stretch=factor * (1 + 0.5 * block),
                        batch_size=batch_size,
                        precision=precision,
                    )
    return writer


def test_levels_of_one_study_are_paired_within_blocks_and_the_other_factors(tmp_path, factorial):
    study = tmp_path / "s"
    found = compared(f"{study}:precision=fp32", f"{study}:precision=bf16", "duration_s")
    assert found.effect.ratio == pytest.approx(0.801)
    assert found.effect.test == "paired t test over 3 blocks of the mean over 8 cells"
    assert found.effect.significant
    assert {tuple(cell.levels) for cell in found.cells} == {("phase", "model", "batch_size")}
    assert [str(one) for one in found.mismatches] == [
        "precision: fp32 (baseline), bf16 (candidate)"
    ]
    small = compared(
        f"{study}:model=lenet,precision=fp32,phase=train,batch_size=64",
        f"{study}:LeNet,precision=bf16,phase=train,batch_size=64",
        "duration_s",
    )
    assert (small.effect.n_baseline, small.cells) == (3, ())
    assert small.effect.ratio_interval == pytest.approx((0.79852, 0.80349), abs=1e-5)


def test_a_run_of_two_phases_is_one_run(tmp_path, factorial):
    study = tmp_path / "s"
    found = compared(f"{study}:precision=fp32", f"{study}:precision=bf16", "duration_s")
    assert len(found.baseline.measurements) == 24
    assert (found.effect.n_baseline, found.effect.runs_baseline) == (24, 12)
    lines = list(comparison_lines(found))
    assert "12 runs, " in lines[0]
    assert any(line.endswith("12 and 12 runs: p < 0.001") for line in lines)
    one_phase = compared(
        f"{study}:precision=fp32,phase=train",
        f"{study}:precision=bf16,phase=train",
        "duration_s",
    )
    assert (one_phase.effect.n_baseline, one_phase.effect.runs_baseline) == (12, 12)


def test_models_phases_and_several_levels_are_compared(tmp_path, factorial):
    study = tmp_path / "s"
    models = compared(f"{study}:LeNet", f"{study}:VGG16", "duration_s")
    assert {tuple(cell.levels) for cell in models.cells} == {("phase", "batch_size", "precision")}
    phases = compared(f"{study}:phase=train", f"{study}:phase=infer", "duration_s_per_sample")
    assert [str(one) for one in phases.mismatches if one.group == "levels"] == [
        "phase: train (baseline), infer (candidate)"
    ]
    # What is compared does not define cells, however many levels of it a group has.
    both = compared(
        f"{study}:precision=fp32,precision=bf16,batch_size=64",
        f"{study}:precision=bf16,batch_size=128",
        "duration_s",
    )
    assert {tuple(cell.levels) for cell in both.cells} == {("phase", "model")}
    with pytest.raises(UserError, match="is in both groups; compare it with another run, or other"):
        compared(study, f"{study}:precision=bf16")


def test_a_run_that_failed_takes_its_counterpart_in_the_block_with_it(tmp_path, factorial):
    study = tmp_path / "s"
    shutil.rmtree(study / "runs" / "r1-lenet-64-bf16")
    found = compared(f"{study}:precision=fp32", f"{study}:precision=bf16", "duration_s")
    assert found.effect.ratio == pytest.approx(0.801, abs=1e-3)
    assert "baseline: 2 of 24 phases of runs not compared: no counterpart" in found.caveats


def test_single_runs_of_studies_are_compared(tmp_path, factorial):
    runs = tmp_path / "s" / "runs"
    found = compared(runs / "r1-lenet-64-fp32", runs / "r1-lenet-64-bf16", "duration_s")
    assert found.effect.ratio == pytest.approx(0.801)
    assert {tuple(cell.levels) for cell in found.cells} == {("phase",)}


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        (
            "precison=bf16",
            r"s has no factor 'precison'; choose from phase, model, batch_size, prec",
        ),
        ("precision=fp64", r"s has no precision 'fp64'; choose from fp32, bf16"),
        ("ResNet18", r"s has no model 'ResNet18'; choose from LeNet, VGG16"),
        ("phase=decode", r"s has no phase 'decode'; choose from train, infer"),
        ("", r"s has no model ''; choose from LeNet, VGG16"),
    ],
)
def test_a_wrong_level_names_those_that_exist(tmp_path, factorial, levels, message):
    with pytest.raises(UserError, match=message):
        read_group(f"{tmp_path / 's'}:{levels}", BASELINE)


def test_levels_are_of_studies_alone(tmp_path, write_run):
    write_run(tmp_path / "a", 300.0)
    with pytest.raises(UserError, match="a is not a study: only the runs of studies have levels"):
        read_group(f"{tmp_path / 'a'}:precision=bf16", BASELINE)


def test_costs_of_each_group_come_with_their_source(tmp_path, write_run):
    a, b = write_run(tmp_path / "a", 310.0), write_run(tmp_path / "b", 670.0)
    site = Site(country="DE", price_per_kwh=0.5, currency="EUR")
    found = compared(a, b, site=site)
    assert [costs.price for costs in found.costs] == pytest.approx([0.005, 0.01])
    text = text_of(found)
    assert text.count("Germany") == 1
    assert text.count("CO2e") == text.count("EUR)") == 2
    assert "joulelab site" in text_of(compared(a, b))


def test_names_of_runs(tmp_path, write_run, home):
    saved = home / "runs"
    for index, days in enumerate((20, 9, 1, 0)):
        write_run(saved / f"run-{index}", 300.0, started_unix_s=NOW_UNIX_S - days * DAY_S)
    write_run(saved / "other", 300.0, name="eval.py", started_unix_s=NOW_UNIX_S - DAY_S / 2)

    def runs(name):
        return [one.name for one in read_group(name, BASELINE).measurements]

    assert runs("latest") == ["run-3"]
    assert runs("previous") == ["run-2"]
    assert runs("7d") == ["run-1"]
    assert runs("17d") == ["run-0"]
    assert runs("2d") == ["run-2"]
    assert runs("eval.py") == ["other"]
    assert runs("run-2") == ["run-2"]
    assert runs(str(saved / "run-[12]")) == ["run-1", "run-2"]
    assert len(runs(str(saved))) == 5
    with pytest.raises(UserError, match="no 50d run"):
        runs("50d")
    with pytest.raises(UserError, match=r"did you mean eval\.py"):
        runs("evil.py")
    with pytest.raises(UserError, match="there is no directory"):
        runs(str(saved / "other" / "run.json"))
    with pytest.raises(UserError, match="in both groups"):
        compared("latest", saved)


def test_spans_are_compared_by_their_mean(tmp_path, write_run):
    gpu = SimulatedSource(component="gpu:0", waveform=Waveform.constant(200.0))
    for name, epochs in (("a", 2), ("b", 5)):
        with Meter(sensors=SimulatedMachine((gpu,)), directory=tmp_path / name) as meter:
            for index in range(epochs):
                with meter.span("epoch", index=index):
                    time.sleep(0.05)
        write_run(tmp_path / name, 300.0)

    def spans(name, span="epoch"):
        return read_group(str(tmp_path / name), name, span)

    groups = spans("a"), spans("b")
    assert [group.measurements[0].pieces for group in groups] == [2, 5]
    effect = compare(*groups, METRICS["gross_j"]).effect
    for group, value_j in zip(groups, (effect.baseline_mean, effect.candidate_mean), strict=True):
        (one,) = group.measurements
        assert value_j == pytest.approx(200 * one.energy.duration_s / one.pieces, rel=0.02)
    power = compare(*groups, METRICS["mean_power_w"]).effect
    assert power.ratio == pytest.approx(1.0, rel=0.02)
    # The spans of a second rank at the same time add neither time nor energy.
    events = tmp_path / "a" / "events.jsonl"
    written = [json.loads(line) for line in events.read_text().splitlines()]
    rank = [line | {"pid": line["pid"] + 1} for line in written if line["event"] == "spans"]
    events.write_text("".join(json.dumps(line) + "\n" for line in (*written, *rank)))
    (both,) = spans("a").measurements
    assert both.pieces == 2
    assert both.energy.gross_j == pytest.approx(groups[0].measurements[0].energy.gross_j)
    with pytest.raises(UserError, match="did you mean epoch"):
        spans("a", "epochs")
    write_run(tmp_path / "c", 300.0)
    with pytest.raises(UserError, match="no readings of its own"):
        spans("c")


def test_a_limit_for_each_cell_finds_the_cell_that_the_mean_hides(tmp_path, write_runs):
    for group, watts in (("a", (300, 300, 300)), ("b", (300, 280, 345))):
        for index, gpu_w in enumerate(watts):
            write_runs(
                tmp_path / group / f"model-{index}",
                [gpu_w - 1, gpu_w, gpu_w + 1.5],
                name=f"model-{index}",
            )
    found = compared(tmp_path / "a", tmp_path / "b")
    assert len(found.cells) == 3
    assert found.effect.ratio == pytest.approx(1.02, abs=0.01)
    assert found.is_above(0.05) is False
    assert found.is_above(0.05, each=True) is True
    assert found.is_above(0.128, each=True) is None
    assert found.is_above(0.2, each=True) is False


def test_run_compare_and_ledger_agree_on_a_ratio(tmp_path, write_run):
    """The same two runs of one board, read with and without its energy counter."""

    def energy(gross_j, source):
        part = ComponentEnergy(
            component="gpu:0",
            source=source,
            provenance=Provenance.MEASURED,
            duration_s=100.0,
            gross_j=gross_j,
            gain_uncertainty=0.065,
            edge_uncertainty_j=1.0,
        )
        return Energy(duration_s=100.0, components={"gpu:0": part})

    last = write_run(
        tmp_path / "runs" / "last",
        0.0,
        energy=energy(1000.0, "nvml.samples+nvml.energy_counter"),
        started_unix_s=NOW_UNIX_S - 7 * DAY_S,
    )
    this = write_run(tmp_path / "runs" / "this", 0.0, energy=energy(1100.0, "nvml.samples"))
    by_run = summary.compare(read_run(this), read_run(last)).energy
    by_compare = compared(last, this).effect
    ledger = read_ledger([tmp_path / "runs"], by="week", on_error=pytest.fail)
    by_ledger = ledger.change_of(ledger.rows[1], ledger.rows)
    half = 1.959964 * math.hypot(0.01, 1 / 1100, 1 / 1000)
    expected = (1.1, 1.1 * math.exp(-half), 1.1 * math.exp(half))
    assert (by_run.value, by_run.low, by_run.high) == pytest.approx(expected)
    assert (by_compare.ratio, *by_compare.ratio_interval) == pytest.approx(expected)
    # The ledger's interval is Fieller's.
    assert (by_ledger.value, by_ledger.low, by_ledger.high) == pytest.approx(expected, rel=2e-4)


def test_runs_that_vary_too_much_determine_nothing(tmp_path, write_runs):
    a = write_runs(tmp_path / "a", [20.0, 900.0])
    b = write_runs(tmp_path / "b", [800.0, 25.0], started_unix_s=NOW_UNIX_S + 60)
    text = text_of(compared(a, b))
    assert "gross energy: cannot be determined from 2 and 2 runs, which vary too much\n" in text
    assert "difference" not in text
    assert "in practice  unknown\n" in text


def test_an_effect_that_is_not_tested_is_only_perhaps_one(tmp_path, write_run):
    text = text_of(compared(write_run(tmp_path / "a", 300.0), write_run(tmp_path / "b", 400.0)))
    assert "not tested" in text
    assert "in practice  large if real" in text
