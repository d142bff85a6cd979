"""Mean power by component, against what the component may draw."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from joulelab.analysis.data import Data
from joulelab.analysis.findings import Finding
from joulelab.analysis.frames import PLACE, REAL, TEXT, frame

COMPONENT_POWER: Mapping[str, str] = {
    **PLACE,
    "model": TEXT,
    "phase": TEXT,
    "component": TEXT,
    "power_w": REAL,
    "low_w": REAL,
    "high_w": REAL,
    "limit_w": REAL,
    "limit": TEXT,
    "share_pct": REAL,
}
"""Columns of :func:`component_power`. ``component`` is ``gpu``, ``cpu``, ``dram`` or ``all``;
``limit`` names ``limit_w``, as ``GPU power limit``; ``share_pct`` is of the limit. Only ``all``
has an interval."""


def component_power(data: Data) -> pd.DataFrame:
    """One row a model, phase and component that was measured or estimated."""
    del data
    return frame([], COMPONENT_POWER)


def power_findings(powers: pd.DataFrame) -> list[Finding]:
    """How near to their limits models drive a component. Ids: ``power.<phase>.<component>``."""
    del powers
    return []
