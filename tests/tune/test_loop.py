"""Tuning inside loops, on a simulated GPU whose power and speed follow its limit."""

import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from limited_gpu import FILE, FOUND_W, Borrowed, Clock, PowerLimit, limit_w, slowdown, write_limit

import joulelab
from joulelab.controls.machine_controls import FoundControls
from joulelab.errors import ControlError, UserError
from joulelab.recording import spans
from joulelab.recording.trace import read_trace
from joulelab.tune import device_knobs, loop
from joulelab.tune.drift import GROUP, DriftTest

STEP_S, WINDOW_S = 0.004, 0.15
LEVELS = (150, 200, 250, 275)
MOST_STEPS = 50_000


@pytest.fixture(autouse=True)
def limited_gpu(tmp_path, monkeypatch):
    """Every set of controls that was borrowed."""
    monkeypatch.setenv(FILE, str(tmp_path / "limit"))
    write_limit(FOUND_W)
    monkeypatch.setenv("JOULELAB_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("JOULELAB_SENSORS", "limited_gpu:LimitedGpu")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    borrowed = []

    def borrow(controls):
        borrowed.append(Borrowed(controls))
        return borrowed[-1]

    found = FoundControls((PowerLimit(),), ())
    monkeypatch.setattr(device_knobs, "find_controls", lambda **_: found)
    monkeypatch.setattr(device_knobs, "borrow", borrow)
    return borrowed


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """The clock of all spans, which also works."""
    clock = Clock()
    monkeypatch.setattr(spans, "monotonic_ns", clock.now_ns)
    return clock


@pytest.fixture
def train(clock):
    """Trains until the search has ended, and ten steps more; returns the limit at each step."""

    def run(tune, until=lambda tune: tune.result is not None, **options):
        loop, limits, left = joulelab.epochs(range(10**6), tune=tune, **options), [], 10
        for _ in loop:
            for _ in loop.steps(range(50)):
                limits.append(limit_w())
                clock.work(STEP_S)
                left -= until(tune)
                if left < 0:
                    return limits
                assert len(limits) < MOST_STEPS, "the search does not end"
        raise AssertionError

    return run


@pytest.fixture
def tune():
    """Makes a tuner with short probes of few levels."""

    def make(max_slowdown=0.1, **options):
        defaults = {"knobs": {"power_limit": LEVELS}, "window_s": WINDOW_S}
        return joulelab.Tune(max_slowdown, **(defaults | options))

    return make


@pytest.mark.parametrize(("max_slowdown", "right"), [(0.04, 275), (0.1, 250)])
def test_the_choice_uses_the_least_energy_within_the_slow_down(
    tune, train, max_slowdown, right, limited_gpu, capsys
):
    feasible = [level for level in (*LEVELS, FOUND_W) if slowdown(level) <= 1 + max_slowdown]
    assert right == min(feasible, key=lambda level: level * slowdown(level))
    tune = tune(max_slowdown)
    limits = train(tune)
    result, [borrowed] = tune.result, limited_gpu
    assert result.settings == {"power_limit": right}
    assert result.baseline == {"power_limit": FOUND_W}
    assert (limits[0], limits[-1]) == (FOUND_W, right)
    assert set(borrowed.history) <= {*LEVELS, FOUND_W}
    assert limit_w() == FOUND_W
    saving = 1 - right / FOUND_W * slowdown(right)
    assert result.saving.value == pytest.approx(saving, abs=0.03)
    first = capsys.readouterr().err.splitlines()[0]
    assert first.startswith(f"joulelab: Power limit {right} W saves ")
    assert first.endswith("The search cost nothing: its probes did work that had to be done.")


def test_the_outcome_is_kept_in_the_recording_and_the_record(tune, train, tmp_path, capsys):
    tune = tune()
    with joulelab.Meter(directory=tmp_path / "run") as meter:
        train(tune, meter=meter, quiet=True)
    assert capsys.readouterr().err == ""
    [event] = [e for e in read_trace(tmp_path / "run").events if e["event"] == "tuned"]
    assert tune.result.to_json().items() <= event["result"].items()
    [note] = joulelab.open_run(tmp_path / "run").notes
    assert note == event["text"]
    assert note.startswith("Power limit 250 W saves ")


def test_settings_are_searched_again_when_steps_take_longer(
    tune, clock, train, limited_gpu, monkeypatch, capsys
):
    monkeypatch.setattr(loop, "COST_SHARE", float("inf"))
    add, added, tune = DriftTest.add, [], tune(window_s=0.05)

    def slow_down_after_the_first_windows(self, probe):
        added.append(tune.result)
        clock.factor = 1.5 if len(added) >= GROUP else 1.0
        return add(self, probe)

    monkeypatch.setattr(DriftTest, "add", slow_down_after_the_first_windows)
    train(tune, until=lambda tune: bool(added) and tune.result is not added[0])
    [borrowed] = limited_gpu
    chosen = borrowed.history.index(250)
    assert FOUND_W in borrowed.history[chosen:-1]
    printed = capsys.readouterr().err.splitlines()
    assert [line for line in printed if "tuning again" in line] == [
        "joulelab: the time of a step has changed by +50 %: tuning again"
    ]


def test_without_marked_steps_whole_epochs_are_measured(tune, clock):
    tune, limits = tune(knobs={"power_limit": (150, 250)}, window_s=0.05), []
    with joulelab.Meter() as meter:
        for _ in meter.epochs(range(2000), tune=tune, quiet=True):
            limits.append(limit_w())
            clock.work(0.02)
            if tune.result is not None and limits[-3:] == [250.0] * 3:
                break
    assert tune.result.settings == {"power_limit": 250}
    assert limit_w() == FOUND_W


@pytest.mark.parametrize("limits", [{}, {"power_limit": (250,)}])
def test_settings_of_the_program_change_between_epochs(tune, clock, limited_gpu, limits):
    applied, sizes = [], []
    tune = tune(knobs=limits | {"batch_size": (8, 32)}, apply=applied.append, window_s=0.05)
    for _ in joulelab.epochs(range(2000), tune=tune, quiet=True):
        sizes.append(applied[-1]["batch_size"] if applied else 8)
        clock.work(0.16 / sizes[-1])
        if tune.result is not None and sizes[-3:] == [32] * 3:
            break
    assert tune.result.settings == dict.fromkeys(limits, 250) | {"batch_size": 32}
    assert sizes[0] == 8
    assert len(limited_gpu) == len(limits)
    assert limit_w() == FOUND_W


def test_a_function_of_the_user_may_fail_in_the_loop(tune, clock):
    def apply(settings):
        raise KeyError(settings["batch_size"])

    def train():
        for _ in joulelab.epochs(range(2000), tune=tune, quiet=True):
            clock.work(0.005)

    tune = tune(knobs={"batch_size": (8, 32)}, apply=apply, window_s=0.02)
    with pytest.raises(KeyError, match="32"):
        train()


def test_without_the_right_to_set_the_training_goes_on_with_one_warning(tune, train, monkeypatch):
    def refuse(_):
        raise ControlError("cannot set the power limit", why="no permission")

    monkeypatch.setattr(device_knobs, "borrow", refuse)
    with pytest.warns(RuntimeWarning, match="goes on untuned: cannot set the power") as found:
        train(tune(), until=lambda _: bool(found.list), quiet=True)
    assert len(found) == 1


def test_without_a_gpu_the_training_goes_on_with_one_warning(tune, train, monkeypatch):
    monkeypatch.setattr(device_knobs, "find_controls", lambda **_: FoundControls((), ()))
    with pytest.warns(RuntimeWarning, match="untuned: no power limit can be set") as found:
        train(tune(), until=lambda _: bool(found.list), quiet=True)
    assert len(found) == 1


def test_when_the_recorder_is_killed_the_training_goes_on_with_the_limit_it_found(tune, clock):
    loop = joulelab.epochs(range(10**6), tune=tune(), quiet=True)

    def train():
        is_killed = False
        for _ in loop:
            for _ in loop.steps(range(50)):
                clock.work(STEP_S)
                if limit_w() != FOUND_W and not is_killed:
                    os.kill(loop.meter.recorder_pid, signal.SIGKILL)
                    is_killed = True
                if is_killed and limit_w() == FOUND_W:
                    return

    with pytest.warns(RuntimeWarning, match="untuned: the recorder ended early"):
        train()


def test_a_loop_that_ends_first_restores_the_limit(tune, train):
    tune = tune()
    train(tune, until=lambda _: limit_w() != FOUND_W, quiet=True)
    assert limit_w() == FOUND_W
    assert tune.result.probes < len(LEVELS)


@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        ({"LOCAL_RANK": "1"}, None),
        ({"LOCAL_RANK": "0", "GROUP_WORLD_SIZE": "2"}, "several hosts"),
        ({"LOCAL_RANK": "0", "MASTER_ADDR": "10.0.0.1"}, "several hosts"),
    ],
)
def test_only_the_first_process_of_a_job_on_one_host_tunes(tune, monkeypatch, variables, reason):
    job = {"MASTER_ADDR": "localhost", "MASTER_PORT": "1", "WORLD_SIZE": "2", "RANK": "0"}
    for name, value in (job | variables).items():
        monkeypatch.setenv(name, value)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        tuner = tune().start(None)
        tuner.begin_epoch()
        tuner.close()
    assert [reason in str(one.message) for one in found] == ([] if reason is None else [True])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_slowdown": -0.1}, "max_slowdown is -0.1"),
        ({"window_s": 0}, "window_s is 0"),
        ({"objective": "speed"}, "no objective 'speed'"),
        ({"knobs": ()}, "no knobs"),
        ({"knobs": "power-limit"}, "'power-limit' has no levels or no apply"),
        ({"knobs": {"batch_size": (1, 2)}}, "'batch_size' has no levels or no apply"),
        ({"knobs": ("batch_size",), "apply": print}, "'batch_size' has no levels or no apply"),
    ],
)
def test_arguments_out_of_range_are_user_errors(options, message):
    with pytest.raises(UserError, match=message):
        joulelab.Tune(**options)


def test_the_record_of_a_wrapped_command_has_what_its_loops_were_tuned_to(tmp_path):
    program = (
        "import joulelab\nwith joulelab.Meter() as m: m.add_event('tuned', text='x', result={})"
    )
    joulelab_run = [sys.executable, "-m", "joulelab", "run", "--quiet", "--out", tmp_path / "run"]
    subprocess.run([*joulelab_run, "--", sys.executable, "-c", program], check=True)
    assert "x" in joulelab.open_run(tmp_path / "run").notes
