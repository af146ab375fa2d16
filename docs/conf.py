"""Sphinx: what is written by hand is Markdown, what the code says of itself is generated from it (`_generate`)."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.util.inspect import stringify_signature

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "src"), str(HERE.parent)]

import medpretrain3d  # noqa: E402  found by the line above

project = "medpretrain3d"
author = copyright = "medpretrain3d contributors"
version = release = medpretrain3d.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_design",
]
exclude_patterns = ["_build", "_generate"]
nitpicky = True
# `Detector` is a contract and a class for programs: a signature links to one of them.
suppress_warnings = ["ref.python"]
nitpick_ignore_regex = [("py:.*", ".*")]  # types of torch, numpy and the like have no pages here; pages and headings do

myst_enable_extensions = ["colon_fence", "deflist", "attrs_block"]
myst_heading_anchors = 4  # links to headings work as they do on a code host

default_role = "code"  # docstrings write `names` in single backticks
autodoc_default_options = {"members": True, "imported-members": True, "show-inheritance": True}
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 100
toc_object_entries_show_parents = "hide"
napoleon_numpy_docstring = False
napoleon_use_rtype = False

html_theme = "furo"
html_title = f"medpretrain3d {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#0b6e8a", "color-brand-content": "#0b6e8a"},
    "dark_css_variables": {"color-brand-primary": "#5cc3dd", "color-brand-content": "#5cc3dd"},
}
copybutton_exclude = ".linenos, .gp, .go"
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True


def constructor_signature(app, what, name, thing, options, signature, returns):
    """Show the arguments of a constructor: autodoc would show those of `Configurable.__new__`."""
    if what != "class" or "__init__" not in {key for cls in thing.__mro__[:-1] for key in vars(cls)}:
        return None
    whole = inspect.signature(thing.__init__)
    arguments = [one for key, one in whole.parameters.items() if key != "self"]
    return stringify_signature(whole.replace(parameters=arguments, return_annotation=inspect.Signature.empty)), None


def setup(app: Sphinx) -> None:
    """Write the pages that the code writes of itself before Sphinx looks for pages."""
    from _generate import write_pages

    app.connect("config-inited", lambda *_: write_pages(HERE))
    app.connect("autodoc-process-signature", constructor_signature)
