"""The same readings, spans and baseline give the same energies as when they were recorded.

A failure names every value that changed. If the change is intended, run ``make_golden.py``.
"""

import json
import math
from pathlib import Path

import pytest
from recompute import recompute

HERE = Path(__file__).parent
CASES = json.loads((HERE / "cases.json").read_text())
RELATIVE = 1e-9
"""Relative tolerance, unless the case has its own."""
LEAST = 1e-12
"""Absolute tolerance, for values that are differences of nearly equal ones."""


def differences(expected, found, relative=RELATIVE, path="", scale=0.0):
    """Every value that differs, with its path.

    Args:
        expected: From the corpus.
        found: Recomputed.
        relative: Relative tolerance.
        path: Where both are.
        scale: Size of the value whose rounding errors these may have, J.
    """
    if isinstance(expected, dict) and isinstance(found, dict):
        scale = max(scale, abs(expected.get("gross_j") or 0.0))
        for name in sorted({*expected, *found}):
            if name in expected and name in found:
                yield from differences(
                    expected[name], found[name], relative, f"{path}.{name}", scale
                )
            else:
                yield f"{path}.{name} is only {'expected' if name in expected else 'found'}"
    elif isinstance(expected, list) and isinstance(found, list):
        if len(expected) != len(found):
            yield f"{path} has {len(found)} values, expected {len(expected)}"
        for i, pair in enumerate(zip(expected, found, strict=False)):
            yield from differences(*pair, relative, f"{path}[{i}]", scale)
    elif isinstance(expected, float) and isinstance(found, int | float):
        # The net energy of an idle span is a difference of two nearly equal energies.
        tolerance = relative * scale if "net" in path or "job" in path else LEAST
        if not math.isclose(expected, found, rel_tol=relative, abs_tol=tolerance):
            yield f"{path} is {found!r}, expected {expected!r}"
    elif expected != found:
        yield f"{path} is {found!r}, expected {expected!r}"


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_energies_are_unchanged(case):
    expected = json.loads((HERE / "expected" / f"{case['name']}.json").read_text())
    changed = list(differences(expected, recompute(case), case.get("relative", RELATIVE)))
    assert not changed, f"{len(changed)} values changed:\n" + "\n".join(changed[:20])


def test_every_expected_file_has_a_case():
    files = {path.stem for path in (HERE / "expected").glob("*.json")}
    assert files == {case["name"] for case in CASES}


def test_a_change_of_one_part_in_ten_million_is_found():
    expected = json.loads((HERE / "expected" / "nested_spans.json").read_text())
    found = json.loads((HERE / "expected" / "nested_spans.json").read_text())
    found["spans"][3]["components"]["gpu:0"]["edge_uncertainty_j"] *= 1 + 1e-7
    assert len(list(differences(expected, found))) == 1
