"""The chat template of a run: the model's own, the user's, or one by name."""

from pathlib import Path
from typing import NamedTuple

from jaxneox.data.companions import companions_in
from jaxneox.errors import UserError
from jaxneox.templates.source import template_in_file, template_of

PLAIN = (
    "{% for message in messages %}{{ message.role[:1] | upper }}{{ message.role[1:] }}:"
    "{{ '' if (message.content or '')[:1] == ' ' else ' ' }}{{ message.content }}"
    "{{ eos_token if message.role == 'assistant' else '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)
"""`User: …`, a line, `Assistant: …` and the token that ends a text: of ordinary words alone.

An answer begins with its space, since most tokenizers join it to the word that follows. The model's
answers have it too: in the next prompt of a conversation they get no second one.
"""

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""OpenAI's ChatML, as Qwen has it without tools."""

NAMED = {"plain": PLAIN, "chatml": CHATML}


class Template(NamedTuple):
    """A template for conversations.

    Attributes:
        name: what it is called in a message.
        text: in Jinja; None for the model's own.
        file: the user's file that it is from.
    """

    name: str
    text: str | None = None
    file: Path | None = None


def choose_template(tokenizer: Path, asked: str | None) -> Template:
    """Choose the template that renders conversations.

    Args:
        tokenizer: the folder of the model's tokenizer.
        asked: a file of Jinja or one of `NAMED`; None for the model's, and `plain` if it has none.

    Raises:
        UserError: there is no such template, or it cannot be read.
    """
    if asked is None:
        return Template("the model's own") if _has_own(tokenizer) else Template("plain", PLAIN)
    if asked in NAMED:
        return Template(asked, NAMED[asked])
    file = Path(asked)
    if not file.is_file():
        raise UserError(
            f"--chat-template {asked}: no such file, and no template of that name; expected a file "
            f"of Jinja or {' or '.join(NAMED)}"
        )
    return Template(asked, template_in_file(file), file)


def _has_own(tokenizer: Path) -> bool:
    beside = companions_in(tokenizer, without=("tokenizer.json",))
    return template_of(beside.files, tokenizer) is not None
