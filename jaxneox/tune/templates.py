"""Chat templates by name, for models that have none of their own."""

from pathlib import Path
from typing import NamedTuple

from jaxneox.errors import UserError

PLAIN = (
    "{% for message in messages %}{{ message.role[:1] | upper }}{{ message.role[1:] }}: "
    "{{ message.content }}{{ eos_token if message.role == 'assistant' else '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)
"""`User: …`, a line, `Assistant: …` and the token that ends a text: of ordinary words alone.

An answer begins with its space, since most tokenizers join it to the word that follows.
"""

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""OpenAI's ChatML, as Qwen has it without tools."""

NAMED = {"plain": PLAIN, "chatml": CHATML}


class Template(NamedTuple):
    """A template for conversations, and what it is called in a message."""

    text: str
    name: str


def template_of_model(own: Path | None, asked: str | None) -> Template | None:
    """Choose the template that is not the model's own, if there is one to choose.

    Args:
        own: where the model's template is; None if it has none.
        asked: a file of Jinja or one of `NAMED`; None for the model's, and `plain` if it has none.

    Returns:
        None if the model's own is used.

    Raises:
        UserError: there is no such template.
    """
    if asked is None:
        return None if own is not None else Template(PLAIN, "plain")
    if asked in NAMED:
        return Template(NAMED[asked], asked)
    if not Path(asked).is_file():
        raise UserError(
            f"--chat-template {asked}: no such file, and no template of that name; expected a file "
            f"of Jinja or {' or '.join(NAMED)}"
        )
    from jaxneox.templates.source import template_in_file

    return Template(template_in_file(Path(asked)), asked)
