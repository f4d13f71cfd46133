"""The messages that a user types or that come through a pipe, one on each line."""

import contextlib
import sys
from collections.abc import Iterator

from jaxneox.chat.interrupts import Interrupts
from jaxneox.chat.session import ChatSession
from jaxneox.console.say import say, tell
from jaxneox.errors import UserError

PROMPT = "> "
EXIT, RESET = "/exit", "/reset"
HELP = f"{EXIT} ends the conversation, {RESET} begins it anew, Ctrl-C ends an answer"


def converse(session: ChatSession) -> None:
    """Converse with a person until /exit or Ctrl-D; what is wrong is said, and it goes on."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401, input() has its keys then
    tell(HELP)
    for text in typed():
        if text == EXIT:
            return
        try:
            turn(session, text)
        except UserError as error:
            tell(f"error: {error}")


def answer_lines(session: ChatSession) -> None:
    """Answer each line of the standard input.

    Raises:
        UserError: a message cannot be answered; those before it are.
    """
    for line in sys.stdin:
        if (text := line.strip()) == EXIT:
            return
        if text:
            turn(session, text)


def typed() -> Iterator[str]:
    """Yield the lines that are typed and not empty; Ctrl-C gives up one, Ctrl-D ends them."""
    while True:
        try:
            if text := input(PROMPT).strip():
                yield text
        except KeyboardInterrupt:
            say()
            tell(f"{EXIT} or Ctrl-D ends the conversation")
        except EOFError:
            say()
            return


def turn(session: ChatSession, text: str) -> None:
    """Show the answer to a message as it grows, or begin anew."""
    if text == RESET:
        session.reset()
        return tell("the conversation begins anew")
    shown = False

    def show(new: str) -> None:
        nonlocal shown
        shown = True
        say(new, end="")

    with Interrupts() as interrupts:
        try:
            session.answer(text, show, lambda: interrupts.asked)
        except UserError:
            if shown:
                say()
            raise
    say(" …" if interrupts.asked else "")
    return None
