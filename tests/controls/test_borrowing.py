"""Whatever happens to the program and its guard, the limits that were found come back."""

import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sysfs_limits import limit_w, package
from waiting import wait_for

from joulelab.controls import saved_state
from joulelab.controls.borrowing import borrow, check_borrowable
from joulelab.controls.machine_controls import find_controls
from joulelab.controls.saved_state import lock_device, restore, restore_all, save_found
from joulelab.errors import ControlError, JoulelabError, StoreError

FOUND_W, SET_W = 125, 80
PROGRAM = """
import os, signal, sys, time
from joulelab.controls.borrowing import borrow
from joulelab.controls.machine_controls import find_controls
borrowed = borrow(find_controls().named("cpu_power_limit"))
borrowed.set({"cpu_power_limit": 80})
child = os.fork() if "fork" in sys.argv else None
if child != 0:
    print(borrowed._guard._process.pid, child, flush=True)
time.sleep(100)
"""


@pytest.fixture(autouse=True)
def zone(tmp_path, monkeypatch):
    """The directory of the only package of this machine."""
    monkeypatch.setenv("JOULELAB_SYSFS", str(tmp_path / "sys"))
    monkeypatch.setenv("JOULELAB_HOME", str(tmp_path / "home"))
    return package(tmp_path / "sys", 0, limit_w=FOUND_W, max_w=150)


@pytest.fixture
def at_once(monkeypatch):
    """Do not wait for the guard of another process."""
    monkeypatch.setattr(saved_state, "LOCK_WAIT_S", 0)


def change(zone, power_w):
    """Change the limit like another program."""
    (zone / "constraint_0_power_limit_uw").write_text(f"{round(power_w * 1e6)}\n")


def states():
    return list((Path(os.environ["JOULELAB_HOME"]) / "controls").glob("*.json"))


def limits():
    return find_controls().named("cpu_power_limit")


def set_w(borrowed, power_w):
    borrowed.set({"cpu_power_limit": power_w})


class Program:
    """A program that has changed the limit."""

    def __init__(self, *arguments):
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *arguments], stdout=subprocess.PIPE, text=True
        )
        guard, child = self.process.stdout.readline().split()
        self.guard, self.child = int(guard), None if child == "None" else int(child)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        if self.child is not None:
            os.kill(self.child, signal.SIGKILL)


def test_the_limit_found_is_saved_before_the_first_change_and_restored_at_the_end(zone):
    with borrow(limits()) as borrowed:
        (state,) = states()
        assert json.loads(state.read_text())["values"] == [
            {"name": "cpu_power_limit", "found": FOUND_W}
        ]
        assert limit_w(zone) == FOUND_W
        set_w(borrowed, SET_W)
        set_w(borrowed, 90.5)
        assert limit_w(zone) == 90.5
    assert limit_w(zone) == FOUND_W
    assert states() == []
    assert borrowed.notes == []


def test_a_value_close_to_the_one_found_is_restored_too(zone):
    with borrow(limits()) as borrowed:
        set_w(borrowed, FOUND_W - 0.1)
    assert limit_w(zone) == FOUND_W


def test_an_exception_in_the_program_restores_the_limit_and_is_passed_on(zone):
    def fail():
        with borrow(limits()) as borrowed:
            set_w(borrowed, SET_W)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert limit_w(zone) == FOUND_W
    assert states() == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_killed_program_leaves_the_limit_that_was_found(zone, number):
    with Program() as program:
        assert limit_w(zone) == SET_W
        program.process.send_signal(number)
        wait_for(lambda: not states())
        assert limit_w(zone) == FOUND_W
        # The guard keeps the device locked until then.
        lock_device(limits()[0].device, "cpu:0").release()


def test_a_child_that_outlives_the_program_keeps_neither_the_limit_nor_the_lock(zone, at_once):
    with Program("fork") as program:
        program.process.kill()
        wait_for(lambda: not states())
        assert limit_w(zone) == FOUND_W
        os.kill(program.child, 0)
        with suppress(StoreError):
            wait_for(lambda: not Path(f"/proc/{program.guard}").exists())
        lock_device(limits()[0].device, "cpu:0").release()


def test_signals_that_end_a_job_do_not_end_the_guard(zone):
    with Program() as program:
        group = os.getpgid(program.guard)
        assert group not in (os.getpgid(program.process.pid), os.getpgid(0))
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
            os.killpg(group, number)
        program.process.kill()
        wait_for(lambda: not states())
        assert limit_w(zone) == FOUND_W


def test_two_tuners_of_one_device_refuse_each_other(zone, at_once):
    with Program() as program:
        pid = program.process.pid
        with pytest.raises(StoreError, match=f"cpu:0 is in use: process {pid} is tuning it"):
            borrow(limits())
        restored = restore_all()
        assert restored.notes == ()
        assert f"process {pid} is tuning it" in restored.failures[0]
        assert limit_w(zone) == SET_W


def test_a_killed_guard_is_replaced_at_the_next_change(zone):
    with borrow(limits()) as borrowed:
        set_w(borrowed, 70)
        set_w(borrowed, SET_W)
        first = borrowed._guard._process
        first.kill()
        first.wait()
        set_w(borrowed, 70)
        assert borrowed._guard._process.pid != first.pid
        assert borrowed._guard._process.poll() is None
    assert limit_w(zone) == FOUND_W


@pytest.mark.parametrize("how", ["restore", "borrow"])
def test_what_a_killed_guard_left_is_restored_later_with_a_note(zone, how):
    with Program() as program:
        os.kill(program.guard, signal.SIGKILL)
        program.process.kill()
        program.process.wait()
        assert limit_w(zone) == SET_W
    if how == "restore":
        restored = restore_all()
        notes = restored.notes
        assert restored.failures == ()
    else:
        with borrow(limits()) as borrowed:
            notes = borrowed.notes
            assert list(borrowed.found.values()) == [FOUND_W]
    assert limit_w(zone) == FOUND_W
    (note,) = notes
    assert note.startswith("restored the power limit of cpu:0 from 80.00 W to 125.0 W, which")
    assert f"process {program.process.pid} had changed" in note
    assert states() == []
    assert restore_all().notes == ()


def test_after_a_restart_of_the_machine_nothing_is_changed_and_a_note_says_what_is_lost(
    zone, monkeypatch
):
    (limit,) = limits()
    save_found({limit: FOUND_W})
    monkeypatch.setattr(saved_state, "boot_id", lambda: "another boot")
    change(zone, 150)
    (note,) = restore_all().notes
    assert note.startswith("the power limit of cpu:0 is 150.0 W since the machine was restarted, ")
    assert "and was 125.0 W before" in note
    assert limit_w(zone) == 150
    assert states() == []


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"device": 1}', '{"found": NaN}', "x" * 100, "\0"]
)
def test_a_damaged_state_is_an_error_that_says_what_to_do(zone, text):
    (limit,) = limits()
    save_found({limit: FOUND_W})
    (path,) = states()
    path.write_text(text)
    (failure,) = restore_all().failures
    assert str(path) in failure
    assert "remove the file" in failure
    with pytest.raises(StoreError, match="remove the file"):
        borrow([limit])
    assert path.exists()
    assert limit_w(zone) == FOUND_W


def test_a_state_of_a_device_that_is_missing_stays_for_later(zone):
    save_found(dict.fromkeys(limits(), FOUND_W))
    zone.rename(zone.with_name("elsewhere"))
    (failure,) = restore_all().failures
    assert "cannot restore the cpu power limit of cpu:0" in failure
    assert "missing or does not answer" in failure
    assert len(states()) == 1


def test_the_state_of_a_device_that_a_restart_removed_is_dropped(zone, monkeypatch):
    save_found(dict.fromkeys(limits(), FOUND_W))
    zone.rename(zone.with_name("elsewhere"))
    monkeypatch.setattr(saved_state, "boot_id", lambda: "another boot")
    assert restore_all() == saved_state.Restored((), ())
    assert states() == []


def test_what_another_program_sets_is_left_alone(zone):
    borrowed = borrow(limits())
    set_w(borrowed, SET_W)
    change(zone, 110)
    with pytest.raises(ControlError, match=r"another program has set .* of cpu:0 to 110\.0 W"):
        set_w(borrowed, 70)
    borrowed.close()
    assert limit_w(zone) == 110
    assert borrowed.notes == [
        "another program has set the power limit of cpu:0 to 110.0 W: it was not restored"
    ]
    assert states() == []


@pytest.mark.parametrize("power_w", [10, 151, float("nan")])
def test_a_limit_outside_the_constraints_is_not_set(zone, power_w):
    with borrow(limits()) as borrowed:
        with pytest.raises(ControlError, match=r"it allows 37\.50 to 150\.0 W"):
            set_w(borrowed, power_w)
        with pytest.raises(ControlError, match="cannot set clock: it was not borrowed"):
            borrowed.set({"clock": 1000, "cpu_power_limit": SET_W})
        assert limit_w(zone) == FOUND_W


def test_a_device_that_does_not_do_what_it_accepts_is_an_error(zone, monkeypatch):
    with borrow(limits()) as borrowed:
        (limit,) = borrowed.found
        with monkeypatch.context() as patch:
            patch.setattr(type(limit), "_write", lambda self, value: change(zone, 100))
            with pytest.raises(ControlError, match=r"the driver uses 100\.0 W instead"):
                set_w(borrowed, SET_W)
    assert limit_w(zone) == FOUND_W


def test_without_the_right_nothing_is_started_and_nothing_is_left(zone, monkeypatch):
    (limit,) = limits()

    def refuse(self, value):
        raise self._refused(PermissionError(13, "Permission denied"))

    monkeypatch.setattr(type(limit), "_write", refuse)
    with pytest.raises(ControlError, match="cannot set the power limit of cpu:0"):
        borrow([limit])
    assert states() == []
    lock_device(limit.device, "cpu:0").release()


def test_without_a_guard_nothing_is_changed_and_nothing_is_left(zone, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(ControlError, match=r"the guard process, .* does not start: it ended"):
        borrow(limits())
    monkeypatch.setattr(sys, "executable", "/nowhere")
    with pytest.raises(ControlError, match=r"does not start: .*No such file"):
        borrow(limits())
    assert limit_w(zone) == FOUND_W
    assert states() == []
    lock_device(limits()[0].device, "cpu:0").release()


def test_asking_whether_limits_can_be_borrowed_starts_and_changes_nothing(zone, at_once):
    check_borrowable(limits())
    assert states() == []
    with borrow(limits()), pytest.raises(StoreError, match=f"process {os.getpid()} is tuning it"):
        check_borrowable(limits())


def test_several_packages_are_set_and_restored_together(zone):
    second = package(zone.parents[2], 1, limit_w=100, max_w=150)
    with borrow(limits()) as borrowed:
        assert len(states()) == 2
        set_w(borrowed, SET_W)
        assert limit_w(zone) == limit_w(second) == SET_W
    assert (limit_w(zone), limit_w(second)) == (FOUND_W, 100)


def test_a_guard_does_without_numpy(zone):
    code = "import sys, joulelab.controls.guard; print('numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@settings(max_examples=30)
@given(
    found_w=st.integers(40, 150),
    own_w=st.lists(st.integers(40, 150), max_size=5),
    foreign_w=st.none() | st.integers(40, 150),
)
def test_only_a_value_of_another_program_is_not_restored(
    tmp_path_factory, found_w, own_w, foreign_w
):
    root = tmp_path_factory.mktemp("machine")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JOULELAB_SYSFS", str(root / "sys"))
        patch.setenv("JOULELAB_HOME", str(root / "home"))
        zone = package(root / "sys", 0, limit_w=found_w, max_w=150)
        (limit,) = limits()
        (state,) = save_found({limit: float(found_w)})
        for power_w in own_w:
            limit.set(power_w)
        if foreign_w is not None:
            change(zone, foreign_w)
        notes = restore(state, {limit.name: own_w})
        is_foreign = foreign_w is not None and foreign_w not in (found_w, *own_w)
        assert limit_w(zone) == (foreign_w if is_foreign else found_w)
        assert len(notes) == (is_foreign and bool(own_w))
        assert states() == []


def test_the_limit_is_restored_even_if_the_data_directory_is_lost(zone):
    with Program() as program:
        shutil.rmtree(os.environ["JOULELAB_HOME"])
        program.process.kill()
        wait_for(lambda: limit_w(zone) == FOUND_W)
    with borrow(limits()) as borrowed:
        set_w(borrowed, SET_W)
        shutil.rmtree(os.environ["JOULELAB_HOME"])
    assert limit_w(zone) == FOUND_W


def test_a_failed_restoration_keeps_the_state_and_can_be_repeated(zone, monkeypatch):
    borrowed = borrow(limits())
    set_w(borrowed, SET_W)
    (limit,) = borrowed.found
    with monkeypatch.context() as patch:
        patch.setattr(type(limit), "restore", lambda self, found: None)
        with pytest.raises(JoulelabError, match=r"cannot restore the power limit of cpu:0 to 125"):
            borrowed.close()
    assert len(states()) == 1
    borrowed.close()
    assert limit_w(zone) == FOUND_W
    assert states() == []
