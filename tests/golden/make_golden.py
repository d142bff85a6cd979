"""Rewrite the expected values of the golden corpus.

Run this only on purpose, when energies are meant to change, and review the difference: every
change is a change of what JouleLab reports for the same readings::

    python tests/golden/make_golden.py [CASE ...]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def main() -> None:
    from recompute import recompute

    chosen = sys.argv[1:]
    cases = json.loads((HERE / "cases.json").read_text())
    known = {case["name"] for case in cases}
    if unknown := sorted(set(chosen) - known):
        sys.exit(f"make_golden: no case named {', '.join(unknown)}")
    for case in cases:
        if not chosen or case["name"] in chosen:
            path = HERE / "expected" / f"{case['name']}.json"
            path.parent.mkdir(exist_ok=True)
            path.write_text(text_of(recompute(case)))


def text_of(values: dict[str, Any]) -> str:
    """The values as JSON with one row a line, so that differences can be read.

    Example:
        >>> print(text_of({"rows": [{"a": 1.5}, {"a": 2.5}], "n": 2}), end="")
        {
        "rows": [
        {"a": 1.5},
        {"a": 2.5}
        ],
        "n": 2
        }
    """
    entries = []
    for name, value in values.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            rows = ",\n".join(json.dumps(row, allow_nan=False) for row in value)
            entries.append(f"{json.dumps(name)}: [\n{rows}\n]")
        else:
            entries.append(f"{json.dumps(name)}: {json.dumps(value, allow_nan=False)}")
    return "{\n" + ",\n".join(entries) + "\n}\n"


if __name__ == "__main__":
    main()
