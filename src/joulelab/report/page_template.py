"""Templates of the pages: what all share is in ``base.html.j2``."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import vl_convert
from markupsafe import Markup, escape

import joulelab
from joulelab.findings.schema import Finding
from joulelab.format import interval, quantity, scale

PAGE = "report.html"

TABLES = "tables.js"
"""The script of pages without charts: it sorts the tables of the class ``sortable``."""

_NONE = "'none'"
_OWN = "style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'; form-action 'none'"


def fill_template(name: str, *, script: str = "", **values: Any) -> str:
    """Return the page that a template makes.

    Args:
        name: A template, like ``run.html.j2``.
        script: The page's own script, like ``run.js``, which reads ``data`` of the values, or
            :data:`TABLES`.
        values: What the template shows.
    """
    texts = scripts(script) if script else ()
    common = {"version": joulelab.__version__, "policy": _security_policy(texts)}
    return environment().get_template(name).render(scripts=texts, **common, **values)


def page_path(directory: Path, out: str | Path | None, name: str = PAGE) -> Path:
    """Return the page that ``out`` names, or the one in a directory, of this name."""
    path = Path(out or directory)
    is_page = out is not None and path.suffix.lower() in (".html", ".htm") and not path.is_dir()
    return path if is_page else path / name


def environment() -> jinja2.Environment:
    """Return the environment of the pages' templates."""
    templates = jinja2.Environment(
        loader=jinja2.PackageLoader("joulelab.report", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= {
        "estimate": _estimate,
        "interval": _interval,
        "code": _code,
        "order": order,
    }
    return templates


def order(value: float) -> str:
    """Return what a cell of a table is sorted by; empty for an unknown value."""
    return "" if math.isnan(value) else f"{value:.9g}"


def _code(text: str) -> Markup:
    """Set what is in backquotes as code."""
    parts = [escape(part) for part in text.split("`")]
    parts[1::2] = [Markup("<code>{}</code>").format(part) for part in parts[1::2]]
    return Markup().join(parts)


def _estimate(finding: Finding) -> str:
    return quantity(finding.estimate, finding.unit.removeprefix("1"))


def _interval(finding: Finding) -> str:
    size, _ = scale(finding.estimate, finding.unit)
    return interval(finding.low / size, finding.high / size, finding.estimate / size)


@cache
def scripts(name: str) -> tuple[Markup, ...]:
    """Return Vega, Vega-Lite and Vega-Embed in one script, what pages share, and their own.

    :data:`TABLES` needs none of the others.
    """
    templates = resources.files("joulelab.report").joinpath("templates")
    names = [TABLES] if name == TABLES else ["charts.js", TABLES, name]
    texts = [templates.joinpath(one).read_text() for one in names]
    if name != TABLES:
        vega = vl_convert.javascript_bundle(None)  # type: ignore[arg-type]
        texts.insert(0, vega.replace("</script", r"<\/script").replace("<!--", r"<\!--"))
    return tuple(Markup(text) for text in texts)  # noqa: S704


def _security_policy(texts: Sequence[str]) -> str:
    """Return a policy that allows the page no network, and no script but these."""
    digests = (hashlib.sha256(text.encode()).digest() for text in texts)
    allowed = " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
    return f"default-src 'none'; script-src {allowed or _NONE}; {_OWN}"
