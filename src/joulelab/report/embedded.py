"""What a page holds for its script: figures as data, in text that cannot end the element."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import Any

import pandas as pd
import vl_convert
from markupsafe import Markup

from joulelab.report.figure import BESIDE, INNER, Choice, Figure, plain
from joulelab.report.scopes import Material
from joulelab.report.theme import CONFIG, QUANTITIES


def page_data(material: Material, figures: Sequence[Figure], quantity: str) -> Markup:
    """The JSON that ``report.js`` reads.

    Args:
        material: Whose scopes can be shown.
        figures: All that are on the page.
        quantity: The one that is shown at first.
    """
    content = {
        "scopes": [{"key": scope.key, "family": scope.family} for scope in material.scopes],
        "quantity": quantity,
        "quantities": QUANTITIES,
        "config": CONFIG,
        "inner": ["scope", *INNER],
        "beside": BESIDE,
        "figures": {
            figure.name: {
                "chart": figure.chart,
                "columns": packed(figure.table),
                "panels": _choice(figure.panels) if figure.panels else None,
                "choices": [_choice(choice) for choice in figure.choices],
            }
            for figure in figures
        },
    }
    return Markup(script_json(content))  # noqa: S704


def packed(table: pd.DataFrame) -> dict[str, Any]:
    """Columns of plain values; texts as levels and codes where that is shorter.

    Example:
        >>> packed(pd.DataFrame({"model": ["LeNet", "LeNet", "VGG16"], "power_w": [1.0, 2.0, 3.0]}))
        {'model': {'levels': ['LeNet', 'VGG16'], 'codes': [0, 0, 1]}, 'power_w': [1.0, 2.0, 3.0]}
    """
    names, rows = plain(table)
    columns = zip(*rows, strict=True) if rows else ([] for _ in names)
    return {name: _packed(list(values)) for name, values in zip(names, columns, strict=True)}


def _packed(values: list[Any]) -> Any:
    texts = {value for value in values if isinstance(value, str)}
    if not texts or len(texts) == len(values):
        return values
    levels = list(dict.fromkeys(value for value in values if value is not None))
    codes = {level: code for code, level in enumerate(levels)}
    return {
        "levels": levels,
        "codes": [None if value is None else codes[value] for value in values],
    }


def script_json(content: Any) -> str:
    r"""JSON that stays within its ``<script>``, whatever names it holds.

    Example:
        >>> script_json({"model": "</script><!-- \u2028"})
        '{"model":"\\u003c/script\\u003e\\u003c!-- \\u2028"}'
    """
    text = json.dumps(content, separators=(",", ":"), allow_nan=False)
    return text.replace("<", r"\u003c").replace(">", r"\u003e").replace("&", r"\u0026")


@cache
def scripts() -> tuple[Markup, ...]:
    """Vega, Vega-Lite and Vega-Embed in one, and the page's own."""
    own = resources.files("joulelab.report").joinpath("templates", "report.js")
    vega = vl_convert.javascript_bundle(None)  # type: ignore[arg-type]
    texts = (vega.replace("</script", r"<\/script").replace("<!--", r"<\!--"), own.read_text())
    return tuple(Markup(text) for text in texts)  # noqa: S704


def policy() -> str:
    """A content security policy under which the page asks nothing of any network.

    No script runs but the page's own, so that a name that slipped through could not either.
    """
    digests = (hashlib.sha256(text.encode()).digest() for text in scripts())
    allowed = " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )


def _choice(choice: Choice) -> dict[str, Any]:
    return {"column": choice.column, "levels": dict(choice.levels)}
