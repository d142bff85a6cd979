"""Smart plugs' messages and macmon's, as JSON.

Tasmota's ``ENERGY.Power`` is in W and ``Total`` in kWh (Tasmota documentation, Power Monitoring);
Shelly's ``apower`` in W and ``aenergy.total`` in Wh (Shelly API, Switch and PM1), before
generation 2 ``meters[].power`` in W. macmon prints W (``macmon pipe``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from joulelab.logs.formats.json_text import json_objects
from joulelab.logs.formats.log_text import LogText
from joulelab.logs.formats.meters import Format, Reading, number
from joulelab.logs.series import Kind, Meter
from joulelab.sensors.sensor import Provenance

_MAC_COMPONENTS = {
    "cpu_power": "cpu:0", "gpu_power": "gpu:0", "ane_power": "ane:0", "ram_power": "dram:0",
    "all_power": "node", "sys_power": "node",
}  # fmt: skip


def _read_tasmota(log: LogText) -> Iterator[Reading]:
    """Read answers to ``Status 8`` or telemetry messages of Tasmota."""
    for stamp, message in json_objects(log):
        found = message.get("StatusSNS", message)
        energy = found.get("ENERGY", {})
        if "Power" not in energy:
            continue
        powers = energy["Power"] if isinstance(energy["Power"], list) else [energy["Power"]]
        for i, watts in enumerate(powers):
            meter = Meter(f"plug:{i}", "ENERGY.Power", "tasmota.power")
            yield Reading(found.get("Time") or stamp, meter, number(str(watts)))


def _read_shelly(log: LogText) -> Iterator[Reading]:
    """Read answers of Shelly plugs to ``Switch.GetStatus`` or, before generation 2, ``/status``."""
    for stamp, found in json_objects(log):
        time = str(found["unixtime"]) if found.get("unixtime") else stamp
        if "apower" in found:
            meter = Meter(f"plug:{found.get('id', 0)}", "apower", "shelly.apower")
            yield Reading(time, meter, number(str(found["apower"])))
        for i, one in enumerate(found.get("meters", [])):
            meter = Meter(f"plug:{i}", "power", "shelly.power")
            yield Reading(time, meter, number(str(one.get("power"))))


def _read_macmon(log: LogText) -> Iterator[Reading]:
    """Read ``macmon pipe``: means over its interval."""
    for stamp, found in json_objects(log):
        for name, component in _MAC_COMPONENTS.items():
            if name in found:
                overlaps = ("cpu_power", "gpu_power") if component == "node" else ()
                meter = Meter(
                    component,
                    name,
                    f"macmon.{name}",
                    Kind.MEAN_POWER,
                    overlaps,
                    provenance=Provenance.ESTIMATED,
                )
                yield Reading(found.get("timestamp") or stamp, meter, number(str(found[name])))


def _mentions(*texts: str) -> Callable[[Sequence[str]], bool]:
    return lambda head: all(text in "".join(head) for text in texts)


FORMATS = (
    Format("Tasmota", _mentions('"ENERGY"', '"Power"'), _read_tasmota),
    Format(
        "a Shelly plug",
        lambda head: _mentions('"apower"')(head) or _mentions('"meters"', '"power"')(head),
        _read_shelly,
        timed="while sleep 1; do date; curl -s 'HOST/rpc/Switch.GetStatus?id=0'; echo; done",
    ),
    Format("macmon", _mentions('"all_power"', '"ane_power"'), _read_macmon),
)
