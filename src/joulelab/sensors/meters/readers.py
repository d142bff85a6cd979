"""How each kind of meter is asked, and where the values are in its replies.

Sources: Tasmota, *Commands* (``Status 8``) and *Energy monitoring*; Shelly, *Gen1 device API*
(``/meter/0``, ``/status``: ``total`` in watt-minutes) and *Gen2 device API* (``Switch.GetStatus``:
``aenergy.total`` in watt-hours; ``EM``, ``EM1`` and their counters); DMTF DSP2046 (Redfish:
``Power``, ``EnvironmentMetrics``, ``PowerSupplyMetrics``); Intel, *DCMI 1.5*, 6.6.1, as
``ipmitool`` prints it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

from joulelab.sensors.meters.entries import FACTORS, Entry, secret
from joulelab.sensors.meters.http_client import HttpClient, NoAnswerError, NotFoundError
from joulelab.sensors.meters.programs import run_program
from joulelab.sensors.meters.replies import MeterError, number_at, number_in, parse_reply
from joulelab.sensors.sensor import Quantity

Value = float | str
"""A number in watts or joules, or why there is none."""


class Reader:
    """Asks one meter. It is used by one thread, except for :meth:`abort`."""

    def read(self) -> list[Value]:
        """Return a value of each channel. Raise :class:`MeterError` if there are none."""
        raise NotImplementedError

    def abort(self) -> None:
        """End a read that another thread waits for, if it has no limit of its own."""

    def close(self) -> None:
        """Close what is open."""

    def findings(self) -> dict[str, Any]:
        """Return fields of the entry that reading has found."""
        return {}


class Place(NamedTuple):
    """Where a value is in a reply, and how many watts or joules its unit has."""

    path: str
    factor: float = 1.0


class Page(NamedTuple):
    """A page that a meter may have, and where the values of its channels are.

    Each channel has several places, of which the first that exists counts. The replies to several
    targets are a list.
    """

    target: str | Sequence[str]
    places: Sequence[Sequence[Place]]
    findings: dict[str, Any] = {}  # noqa: RUF012  (never changed)


class HttpReader(Reader):
    """Reads JSON over HTTP from the first of several pages that has a value."""

    def __init__(self, client: HttpClient, pages: Callable[[], Iterable[Page]]) -> None:
        self._client, self._pages = client, pages
        self._page: Page | None = None

    def read(self) -> list[Value]:
        """Ask for the page; find it if it is not known yet or is gone."""
        if self._page is not None:
            try:
                return self._values(self._page)
            except NotFoundError:
                self._page = None
        reason = MeterError("it has no page with a reading")
        for page in self._pages():
            try:
                values = self._values(page)
            except NoAnswerError:
                raise
            except MeterError as error:
                reason = error
                continue
            if any(isinstance(value, float) for value in values):
                self._page = page
                return values
            reason = MeterError("; ".join(dict.fromkeys(map(str, values))))
        raise reason

    def abort(self) -> None:
        """End a request that is under way."""
        self._client.abort()

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def findings(self) -> dict[str, Any]:
        """Return what the page that answers says about the meter."""
        return self._page.findings if self._page else {}

    def _values(self, page: Page) -> list[Value]:
        document: Any
        if isinstance(page.target, str):
            document = parse_reply(self._client.get(page.target))
        else:
            document = [parse_reply(self._client.get(target)) for target in page.target]
        return [_value(document, places) for places in page.places]


def _value(document: Any, places: Sequence[Place]) -> Value:
    reason = "the reply has no such value"
    for place in places:
        try:
            return number_at(document, place.path) * place.factor
        except MeterError as error:
            reason = str(error)
    return reason


class ProgramReader(Reader):
    """Reads what a program prints."""

    def __init__(self, run: Callable[[], str], parse: Callable[[str], list[Value]]) -> None:
        self._run, self._parse = run, parse
        self._output = ""

    def read(self) -> list[Value]:
        """Run the program, and return the values that it prints."""
        self._output = self._run()
        return self._parse(self._output)

    def findings(self) -> dict[str, Any]:
        """Return the period in which a controller samples, if it states one of some seconds.

        Many state the time since they were started.
        """
        found = _DCMI_PERIOD.search(self._output)
        is_period = found is not None and 1 < int(found[1]) <= LONGEST_PERIOD_S
        return {"update_period_s": float(found[1])} if found and is_period else {}


def quantities(entry: Entry) -> list[Quantity]:
    """Return what each channel of a meter measures, in order."""
    if entry.kind in ("http-json", "command"):
        return [one.quantity for one in _values_of(entry)]
    if entry.power_supplies:
        return [Quantity.POWER] * entry.power_supplies
    has_counter = entry.energy or entry.kind in ("tasmota", "shelly")
    return [Quantity.POWER, Quantity.ENERGY] if has_counter else [Quantity.POWER]


def open_reader(entry: Entry) -> Reader:
    """Make the reader of a meter. Nothing is sent.

    Raises:
        UserError: Its password or token is missing.
    """
    password, token = secret(entry, "password"), secret(entry, "token")
    if entry.command:
        run = partial(run_program, entry.command, entry.timeout_s, {})
        return ProgramReader(run, partial(_printed, _values_of(entry)))
    if entry.kind == "ipmi":
        # In the arguments every user could read it.
        secrets = {"IPMI_PASSWORD": password} if password else {}
        run = partial(run_program, _ipmitool(entry), entry.timeout_s, secrets)
        return ProgramReader(run, parse_ipmi)
    headers = dict(entry.headers)
    if token and entry.kind == "redfish":
        headers["X-Auth-Token"] = token
    elif token:
        headers["Authorization"] = f"Bearer {token}"
    client = HttpClient(
        entry.url, entry.timeout_s, headers=headers, verify=entry.verify, ca_file=entry.ca_file
    )
    if entry.user and password and entry.kind != "tasmota":
        client.user = entry.user, password
    pages: Callable[[], Iterable[Page]] = {
        "tasmota": lambda: [_tasmota_page(entry.user, password)],
        "shelly": lambda: _shelly_pages(entry.relay),
        "redfish": lambda: _redfish_pages(entry, client),
        "http-json": lambda: [_json_page(entry)],
    }[entry.kind]
    return HttpReader(client, pages)


class _Wanted(NamedTuple):
    """A value of a meter that is described by its entry."""

    quantity: Quantity
    factor: float
    path: str | None
    pattern: str | None


def _values_of(entry: Entry) -> list[_Wanted]:
    found = [
        _Wanted(
            quantity,
            FACTORS[getattr(entry, f"{what}_unit")] * entry.scale,
            getattr(entry, what),
            getattr(entry, f"{what}_pattern"),
        )
        for quantity, what in ((Quantity.POWER, "power"), (Quantity.ENERGY, "energy"))
    ]
    return [one for one in found if one.path is not None or one.pattern is not None]


def _printed(wanted: Sequence[_Wanted], text: str) -> list[Value]:
    found: list[Value] = []
    for one in wanted:
        try:
            if one.pattern is not None:
                number = number_in(text, one.pattern)
            else:
                document = parse_reply(text.encode(), "the command answered")
                number = number_at(document, one.path or "")
            found.append(number * one.factor)
        except MeterError as error:
            found.append(str(error))
    return found


def _json_page(entry: Entry) -> Page:
    url = entry.url
    target = (url.path or "/") + (f"?{url.query}" if url.query else "")
    return Page(target, [[Place(one.path or "", one.factor)] for one in _values_of(entry)])


def _tasmota_page(user: str | None, password: str | None) -> Page:
    """Return the page of a plug, which takes a password as a part of the query."""
    login = {"user": user, "password": password} if user and password else {}
    query = urlencode(login | {"cmnd": "Status 8"}, quote_via=quote)
    root = "StatusSNS.ENERGY"
    places = [[Place(f"{root}.Power")], [Place(f"{root}.Total", FACTORS["kWh"])]]
    return Page(f"/cm?{query}", places)


def _shelly_pages(relay: int) -> list[Page]:
    meter = f"meters[{relay}]."
    switch = [[Place("apower")], [Place("aenergy.total", FACTORS["Wh"])]]
    phases = [
        [Place(f"em:{relay}.total_act_power"), Place(f"em1:{relay}.act_power")],
        [
            Place(f"emdata:{relay}.total_act", FACTORS["Wh"]),
            Place(f"em1data:{relay}.total_act_energy", FACTORS["Wh"]),
        ],
    ]
    clamps = [[Place("emeters[*].power")], [Place("emeters[*].total", FACTORS["Wh"])]]
    return [
        Page(f"/rpc/Switch.GetStatus?id={relay}", switch),
        Page(f"/rpc/PM1.GetStatus?id={relay}", switch),
        Page("/rpc/Shelly.GetStatus", phases),
        Page(f"/meter/{relay}", [[Place("power")], [Place("total", FACTORS["Wmin"])]]),
        Page("/status", clamps),
        Page("/status", [[Place(f"{meter}power")], [Place(f"{meter}total", FACTORS["Wmin"])]]),
    ]


def _redfish_pages(entry: Entry, client: HttpClient) -> Iterator[Page]:
    metrics = [
        [Place("PowerWatts.Reading")],
        [Place("EnergyJoules.Reading"), Place("EnergykWh.Reading", FACTORS["kWh"])],
    ]
    supplies = [
        [Place(f"PowerSupplies[{n}].{name}") for name in _SUPPLY_WATTS]
        for n in range(entry.power_supplies)
    ]
    newer = [
        [Place(f"[{n}].{name}PowerWatts.Reading") for name in ("Input", "Output")]
        for n in range(entry.power_supplies)
    ]
    for path in _chassis(client, entry.chassis):
        found = {"chassis": path.rpartition("/")[2]}
        if supplies:
            yield Page(f"{path}/Power", supplies, found)
            with suppress(NotFoundError):  # Power is deprecated, and newer controllers lack it.
                listed = _members(client, f"{path}/PowerSubsystem/PowerSupplies")
                targets = [f"{one}/Metrics" for one in listed[: entry.power_supplies]]
                yield Page(targets, newer, found)
        elif entry.energy:
            yield Page(f"{path}/EnvironmentMetrics", metrics, found)
        else:
            yield Page(f"{path}/Power", [[Place("PowerControl[0].PowerConsumedWatts")]], found)
            yield Page(f"{path}/EnvironmentMetrics", metrics[:1], found)


_SUPPLY_WATTS = ("PowerInputWatts", "LastPowerOutputWatts", "PowerOutputWatts")
_WHOLE = ("RackMount", "Blade", "Sled", "StandAlone", "Tower", "Enclosure")
_CHASSIS = "/redfish/v1/Chassis"


def _chassis(client: HttpClient, identifier: str | None) -> Iterator[str]:
    """Yield the paths of the chassis that may have a reading, whole machines first."""
    if identifier is not None:
        yield f"{_CHASSIS}/{quote(identifier, safe='')}"
        return
    paths = _members(client, _CHASSIS)
    if len(paths) > 1:
        kinds = {}
        for path in paths:
            with suppress(NotFoundError):
                found = parse_reply(client.get(path))
                kinds[path] = found.get("ChassisType") if isinstance(found, dict) else None
        paths.sort(key=lambda path: kinds.get(path) not in _WHOLE)
    if not paths:
        raise MeterError("it lists no chassis")
    yield from paths


def _members(client: HttpClient, collection: str) -> list[str]:
    document = parse_reply(client.get(collection))
    listed = document.get("Members", []) if isinstance(document, dict) else []
    paths = [str(one.get("@odata.id", "")) for one in listed if isinstance(one, dict)]
    return [path.rstrip("/") for path in paths if path.startswith("/")]


def _ipmitool(entry: Entry) -> list[str]:
    command = ["ipmitool"]
    interface = entry.interface or ("lanplus" if entry.address else None)
    if interface:
        command += ["-I", interface]
    if entry.address:
        command += ["-H", entry.address]
    if entry.user:
        command += ["-U", entry.user]
    if entry.password_env or entry.password_file:
        command.append("-E")
    if entry.sensor:
        return [*command, "sensor", "reading", entry.sensor]
    return [*command, "dcmi", "power", "reading"]


_DCMI_WATTS = re.compile(r"Instantaneous power reading:\s*(\d+)\s*Watts")
_DCMI_PERIOD = re.compile(r"Sampling period:\s*(\d+) Seconds")
LONGEST_PERIOD_S = 60
_DCMI_STATE = re.compile(r"Power reading state is:\s*(\w+)")
_SENSOR_WATTS = re.compile(r"^[^|\n]+\|\s*([\d.]+)\s*$", re.MULTILINE)


def parse_ipmi(text: str) -> list[Value]:
    """Find the power in what ``ipmitool`` prints.

    Some controllers (OpenBMC) call their reading deactivated and give it all the same; 0 W from one
    that is deactivated is none.

    Example:
        >>> parse_ipmi("Instantaneous power reading:      220 Watts")
        [220.0]
        >>> parse_ipmi("Pwr Consumption  | 98")
        [98.0]
    """
    found = _DCMI_WATTS.search(text) or _SENSOR_WATTS.search(text)
    if found is None:
        return ["ipmitool printed no power: the controller may lack DCMI; name a sensor instead"]
    state = _DCMI_STATE.search(text)
    if float(found[1]) == 0 and state is not None and state[1] != "activated":
        return ["the controller does not measure power (0 W, deactivated)"]
    return [float(found[1])]
