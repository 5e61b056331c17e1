"""How Sphinx builds the site from the documents of this folder: `make docs`."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_extensions"))

import dropcore  # noqa: E402

# --- project -------------------------------------------------------------------------------------

project = "dropcore"
author = "dropcore developers"
copyright = author
version = release = dropcore.__version__

# --- what is read --------------------------------------------------------------------------------

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "numpydoc",
    "myst_parser",
    "sphinx_design",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
    "public_api",
    "reproduced",
]
root_doc = "index"
exclude_patterns = ["gallery"]  # sphinx-gallery reads it and writes auto_gallery
templates_path = ["_templates"]

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

nitpicky = True
# Names of other libraries are no links: the site is built without the network.
nitpick_ignore_regex = [("py:obj", r"(keras|numpy|sklearn|torch)\..+")]

# --- API reference: public_api.py collects the names, _templates/ has the pages ------------------

default_role = "code"  # a name in single backticks; public ones become links
autosummary_generate = True
autosummary_imported_members = True
autosummary_ignore_module_all = False
autodoc_typehints = "none"  # docstrings say more: shapes, dtypes, units
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 88
toc_object_entries_show_parents = "hide"
numpydoc_show_class_members = False
numpydoc_xref_param_type = False

# --- gallery -------------------------------------------------------------------------------------

sphinx_gallery_conf = {
    "examples_dirs": "gallery",
    "gallery_dirs": "auto_gallery",
    "filename_pattern": r"/plot_",
    "within_subsection_order": "FileNameSortKey",
    "reset_modules": ("matplotlib", "gallery_style.look"),
    "abort_on_example_error": False,
    "only_warn_on_example_error": True,  # and the build ends on warnings
    "download_all_examples": False,
    "write_computation_times": False,
    "show_memory": False,
    "remove_config_comments": True,
    "min_reported_time": 30,  # seconds; below, the time says little but how busy the machine was
    "doc_module": ("dropcore",),
    "backreferences_dir": None,
}

# --- HTML ----------------------------------------------------------------------------------------

html_theme = "pydata_sphinx_theme"
html_title = f"dropcore {release}"
html_favicon = "_static/logo.svg"
html_static_path = ["_static"]
html_css_files = ["dropcore.css"]
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    "logo": {"image_light": "_static/logo.svg", "image_dark": "_static/logo.svg", "text": project},
    "navigation_with_keys": False,
    "show_prev_next": True,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["release"],
    "footer_end": [],
}
html_sidebars = {"index": [], "start": []}
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
copybutton_only_copy_prompt_lines = True
