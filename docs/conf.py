"""How the documentation is built: ``make docs``."""

from importlib.metadata import version as installed_version

project = "JouleLab"
author = "The JouleLab authors"
copyright = "2026, The JouleLab authors"
release = version = installed_version("joulelab")
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.doctest"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "description"
nitpicky = False
html_theme = "alabaster"
html_theme_options = {"description": "the energy of machine learning, measured"}
html_static_path: list[str] = []
