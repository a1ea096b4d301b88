"""Sphinx: `sphinx-build -W docs docs/_build`."""

from importlib.metadata import version as version_of

project = "gtcp"
author = "the gtcp authors"
copyright = "2026, the gtcp authors"  # noqa: A001  (the name Sphinx reads)
release = version = version_of("gtcp-rpc")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_click",
    "sphinx_copybutton",
]
exclude_patterns = ["_build"]

smartquotes = False  # they would turn the "--" of an option into a dash

html_theme = "furo"
html_title = f"gtcp {release}"
html_static_path = ["_static"]
html_css_files = ["gtcp.css"]

# Of console blocks, do not copy line numbers, prompts and output.
copybutton_exclude = ".linenos, .gp, .go"

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
autodoc_member_order = "bysource"
napoleon_numpy_docstring = False
