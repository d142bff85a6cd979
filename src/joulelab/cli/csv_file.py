"""Tables of figures as CSV, for spreadsheets and scripts."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from joulelab.storage import write_whole, writing


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as CSV with a header; what is not known is empty.

    Args:
        rows: Values by column; all with the columns of the first.

    Example:
        >>> csv_text([{"name": "epoch", "gross_j": 2.5}, {"name": "step", "gross_j": math.nan}])
        'name,gross_j\\nepoch,2.5\\nstep,\\n'
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    if rows:
        writer.writerow(rows[0])
    writer.writerows([_known(value) for value in row.values()] for row in rows)
    return text.getvalue()


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes them to a file, whole or not at all.

    Raises:
        UserError: It cannot be written.
    """
    with writing(path):
        write_whole(path, csv_text(rows).encode())


def _known(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value
