"""``joulelab.epochs`` on the simulated machine."""

import math
import os
import subprocess
import sys
import textwrap
from types import SimpleNamespace

import numpy as np
import pytest

import joulelab
from joulelab.energy.energy import ComponentEnergy, Energy
from joulelab.errors import BudgetError, UserError
from joulelab.loops import summary_lines
from joulelab.sensors.sensor import Provenance
from joulelab.sensors.simulated import SimulatedMachine, SimulatedSource, Waveform

POWER_W = 150.0
MACHINE = SimulatedMachine(
    (SimulatedSource(component="gpu:0", waveform=Waveform.constant(POWER_W)),)
)


@pytest.fixture(autouse=True)
def simulated_machine(tmp_path, monkeypatch):
    monkeypatch.setenv("JOULELAB_SENSORS", MACHINE.spec())
    monkeypatch.setenv("JOULELAB_HOME", str(tmp_path / "home"))


def test_epochs_and_steps_are_measured_and_the_energy_is_printed(capsys):
    loop = joulelab.epochs(range(2))
    seen = [(epoch, batch) for epoch in loop for batch in loop.steps("ab")]
    assert seen == [(0, "a"), (0, "b"), (1, "a"), (1, "b")]
    names = [span.name for span in loop.meter.spans]
    assert names == ["fit", *["epoch", "step", "step"] * 2]
    [fit] = loop.meter.spans_named("fit")
    assert loop.energy.gross_j == pytest.approx(POWER_W * fit.duration_s, rel=1e-3)
    first, *more = capsys.readouterr().err.splitlines()
    assert f"{first.removeprefix('joulelab: ')}; " in f"{loop.energy}; "
    assert [line[:10].strip() for line in more] == [""] * len(more)


@pytest.mark.parametrize(
    ("gross_j", "start"), [(999.0, "999 J, 10"), (2882.0, "2,882 J, 0.801 Wh, 10")]
)
def test_watt_hours_follow_the_joules_from_a_kilojoule_on(gross_j, start):
    part = ComponentEnergy(component="cpu:0", source="rapl", provenance=Provenance.MEASURED,
        duration_s=10.0, gross_j=gross_j)  # fmt: skip
    first, *more = summary_lines(Energy(duration_s=10.0, components={"cpu:0": part}))
    assert first.startswith(start)
    assert "Wh" not in "".join(more)


def test_a_step_contains_all_the_batches_that_it_accumulates():
    loop = joulelab.epochs(range(2), quiet=True)
    seen = [batch for _ in loop for batch in loop.steps("abcde", accumulate=2)]
    assert seen == [*"abcde"] * 2
    steps = loop.meter.spans_named("step")
    assert [step.attributes["index"] for step in steps] == [0, 1, 2] * 2
    assert [*loop.steps([], accumulate=2)] == []
    with pytest.raises(UserError, match="accumulate is 0"):
        next(loop.steps("a", accumulate=0))


def test_tokens_of_all_batches_and_the_energy_of_one(capsys):
    batch = {"input_ids": np.ones((2, 8)), "attention_mask": np.ones((2, 8))}
    batch["attention_mask"][1, 3:] = 0
    loop = joulelab.epochs(range(2))
    for _ in loop:
        for _ in loop.steps([batch] * 3, accumulate=2):
            pass
    assert loop.tokens == 2 * 3 * 11
    one = loop.energy.per(loop.tokens)
    assert one.value == pytest.approx(loop.energy.gross_j / 66)
    assert (one.low, one.high) == tuple(end / 66 for end in loop.energy.interval_j)
    assert capsys.readouterr().err.rstrip().endswith(") per token, 66 tokens")


def test_tokens_are_counted_by_a_function_or_unknown(capsys):
    loop = joulelab.epochs(range(1))
    for _ in loop:
        list(loop.steps("ab", tokens_in=lambda batch: 7))
        assert loop.tokens == 14
        list(loop.steps("ab"))
    assert math.isnan(loop.tokens)
    assert "token" not in capsys.readouterr().err


def test_tokens_of_one_process_are_not_related_to_the_energy_of_several(monkeypatch, capsys):
    monkeypatch.setattr("joulelab.loops.current_launch", lambda: SimpleNamespace(local_rank=0))
    loop = joulelab.epochs(range(1))
    for _ in loop:
        list(loop.steps([{"input_ids": np.ones(8)}]))
    assert loop.tokens == 8
    assert "token" not in capsys.readouterr().err


def test_an_error_ends_spans_and_recording():
    loop = joulelab.epochs(range(5), quiet=True)

    def train():
        for epoch in loop:
            for _ in loop.steps(range(3)):
                if epoch == 1:
                    raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train()
    assert all(span.stop_ns is not None for span in loop.meter.spans)
    assert len(loop.meter.spans_named("step")) == 4
    assert loop.energy.gross_j > 0


def test_break_ends_the_recording():
    loop = joulelab.epochs(range(5), quiet=True)
    for epoch in loop:
        if epoch == 2:
            break
    assert len(loop.meter.spans_named("epoch")) == 3
    assert loop.energy.gross_j > 0


def test_a_given_meter_stays_open_and_options_reach_the_epochs():
    with joulelab.Meter() as meter:
        loop = joulelab.epochs(
            range(5), meter=meter, max_energy_j=1e-6, on_budget="raise", quiet=True
        )
        with pytest.raises(BudgetError):
            list(loop)
        with meter.span("after"):
            pass
    assert meter.spans_named("after")


def test_a_loop_without_epochs_is_measured(capsys):
    loop = joulelab.epochs(range(3, 3))
    assert list(loop) == []
    assert loop.energy.duration_s > 0
    assert capsys.readouterr().err.startswith("joulelab: ")


def test_asking_too_early_is_a_user_error():
    loop = joulelab.epochs(range(2))
    with pytest.raises(UserError, match="no epoch has begun"):
        next(loop.steps([1]))
    with pytest.raises(UserError, match="until the loop ends"):
        _ = loop.energy


def test_of_two_processes_only_the_first_prints(tmp_path):
    script = textwrap.dedent(
        """
        import joulelab
        loop = joulelab.epochs(range(2))
        for _ in loop:
            pass
        print(loop.meter.recorder_pid)
        input()
        """
    )

    job = {"MASTER_ADDR": "localhost", "MASTER_PORT": "1", "WORLD_SIZE": "2"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script],
            env={**os.environ, **job, "RANK": rank, "LOCAL_RANK": rank},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in ("0", "1")
    ]
    try:
        recorders = {process.stdout.readline() for process in processes}
    finally:
        printed = [process.communicate("\n")[1] for process in processes]
    assert printed[0].startswith("joulelab: ")
    assert printed[1] == ""
    assert len(recorders) == 1
