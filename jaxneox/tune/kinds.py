"""Recognises what a file for tuning holds, and says how its documents become tokens."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from jaxneox.data import Tokenizer, documents
from jaxneox.data.tokenizer import saved_config
from jaxneox.errors import UserError
from jaxneox.preprocess.chat import COMPLETION, CONVERSATIONS, PROMPT, ChatRecipe
from jaxneox.preprocess.encode import TEXT, Recipe, TextRecipe

PREFERENCES = ("chosen", "rejected")
LABEL = "label"


class Kind(NamedTuple):
    """A form of documents that can be tuned on.

    Attributes:
        name: what it is called in a message.
        key: the key of a document that is read.
    """

    name: str
    key: str

    @property
    def is_chat(self) -> bool:
        """Whether a template renders it."""
        return self.key != TEXT


def kind_of_data(files: Sequence[Path]) -> Kind:
    """Recognise what files hold by the keys of their first document.

    Raises:
        UserError: it is nothing that can be trained on.
    """
    there = documents.keys_of(files)
    for key in CONVERSATIONS:
        if key in there:
            return Kind("conversations", key)
    if all(key in there for key in PREFERENCES):
        raise UserError(
            f"{files[0]}: has chosen and rejected answers; preferences cannot be trained yet"
        )
    if PROMPT in there and COMPLETION in there:
        if LABEL in there:
            raise UserError(
                f"{files[0]}: has prompts with labelled completions; preferences cannot be trained "
                "yet"
            )
        return Kind("prompts with completions", COMPLETION)
    if TEXT in there or not there:
        return Kind("texts", TEXT)
    raise UserError(
        f"{files[0]}: has the keys {', '.join(there)}, expected {' or '.join(CONVERSATIONS)}, "
        f"{PROMPT} with {COMPLETION}, or {TEXT}"
    )


def recipe_of(kind: Kind, tokenizer: Tokenizer, folder: Path, template: Path | None) -> Recipe:
    """Say how documents become tokens and labels.

    Args:
        kind: of the documents.
        tokenizer: the model's.
        folder: where it lies.
        template: in place of the tokenizer's own.
    """
    eos = tokenizer.eod
    if not kind.is_chat:
        return TextRecipe(tokenizer=saved_config(folder), append_eod=eos is not None)
    return ChatRecipe(
        folder=folder,
        template=template,
        keys=(kind.key,),
        pair=kind.key == COMPLETION,
        eos=None if eos is None else tokenizer.text_of(eos),
    )
