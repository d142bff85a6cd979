"""``joulelab doctor --add`` tries a meter and saves it; broken files are named."""

import json
import os
import tomllib

import pytest
from fake_meters import (
    constant,
    redfish_supplies,
    redfish_with_metrics,
    served,
    shelly_second,
    tasmota,
    write_ipmitool,
)

from joulelab.sensors.meters import adding

RISING = (lambda t_s: 20 * t_s + 40, lambda t_s: 10 * t_s**2 + 40 * t_s)
"""A power that is another at each update, and its energy."""


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("JOULELAB_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("JOULELAB_SENSORS", "plug,node")
    monkeypatch.setattr(adding, "LEAST_S", 0.2)
    monkeypatch.setattr(adding, "UNCHANGED_S", 0.3)
    return tmp_path / "home"


def saved(home):
    return tomllib.loads((home / "sensors.toml").read_text())


def add(run, kind, *address, name="desk"):
    fast = ("--set", "interval_s=0.1")
    return run("doctor", "--add", kind, "--name", name, *fast, "--", *address)


def test_a_plug_is_tried_shown_and_saved(run, printed, home):
    with served(shelly_second, RISING, update_s=0.05) as server:
        code, out, err = add(run, "shelly", server.address)
        assert (code, err) == (0, "")
        assert "plug:desk power" in out
        assert "every 100 ms" in out
        assert "cpu, gpu, dram" in out
        assert "delete that table" in out
        entry = saved(home)["desk"]
        assert (entry["kind"], entry["address"]) == ("shelly", server.address)
        assert "update_period_s" not in entry
        assert (home / "sensors.toml").stat().st_mode & 0o077 == 0
        # The same again changes nothing.
        before = (home / "sensors.toml").read_text()
        add(printed, "shelly", server.address)
        assert saved(home).keys() == tomllib.loads(before).keys()
        assert "shelly.desk.counter" in printed("doctor")


def test_a_slow_meter_is_saved_with_its_update_period(printed, home, monkeypatch):
    monkeypatch.setattr(adding, "UNCHANGED_S", 5.0)
    with served(tasmota, RISING, update_s=0.6) as server:
        add(printed, "tasmota", server.address)
    assert saved(home)["desk"]["update_period_s"] == pytest.approx(0.6, abs=0.15)


def test_redfish_is_saved_with_what_it_has(printed, home):
    with served(redfish_with_metrics, constant(344.0)) as server:
        add(printed, "redfish", f"http://{server.address}", name="a")
    with served(redfish_supplies, constant(344.0)) as server:
        out = add(printed, "redfish", f"http://{server.address}", name="b")
        assert "psu:1 power" in out
    entries = saved(home)
    assert (entries["a"]["energy"], entries["a"]["chassis"]) == (True, "1U")
    assert (entries["b"]["power_supplies"], "energy" in entries["b"]) == (2, False)


def test_the_sampling_period_of_a_controller_is_taken_from_its_answer(
    printed, home, tmp_path, monkeypatch
):
    text = "Instantaneous power reading: 220 Watts\nSampling period: {} Seconds.\n"
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    for stated, saved_s in (("00000005", 5.0), ("00699043", None), ("00000001", None)):
        write_ipmitool(tmp_path / "bin", text.format(stated))
        add(printed, "ipmi", name=f"of{stated}")
        assert saved(home)[f"of{stated}"].get("update_period_s") == saved_s


def test_comments_and_broken_entries_stay(run, printed, home):
    home.mkdir()
    (home / "sensors.toml").write_text('# mine\n[broken]\nkind = "tasmota"\n')
    code, _, err = run("doctor")
    assert code == 2
    assert "[broken] is wrong: it has no address" in err
    add(printed, "command", "echo", "55.5")
    assert (home / "sensors.toml").read_text().startswith("# mine\n[broken]\n")
    assert saved(home)["desk"]["command"] == ["echo", "55.5"]
    code, out, _ = run("doctor", "--json")
    assert code == 2
    assert json.loads(out)["sensors"][0]["component"] == "plug:desk"


def test_what_does_not_answer_is_not_saved(refused, home):
    for kind, address, reason in (
        ("tasmota", "127.0.0.1:9", "refuses the connection"),
        ("command", "false", "failed with status 1"),
        ("tasmota", "http://root:geheim@x", "user or password"),
    ):
        err = add(refused, kind, address)
        assert reason in err
        assert "geheim" not in err
    assert not (home / "sensors.toml").exists()


def test_another_meter_of_the_same_name_is_refused(printed, refused, home):
    add(printed, "command", "echo", "1")
    assert "--name" in add(refused, "command", "echo", "2")
    assert saved(home)["desk"]["command"] == ["echo", "1"]


def test_a_dry_run_saves_nothing(printed, home):
    out = printed("doctor", "--add", "command", "--dry-run", "--json", "--", "echo", "5")
    assert json.loads(out)["entry"]["command"] == ["echo", "5"]
    assert not home.exists()


def test_options_of_adding_need_a_kind(refused):
    for arguments in (("192.168.1.20",), ("--name", "desk"), ("--add", "tasmota", "a", "b")):
        refused("doctor", *arguments)
    refused("doctor", "--add", "command", "--set", "power", "--", "echo", "5")


@pytest.mark.parametrize(
    ("given", "problem", "fix"),
    [
        (["bmc", "--set", "user=root"], "a user and no password", "--set KEY=VALUE"),
        (["bmc", "--set", "password_env=BMC"], "a password and no user", "--set KEY=VALUE"),
        ([], "no address", "--add redfish"),
    ],
)
def test_what_a_new_meter_lacks_is_to_be_given_to_the_command(run, home, given, problem, fix):
    code, _, err = run("doctor", "--add", "redfish", *given)
    assert code == 2
    assert problem in err
    assert fix in err
    assert "sensors.toml" not in err
    assert not (home / "sensors.toml").exists()
