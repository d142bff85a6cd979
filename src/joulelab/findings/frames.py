"""Tables with their columns and types, also where there are no rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

TEXT, INT, REAL, FLAG = "string", "Int64", "float64", "boolean"
"""The types of columns. What is not known is NA, or NaN in ``float64``."""

PLACE: Mapping[str, str] = {"study": TEXT, "machine": TEXT, "setting": TEXT}
"""The columns that say which :class:`~joulelab.findings.data.Group` a row is about."""

INTERVAL: Mapping[str, str] = {"estimate": REAL, "low": REAL, "high": REAL}
"""An estimate and its 95 % interval."""


def frame(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> pd.DataFrame:
    """A table of these columns and no others; what a row lacks is not known.

    Example:
        >>> frame([{"n": 3}], {"n": INT, "low": REAL}).to_dict("records")
        [{'n': 3, 'low': nan}]
    """
    return pd.DataFrame(
        {
            name: pd.Series([row.get(name) for row in rows], dtype=dtype)
            for name, dtype in columns.items()
        }
    )


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows as dictionaries by column.

    Example:
        >>> records(frame([{"n": 3}], {"n": INT}))
        [{'n': 3}]
    """
    names = [str(name) for name in table.columns]
    columns = [table[name].tolist() for name in table.columns]
    return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]
