"""The site's settings: `make site` builds it, with warnings as errors.

Nothing is fetched while it is built, and its pages load nothing from another host: the
theme brings its own style sheets and scripts, formulas are MathML, fonts are the
reader's.
"""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE / "_site")]

import eagc_jax  # noqa: E402

project = "eagc_jax"
author = "the authors of eagc_jax"
project_copyright = "the authors of eagc_jax, Apache-2.0"
release = version = eagc_jax.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "gallery",
    "mathml",
    "tidy",
]
exclude_patterns = ["_site", "_build"]

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
highlight_language = "none"  # of indented blocks: formulas, commands
html_math_renderer = "mathml"

default_role = "literal"  # `name` is code, as in the pages
nitpicky = True  # a reference to a function that isn't there is an error,
nitpick_ignore_regex = [("py:(class|obj|data|attr|exc)", ".*")]  # a type's name isn't
suppress_warnings = ["ref.python"]  # two types of one name, in rooms of their own
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
autodoc_default_options = {"members": True, "show-inheritance": False}
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 80

html_theme = "furo"
html_title = f"eagc_jax {release}"
html_copy_source = False
html_show_sphinx = False
