"""How every command describes itself: grouped options, their defaults, two examples."""

import argparse
import textwrap
from collections.abc import Sequence
from typing import NoReturn

from jaxneox.console import hints
from jaxneox.errors import UserError

WIDTH = 100


class Parser(argparse.ArgumentParser):
    """The arguments of one command of `jaxneox`.

    Attributes:
        name: as it is typed after `jaxneox`.
        examples: arguments of calls that its help shows, each with what it does.
    """

    def __init__(
        self,
        name: str,
        description: str,
        examples: Sequence[tuple[str, str]] = (),
    ) -> None:
        """Describe the command `jaxneox NAME`.

        Args:
            name: as it is typed after `jaxneox`, such as "convert from-neox".
            description: what it does, in whole sentences.
            examples: (the words after the name, what they do).
        """
        prog = f"{hints.program()} {name}".strip()
        shown = [f"  {prog} {words}".rstrip() + f"\n      {what}" for words, what in examples]
        super().__init__(
            prog=prog,
            description=description,
            epilog="\n".join(["examples:", *shown]) if shown else None,
            formatter_class=Formatter,
        )
        self.name = name
        self.examples = tuple(words for words, _ in examples)

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help")


class Formatter(argparse.HelpFormatter):
    """Fills sentences, keeps the examples' lines, and says every default that is one."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28, width=WIDTH)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if text.startswith("examples:"):
            return text
        return textwrap.fill(text, width, initial_indent=indent, subsequent_indent=indent)

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        default = action.default
        unsaid = default is None or default is False or default in (argparse.SUPPRESS, [])
        if unsaid or not action.option_strings or "default" in text:
            return text
        return f"{text} (default: %(default)s)"


def whole_number(text: str) -> int:
    """Parse a number from 0 on, for `type=`."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 on")
    return int(text)


def count(text: str) -> int:
    """Parse a number from 1 on, for `type=`."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return int(text)
