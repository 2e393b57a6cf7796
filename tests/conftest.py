"""Set up before any test module is imported; and the browser that pages are looked at in."""

import os
import shutil

import pytest

pytest.register_assert_rewrite("contract")

collect_ignore = ["typing_mistakes.py"]  # which test_typing.py gives to a type checker

# The tests run in several processes: one thread each, or they contend for the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# No test draws on a screen.
os.environ.setdefault("MPLBACKEND", "agg")


@pytest.fixture(scope="session")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        pytest.skip("no Chromium is installed")
    with playwright.sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=path)
        yield running
        running.close()
