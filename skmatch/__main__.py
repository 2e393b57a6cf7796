"""The command ``skmatch``."""

from __future__ import annotations

import argparse

from skmatch.explore.__main__ import main as explore


def main(arguments: list[str] | None = None) -> None:
    """Run the command that the first argument names."""
    parser = argparse.ArgumentParser(prog="skmatch", description="Commands of skmatch.")
    parser.add_argument(
        "command", choices=["explore"], help="a page that shows what saved models recommend"
    )
    parser.add_argument(
        "options", nargs=argparse.REMAINDER, help="of the command; see skmatch explore --help"
    )
    explore(parser.parse_args(arguments).options)


if __name__ == "__main__":
    main()
