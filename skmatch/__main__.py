"""The command ``skmatch``."""

from __future__ import annotations

import argparse

from skmatch.explore.__main__ import main as explore
from skmatch.serve.__main__ import main as serve

COMMANDS = {"explore": explore, "serve": serve}


def main(arguments: list[str] | None = None) -> None:
    """Run the command that the first argument names."""
    parser = argparse.ArgumentParser(prog="skmatch", description="Commands of skmatch.")
    parser.add_argument(
        "command",
        choices=list(COMMANDS),
        help="explore: a page that shows what saved models recommend; serve: recommend over HTTP",
    )
    parser.add_argument(
        "options", nargs=argparse.REMAINDER, help="of the command; see skmatch serve --help"
    )
    options = parser.parse_args(arguments)
    COMMANDS[options.command](options.options)


if __name__ == "__main__":
    main()
