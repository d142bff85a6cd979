"""Frames against snapshots; ``JOULELAB_UPDATE_SNAPSHOTS=1`` writes new snapshots."""

import io
import json
import math
import os
from dataclasses import replace
from pathlib import Path

import pytest
from recordings import CPU, GPU, NOTHING, Recording
from rich.cells import cell_len
from rich.console import Console

from joulelab.errors import TraceError
from joulelab.sensors.host import boot_id
from joulelab.sensors.simulated import Waveform
from joulelab.study.cells import blocks
from joulelab.watch.screen import Frame, line
from joulelab.watch.sources import RecordingSource, open_source
from joulelab.watch.view import View

SNAPSHOTS = Path(__file__).parent / "snapshots"


def render(view, width, *, plain=False):
    """The lines of a frame, without colours."""
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii" if plain else "utf-8")
    console = Console(file=file, width=width, highlight=False)
    with console.capture() as capture:
        console.print(Frame(view), end="")
    return [one.rstrip() for one in capture.get().splitlines()]


def check(name, view, width, *, plain=False):
    """Compares a frame with its snapshot."""
    lines = render(view, width, plain=plain)
    assert all(cell_len(one) <= width for one in lines)
    text = "\n".join(lines) + "\n"
    path = SNAPSHOTS / f"{name}-{width}.txt"
    if os.environ.get("JOULELAB_UPDATE_SNAPSHOTS"):
        path.write_text(text)
    assert text == path.read_text()


def poll(recording, clock, **options):
    clock.elapsed_s = recording.until_s - 1000.0
    return RecordingSource(recording.directory, title="train.py", **options).poll()


@pytest.fixture
def job(tmp_path):
    """Three epochs of steps, and an open one in two processes."""
    recording = Recording(tmp_path).until(75.0)
    for epoch in range(3):
        begin_s = 2.0 + 20.0 * epoch
        parent = recording.span("epoch", begin_s, begin_s + 20.0, index=epoch, total=12)
        for step in range(4):
            start_s = begin_s + 4.0 * step
            recording.span("step", start_s, start_s + 4.0, parent=parent, index=step)
        recording.span("validate", begin_s + 16.5, begin_s + 19.0, parent=parent)
    parent = recording.span("epoch", 62.0, index=3, total=12)
    recording.span("step", 70.0, parent=parent, index=2)
    recording.span("evaluate \x1b[31m", 71.0, pid=8)
    return recording


@pytest.mark.parametrize("width", [60, 100, 140])
def test_a_run_with_spans(job, clock, width):
    check("job", poll(job, clock, detail="python train.py --epochs 12"), width)


def test_values_are_those_of_the_waveform(job, clock):
    view = poll(job, clock)
    true_j = {one.component: one.waveform.energy_j(1000.0, 1075.0) for one in (GPU, CPU)}
    assert view.energy.gross_j == pytest.approx(sum(true_j.values()), rel=0.005)
    assert {one.name: one.gross_j for one in view.components} == pytest.approx(true_j, rel=0.005)
    gpu, cpu = view.components
    assert cpu.power_w == pytest.approx(60.0, rel=0.01)
    assert gpu.power_w == pytest.approx(GPU.waveform.energy_j(1073.98, 1074.98), rel=0.01)
    assert len(gpu.history_w) == 37
    for i, power_w in enumerate(gpu.history_w):
        start_s = 1000.0 + 2 * i
        assert power_w == pytest.approx(
            GPU.waveform.energy_j(start_s, start_s + 2) / 2, rel=0.02, abs=4
        )
    epoch = next(one for one in view.ended if one.name == "epoch")
    assert (epoch.count, epoch.duration_s) == (3, pytest.approx(60.0))
    assert epoch.energy.gross_j == pytest.approx(
        sum(one.waveform.energy_j(1002.0, 1062.0) for one in (GPU, CPU)), rel=0.005
    )
    assert view.forecast.gross_low_j < view.forecast.gross_j < view.forecast.gross_high_j
    assert view.forecast.epochs == 12


@pytest.mark.parametrize("total", [1, 2, 12, 0, -3])
def test_a_run_that_has_more_epochs_than_it_said_is_not_forecast_below_what_is_spent(
    tmp_path, clock, total
):
    recording = Recording(tmp_path).until(75.0)
    for index in range(3):
        begin_s = 2.0 + 20.0 * index
        recording.span("epoch", begin_s, begin_s + 20.0, index=index, total=total)
    recording.span("epoch", 62.0, index=3, total=total)
    view = poll(recording, clock)
    text = "\n".join(render(view, 100))
    if total == 12:
        assert view.forecast.gross_low_j > view.ended[0].energy.gross_j
        assert "epoch 4/12 " in text
    else:
        assert view.forecast is None
        assert "no forecast: " in text
        assert "epoch #3 " in text
    if total in (1, 2):
        assert f"3 of {total} epoch" in text


def test_a_view_as_json(job, clock):
    data = json.loads(json.dumps(poll(job, clock).to_json(), allow_nan=False))
    assert data["components"][0]["name"] == "gpu:0"
    assert data["energy"]["net_j"] is None
    assert data["stacks"][0]["spans"][0] == {
        "name": "epoch", "index": 3, "total": 12, "elapsed_s": pytest.approx(13.0, abs=0.3),
    }  # fmt: skip


def test_a_machine(tmp_path, clock):
    view = poll(Recording(tmp_path).until(30.0), clock, detail="this machine")
    check("machine", replace(view, hints=("joulelab watch jobs/a",)), 100)


def test_a_machine_without_unicode(tmp_path, clock):
    view = poll(Recording(tmp_path).until(30.0), clock)
    check("ascii", replace(view, title="Übung.py"), 100, plain=True)
    assert all(one.isascii() for one in render(view, 60, plain=True))


@pytest.mark.parametrize("update_period_s", [1.0, 60.0])
def test_a_meter_around_the_machine_is_not_added_and_delays_nothing(
    tmp_path, clock, update_period_s
):
    node = replace(
        CPU, component="node", waveform=Waveform.constant(700.0), kind="power",
        update_period_s=update_period_s,
    )  # fmt: skip
    alone = poll(Recording(tmp_path / "alone").until(130.0), clock)
    view = poll(Recording(tmp_path / "node", (GPU, CPU, node)).until(130.0), clock)
    assert view.power_w == pytest.approx(alone.power_w)
    assert view.energy.gross_j == pytest.approx(alone.energy.gross_j)
    assert [one.name for one in view.components if one.is_added] == ["gpu:0", "cpu:0"]
    [meter] = [one for one in view.components if not one.is_added]
    assert meter.gross_j == pytest.approx(700 * 130, rel=0.05)
    assert any("node" in text and "not added" in text for text in render(view, 100))


def test_a_gap_is_not_zero(tmp_path, clock):
    lost = replace(GPU, kind="power", update_period_s=0.1, lost_s=((1020.0, 1032.0),))
    view = poll(Recording(tmp_path, (lost, CPU)).until(60.0), clock)
    check("gap", view, 100)
    holes = [i for i, power_w in enumerate(view.components[0].history_w) if math.isnan(power_w)]
    assert holes == [10, 11, 12, 13, 14, 15]
    assert not any(power_w == 0 for power_w in view.components[0].history_w)


def test_an_absent_gpu_is_not_zero(tmp_path, clock):
    view = poll(Recording(tmp_path, (CPU,), (), absent=[NOTHING]).until(30.0), clock)
    check("absent", view, 80)
    assert [one.name for one in view.components] == ["cpu:0"]


def test_a_lost_gpu_keeps_its_energy(tmp_path, clock):
    lost = replace(GPU, kind="power", update_period_s=0.1, lost_s=((1050.0, 2000.0),))
    view = poll(Recording(tmp_path, (lost, CPU)).until(60.0), clock)
    gpu, cpu = view.components
    assert math.isnan(gpu.power_w)
    assert math.isnan(view.power_w)
    assert gpu.gross_j > 0
    assert cpu.power_w == pytest.approx(60.0, rel=0.01)
    check("lost", view, 100)


@pytest.mark.usefixtures("no_pauses")
def test_all_sensors_of_energy_are_lost(tmp_path, clock):
    lost = ((1020.0, 2000.0),)
    sources = [replace(one, kind="power", update_period_s=0.1, lost_s=lost) for one in (GPU, CPU)]
    recording = Recording(tmp_path, sources).until(30.0)
    source = RecordingSource(tmp_path, title="train.py")
    for elapsed_s in (30.0, 60.0):
        clock.elapsed_s = elapsed_s
        recording.until(elapsed_s)
        for view in (source.poll(), poll(recording, clock)):
            assert view.state == "live"
            assert math.isnan(view.power_w)
            assert all(math.isnan(one.power_w) for one in view.components)
    assert len(view.components[0].history_w) == 27
    assert [math.isnan(power_w) for power_w in view.components[0].history_w] == [False] * 10 + [
        True
    ] * 17


def test_a_finished_recording(job, clock):
    job.span("epoch", 62.0, 75.0, index=3, total=12)
    job.stop()
    view = poll(job, clock)
    assert view.state == "ended"
    check("finished", view, 100)


def test_before_the_first_reading(tmp_path, clock):
    source = RecordingSource(tmp_path / "none", title="train.py")
    assert source.poll().state == "waiting"
    check("waiting", source.poll(), 60)
    recording = Recording(tmp_path / "none")
    assert source.poll().state == "waiting"
    recording.until(0.2)
    assert source.poll().state == "waiting"
    recording.until(3.0)
    clock.elapsed_s = 3.0
    assert source.poll().state == "live"


def test_a_recorder_that_is_gone(tmp_path, clock):
    recording = Recording(tmp_path).until(30.0)
    clock.elapsed_s = 35.0
    assert RecordingSource(tmp_path, title="t").poll().state == "live"
    clock.elapsed_s = 45.0
    view = RecordingSource(tmp_path, title="t").poll()
    assert (view.state, view.state_words) == ("lost", "the recorder is gone")
    assert recording.until_s == 1030.0


def test_a_machine_without_sensors_of_energy(tmp_path, clock):
    view = poll(Recording(tmp_path, ()).until(5.0), clock)
    assert view.energy is None
    assert "CPU busy" in "\n".join(render(view, 100))


def test_a_view_as_one_line(job, clock):
    text = line(poll(job, clock))
    assert text.startswith("train.py: live; 1 min 1")
    assert "epoch 4/12 > step #2" in text
    assert "\x1b" not in text
    assert "\n" not in text


@pytest.mark.parametrize("width", range(20, 220, 7))
def test_every_width_is_respected(job, clock, width):
    view = poll(job, clock, detail="python " + "x" * 300)
    assert all(cell_len(one) <= max(width, 40) for one in render(view, width))


def test_a_study(tmp_path, clock, synthetic):
    writer = synthetic.Writer(
        tmp_path / "study", boot_id=boot_id(), models=["LeNet", "ResNet18"], repeats=2
    )
    cells = [cell for block in blocks(writer.plan) for cell in block]

    def finish(cell, block):
        writer.cell(cell.factors["model"], block, change=lambda run: run.update(run_id=cell.run_id))

    writer.idle(0, "before")
    for cell in cells[:2]:
        finish(cell, 0)
    study = tmp_path / "study"
    view = open_source(study).poll()
    assert (view.state, view.study.done, view.study.cells) == ("lost", 2, 4)
    (study / ".lock").write_text(str(os.getpid()))
    source = open_source(study)
    assert source.poll().state_words == "between two runs"
    recording = Recording(study / ".partial" / f"{cells[2].run_id}-99").until(20.0)
    recording.span("epoch", 2.0, 8.0, index=0, phase="train")
    recording.span("epoch", 8.0, index=1, phase="train")
    clock.elapsed_s = 20.0
    view = source.poll()
    assert view.study.running == cells[2].run_id
    assert view.components[0].power_w > 0
    check("study", view, 100)
    for cell in cells[2:]:
        finish(cell, 1)
    (study / ".partial" / f"{cells[2].run_id}-99").rename(tmp_path / "gone")
    view = source.poll()
    assert (view.state, view.study.done) == ("live", 4)
    (study / ".lock").unlink()
    assert source.poll().state == "ended"


def test_a_removed_recording_is_an_error(tmp_path, clock):
    recording = Recording(tmp_path / "gone").until(10.0)
    source = RecordingSource(recording.directory, title="t")
    assert source.poll().state == "live"
    recording.directory.rename(tmp_path / "elsewhere")
    with pytest.raises(TraceError, match=r"cannot read the trace in .*gone: No such file"):
        source.poll()


def test_an_empty_view():
    assert render(View(title="x", state="waiting"), 80)[0].startswith("x")
