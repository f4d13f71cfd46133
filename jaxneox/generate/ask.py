"""A conversation at the keyboard: a prompt, its text as it grows, the next prompt."""

import argparse
import itertools
import sys

from jaxneox.config.schema import GenerationConfig
from jaxneox.errors import UserError
from jaxneox.generate.write import put
from jaxneox.loading import LoadedModel

PROMPT = "Context prompt >>> "


def ask(model: LoadedModel, how: GenerationConfig, args: argparse.Namespace) -> None:
    """Ctrl-C ends an answer, Ctrl-D all."""
    for number in itertools.count():
        try:
            prompt = read(how.prompt_end)
        except EOFError:
            put("\n")
            return
        try:
            model.generate(
                prompt,
                max_tokens=how.max_tokens,
                stop=args.stop,
                temperature=how.temperature,
                top_p=how.top_p,
                top_k=how.top_k,
                seed=(args.seed + number) % 2**32,
                recompute=how.recompute,
                on_text=lambda _, new: put(new),
            )
        except KeyboardInterrupt:
            put(" …")
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
        put("\n")


def read(end: str) -> str:
    """Lines up to the one that has `end` in it; where that is the end of a line, one line."""
    if end == "\n":
        return input(PROMPT)
    text = input(PROMPT)
    while end not in text:
        text += "\n" + input()
    return text.split(end)[0]
