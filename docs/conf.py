"""Build settings of the documentation: ``make docs``."""

from importlib.metadata import version as installed_version

project = "JouleLab"
author = "The JouleLab authors"
copyright = "2026, The JouleLab authors"
release = version = installed_version("joulelab")
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx_click",
    "sphinx_copybutton",
]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
myst_enable_extensions = ["attrs_block", "colon_fence", "dollarmath"]
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_preserve_defaults = True
nitpicky = False
html_title = "JouleLab"
html_theme = "furo"
html_theme_options = {
    "source_repository": "https://github.com/joulelab/joulelab/",
    "source_branch": "main",
    "source_directory": "docs/",
}
html_static_path: list[str] = []
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
