"""Settings of Sphinx: ``make docs``."""

from pathlib import Path

import sb3_ddpg_ext

project = "sb3_ddpg_ext"
author = "The sb3_ddpg_ext contributors"
copyright = f"2026, {author}"
version = release = sb3_ddpg_ext.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.viewcode"]
# The reports of comparisons are pages, their runs are not
evidence = sorted(report.parent.name for report in Path(__file__).parent.glob("*/report.md"))
exclude_patterns = ["_build", *(f"{name}/*/**" for name in evidence), "**/benchmark.md"]
myst_heading_anchors = 3
suppress_warnings = ["myst.strikethrough"]

autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_member_order = "bysource"

html_theme = "furo"
html_title = f"sb3_ddpg_ext {release}"
html_show_sphinx = False
html_theme_options = {"sidebar_hide_name": False, "navigation_with_keys": True}
html_static_path = ["_static"]
html_css_files = ["site.css"]
