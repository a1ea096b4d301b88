"""Sphinx: `sphinx-build -W docs docs/_build`."""

from importlib.metadata import version as version_of

project = "gtcp"
author = "the gtcp authors"
copyright = "2026, the gtcp authors"  # noqa: A001  (the name Sphinx reads)
release = version = version_of("gtcp-rpc")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = f"gtcp {release}"

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

autodoc_typehints = "description"
autodoc_member_order = "bysource"
napoleon_numpy_docstring = False
