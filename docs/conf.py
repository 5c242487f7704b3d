"""Sphinx configuration; warnings are errors (``make docs``)."""

import shutil
import sys
from importlib import import_module
from importlib.metadata import version as installed
from pathlib import Path

HERE = Path(__file__).parent

# the notebooks live beside the package; Sphinx reads only below docs/
(HERE / "tutorials").mkdir(exist_ok=True)
for notebook in (HERE.parent / "tutorials").glob("*.ipynb"):
    shutil.copy2(notebook, HERE / "tutorials")

sys.path.insert(0, str(HERE))
(HERE / "how" / "constants.md").write_text(import_module("constants").page(), encoding="utf-8")

project = "MoRE"
author = "The MoRE developers"
copyright = f"2026, {author}"
version = release = installed("more-scvi")

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_design",
]
exclude_patterns = ["_build", "_templates", "Thumbs.db", ".DS_Store"]
templates_path = ["_templates"]

myst_enable_extensions = ["amsmath", "attrs_inline", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"
nb_merge_streams = True

autosummary_generate = True
autosummary_ignore_module_all = False
elsewhere = set(import_module("more_scvi.modalities").__all__)  # once documented is enough
autosummary_context = {"again": sorted(elsewhere & set(import_module("more_scvi.module").__all__))}
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_google_docstring = False
napoleon_numpy_docstring = True
napoleon_use_rtype = False
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

html_theme = "sphinx_book_theme"
html_title = "MoRE"
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_show_sphinx = False
html_theme_options = {"show_navbar_depth": 1, "home_page_in_toc": False, "use_download_button": False}
