"""The command ``skmatch``."""

from __future__ import annotations

import argparse
from importlib import import_module

COMMANDS = {
    "explore": "a page that shows what saved models recommend",
    "serve": "recommend over HTTP",
}


def main(arguments: list[str] | None = None) -> None:
    """Run the command that the first argument names."""
    parser = argparse.ArgumentParser(prog="skmatch", description="Commands of skmatch.")
    parser.add_argument(
        "command",
        choices=list(COMMANDS),
        help="; ".join(f"{name}: {text}" for name, text in COMMANDS.items()),
    )
    parser.add_argument(
        "options", nargs=argparse.REMAINDER, help="of the command; see skmatch serve --help"
    )
    options = parser.parse_args(arguments)
    # Imports only this command: importing pandas takes longer than an exported model's start.
    import_module(f"skmatch.{options.command}.__main__").main(options.options)


if __name__ == "__main__":
    main()
