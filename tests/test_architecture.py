"""The arrows between the parts, and where torch and scikit-learn may be imported."""

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "skmatch"

# part -> parts that it may import
ARROWS = {
    "_version": set(),
    "_docs": set(),
    "_sklearn": set(),
    "_validation": {"_sklearn"},
    "_arrays": set(),
    "_durations": set(),
    "_ranking": {"_arrays"},
    "_over_time": set(),
    "_quantised": {"_ranking"},
    "runtime": {
        "_arrays", "_filter_rules", "_item_filter", "_over_time", "_quantised", "_ranking",
        "runtime",
    },
    "export": {
        "_arrays", "_columns", "_over_time", "_quantised", "_schema", "_validation", "_version",
        "export", "preprocessing", "retrieval", "runtime",
    },
    "_columns": {"_arrays"},
    "_schema": {"_columns"},
    "_event_log": {"_columns", "_schema"},
    "_rows": {"_columns", "_schema"},
    "_data": {"_columns", "_event_log", "_rows", "_schema"},
    "_typing": {"_data"},
    "_files": {"_columns"},
    "_growth": {"_data", "_docs", "_typing"},
    "_nn": {"_nn", "_columns", "_data", "_schema"},
    "persistence": {"_sklearn", "_version"},
    "_item_filter": {"_arrays", "_data"},  # _data only for the types
    "_filter_rules": {"_arrays", "_item_filter"},
    "neighbors": {
        "_arrays", "_item_filter", "_quantised", "_ranking", "_sklearn", "_validation",
    },
    "preprocessing": {
        "_arrays", "_columns", "_data", "_durations", "_event_log", "_files", "_growth", "_schema",
        "_sklearn", "_typing", "_validation", "persistence", "preprocessing",
    },
    "metrics": {"_columns", "_docs", "_typing", "_validation", "metrics"},
    "model_selection": {"_columns", "_durations", "_typing", "_validation"},
    "datasets": {"_docs", "datasets"},
    "callbacks": {"_sklearn", "_validation", "persistence"},
    "retrieval": {
        "_nn", "_arrays", "_columns", "_data", "_docs", "_durations", "_filter_rules", "_growth",
        "_over_time", "_ranking", "_schema", "_sklearn", "_typing", "_validation",
        "neighbors", "persistence", "preprocessing", "metrics", "retrieval",
    },
    "__main__": set(),
    "explore": {"_columns", "_data", "_validation", "explore", "metrics", "persistence"},
    "serve": {
        "_arrays", "_columns", "_item_filter", "_schema", "_validation", "persistence", "runtime",
        "serve",
    },
    "inspection": {"_docs", "_typing", "_validation", "inspection", "metrics"},
    "pipeline": {
        "_data", "_growth", "_schema", "_sklearn", "_typing", "_validation", "persistence",
        "retrieval",
    },
}  # fmt: skip


def imports(path):
    """Return the modules that a file imports anywhere, names after "from" included."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module


def files(part):
    folder = PACKAGE / part
    return sorted(folder.rglob("*.py")) if folder.is_dir() else [PACKAGE / f"{part}.py"]


def part_of(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def test_every_part_is_listed():
    parts = {part_of(path) for path in PACKAGE.rglob("*.py")} - {"__init__"}
    assert parts == set(ARROWS)


@pytest.mark.parametrize("part", ARROWS)
def test_parts_import_only_along_the_arrows(part):
    for path in files(part):
        for name in imports(path):
            if name.startswith("skmatch."):
                assert name.split(".")[1] in ARROWS[part], f"{path.name} imports {name}"


def test_only_nn_imports_torch_and_it_imports_no_scikit_learn():
    for path in PACKAGE.rglob("*.py"):
        roots = {name.split(".")[0] for name in imports(path)}
        if part_of(path) == "_nn":
            assert "sklearn" not in roots, path
        else:
            assert "torch" not in roots, path


def test_private_names_of_others_are_in_one_file():
    others = r"(?:sklearn|pandas|torch)\S*"
    private = rf"(?:from|import) {others}\._\w+|from {others} import .*\b_\w+|\b_skl_\w+"
    for path in PACKAGE.rglob("*.py"):
        if part_of(path) != "_sklearn":
            found = re.findall(private, path.read_text())
            assert not found, f"{path.name}: {found}"


def test_files_stay_short():
    for path in PACKAGE.rglob("*.py"):
        assert len(path.read_text().splitlines()) <= 450, path
