"""Recognises what a file for tuning holds, and says how its documents become tokens."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from jaxneox.data import Tokenizer, documents
from jaxneox.data.tokenizer import saved_config
from jaxneox.errors import UserError
from jaxneox.preprocess.answers import AnswerReader
from jaxneox.preprocess.chat import COMPLETION, CONVERSATIONS, PROMPT, ChatRecipe
from jaxneox.preprocess.encode import TEXT, Recipe, TextRecipe
from jaxneox.preprocess.preferences import PreferenceRecipe
from jaxneox.preprocess.recognition import AnswerForm, DataKind, DataRequest, answer_form

NAMES = {"pairs": "pairs", "rated": "rated answers"}

Method = Literal["normal", "dpo", "kto"]
"""How they are trained on: NeoX's `train_impl`."""


class Kind(NamedTuple):
    """A form of documents that can be tuned on.

    Attributes:
        name: what it is called in a message.
        key: the key of a document that is read.
        form: the keys of rows with answers; None if there are none.
    """

    name: str
    key: str
    form: AnswerForm | None = None

    @property
    def method(self) -> Method:
        """How it is trained on."""
        if self.form is None:
            return "normal"
        return "dpo" if self.form.kind == "pairs" else "kto"

    @property
    def is_chat(self) -> bool:
        """Whether a template renders it."""
        return self.key != TEXT


def kind_of_data(files: Sequence[Path], asked: DataKind | None = None) -> Kind:
    """Recognise what files hold by the keys of their first document.

    Args:
        files: the data.
        asked: what the user says that they hold; None to recognise it.

    Raises:
        UserError: it is nothing that can be trained on.
    """
    there = documents.keys_of(files)
    form = answer_form(files[0], there, DataRequest(asked))
    if form is not None and form.kind == "completions":
        raise UserError(
            f"{files[0]}: has completions with rewards; make datasets of them with `jaxneox "
            "preprocess`, and train on those with train_impl: reinforce"
        )
    if form is not None:
        return Kind(NAMES[form.kind], form.keys[0], form)
    if asked == "text":
        return Kind("texts", TEXT)
    for key in CONVERSATIONS:
        if key in there:
            return Kind("conversations", key)
    if PROMPT in there and COMPLETION in there:
        return Kind("prompts with completions", COMPLETION)
    if asked is None and (TEXT in there or not there):
        return Kind("texts", TEXT)
    raise UserError(
        f"{files[0]}: has the keys {', '.join(there)}, expected {' or '.join(CONVERSATIONS)}, "
        f"{PROMPT} with {COMPLETION}, chosen with rejected, or {TEXT}"
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
    chat = ChatRecipe(
        folder=folder,
        template=template,
        keys=(kind.key,),
        pair=kind.key == COMPLETION,
        eos=None if eos is None else tokenizer.text_of(eos),
    )
    if kind.form is None:
        return chat
    reader = AnswerReader(kind.form.kind, chat=True)
    return PreferenceRecipe(reader, columns=kind.form.keys, chat=chat)
