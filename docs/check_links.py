"""Check the built site: every link, image, script and style within it leads somewhere.

python docs/check_links.py docs/_build/html
"""

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LINKS = {"href", "src"}


class Page(HTMLParser):
    """The addresses that a page names, and the places in it that can be named."""

    def __init__(self, path):
        super().__init__()
        self.links, self.places = [], {""}
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        for name, value in attributes:
            if name == "id":
                self.places.add(value)
            elif name in LINKS and value:
                self.links.append(value)


def dead_links(site):
    """Return (page, address) for each that leads nowhere; addresses of other sites are skipped."""
    site = site.resolve()
    files = (path for path in site.rglob("*.html") if path.parts[len(site.parts)] != "_static")
    pages = {path: Page(path) for path in files}
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme == "mailto":  # nobody's address stands in the pages, but NDCG@10 does
                yield path.relative_to(site), link
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            is_place = target not in pages or unquote(parts.fragment) in pages[target].places
            if not target.is_file() or not is_place:
                yield path.relative_to(site), link


def main():
    """Print the dead links of a site; fail if there are any."""
    dead = list(dead_links(Path(sys.argv[1])))
    for page, link in dead:
        print(f"{page}: {link} leads nowhere")
    sys.exit(bool(dead))


if __name__ == "__main__":
    main()
