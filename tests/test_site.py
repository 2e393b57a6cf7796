"""The built site in a browser: nothing fails to load, no script complains, nothing is too wide."""

import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

SITE = Path(__file__).parent.parent / "docs" / "_build" / "html"
PAGES = sorted(str(path.relative_to(SITE)) for path in SITE.rglob("*.html"))
PAGES = [page for page in PAGES if not page.startswith("_")]
WIDTHS = {"desktop": 1280, "phone": 390}
HEIGHT = 900


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def address():
    """Return the address of a server of the site."""
    if not PAGES:
        pytest.skip("the site is not built; `make docs` does it")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=SITE))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def complaints(page, address, width):
    """Return what is wrong with the pages of the site in a window of a width."""
    found, where = [], ""

    def note(message):
        if message.type in ("error", "warning"):  # the theme logs what it does
            found.append(f"{where}: {message.type}: {message.text}")

    page.set_viewport_size({"width": width, "height": HEIGHT})
    page.on("console", note)
    page.on("pageerror", lambda error: found.append(f"{where}: {error}"))

    def note_failure(request):
        if request.failure != "net::ERR_ABORTED":  # by the next page: the icon comes after "load"
            found.append(f"{where}: no answer, {request.url}")

    page.on("requestfailed", note_failure)
    for where in PAGES:
        page.goto(f"{address}/{where}", wait_until="load")
        is_broken = "image => image.complete && !image.naturalWidth"
        images = page.evaluate(f"[...document.images].filter({is_broken}).map(image => image.src)")
        found += [f"{where}: broken image, {image}" for image in images]
        actual = page.evaluate("document.documentElement.scrollWidth")
        if actual > width:
            found.append(f"{where}: {actual} pixels wide")
    return found


@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS.keys())
def test_pages_load_whole_without_complaints_and_fit_the_window(address, browser, width):
    page = browser.new_page()
    assert complaints(page, address, width) == []
    page.close()
