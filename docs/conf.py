"""How Sphinx builds the site; `make docs` runs it with warnings as errors."""

import os
from importlib.util import find_spec

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml

import skmatch

os.environ.setdefault("TQDM_DISABLE", "1")

project = "skmatch"
author = "The skmatch developers"
copyright = "The skmatch developers, BSD-3-Clause"
release = version = skmatch.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.viewcode",  # a link to the source from each name of the reference
    "numpydoc",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
    "myst_parser",  # for the changelog
]
templates_path = ["_templates"]
exclude_patterns = ["_build"]
default_role = "obj"
nitpicky = False  # docstrings name types of other packages, whose inventories need a network

html_math_renderer = "mathml"
toc_object_entries_show_parents = "hide"
autosummary_generate = True
autodoc_typehints = "none"  # docstrings have them
numpydoc_show_class_members = False  # the template lists them
numpydoc_xref_param_type = False

sphinx_gallery_conf = {
    "examples_dirs": ["../examples/gallery", "../examples/tutorials"],
    "gallery_dirs": ["generated/gallery", "generated/tutorials"],
    "backreferences_dir": "generated/backreferences",
    "doc_module": "skmatch",
    "within_subsection_order": "FileNameSortKey",
    "filename_pattern": "/plot_",
    # Shown, but run only where faiss is installed.
    "ignore_pattern": "faiss" if find_spec("faiss") is None else r"__init__\.py",
    "abort_on_example_error": True,
    "download_all_examples": False,
    "min_reported_time": 1,
    "show_signature": False,
    "write_computation_times": False,
    "remove_config_comments": True,
}

copybutton_prompt_text = r">>> |\.\.\. |\$ "  # leave prompts and outputs out
copybutton_prompt_is_regexp = True

html_theme = "pydata_sphinx_theme"
html_title = "skmatch"
html_favicon = "_static/icon.svg"
html_context = {"default_mode": "auto"}
html_static_path = ["_static"]
html_css_files = ["skmatch.css"]
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    "logo": {
        "text": "skmatch",
        "image_light": "_static/icon.svg",
        "image_dark": "_static/icon.svg",
    },
    # Relative: each version of the site is a folder beside the others.
    "switcher": {"json_url": "_static/versions.json", "version_match": version},
    "navbar_end": ["version-switcher", "theme-switcher"],
    "show_toc_level": 2,
    "navbar_align": "left",
    "header_links_before_dropdown": 6,
    "navigation_with_keys": False,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
}
html_sidebars = {
    page: []
    for page in (
        "changelog", "faq", "getting_started", "glossary", "index", "install", "pitfalls", "rechub",
        "scaling", "settings",
    )
}  # fmt: skip


def write_math(translator, node):
    """Write a formula as MathML, which browsers draw without a script from elsewhere."""
    is_block = isinstance(node, nodes.math_block)
    formula = tex2mathml(node.astext(), as_block=is_block)
    translator.body.append(f'<div class="formula">{formula}</div>' if is_block else formula)
    raise nodes.SkipNode


def unlink_metrics(app, page):
    """Leave NDCG@10 and the like as text: docutils takes them for mail addresses."""
    for link in list(page.findall(nodes.reference)):
        if link.get("refuri", "").startswith("mailto:"):
            link.replace_self(nodes.Text(link.astext()))


def setup(app):
    """Register the renderer of formulas and the change of parsed pages."""
    app.add_html_math_renderer("mathml", (write_math, None), (write_math, None))
    app.connect("doctree-read", unlink_metrics)
