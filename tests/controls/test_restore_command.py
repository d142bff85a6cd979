"""``joulelab tune --restore``."""

import pytest
from sysfs_limits import package

from joulelab.controls.machine_controls import find_controls
from joulelab.controls.saved_state import save_found


@pytest.fixture(autouse=True)
def zone(tmp_path, monkeypatch):
    monkeypatch.setenv("JOULELAB_SYSFS", str(tmp_path / "sys"))
    monkeypatch.setenv("JOULELAB_HOME", str(tmp_path / "home"))
    return package(tmp_path / "sys", 0, limit_w=125, max_w=150)


def test_it_says_that_there_is_nothing_to_restore(run):
    assert run("tune", "--restore") == (0, "Nothing was left to restore.\n", "")


def test_it_restores_what_was_left_and_says_so(run):
    (limit,) = find_controls().named("cpu_power_limit")
    save_found({limit: 125.0})
    limit.set(80)
    code, out, err = run("tune", "--restore")
    assert (code, err) == (0, "")
    assert out.startswith("Restored the power limit of cpu:0 from 80.00 W to 125.0 W, which")
    assert limit.read() == 125


def test_what_cannot_be_restored_is_an_error_in_one_line(refused, zone):
    (limit,) = find_controls().named("cpu_power_limit")
    save_found({limit: 125.0})
    limit.path.unlink()
    err = refused("tune", "--restore")
    assert "the device" in err
    assert "run `joulelab tune --restore`" in err
