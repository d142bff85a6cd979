"""Jobs and studies compared, on records with invented figures."""

import json
import math
import time
from dataclasses import replace

import pytest

from joulelab import Meter
from joulelab.carbon.site import Site
from joulelab.compare.compare import compare
from joulelab.compare.sides import read_side
from joulelab.compare.words import lines, practice, verdict
from joulelab.energy.baseline import Baseline, IdlePoint
from joulelab.energy.energy import ComponentEnergy, Energy
from joulelab.energy.uncertainty import METRICS
from joulelab.errors import UserError
from joulelab.ledger.ledger import read_ledger
from joulelab.run import previous
from joulelab.runs.job import read_job
from joulelab.sensors.sensor import Provenance
from joulelab.sensors.simulated import SimulatedMachine, SimulatedSource, Waveform

DAY_S = 86400.0
NOW_UNIX_S = 1.79e9


def compared(a, b, metric="gross_j", **options):
    return compare(read_side(str(a), "A"), read_side(str(b), "B"), METRICS[metric], **options)


def text_of(comparison):
    return "\n".join(lines(comparison))


def test_one_run_each_has_the_sensors_interval_and_nothing_is_shown(tmp_path, write_job):
    a = write_job(tmp_path / "a", 300.0)
    b = write_job(tmp_path / "b", 360.0)
    found = compared(a, b)
    effect = found.effect
    assert effect.ratio == pytest.approx(410 / 350)
    assert effect.difference == pytest.approx(6000.0)
    assert (effect.shown, effect.test) == (None, "")
    assert math.isnan(effect.p)
    # The same boards: what is left of a 5 % gain is the GPU's share, 300/350 against 360/410.
    gains = math.hypot(0.05 * (360 / 410 - 300 / 350), 0.25 * (50 / 410 - 50 / 350))
    edges = math.hypot(2**0.5 / 35000, 2**0.5 / 41000)
    half = math.log(effect.ratio_interval[1] / effect.ratio)
    assert half == pytest.approx(1.959964 * math.hypot(gains, edges), rel=1e-4)
    assert "cannot be told with one run each" in verdict(found)
    assert "shown" not in verdict(found)
    assert found.above(0.05) is None


def test_on_another_board_the_gain_does_not_cancel(tmp_path, write_job, synthetic):
    gpu = replace(synthetic.MACHINE.gpus[0], uuid="GPU-1")
    other = synthetic.other_machine(gpus=(gpu,), host="elsewhere")
    a = write_job(tmp_path / "a", 300.0)
    near = compared(a, write_job(tmp_path / "near", 300.0))
    far = compared(a, write_job(tmp_path / "far", 300.0, machine=other))
    shares = math.hypot(0.05 * 300 / 350, 0.25 * 50 / 350)
    half = math.log(far.effect.ratio_interval[1])
    assert half == pytest.approx(1.959964 * shares * 2**0.5, rel=1e-3)
    assert math.log(near.effect.ratio_interval[1]) < half / 100
    assert [str(difference) for difference in far.differences] == [
        "host: workstation in A, elsewhere in B"
    ]


def test_repeats_are_tested_and_a_limit_is_judged_by_the_interval(tmp_path, write_jobs):
    a = write_jobs(tmp_path / "a", [300, 302, 298])
    b = write_jobs(tmp_path / "b", [340, 342, 338], started_unix_s=NOW_UNIX_S + 60)
    found = compared(a, b)
    assert found.effect.shown is True
    assert found.effect.test == "Welch's t test"
    low, high = found.effect.ratio_interval
    assert low < 390 / 350 < high
    assert [found.above(limit) for limit in (0.05, low - 1 + 1e-3, high - 1)] == [True, None, False]
    assert "moderate" in text_of(found)
    same = compared(a, write_jobs(tmp_path / "c", [301, 299, 300.5]))
    assert same.effect.shown is False
    assert same.above(0.05) is False
    assert "no practical difference: the whole interval is within 2 %" in practice(same.effect)
    assert verdict(same).endswith(": not shown")


def test_a_new_run_against_a_baseline_of_several(tmp_path, write_job, write_jobs):
    a = write_jobs(tmp_path / "a", [300, 302, 298, 301])
    found = compared(a, write_job(tmp_path / "b", 340.0))
    assert found.effect.test == "Student's t test of one run"
    assert found.effect.shown is True


def test_a_stated_scatter_stands_in_for_repeats(tmp_path, write_job):
    a, b = write_job(tmp_path / "a", 300.0), write_job(tmp_path / "b", 340.0)
    assert compared(a, b, stated_scatter=0.02).effect.shown is True
    assert compared(a, b, stated_scatter=0.2).effect.shown is False
    assert compared(a, b).effect.shown is None


def test_what_is_not_alike_is_named(tmp_path, write_job, synthetic):
    other = synthetic.other_machine(
        packages={"torch": "2.11.0"},
        gpus=(replace(synthetic.MACHINE.gpus[0], power_limit_w=250.0),),
    )
    a = write_job(tmp_path / "a", 300.0, started_unix_s=NOW_UNIX_S - 9 * DAY_S)
    b = write_job(
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
    told = {f"{difference.group}: {difference}" for difference in found.differences}
    assert told == {
        "job: command: python train.py in A, python train.py --fast in B",
        "machine: gpu power limits (W): 350.0 in A, 250.0 in B",
        "software: torch: 2.14.1 in A, 2.11.0 in B",
    }
    for doubt in (
        "B: its exit code was 3",
        "B: another process used gpu:0",
        "B: estimated, not measured: cpu:0",
        "A was measured before B, by 9.00 days: whatever changed meanwhile is in the effect",
    ):
        assert doubt in found.doubts


def test_a_component_of_one_side_alone_is_left_out_and_named(tmp_path, write_job, synthetic):
    a = write_job(tmp_path / "a", 300.0)
    b = write_job(tmp_path / "b", 0.0, energy=synthetic.energy({"gpu:0": 300.0}, 100.0))
    found = compared(a, b)
    assert found.effect.ratio == pytest.approx(1.0)
    assert "cpu:0 left out: not measured in every run of both sides" in found.doubts
    c = write_job(tmp_path / "c", 0.0, energy=synthetic.energy({"cpu:0": 50.0}, 100.0))
    with pytest.raises(UserError, match="nothing in common was measured"):
        compared(b, c)


def test_net_energy_that_is_not_positive_has_a_difference_and_no_ratio(
    tmp_path, write_job, synthetic
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

    a = write_job(tmp_path / "a", 0.0, energy=net(100.0))
    b = write_job(tmp_path / "b", 0.0, energy=net(110.0))
    found = compared(a, b, "net_j")
    assert math.isnan(found.effect.ratio)
    assert found.effect.difference == pytest.approx(1000.0)
    assert found.above(0.05) is None
    assert "no ratio" in verdict(found)


def test_jobs_of_several_programs_are_compared_by_name(tmp_path, write_job):
    for side, watts in (("a", (300, 100)), ("b", (330, 105))):
        for name, gpu_w in zip(("train.py", "eval.py"), watts, strict=True):
            write_job(tmp_path / side / name, gpu_w, name=name)
    found = compared(tmp_path / "a", tmp_path / "b")
    assert [cell.levels for cell in found.cells] == [{"name": "eval.py"}, {"name": "train.py"}]
    assert found.effect.test == "paired t test over 2 cells"
    assert math.isnan(found.effect.difference)


def test_figures_a_sample_need_the_tag(tmp_path, write_job):
    a = write_job(tmp_path / "a", 300.0, tags={"samples": "1000"})
    b = write_job(tmp_path / "b", 300.0, tags={"samples": "2000"})
    assert compared(a, b, "gross_j_per_sample").effect.ratio == pytest.approx(0.5)
    with pytest.raises(UserError, match="--tag samples=N"):
        compared(a, write_job(tmp_path / "c", 300.0), "gross_j_per_sample")


def test_studies_are_paired_by_cell_and_blocks_are_one_error(tmp_path, synthetic):
    synthetic.write_study(tmp_path / "a", repeats=3)
    writer = synthetic.Writer(tmp_path / "b", models=list(synthetic.SCALE), repeats=3)
    for block in range(3):
        writer.idle(block, "before")
        for model in synthetic.SCALE:
            writer.cell(model, block, stretch=1.1 * (1 + 0.02 * block))
        writer.idle(block, "after")
    writer.failed("DLA", 0)
    found = compared(tmp_path / "a", tmp_path / "b", "gross_j_per_sample")
    assert "B: 1 run failed and left out" in found.doubts
    assert len(found.cells) == 8
    assert found.effect.ratio == pytest.approx(1.1)
    for cell in found.cells:
        assert cell.ratio == pytest.approx(1.1)
        # All cells of a block are longer by the same: eight cells tell no more than one.
        assert cell.ratio_interval == pytest.approx(found.effect.ratio_interval, rel=1e-6)
    by_model = compared(tmp_path / "a", tmp_path / "b", "duration_s", by=["model", "phase"])
    assert by_model.effect.ratio == pytest.approx(1.1)


def test_studies_of_another_batch_size_are_compared_and_it_is_named(tmp_path, synthetic):
    for name, batch_size in (("a", 64), ("b", 128)):
        writer = synthetic.Writer(tmp_path / name, models=["LeNet"], repeats=2)
        for block in range(2):
            writer.cell("LeNet", block, batch_size=batch_size, stretch=1 + 0.01 * block)
    found = compared(tmp_path / "a", tmp_path / "b", "duration_s_per_sample")
    assert [str(one) for one in found.differences] == ["batch_size: 64 in A, 128 in B"]
    with pytest.raises(UserError, match="no cell in common"):
        compared(tmp_path / "a", tmp_path / "b", "duration_s", by=["batch_size"])


def test_costs_stand_beside_each_side_with_what_they_rest_on(tmp_path, write_job):
    a, b = write_job(tmp_path / "a", 310.0), write_job(tmp_path / "b", 670.0)
    site = Site(country="DE", price_per_kwh=0.5, currency="EUR")
    found = compared(a, b, site=site)
    assert [costs.price for costs in found.costs] == pytest.approx([0.005, 0.01])
    assert text_of(found).count("Germany") == 2
    assert "joulelab site" in text_of(compared(a, b))


def test_names_that_stand_for_jobs(tmp_path, write_job, home):
    jobs = home / "jobs"
    for index, days in enumerate((20, 9, 1, 0)):
        write_job(jobs / f"job-{index}", 300.0, started_unix_s=NOW_UNIX_S - days * DAY_S)
    write_job(jobs / "other", 300.0, name="eval.py", started_unix_s=NOW_UNIX_S - DAY_S / 2)

    def runs(name):
        return [run.run for run in read_side(name, "A").measurements]

    assert runs("latest") == ["job-3"]
    assert runs("previous") == ["job-2"]
    assert runs("7d") == ["job-1"]
    assert runs("17d") == ["job-0"]
    assert runs("2d") == ["job-2"]
    assert runs("eval.py") == ["other"]
    assert runs("job-2") == ["job-2"]
    assert runs(str(jobs / "job-[12]")) == ["job-1", "job-2"]
    assert len(runs(str(jobs))) == 5
    with pytest.raises(UserError, match="no 50d job"):
        runs("50d")
    with pytest.raises(UserError, match=r"did you mean eval\.py"):
        runs("evil.py")
    with pytest.raises(UserError, match="no job, no study"):
        runs(str(tmp_path / "home" / "jobs" / "other" / "run.json"))
    with pytest.raises(UserError, match="on both sides"):
        compared("latest", jobs)


def test_spans_are_compared_one_by_one_however_many_there_are(tmp_path, write_job):
    gpu = SimulatedSource(component="gpu:0", waveform=Waveform.constant(200.0))
    for name, epochs in (("a", 2), ("b", 5)):
        directory = write_job(tmp_path / name, 300.0)
        with Meter(sensors=SimulatedMachine((gpu,)), directory=directory) as meter:
            for index in range(epochs):
                with meter.span("epoch", index=index):
                    time.sleep(0.05)
    sides = [read_side(str(tmp_path / name), name.upper(), "epoch") for name in ("a", "b")]
    assert [side.measurements[0].pieces for side in sides] == [2, 5]
    found = compare(*sides, METRICS["gross_j"])
    for side, value_j in zip(sides, (found.effect.a, found.effect.b), strict=True):
        (run,) = side.measurements
        assert value_j == pytest.approx(200 * run.energy.duration_s / run.pieces, rel=0.02)
    assert compare(*sides, METRICS["mean_power_w"]).effect.ratio == pytest.approx(1.0, rel=0.02)
    events = tmp_path / "a" / "events.jsonl"
    written = [json.loads(line) for line in events.read_text().splitlines()]
    rank = [line | {"pid": line["pid"] + 1} for line in written if line["event"] == "spans"]
    events.write_text("".join(json.dumps(line) + "\n" for line in (*written, *rank)))
    (both,) = read_side(str(tmp_path / "a"), "A", "epoch").measurements
    assert both.pieces == 2
    assert both.energy.gross_j == pytest.approx(sides[0].measurements[0].energy.gross_j)
    with pytest.raises(UserError, match="did you mean epoch"):
        read_side(str(tmp_path / "a"), "A", "epochs")
    with pytest.raises(UserError, match="no readings of its own"):
        read_side(str(write_job(tmp_path / "c", 300.0)), "A", "epoch")


def test_a_limit_for_each_cell_finds_the_one_that_the_mean_hides(tmp_path, write_jobs):
    for side, watts in (("a", (300, 300, 300)), ("b", (300, 280, 345))):
        for index, gpu_w in enumerate(watts):
            write_jobs(
                tmp_path / side / f"model-{index}",
                [gpu_w - 1, gpu_w, gpu_w + 1.5],
                name=f"model-{index}",
            )
    found = compared(tmp_path / "a", tmp_path / "b")
    assert len(found.cells) == 3
    assert found.effect.ratio == pytest.approx(1.02, abs=0.01)
    assert found.above(0.05) is False
    assert found.above(0.05, each=True) is True
    assert found.above(0.128, each=True) is None
    assert found.above(0.2, each=True) is False


def test_run_compare_and_ledger_agree_on_a_ratio(tmp_path, write_job):
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

    last = write_job(
        tmp_path / "jobs" / "last",
        0.0,
        energy=energy(1000.0, "nvml.samples+nvml.energy_counter"),
        started_unix_s=NOW_UNIX_S - 7 * DAY_S,
    )
    this = write_job(tmp_path / "jobs" / "this", 0.0, energy=energy(1100.0, "nvml.samples"))
    by_run = previous.compare(read_job(this), read_job(last)).energy
    by_compare = compared(last, this).effect
    ledger = read_ledger([tmp_path / "jobs"], by="week", complain=pytest.fail)
    by_ledger = ledger.change_of(ledger.rows[1], ledger.rows)
    half = 1.959964 * math.hypot(0.01, 1 / 1100, 1 / 1000)
    expected = (1.1, 1.1 * math.exp(-half), 1.1 * math.exp(half))
    assert (by_run.value, by_run.low, by_run.high) == pytest.approx(expected)
    assert (by_compare.ratio, *by_compare.ratio_interval) == pytest.approx(expected)
    # The ledger's interval is Fieller's.
    assert (by_ledger.value, by_ledger.low, by_ledger.high) == pytest.approx(expected, rel=2e-4)
