"""Check that every link, image, script and style sheet within the built site exists.

python docs/check_links.py docs/_build/html
"""

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LINKS = {"href", "src"}


class Page(HTMLParser):
    """The links and the anchors of a page."""

    def __init__(self, path):
        super().__init__()
        self.links, self.anchors = [], {""}
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        for name, value in attributes:
            if name == "id":
                self.anchors.add(value)
            elif name in LINKS and value:
                self.links.append(value)


def dead_links(site):
    """Return (page, link) of each broken link; links to other sites are skipped."""
    site = site.resolve()
    files = (path for path in site.rglob("*.html") if path.parts[len(site.parts)] != "_static")
    pages = {path: Page(path) for path in files}
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme == "mailto":  # NDCG@10 and the like, which docutils takes for addresses
                yield path.relative_to(site), link
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            has_anchor = target not in pages or unquote(parts.fragment) in pages[target].anchors
            if not target.is_file() or not has_anchor:
                yield path.relative_to(site), link


def main():
    """Print the broken links of a site; exit with 1 if there are any."""
    dead = list(dead_links(Path(sys.argv[1])))
    for page, link in dead:
        print(f"{page}: {link} is broken")
    sys.exit(bool(dead))


if __name__ == "__main__":
    main()
