"""The two READMEs say the same: code, tables and figures."""

import re
from collections import Counter
from pathlib import Path

import pytest

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


def test_each_links_to_the_other():
    assert "(README.zh.md)" in ENGLISH.splitlines()[0]
    assert "(README.md)" in CHINESE.splitlines()[0]
