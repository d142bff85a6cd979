"""Servers on loopback that speak like plugs and servers' controllers, with a known power.

Replies have the fields of real ones: Tasmota 13 (``Status 8``), Shelly Plug S (Gen1), Shelly Plus
Plug S (Gen2), and the Redfish mock-ups of DMTF (DSP2043). They are stand-ins; no such device was at
hand.
"""

import base64
import json
import math
import socket
import ssl
import struct
import threading
import time
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit


def constant(power_w):
    """A power and its energy since time 0."""
    return lambda t_s: power_w, lambda t_s: power_w * t_s


def square(low_w, high_w, period_s, share=0.5):
    """A power that switches between two values, high at first, and its energy since time 0."""

    def energy_j(t_s):
        whole, rest_s = divmod(t_s, period_s)
        high_s = whole * share * period_s + min(rest_s, share * period_s)
        return high_w * high_s + low_w * (t_s - high_s)

    return lambda t_s: high_w if t_s % period_s < share * period_s else low_w, energy_j


class FakeMeter(ThreadingHTTPServer):
    """A server; ``fault`` may be set at any time, ``requests`` lists the paths that were asked."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, pages, power=None, *, update_s=1.0, offset_j=7.2e6, auth=None):
        super().__init__(("127.0.0.1", 0), Handler)
        self.pages, self.auth = pages, auth
        self.power_w, self.energy_j = power or constant(100.0)
        self.update_s, self.offset_j = update_s, offset_j
        self.start_s = time.monotonic()
        self.fault, self.slow_s = "", 0.0
        self.requests, self.headers_seen = [], []
        self.frozen = None
        self.connections = []

    @property
    def address(self):
        return f"127.0.0.1:{self.server_address[1]}"

    def now(self):
        """Power in W and counted energy in J as the meter has them: of its last update."""
        t_s = time.monotonic() - self.start_s
        # A mean of the time before the update, as the chips of plugs give it.
        shown_s = t_s // self.update_s * self.update_s
        mean_w = (self.energy_j(shown_s) - self.energy_j(shown_s - self.update_s)) / self.update_s
        return mean_w, self.offset_j + self.energy_j(shown_s)

    def true_j(self, start_s, stop_s):
        """Energy between two times of CLOCK_MONOTONIC."""
        return self.energy_j(stop_s - self.start_s) - self.energy_j(start_s - self.start_s)

    def process_request(self, request, client_address):
        self.connections.append(request)
        super().process_request(request, client_address)

    def server_close(self):
        super().server_close()
        for connection in self.connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request, client_address):
        """Print nothing: clients that give up are meant to."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 20

    def log_message(self, *arguments):
        pass

    def do_GET(self):
        meter = self.server
        meter.requests.append(self.path)
        meter.headers_seen.append(dict(self.headers))
        fault = meter.fault
        if fault in FAULTS:
            FAULTS[fault](self)
            return
        if meter.slow_s:
            time.sleep(meter.slow_s)
        if meter.auth is not None and not self.is_welcome(meter.auth):
            self.answer(401, b"{}", [("WWW-Authenticate", 'Basic realm="meter"')])
            return
        page = meter.pages(urlsplit(self.path), *self.values(fault), meter)
        if page is None:
            self.answer(404, b"<html>Not found</html>", [])
            return
        self.answer(200, json.dumps(page).encode(), [("Content-Type", "application/json")])

    def is_welcome(self, auth):
        given = self.headers.get("Authorization", "")
        if given == "Basic " + base64.b64encode(auth.encode()).decode():
            return True
        query = parse_qs(urlsplit(self.path).query)
        user, _, password = auth.partition(":")
        return query.get("user") == [user] and query.get("password") == [password]

    def values(self, fault):
        power_w, energy_j = self.server.now()
        if fault == "freeze":
            self.server.frozen = self.server.frozen or (power_w, energy_j)
            return self.server.frozen
        self.server.frozen = None
        changed = {
            "nan": (float("nan"), float("nan")),
            "text": ("NaN", "n/a"),
            "huge": (1e7, 1e300),
            "negative": (-power_w, -energy_j),
            "reset counter": (power_w, energy_j - self.server.offset_j),
            "jump": (power_w, energy_j + 1e9),
        }
        return changed.get(fault, (power_w, energy_j))

    def answer(self, status, body, headers, *, length=None):
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)


def _hang(handler):
    handler.connection.settimeout(None)
    handler.connection.recv(1)  # Until the client gives up.


def _drip(handler):
    handler.send_response(200)
    handler.send_header("Content-Length", "4000")
    handler.end_headers()
    for _ in range(400):
        handler.wfile.write(b" ")
        time.sleep(0.05)


def _half(handler):
    handler.answer(200, b'{"StatusSNS":{"ENERGY":{"Pow', [], length=400)
    handler.close_connection = True


def _reset(handler):
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()
    handler.close_connection = True


def _elsewhere(handler):
    handler.answer(302, b"", [("Location", "http://169.254.1.1/cm?secret=1")])


FAULTS = {
    "hang": _hang,
    "drip": _drip,
    "half": _half,
    "reset": _reset,
    "elsewhere": _elsewhere,
    "closed": lambda handler: setattr(handler, "close_connection", True),
    "401": lambda handler: handler.answer(401, b"", [("WWW-Authenticate", "Basic")]),
    "500": lambda handler: handler.answer(500, b"oops", []),
    "html": lambda handler: handler.answer(200, b"<html><body>Log in</body></html>", []),
    "empty": lambda handler: handler.answer(200, b"", []),
    "list": lambda handler: handler.answer(200, b"[1, 2]", []),
    "large": lambda handler: handler.answer(200, b" " * (3 << 20), []),
    "garbage": lambda handler: handler.wfile.write(b"\x00\x01garbage\r\n\r\n"),
}


def tasmota(url, power_w, energy_j, _):
    query = parse_qs(url.query)
    if url.path != "/cm" or query.get("cmnd") != ["Status 8"]:
        return {"Command": "Unknown"}
    whole = isinstance(power_w, str) or math.isnan(power_w)
    return {
        "StatusSNS": {
            "Time": "2026-11-29T16:00:00",
            "ENERGY": {
                "TotalStartTime": "2022-09-03T13:02:25",
                "Total": energy_j if whole else int(energy_j / 3600) / 1000,
                "Yesterday": 0.779,
                "Today": 0.045,
                "Power": power_w if whole else round(power_w),
                "ApparentPower": 130,
                "ReactivePower": 30,
                "Factor": 0.98,
                "Voltage": 231,
                "Current": 0.55,
            },
        }
    }


def page_at(path, query=""):
    """Make the pages of a meter that has one alone, from what it says of power and energy."""

    def pages_of(page):
        def pages(url, power_w, energy_j, _):
            return page(power_w, energy_j) if (url.path, url.query) == (path, query) else None

        return pages

    return pages_of


@page_at("/meter/0")
def shelly_first(power_w, energy_j):
    return {
        "power": round(power_w, 2),
        "overpower": 0.0,
        "is_valid": True,
        "timestamp": 1764432000,
        "counters": [100.0, 100.0, 100.0],
        "total": int(energy_j / 60),
    }


@page_at("/rpc/Switch.GetStatus", "id=0")
def shelly_second(power_w, energy_j):
    return {
        "id": 0,
        "source": "HTTP",
        "output": True,
        "apower": round(power_w, 1),
        "voltage": 231.7,
        "current": 0.55,
        "aenergy": {
            "total": round(energy_j / 3600, 3),
            "by_minute": [1666.7, 1666.7, 1666.7],
            "minute_ts": 1764432000,
        },
        "temperature": {"tC": 56.3, "tF": 133.4},
    }


@page_at("/rpc/Shelly.GetStatus")
def shelly_three_phases(power_w, energy_j):
    counted = {"total_act": round(energy_j / 3600, 3), "total_act_ret": 0.0}
    return {"em:0": {"id": 0, "total_act_power": power_w}, "emdata:0": {"id": 0} | counted}


@page_at("/rpc/Shelly.GetStatus")
def shelly_single_phase(power_w, energy_j):
    counted = {"id": 0, "total_act_energy": round(energy_j / 3600, 3)}
    return {"em1:0": {"id": 0, "act_power": power_w}, "em1data:0": counted}


@page_at("/status")
def shelly_clamps(power_w, energy_j):
    phase = {"power": power_w / 3, "is_valid": True, "total": round(energy_j / 3 / 3600, 1)}
    return {"relays": [{"ison": False}], "emeters": [phase] * 3, "total_power": power_w}


ROOT = "/redfish/v1/Chassis"


def redfish(url, power_w, energy_j, _, *, metrics=False):
    path = url.path.rstrip("/")
    if path == ROOT:
        members = [{"@odata.id": f"{ROOT}/{name}"} for name in ("Enclosure.0", "1U")]
        return {"Members@odata.count": 2, "Members": members}
    if path == f"{ROOT}/Enclosure.0":
        return {"Id": "Enclosure.0", "ChassisType": "StorageEnclosure"}
    if path == f"{ROOT}/1U":
        return {"Id": "1U", "ChassisType": "RackMount", "Power": {"@odata.id": f"{ROOT}/1U/Power"}}
    if path == f"{ROOT}/1U/Power":
        control = {
            "MemberId": "0",
            "Name": "System Input Power",
            "PowerConsumedWatts": round(power_w),
            "PowerCapacityWatts": 800,
            "PowerMetrics": {
                "IntervalInMin": 30,
                "MinConsumedWatts": 271,
                "MaxConsumedWatts": 489,
                "AverageConsumedWatts": 319,
            },
        }
        supply = {"Name": "Power Supply Bay", "LastPowerOutputWatts": round(power_w / 2)}
        return {"Id": "Power", "PowerControl": [control], "PowerSupplies": [supply, supply]}
    if metrics and path == f"{ROOT}/1U/EnvironmentMetrics":
        kwh = round(energy_j / 3.6e6, 3)
        return {"PowerWatts": {"Reading": power_w}, "EnergykWh": {"Reading": kwh}}
    return None


def redfish_with_metrics(url, power_w, energy_j, meter):
    return redfish(url, power_w, energy_j, meter, metrics=True)


def redfish_supplies(url, power_w, energy_j, meter):
    page = redfish(url, power_w, energy_j, meter)
    if page is not None and "PowerControl" in page:
        del page["PowerControl"]
    return page


def redfish_subsystem(url, power_w, _, meter):
    """A controller without the deprecated ``Power``."""
    path = url.path.rstrip("/")
    supplies = f"{ROOT}/1U/PowerSubsystem/PowerSupplies"
    if path == supplies:
        return {"Members": [{"@odata.id": f"{supplies}/Bay{n}"} for n in (1, 2)]}
    if path in (f"{supplies}/Bay1/Metrics", f"{supplies}/Bay2/Metrics"):
        reading = {"Reading": power_w / 2, "DataSourceUri": "/redfish/v1/Chassis/1U/Sensors/P"}
        return {"Id": "Metrics", "InputPowerWatts": reading}
    return None if path.endswith("/Power") else redfish(url, power_w, _, meter)


@contextmanager
def served(*arguments, certificate=None, **options):
    """Serve a meter on loopback, with TLS if there is a certificate."""
    meter = FakeMeter(*arguments, **options)
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        meter.socket = context.wrap_socket(meter.socket, server_side=True)
    thread = threading.Thread(target=meter.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield meter
    finally:
        meter.shutdown()
        meter.server_close()


def dcmi(least_w, most_w, mean_w, stamp, period, state="activated", end="\n\n"):
    """What ``ipmitool dcmi power reading`` prints, except for the power."""
    return f"""
    Instantaneous power reading:                   {{power:3d}} Watts
    Minimum during sampling period:                {least_w:3d} Watts
    Maximum during sampling period:                {most_w:3d} Watts
    Average power reading over sample period:      {mean_w:3d} Watts
    IPMI timestamp:                           {stamp}
    Sampling period:                          {period}
    Power reading state is:                   {state}{end}"""


EPOCH = "Thu Jan  1 00:00:00 1970"
DCMI = {  # From the issue trackers of those who asked.
    # github.com/lovoo/ipmi_exporter/issues/18
    "supermicro": dcmi(162, 276, 176, "Wed Feb 15 12:49:51 2017", "01131466 Seconds."),
    # As exporters of ipmitool's readings have it in their tests.
    "one second": dcmi(68, 504, 348, "Thu Feb 15 08:36:01 2024", "00000001 Seconds."),
    # github.com/openbmc/openbmc/issues/3257
    "openbmc": dcmi(319, 319, 319, EPOCH, "00000000 Seconds.", "deactivated"),
    # github.com/ateodorescu/home-assistant-addons/issues/38
    "windows": dcmi(129, 386, 198, "07/26/26 16:57:12 CDT", "00898033 Seconds.", end="\n").replace(
        "CDT\n    Sampling period:        ", "CDT    Sampling period:        "
    ),
}
# github.com/openbmc/phosphor-host-ipmid/issues/167
NO_DCMI = dcmi(0, 0, 0, EPOCH, "00000000 Seconds.", "deactivated", end="\n").format(power=0)


def write_ipmitool(directory, text, status=0, error=""):
    """Write a program named ipmitool that prints this."""
    directory.mkdir(exist_ok=True)
    (directory / "reply.txt").write_text(text)
    program = directory / "ipmitool"
    program.write_text(
        "#!/bin/sh\n"
        f'echo "$@" > {directory}/arguments.txt\n'
        f'echo "$IPMI_PASSWORD" > {directory}/password.txt\n'
        f"cat {directory}/reply.txt\n"
        f'[ -z "{error}" ] || echo "{error}" >&2\n'
        f"exit {status}\n"
    )
    program.chmod(0o755)
    return program
