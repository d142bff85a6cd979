"""The public door: what `import joulelab` offers."""

import subprocess
import sys

import pytest

import joulelab

PUBLIC = {
    "Energy",
    "JoulelabError",
    "Meter",
    "Run",
    "Site",
    "Tune",
    "UserError",
    "__version__",
    "epochs",
    "integrations",
    "measure",
    "open_run",
    "open_runs",
    "report_metrics",
}


def test_the_public_names_are_listed_and_importable():
    assert set(joulelab.__all__) == set(dir(joulelab)) == PUBLIC
    for name in PUBLIC:
        assert getattr(joulelab, name) is not None


def test_public_objects_have_docstrings():
    for name in PUBLIC - {"__version__"}:
        assert getattr(joulelab, name).__doc__, name


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'joulelab' has no attribute 'Metre'"):
        joulelab.Metre  # noqa: B018


def test_a_plain_import_loads_neither_numpy_nor_click():
    code = "import joulelab, sys; sys.exit(any(m in sys.modules for m in ('numpy', 'click')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
