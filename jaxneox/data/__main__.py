"""`python -m jaxneox.data`: what data holds, and what a run sees of it."""

from collections.abc import Sequence
from typing import NoReturn

from jaxneox.data.commands import batch, inspect, merge, verify
from jaxneox.data.commands.console import Parser, execute

COMMANDS = (inspect, batch, merge, verify)


def parser() -> Parser:
    p = Parser(
        prog="python -m jaxneox.data",
        description="What is in a .bin/.idx dataset, and is it whole. PREFIX is the path or URL "
        "without .bin and .idx.",
    )
    commands = p.add_subparsers(metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add_parser(commands)
    return p


def main(argv: Sequence[str] | None = None) -> NoReturn:
    execute(parser(), argv)


if __name__ == "__main__":
    main()
