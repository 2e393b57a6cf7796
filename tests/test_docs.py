"""The documentation: its code runs, the API is complete, examples are short."""

import doctest
import importlib
import inspect
import itertools
import json
import pkgutil
import re
from pathlib import Path

import pandas as pd
import pytest

import skmatch
import skmatch.datasets
from skmatch.datasets import make_events

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(path for folder in (".", "guide", "howto") for path in (DOCS / folder).glob("*.rst"))
GALLERY = sorted((ROOT / "examples" / "gallery").glob("plot_*.py"))
TUTORIALS = sorted((ROOT / "examples" / "tutorials").glob("plot_*.py"))
PUBLIC_MODULES = [
    "skmatch",
    *(
        f"skmatch.{module.name}"
        for module in pkgutil.iter_modules(skmatch.__path__)
        if not module.name.startswith("_")
    ),
]


def name_of(page):
    return str(page.relative_to(DOCS))


# Packages that the code of a page needs beside those of the tests with the lowest versions.
NEEDS = {"guide/export.rst": ("onnx", "onnxruntime")}


class Parser(doctest.DocTestParser):
    """Reads the dtype of strings as this pandas names it."""

    def parse(self, string, name="<string>"):
        return super().parse(string.replace("' (str)", f"' ({pd.Series(['text']).dtype})"), name)


@pytest.mark.parametrize("page", [page for page in PAGES if ">>>" in page.read_text()], ids=name_of)
def test_the_code_of_the_guide_runs(page):
    for package in NEEDS.get(name_of(page), ()):
        pytest.importorskip(package)
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    options = {"module_relative": False, "optionflags": flags, "parser": Parser()}
    result = doctest.testfile(str(page), **options)
    assert result.failed == 0
    assert result.attempted > 0


def code_blocks(page):
    """Return the Python blocks of a page that are not doctested."""
    blocks = re.findall(r"\.\. code-block:: python\n\n((?:    .*\n|\n)+)", page.read_text())
    return [re.sub(r"^    ", "", block, flags=re.MULTILINE) for block in blocks]


@pytest.fixture
def movielens(monkeypatch):
    """Replace the archive by synthetic events with the columns of MovieLens-1M."""
    events = make_events(n_users=30, n_items=40, n_events=400, random_state=0)
    columns = {"segment": "gender", "tags": "genres"}
    events = events.rename(columns=columns).assign(occupation=1, zip="a", genres=[("b", "c")] * 400)
    monkeypatch.setattr(skmatch.datasets, "load_movielens", lambda path: events)
    return events


def test_the_programs_for_torch_rechub_run_and_are_as_short_as_said(movielens, capsys):
    page = DOCS / "rechub.rst"
    dssm, youtube_dnn, settings = code_blocks(page)
    names: dict = {}
    for program in (dssm, youtube_dnn):
        exec(program.replace("verbose=True", "max_epochs=1"), names)
        assert names["pipe"].recommend([1], k=3).shape == (3, 5)
    exec(settings, names)
    said = re.findall(r"With skmatch it takes (\d+)", page.read_text())
    assert [int(number) for number in said] == [
        sum(bool(line.strip()) for line in program.splitlines()) for program in (dssm, youtube_dnn)
    ]


def test_the_programs_of_the_start_page_are_those_of_the_readme():
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    assert [block.strip() for block in code_blocks(DOCS / "index.rst")] == [
        block.strip() for block in blocks[:2]
    ]


def listed_names():
    """Return the names in the tables of the API page, with their modules."""
    names, module = [], ""
    for line in (DOCS / "api.rst").read_text().splitlines():
        if line.startswith(".. currentmodule::"):
            module = line.split()[-1]
        elif re.fullmatch(r"   [A-Za-z_]\w*", line):
            names.append(f"{module}.{line.strip()}")
    return names


def public_objects():
    """Return the public objects of all modules: their `__all__`, or all that they define."""
    found = {}
    for module_name in PUBLIC_MODULES:
        module = importlib.import_module(module_name)
        own = [
            name
            for name, value in vars(module).items()
            if not name.startswith("_") and getattr(value, "__module__", None) == module_name
        ]
        for name in getattr(module, "__all__", own):
            value = getattr(module, name)
            if callable(value):
                found[id(value)] = f"{module_name}.{name}"
    return found


def test_the_api_page_lists_every_public_name_once():
    listed = listed_names()
    values = [
        getattr(importlib.import_module(name.rpartition(".")[0]), name.rpartition(".")[2])
        for name in listed
    ]
    assert len({id(value) for value in values}) == len(values)
    public = public_objects()
    missing = [name for key, name in public.items() if key not in {id(v) for v in values}]
    assert sorted(missing) == sorted(NOT_LISTED)


# Bases of other objects, which users do not name.
NOT_LISTED = {
    "skmatch.persistence.VersionedMixin",
}


def test_linked_pages_exist():
    for page in PAGES:
        for target in re.findall(r":doc:`(?:[^`<]*<)?([^`>]+)>?`", page.read_text()):
            if "generated" in target:  # the build writes it from the examples
                example = f"examples/{target.partition('generated/')[2]}.py"
                assert (ROOT / example).exists() or target.endswith("/index"), (page, target)
                continue
            folder = DOCS if target.startswith("/") else page.parent
            assert (folder / f"{target.lstrip('/')}.rst").exists(), f"{name_of(page)}: {target}"


def test_references_are_no_lists():
    # "S. Rendle ..." alone on its line is the 19th item of a list to docutils.
    for path in [*PAGES, *(ROOT / "skmatch").rglob("*.py")]:
        lines = path.read_text().splitlines()
        for line, following in itertools.pairwise([*lines, ""]):
            reference = re.match(r"( *)\.\. \[\d+\] [A-Z]\. ", line)
            assert not reference or following.startswith(reference[1] + "   "), (path, line)


def test_every_page_is_in_a_table_of_contents():
    listed = {DOCS / "index.rst"}
    for page in PAGES:
        for block in re.findall(r"\.\. toctree::\n(?:   :.*\n)*\n((?:   .+\n)+)", page.read_text()):
            entries = [re.sub(r".*<(.*)>", r"\1", line.strip()) for line in block.splitlines()]
            listed |= {page.parent / f"{entry}.rst" for entry in entries}
    assert set(PAGES) <= listed


# Not measured: a learning rate, and the size of a table.
GIVEN = {"0.003", "256 MB"}


@pytest.mark.parametrize("page", ["settings.rst", "scaling.rst", "sizes.inc"])
def test_measured_figures_are_in_their_sources(page):
    sources = (ROOT / "README.md").read_text() + (ROOT / "benchmarks" / "NOTES.md").read_text()
    figure = r"\b0\.\d{3}\b|\b[\d.,]+ (?:s|ms|MB)\b"
    figures = set(re.findall(figure, (DOCS / page).read_text()))
    assert figures - GIVEN
    assert figures - GIVEN <= set(re.findall(figure, sources))


# Phrases that readers had to read twice, and what to write.
PHRASES = {
    r"\b(?:one|once|rows?|events) an? (?:query|fold|row|user|item)\b": "per query",
    r"\bmade[- ]up\b": "synthetic",
    r"\b(?:as|will) you will ask\b": "how you will recommend",
    r"\bevents that you want more of\b": "events that you optimise for",
    r"\b(?:to|is) be quick\b": "fast, or short",
    r"\bof your own must\b": "your own must",
}
TEXTS = [*PAGES, *GALLERY, *TUTORIALS, ROOT / "README.md", *(ROOT / "skmatch").rglob("*.py")]


@pytest.mark.parametrize("phrase", PHRASES)
def test_texts_hold_no_phrase_that_readers_stumbled_over(phrase):
    found = [path.name for path in TEXTS if re.search(phrase, path.read_text())]
    assert found == [], f"write: {PHRASES[phrase]}"


# What people type into the search box.
WORDS = [
    "baseline", "basket", "bestsellers", "bought together", "cold start", "coverage", "dislikes",
    "diversity", "embeddings", "in stock", "leak", "price", "ratings", "repeat purchases",
    "session", "similar items", "SQL", "time of day", "vector database",
]  # fmt: skip


@pytest.mark.parametrize("word", WORDS)
def test_pages_hold_the_words_that_people_search_for(word):
    assert any(word.lower() in page.read_text().lower() for page in PAGES)


def test_the_version_switch_knows_this_version():
    versions = json.loads((DOCS / "_static" / "versions.json").read_text())
    assert [entry["version"] for entry in versions].count(skmatch.__version__) == 1


@pytest.mark.parametrize("example", [*GALLERY, *TUTORIALS], ids=lambda path: path.stem)
def test_examples_are_short_and_begin_with_a_title(example):
    text = example.read_text()
    assert len(text.splitlines()) < 60 or example in TUTORIALS
    title, underline = text.splitlines()[1:3]
    assert underline == "=" * len(title)
    compile(text, str(example), "exec")


@pytest.mark.parametrize("name", listed_names())
def test_no_summary_cites(name):
    # A table of the reference shows the key of the citation.
    module, _, attribute = name.rpartition(".")
    value = getattr(importlib.import_module(module), attribute)
    assert "]_" not in inspect.getdoc(value).splitlines()[0]


@pytest.mark.parametrize("name", listed_names())
def test_every_public_docstring_has_an_example(name):
    module, _, attribute = name.rpartition(".")
    value = getattr(importlib.import_module(module), attribute)
    assert "Examples\n" in value.__doc__
    assert ">>>" in value.__doc__
