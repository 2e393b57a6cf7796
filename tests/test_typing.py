"""A strict type checker on user code: nothing to say to good code, and mistakes are found."""

import re
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def test_a_strict_type_checker_finds_the_mistakes_and_nothing_else():
    api = pytest.importorskip("mypy.api", reason="mypy is not installed")
    names = ["typing_user.py", "typing_mistakes.py"]
    options = ["--strict", "--follow-imports=silent", f"--config-file={HERE.parent}/pyproject.toml"]
    output, problem, _ = api.run([*options, *(str(HERE / name) for name in names)])
    assert not problem
    found = re.findall(r"(\w+\.py):(\d+): error: .*\[([\w-]+)\]", output)
    lines = (HERE / "typing_mistakes.py").read_text().splitlines()
    marked = [
        (number, line.split("# mistake: ")[1])
        for number, line in enumerate(lines, 1)
        if "# mistake: " in line
    ]
    assert found == [("typing_mistakes.py", str(number), code) for number, code in marked], output
