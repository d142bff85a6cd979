"""Power limits as factors: set for a cell, restored after it, refused before anything runs."""

import json
import subprocess
import sys

import pytest
from sysfs_limits import limit_w, package

from joulelab.controls.borrowing import Borrowed
from joulelab.errors import PlanError, UserError
from joulelab.study.cells import combinations
from joulelab.study.device_limits import DeviceLimits
from joulelab.study.plan import FactorsPlan, Plan

CPU = {"cpu": "cpu"}


@pytest.fixture
def zone(tmp_path, monkeypatch):
    """The only package of this machine, whose limit is 150 W."""
    monkeypatch.setenv("JOULELAB_SYSFS", str(tmp_path / "sys"))
    monkeypatch.setenv("JOULELAB_HOME", str(tmp_path / "home"))
    return package(tmp_path / "sys", 0, limit_w=150, max_w=150)


def test_a_limit_is_set_for_a_cell_and_restored(zone):
    limits = DeviceLimits(FactorsPlan(power_limit_w=[80, 120]), CPU)
    assert limit_w(zone) == 150
    for level in (80.0, 120.0):
        with limits.set("cpu", {"batch_size": 8, "power_limit_w": level}):
            assert limit_w(zone) == level
        assert limit_w(zone) == 150


def test_a_limit_is_restored_after_a_failure(zone):
    limits = DeviceLimits(FactorsPlan(power_limit_w=[80]), CPU)
    with pytest.raises(MemoryError), limits.set("cpu", {"power_limit_w": 80.0}):
        raise MemoryError
    assert limit_w(zone) == 150


def test_nothing_is_borrowed_without_limits(zone, monkeypatch):
    monkeypatch.setattr(Borrowed, "__init__", None)
    limits = DeviceLimits(FactorsPlan(), CPU)
    with limits.set("cpu", {"batch_size": 8}):
        assert limit_w(zone) == 150


@pytest.mark.parametrize(
    ("factors", "message"),
    [
        ({"power_limit_w": [80, 400]}, "cannot set the power limit of cpu:0 to 400.0 W: it allows"),
        ({"clock_mhz": [900]}, "cannot set clock_mhz of the CPU: JouleLab sets clocks of GPUs"),
    ],
)
def test_levels_that_cannot_be_set_are_refused_first(zone, factors, message):
    with pytest.raises(UserError, match=message):
        DeviceLimits(FactorsPlan(**factors), CPU)
    assert limit_w(zone) == 150


def test_a_machine_without_limits_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("JOULELAB_SYSFS", str(tmp_path / "empty"))
    with pytest.raises(UserError, match="no cpu power limit can be set"):
        DeviceLimits(FactorsPlan(power_limit_w=[80]), CPU)


def test_limits_are_factors_only_where_they_are_given():
    plan = Plan(name="p", models=["LeNet"])
    (without,) = combinations(plan)
    assert "power_limit_w" not in without
    assert plan.to_dict().get("factors", {}).get("power_limit_w") is None
    limited = plan.replaced(factors={"power_limit_w": [200, 250]})
    assert [one["power_limit_w"] for one in combinations(limited)] == [200.0, 250.0]
    assert limited.cells == 2
    for refused in ([], [-5], [100, 100]):
        with pytest.raises((PlanError, ValueError), match="power_limit_w"):
            plan.replaced(factors={"power_limit_w": refused})


def test_a_study_at_two_limits(zone, tmp_path, tiny_plan):
    plan = tiny_plan.replaced(
        models=["tiny_models:tiny"],
        repeats=1,
        idle_s=0,
        factors={"batch_size": [16], "device": ["cpu"], "power_limit_w": [80, 120]},
    )
    path = tmp_path / "plan.toml"
    path.write_text(plan.to_toml())
    command = [sys.executable, "-m", "joulelab", "study", path, "--out", tmp_path / "out", "--json"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    rows = [row for row in json.loads(found.stdout)["rows"] if row["phase"] == "train"]
    assert sorted(row["power_limit_w"] for row in rows) == [80.0, 120.0]
    assert limit_w(zone) == 150
