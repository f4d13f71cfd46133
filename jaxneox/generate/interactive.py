"""A conversation at the keyboard: a prompt, its text as it grows, the next prompt."""

import argparse
import itertools

from jaxneox.config.schema import GenerationConfig
from jaxneox.console.say import tell
from jaxneox.errors import UserError
from jaxneox.generate.arguments import conditions_of
from jaxneox.generate.write import put
from jaxneox.loading import LoadedModel

PROMPT = "Context prompt >>> "


def converse(model: LoadedModel, settings: GenerationConfig, args: argparse.Namespace) -> None:
    """Converse until Ctrl-D; Ctrl-C ends an answer."""
    for number in itertools.count():
        try:
            prompt = read(settings.prompt_end)
        except EOFError:
            put("\n")
            return
        try:
            model.generate(
                prompt,
                max_tokens=settings.max_tokens,
                **conditions_of(args),
                temperature=settings.temperature,
                top_p=settings.top_p,
                top_k=settings.top_k,
                seed=(args.seed + number) % 2**32,
                recompute=settings.recompute,
                on_text=lambda _, new: put(new),
            )
        except KeyboardInterrupt:
            put(" …")
        except UserError as error:
            tell(f"error: {error}")
        put("\n")


def read(end: str) -> str:
    """Read lines up to the one that has `end` in it; a single line if that is a newline."""
    if end == "\n":
        return input(PROMPT)
    text = input(PROMPT)
    while end not in text:
        text += "\n" + input()
    return text.split(end)[0]
