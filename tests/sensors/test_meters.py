"""Whole-machine meters, read from servers and programs that speak like them."""

import json
import math
import os
import subprocess
import sys
import time
from contextlib import suppress
from urllib.parse import urlsplit

import pytest
from fake_meters import (
    DCMI,
    FAULTS,
    NO_DCMI,
    Handler,
    constant,
    redfish,
    redfish_subsystem,
    redfish_supplies,
    redfish_with_metrics,
    served,
    shelly_clamps,
    shelly_first,
    shelly_second,
    shelly_single_phase,
    shelly_three_phases,
    square,
    tasmota,
    write_ipmitool,
)
from hypothesis import example, given
from hypothesis import strategies as st

from joulelab.errors import UserError
from joulelab.sensors.discovery import discover
from joulelab.sensors.meters import discover_meters
from joulelab.sensors.meters.entries import parse_entry, read_entries, secret
from joulelab.sensors.meters.http_client import digest
from joulelab.sensors.meters.polling import open_meter
from joulelab.sensors.meters.readers import parse_ipmi
from joulelab.sensors.meters.replies import MeterError, number_at, number_in, parse_reply
from joulelab.sensors.sensor import Gap, Quantity, Reading

FAST = {"interval_s": 0.1, "timeout_s": 0.5}
PATIENCE_S = 20.0


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("JOULELAB_HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


@pytest.fixture
def meter_of():
    """Open a meter from an entry; all are closed in the end."""
    opened = []

    def make(**table):
        sensor = open_meter("desk", parse_entry("desk", FAST | table))
        opened.append(sensor)
        return sensor

    yield make
    for sensor in opened:
        sensor.close()


def collect(sensor, until, found=None):
    """Read a sensor until something is true of what it gave; return that."""
    found = [] if found is None else found
    stop_s = time.monotonic() + PATIENCE_S
    while not until(found):
        assert time.monotonic() < stop_s, found
        time.sleep(0.01)
        found += sensor.read()
    return found


def values(found, channel=0):
    return [one.value for one in found if isinstance(one, Reading) and one.channel == channel]


def reasons(found):
    return [one.reason for one in found if isinstance(one, Gap)]


def any_of(kind, count=1):
    return lambda found: sum(isinstance(one, kind) for one in found) >= count


KINDS = {
    "tasmota": ({"kind": "tasmota"}, tasmota, 3600),
    "shelly 1": ({"kind": "shelly"}, shelly_first, 60),
    "shelly 2": ({"kind": "shelly"}, shelly_second, 3.6),
    "shelly 1, three phases": ({"kind": "shelly"}, shelly_clamps, 1080),
    "shelly 2, three phases": ({"kind": "shelly"}, shelly_three_phases, 3.6),
    "shelly 2, one phase": ({"kind": "shelly"}, shelly_single_phase, 3.6),
    "http-json": (
        {
            "kind": "http-json",
            "power": "StatusSNS.ENERGY.Power",
            "energy": "StatusSNS.ENERGY.Total",
            "energy_unit": "kWh",
        },
        tasmota,
        3600,
    ),
}


@pytest.mark.parametrize("name", KINDS)
def test_plugs_give_power_and_count_joules(name, meter_of):
    table, pages, step_j = KINDS[name]
    with served(pages, constant(123.0)) as server:
        path = "/cm?cmnd=Status%208" if name == "http-json" else ""
        sensor = meter_of(address=server.address + path, **table)
        found = collect(sensor, any_of(Reading, 4))
        power, counter = sensor.channels
        assert (power.component, power.quantity) == ("plug:desk", Quantity.POWER)
        assert (counter.component, counter.quantity) == ("plug:desk", Quantity.ENERGY)
        assert set(values(found)) == {123.0}
        assert values(found, 1)[0] == pytest.approx(server.now()[1], abs=step_j + 123 * 1.2)
        assert {"cpu", "gpu", "dram", "node", "psu"} <= set(power.contains)
        assert not reasons(found)


@pytest.mark.parametrize("status", [200, 404, 500])
def test_generations_of_shelly_are_recognised_by_their_answers(status, meter_of, monkeypatch):
    """Older servers close each connection, and answer for pages that they do not have."""
    monkeypatch.setattr(Handler, "protocol_version", "HTTP/1.0")
    answer = Handler.answer
    monkeypatch.setattr(
        Handler,
        "answer",
        lambda self, found, *rest, **options: answer(
            self, status if found == 404 else found, *rest, **options
        ),
    )
    with served(shelly_first, constant(50.0)) as server:
        sensor = meter_of(kind="shelly", address=server.address)
        assert set(values(collect(sensor, any_of(Reading, 6)))) == {50.0}
        assert server.requests[-1] == "/meter/0"


def test_relays_of_one_plug_are_added_up(meter_of):
    def pages(url, power_w, energy_j, server):
        found = tasmota(url, power_w, energy_j, server)
        found["StatusSNS"]["ENERGY"] |= {"Power": [40, 2.5], "Total": 1.5}
        return found

    with served(pages) as server:
        sensor = meter_of(kind="tasmota", address=server.address)
        assert values(collect(sensor, any_of(Reading)))[0] == 42.5


def test_redfish_finds_the_chassis_with_the_reading(meter_of):
    with (
        served(redfish, constant(344.0), auth="root:secret") as server,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("BMC_PASSWORD", "secret")
        sensor = meter_of(
            kind="redfish",
            address=f"http://{server.address}",
            user="root",
            password_env="BMC_PASSWORD",
        )
        found = collect(sensor, any_of(Reading, 3))
        assert sensor.channels[0].component == "node"
        assert set(values(found)) == {344.0}
        assert sensor.reader.findings() == {"chassis": "1U"}
        # Found once; without TLS, the password is sent when it is asked for.
        assert server.requests.count("/redfish/v1/Chassis") == 2
        assert "Authorization" not in server.headers_seen[0]


def test_redfish_reads_newer_metrics_and_single_supplies(meter_of):
    with served(redfish_with_metrics, constant(344.0)) as server:
        sensor = meter_of(kind="redfish", address=f"http://{server.address}", energy=True)
        found = collect(sensor, any_of(Reading, 2))
        assert set(values(found)) == {344.0}
        assert values(found, 1)[0] == pytest.approx(7.2e6, abs=4000)
    for pages in (redfish_supplies, redfish_subsystem):
        with served(pages, constant(344.0)) as server:
            sensor = meter_of(kind="redfish", address=f"http://{server.address}", power_supplies=2)
            found = collect(sensor, any_of(Reading, 2))
            assert [channel.component for channel in sensor.channels] == ["psu:0", "psu:1"]
            assert set(values(found)) == set(values(found, 1)) == {172.0}


@pytest.mark.parametrize("vendor", DCMI)
def test_ipmitool_is_read_as_vendors_answer(vendor, meter_of, tmp_path, monkeypatch):
    write_ipmitool(tmp_path / "bin", DCMI[vendor].format(power=319))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    sensor = meter_of(kind="ipmi", timeout_s=5.0)
    assert values(collect(sensor, any_of(Reading)))[0] == 319.0
    assert (tmp_path / "bin/arguments.txt").read_text() == "dcmi power reading\n"


def test_ipmitool_gets_its_password_where_no_other_user_sees_it(meter_of, tmp_path, monkeypatch):
    write_ipmitool(tmp_path / "bin", "System Level     | 105\n")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    file = tmp_path / "password"
    file.write_text("geheim\n")
    file.chmod(0o600)
    sensor = meter_of(
        kind="ipmi",
        address="bmc",
        user="admin",
        password_file=str(file),
        sensor="System Level",
        timeout_s=5.0,
    )
    assert values(collect(sensor, any_of(Reading)))[0] == 105.0
    arguments = (tmp_path / "bin/arguments.txt").read_text()
    assert arguments == "-I lanplus -H bmc -U admin -E sensor reading System Level\n"
    assert (tmp_path / "bin/password.txt").read_text() == "geheim\n"


def test_ipmi_without_a_power_meter_is_a_reason():
    assert "does not measure" in parse_ipmi(NO_DCMI)[0]
    assert "no power" in parse_ipmi("DCMI request failed")[0]


def test_commands_give_json_numbers_and_text(meter_of):
    table = {"kind": "command", "timeout_s": 5.0}
    number = meter_of(**table, command=["echo", "12.5"], power="")
    assert values(collect(number, any_of(Reading)))[0] == 12.5
    text = meter_of(
        **table, command=["echo", "in: 0.25 kW"], power_pattern=r"([\d.]+) kW", power_unit="kW"
    )
    assert values(collect(text, any_of(Reading)))[0] == 250.0
    json = meter_of(**table, command=["echo", '{"a": [{"e": 2}]}'], energy="a[0].e", scale=2)
    assert json.channels[0].quantity is Quantity.ENERGY
    assert values(collect(json, any_of(Reading)))[0] == 4.0


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (["sleep", "30"], "did not end within 0.5 s"),
        (["sh", "-c", "sleep 30 & echo 5"], "did not end within 0.5 s"),
        (["sh", "-c", "echo no such sensor >&2; exit 3"], "status 3: no such sensor"),
        (["yes"], "prints more than 1 MB"),
        (["no-such-program-here"], "is not installed"),
        (["echo"], "answered with nothing"),
        (["echo", "<html>"], "web page"),
        (["echo", "{}"], "which is not a number"),
        (["echo", "NaN"], "not a number"),
        (["echo", "-40"], "negative"),
        (["echo", "4e9"], "more than a"),
    ],
)
def test_a_command_that_fails_is_a_gap(command, reason, meter_of):
    sensor = meter_of(kind="command", command=command, power="")
    found = collect(sensor, any_of(Gap))
    assert reason in reasons(found)[0]
    assert not values(found)


FAULT_REASONS = {
    "hang": "no answer within 0.5 s",
    "drip": "no answer within 0.5 s",
    "half": "closed within the reply",
    "reset": "closed without a reply",
    "closed": "closed without a reply",
    "elsewhere": "another host",
    "401": "401: it wants a user and password",
    "500": "answered 500",
    "html": "web page",
    "empty": "answered with nothing",
    "list": "no StatusSNS",
    "large": "larger than 1 MB",
    "garbage": "does not speak HTTP",
    "nan": "not a number",
    "text": "not a number",
    "huge": "more than a",
    "negative": "negative",
}


@pytest.mark.parametrize("fault", FAULT_REASONS)
def test_a_faulty_server_gives_gaps_and_is_read_again_when_it_recovers(fault, meter_of):
    assert set(FAULTS) <= set(FAULT_REASONS)
    with served(tasmota, constant(123.0)) as server:
        sensor = meter_of(kind="tasmota", address=server.address)
        collect(sensor, any_of(Reading, 2))
        server.fault = fault
        begin_s = time.monotonic()
        found = collect(sensor, any_of(Gap, 2))
        during = [one for one in found if isinstance(one, Reading) and one.t_ns > begin_s * 1e9]
        # The counter may be right while the power is refused; no other value is.
        assert {one.value for one in during if one.channel == 0} <= {123.0}
        assert any(FAULT_REASONS[fault] in reason for reason in reasons(found)), reasons(found)
        server.fault = ""
        if fault != "401":  # An account that is locked by wrong passwords is left alone.
            count = len(values(found))
            collect(sensor, lambda found: len(values(found)) > count, found)


def test_a_server_that_vanishes_and_comes_back_is_read_again(meter_of):
    with served(tasmota, constant(123.0)) as server:
        sensor = meter_of(kind="tasmota", address=server.address)
        collect(sensor, any_of(Reading))
    gaps = collect(sensor, any_of(Gap, 2))
    assert any("refuses the connection" in reason for reason in reasons(gaps))


def test_a_slow_server_never_holds_up_a_reading_of_the_sensor(meter_of):
    with served(tasmota, constant(123.0)) as server:
        server.fault = "hang"
        sensor = meter_of(kind="tasmota", address=server.address, timeout_s=3.0)
        longest_s = 0.0
        stop_s = time.monotonic() + 1.0
        while time.monotonic() < stop_s:
            begin_s = time.thread_time()
            sensor.read()
            longest_s = max(longest_s, time.thread_time() - begin_s)
            time.sleep(0.005)
        # Time of this thread: the machine that runs the tests may be busy.
        assert longest_s < 0.05


def test_a_failing_server_is_asked_more_and_more_rarely(meter_of):
    with served(tasmota) as server:
        server.fault = "500"
        sensor = meter_of(kind="tasmota", address=server.address)
        collect(sensor, any_of(Gap, 8))
        begin_s = time.monotonic()
        before = len(server.requests)
        time.sleep(0.5)
        sensor.read()
        assert len(server.requests) - before <= 1
        assert time.monotonic() - begin_s < PATIENCE_S
        server.fault = "401"
        collect(sensor, lambda found: any("401" in reason for reason in reasons(found)))
        count = len(server.requests)
        time.sleep(0.5)
        assert len(server.requests) == count


def test_a_working_server_is_asked_no_more_than_once_an_interval_on_one_connection(meter_of):
    with served(tasmota) as server:
        sensor = meter_of(kind="tasmota", address=server.address, interval_s=0.2)
        begin_s = time.monotonic()
        collect(sensor, any_of(Reading, 10))
        took_s = time.monotonic() - begin_s
        assert len(server.requests) <= took_s / 0.2 + 1.5


def test_passwords_are_in_no_message(meter_of, monkeypatch):
    monkeypatch.setenv("PLUG_PASSWORD", "geheim")
    with served(tasmota, auth="admin:other") as server:
        sensor = meter_of(
            kind="tasmota", address=server.address, user="admin", password_env="PLUG_PASSWORD"
        )
        found = collect(sensor, any_of(Gap))
        assert "geheim" not in repr(found) + repr(sensor.channels)
        assert "password=geheim" in server.requests[0]  # Only there.
    with served(tasmota, auth="admin:geheim") as server:
        sensor = meter_of(
            kind="tasmota", address=server.address, user="admin", password_env="PLUG_PASSWORD"
        )
        assert values(collect(sensor, any_of(Reading)))


def test_a_redirect_to_another_host_gets_no_password(meter_of, monkeypatch):
    monkeypatch.setenv("TOKEN", "geheim")
    with served(redfish) as other, served(redfish) as server:
        location = f"http://localhost:{other.server_address[1]}/redfish/v1/Chassis"

        def elsewhere(handler):
            handler.answer(302, b"", [("Location", location)])

        monkeypatch.setitem(FAULTS, "elsewhere", elsewhere)
        server.fault = "elsewhere"
        sensor = meter_of(kind="redfish", address=f"http://{server.address}", token_env="TOKEN")
        collect(sensor, any_of(Gap))
        assert server.headers_seen[0]["X-Auth-Token"] == "geheim"
        assert not other.requests


def test_proxies_are_not_used(meter_of, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with served(tasmota) as server:
        assert values(collect(meter_of(kind="tasmota", address=server.address), any_of(Reading)))


def test_certificates_are_checked(meter_of, tmp_path):
    certificate = tmp_path / "cert.pem"
    subject = "-subj /CN=localhost -addext subjectAltName=IP:127.0.0.1"
    command = f"openssl req -x509 -newkey rsa:2048 -nodes -days 2 {subject}"
    files = ["-keyout", certificate, "-out", certificate]
    subprocess.run([*command.split(), *files], check=True, capture_output=True)
    with served(redfish, constant(344.0), certificate=certificate) as server:
        table = {"kind": "redfish", "address": server.address, "timeout_s": 5.0}
        found = collect(meter_of(**table), any_of(Gap))
        assert "certificate is not trusted" in reasons(found)[0]
        for right in ({"verify": False}, {"ca_file": str(certificate)}):
            assert values(collect(meter_of(**table, **right), any_of(Reading)))[0] == 344.0


def test_digest_authentication_is_that_of_the_standard(monkeypatch):
    # RFC 7616, 3.9.1.
    nonce = "7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v"
    own = "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ"
    monkeypatch.setattr(os, "urandom", lambda _: type("", (), {"hex": lambda self: own})())
    challenge = {"realm": "http-auth@example.org", "qop": "auth, auth-int", "nonce": nonce}
    user = ("Mufasa", "Circle of Life")
    for algorithm, response in (
        ("MD5", "8ca523f5e9506fed4657c9700eebdbec"),
        ("SHA-256", "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"),
    ):
        text = digest(challenge | {"algorithm": algorithm}, user, "/dir/index.html", 1)
        assert f'response="{response}"' in text
    with pytest.raises(MeterError, match="not known"):
        digest(challenge | {"algorithm": "SHA-512-256"}, user, "/", 1)


def test_a_password_is_answered_as_digest_where_the_server_wants_that(meter_of, monkeypatch):
    monkeypatch.setenv("PLUG_PASSWORD", "geheim")
    challenge = ("WWW-Authenticate", 'Digest realm="plug", nonce="abc", qop="auth"')
    given = []

    def digest_only(handler):
        given.append(handler.headers.get("Authorization", ""))
        if given[-1].startswith("Digest") and handler.server.slow_s == 0:
            page = shelly_second(urlsplit(handler.path), 50.0, 100.0, None)
            handler.answer(200, json.dumps(page).encode(), [])
        else:
            handler.answer(401, b"", [challenge])

    monkeypatch.setitem(FAULTS, "digest", digest_only)
    with served(shelly_second) as server:
        server.fault = "digest"
        sensor = meter_of(
            kind="shelly", address=server.address, user="admin", password_env="PLUG_PASSWORD"
        )
        found = collect(sensor, any_of(Reading, 4))
        assert values(found)[0] == 50.0
        server.slow_s = 1.0  # From now on the answer counts as wrong.
        found = collect(sensor, any_of(Gap))
        assert "wrong user or password" in reasons(found)[0]
    assert not any(one.startswith("Basic") for one in given)


WRONG = [
    ({"kind": "tasmota"}, "no address"),
    ({"kind": "plug", "address": "x"}, "no known kind"),
    ({"address": "x"}, "no known kind"),
    ("tasmota", "not a table"),
    ({"kind": "tasmota", "address": "x", "colour": 1}, "unknown field colour"),
    ({"kind": "tasmota", "adress": "x"}, "did you mean address?"),
    ({"kind": "tasmota", "address": "ftp://x"}, "http URL"),
    ({"kind": "tasmota", "address": "x:99999"}, "ort"),
    ({"kind": "tasmota", "address": "http://root:geheim@x"}, "user or password"),
    ({"kind": "tasmota", "address": "x", "user": "a"}, "no password: it needs password_env"),
    ({"kind": "tasmota", "address": "x", "password_env": "A"}, "no user"),
    ({"kind": "tasmota", "address": "x", "interval_s": 0.001}, "interval_s"),
    ({"kind": "tasmota", "address": "x", "interval_s": math.nan}, "interval_s"),
    ({"kind": "tasmota", "address": "x", "component": "toaster"}, "component"),
    ({"kind": "http-json", "address": "x"}, "neither power nor energy"),
    ({"kind": "http-json", "address": "x", "power": "a", "power_unit": "Wh"}, "unit of power"),
    ({"kind": "http-json", "address": "x", "power": "a", "power_unit": "hp"}, "power_unit"),
    ({"kind": "http-json", "address": "x", "power": "a", "scale": -1}, "scale"),
    ({"kind": "command", "command": [], "power": ""}, "command"),
    ({"kind": "command", "command": "echo 5", "power": ""}, "command"),
    ({"kind": "command", "command": ["x"], "power_pattern": "("}, "unterminated"),
    ({"kind": "command", "command": ["x"], "power_pattern": "5"}, "one group"),
]


@pytest.mark.parametrize(("table", "reason"), WRONG)
def test_a_wrong_entry_is_named_with_the_reason(table, reason, home):
    with pytest.raises(UserError, match=r"sensors\.toml: \[desk\]") as error:
        parse_entry("desk", table)
    assert reason in str(error.value)
    assert "geheim" not in str(error.value)


def test_broken_files_and_entries_leave_the_others(home):
    file = home / "sensors.toml"
    file.write_text(
        '[good]\nkind = "tasmota"\naddress = "127.0.0.1:9"\n[bad]\nkind = "tasmota"\n["a b"]\n'
    )
    sensors, absent = discover_meters(("plug",), set())
    assert [one.channels[0].component for one in sensors] == ["plug:good"]
    assert [one.source for one in absent] == ["sensors.toml", "sensors.toml"]
    assert "[bad] is wrong: it has no" in absent[0].reason
    assert discover_meters(("cpu", "gpu"), set()) == ([], [])
    file.write_text("[good\n")
    assert "not TOML" in discover_meters(("plug",), set())[1][0].reason
    file.unlink()
    file.mkdir()
    assert len(read_entries()[1]) == 1


def test_secrets_come_from_the_environment_or_private_files(home, monkeypatch, tmp_path):
    file = tmp_path / "password"
    file.write_text("geheim\n")
    file.chmod(0o644)
    table = {"kind": "shelly", "address": "x", "user": "a"}
    entry = parse_entry("desk", table | {"password_file": str(file)})
    with pytest.raises(UserError, match="not private"):
        secret(entry, "password")
    file.chmod(0o600)
    assert secret(entry, "password") == "geheim"
    file.unlink()
    with pytest.raises(UserError, match="cannot read"):
        secret(entry, "password")
    entry = parse_entry("desk", table | {"password_env": "NO_SUCH"})
    (home / "sensors.toml").write_text(
        '[desk]\nkind = "shelly"\naddress = "x"\nuser = "a"\npassword_env = "NO_SUCH"\n'
    )
    sensors, absent = discover_meters(("plug",), set())
    assert not sensors
    assert (absent[0].component, "NO_SUCH" in absent[0].reason) == ("plug:desk", True)


def test_nothing_is_opened_without_a_file(home):
    """A fresh process: no socket, and not even the module that would open one."""
    script = (
        "import sys\n"
        "def hook(event, arguments):\n"
        "    if event.startswith('socket.') or event == 'subprocess.Popen':\n"
        "        raise SystemExit(f'{event} {arguments}')\n"
        "sys.addaudithook(hook)\n"
        "from joulelab.sensors.discovery import discover\n"
        "found = discover(['plug', 'node', 'psu'])\n"
        "for sensor in found.sensors: sensor.read()\n"
        "assert not found.absent, found.absent\n"
        "assert 'http.client' not in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_meters_are_discovered_with_the_others(home):
    (home / "sensors.toml").write_text('[desk]\nkind = "tasmota"\naddress = "127.0.0.1:9"\n')
    found = discover(["plug"])
    assert [channel.source for channel in found.sensors[0].channels] == [
        "tasmota.desk",
        "tasmota.desk.counter",
    ]


def test_paths_and_patterns():
    document = {"a.b": {"c": 1}, "switch:0": {"apower": "7.5"}, "list": [1, 2.5], "none": None}
    assert number_at(document, '["a.b"].c') == 1
    assert number_at(document, "switch:0.apower") == 7.5
    assert number_at(document, "list") == 3.5
    assert number_at(document, "list[1]") == 2.5
    for path in ("list[2]", "a", "none", "switch:0", "list.x"):
        with pytest.raises(MeterError):
            number_at(document, path)
    with pytest.raises(MeterError, match="does not match"):
        number_in("5 W", r"(\d+) kW")
    with pytest.raises(MeterError, match="not JSON"):
        parse_reply(b'{"a": 1')


REPLIES = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("ab0"), inner),
    max_leaves=8,
)


@given(REPLIES.map(lambda one: json.dumps(one).encode()) | st.binary(max_size=30))
@example(b"1" * 5000)
@example(b"[" * 100_000)
def test_any_reply_is_a_number_or_a_reason(data):
    with suppress(MeterError):  # No other error.
        assert isinstance(number_at(parse_reply(data), "a[0].b"), float)


def test_an_interrupted_process_ends_at_once(home):
    """A request under way keeps no interpreter from ending."""
    with served(tasmota) as server:
        server.fault = "hang"
        (home / "sensors.toml").write_text(
            f'[desk]\nkind = "tasmota"\naddress = "{server.address}"\ntimeout_s = 60\n'
        )
        script = (
            "import time\n"
            "from joulelab.sensors.discovery import discover\n"
            "sensor = discover(['plug']).sensors[0]\n"
            "sensor.read(); time.sleep(0.5); sensor.read()\n"
            "print(time.monotonic())\n"
        )
        done = subprocess.run([sys.executable, "-c", script], check=True, stdout=subprocess.PIPE)
        assert time.monotonic() - float(done.stdout) < PATIENCE_S * 2


def test_the_power_of_a_changing_load_is_followed(meter_of):
    with served(shelly_second, square(90.0, 300.0, 1.0), update_s=0.1) as server:
        sensor = meter_of(kind="shelly", address=server.address)
        found = collect(sensor, lambda found: {90.0, 300.0} <= set(values(found)))
        assert max(values(found)) <= 300.0
