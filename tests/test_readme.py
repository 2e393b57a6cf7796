"""The two READMEs say the same: code, tables and figures."""

import re
from collections import Counter
from pathlib import Path

import pytest

import skmatch.datasets
from skmatch.datasets import make_events

ROOT = Path(__file__).parents[1]
ENGLISH, CHINESE = (
    (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README.zh.md")
)


def code(text):
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    return [re.sub(r" *#.*", "", block) for block in blocks]


def tables(text):
    return re.findall(r"(?m)^\|.*\|$", text)


def headings(text):
    return re.findall(r"(?m)^#+ ", text)


def figures(text):
    return Counter(re.findall(r"\d[\d.,]*\d|\d", text))


def commands(text):
    return sorted(re.findall(r"`((?:make|pip|python) [^`]*)`", text))


@pytest.mark.parametrize("part", [code, tables, headings, figures, commands])
def test_both_languages_hold_the_same(part):
    assert part(CHINESE) == part(ENGLISH)


def test_the_code_runs_from_the_top(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    small = make_events(n_users=30, n_items=60, n_events=400, random_state=0)
    monkeypatch.setattr(skmatch.datasets, "make_events", lambda **parameters: small)
    names: dict = {}
    for block in code(ENGLISH):
        exec(re.sub(r"(Retriever\(.*random_state=0)", r"\1, max_epochs=1", block), names)
    assert len(names["retriever"].recommend([1, 2], k=10)) == 20
    assert len(names["search"].best_estimator_.recommend([1], k=10)) == 10


def test_each_links_to_the_other():
    assert "(README.zh.md)" in ENGLISH.splitlines()[0]
    assert "(README.md)" in CHINESE.splitlines()[0]
