"""What the input is: texts, conversations or answers, by the keys of its first document.

Conversations are under `conversation`, as for NeoX's preprocess_data_with_chat_template.py, or
under `messages`, as OpenAI and Hugging Face have them, or are a `prompt` with its `completion`.
The rows of answers are those of `answers`.
"""

import pathlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

from jaxneox.data import documents
from jaxneox.errors import UserError
from jaxneox.preprocess.answers import (
    COMPLETIONS,
    LABEL,
    PREFIX,
    REWARDS,
    AnswerKind,
    AnswerReader,
)
from jaxneox.preprocess.chat import COMPLETION, CONVERSATIONS, PROMPT, ChatRecipe
from jaxneox.preprocess.encode import TEXT, Recipe, TextRecipe
from jaxneox.preprocess.preferences import PreferenceRecipe
from jaxneox.preprocess.prompts import SIDES
from jaxneox.preprocess.rewards import RewardRule

PAIR = f"{PROMPT} with {COMPLETION}"
DataKind = Literal["text", "chat", "pairs", "rated", "completions"]
ANSWERS: tuple[AnswerKind, ...] = ("pairs", "rated", "completions")


class DataRequest(NamedTuple):
    """What the user says of the input.

    Attributes:
        kind: what it is; None to recognize it.
        reward_key: of rated rows, or of conversations.
        rule: how rewards are read.
        for_rm: whether it is for a reward model.
    """

    kind: DataKind | None = None
    reward_key: str | None = None
    rule: RewardRule | None = None
    for_rm: bool = False


class AnswerForm(NamedTuple):
    """Rows of answers: their kind, and the keys that are read."""

    kind: AnswerKind
    keys: tuple[str, ...]


def forms(there: Sequence[str], reward_key: str = LABEL) -> list[AnswerForm]:
    """Find which rows of answers have these keys."""
    found = []
    if all(key in there for key in SIDES):
        found.append(AnswerForm("pairs", (*((PROMPT,) if PROMPT in there else ()), *SIDES)))
    many = (PREFIX, COMPLETIONS, REWARDS)
    if all(key in there for key in many):
        found.append(AnswerForm("completions", many))
    if reward_key in there:
        chats = [(key,) for key in CONVERSATIONS if key in there]
        pair = [(PROMPT, COMPLETION)] if PROMPT in there and COMPLETION in there else []
        found += [AnswerForm("rated", (*keys, reward_key)) for keys in (*chats, *pair)[:1]]
    return found


def recognized(
    recipe: TextRecipe | ChatRecipe, files: Sequence[pathlib.Path], asked: DataRequest
) -> tuple[Recipe, tuple[str, ...]]:
    """Make the recipe for the rows that the input has, and say which.

    Args:
        recipe: without keys where no flag names any.
        files: the input.
        asked: what the user says of it.

    Returns:
        The recipe, and notes for the user.

    Raises:
        UserError: the input has none of the keys that are known, or several.
    """
    if recipe.keys:
        return recipe, ()
    there = documents.keys_of(files)
    if (form := _form(recipe, files[0], there, asked)) is not None:
        others = [key for key in (TEXT, *CONVERSATIONS) if key in there and key not in form.keys]
        note = f"{form.kind} are read from {', '.join(form.keys)}"
        note += f"; {' and '.join(others)} {_is(others)} there too and not read" if others else ""
        return _answers(recipe, form, asked), (note,)
    chats = [key for key in CONVERSATIONS if key in there]
    chats += [PAIR] if PROMPT in there and COMPLETION in there else []
    if isinstance(recipe, TextRecipe):
        return replace(recipe, keys=(TEXT,)), _text_notes(files, there, chats)
    if not chats:
        raise UserError(
            f"{files[0]}: {_shown(there)}, expected {', '.join(CONVERSATIONS)} or {PAIR}; name "
            "another key with --jsonl-keys"
        )
    if len(chats) > 1:
        raise UserError(
            f"{files[0]}: has {' and '.join(chats)}; say with --jsonl-keys which of them to read"
        )
    note = f"conversations are read from {chats[0]}"
    note += f"; {TEXT} is there too and is not read" if TEXT in there else ""
    if chats[0] == PAIR:
        return replace(recipe, keys=(COMPLETION,), pair=True), (note,)
    return replace(recipe, keys=(chats[0],)), (note,) if chats[0] != CONVERSATIONS[0] else ()


def answer_form(file: pathlib.Path, there: Sequence[str], asked: DataRequest) -> AnswerForm | None:
    """Return the form of rows with answers; None if the input is of another kind.

    Args:
        file: the first of the input, for errors.
        there: its keys.
        asked: what the user says of it.

    Raises:
        UserError: it may be several, or is not what the user says.
    """
    if asked.kind in ("text", "chat"):
        return None
    found = forms(there, asked.reward_key or LABEL)
    if asked.kind is not None:
        for form in found:
            if form.kind == asked.kind:
                return form
        expected = {
            "pairs": " and ".join(SIDES),
            "rated": f"{asked.reward_key or LABEL}, and {', '.join(CONVERSATIONS)} or {PAIR}",
            "completions": f"{PREFIX}, {COMPLETIONS} and {REWARDS}",
        }
        raise UserError(f"{file}: {_shown(there)}, expected {expected[asked.kind]}")
    if asked.for_rm or asked.reward_key is not None:  # else of conversations, as in NeoX
        found = [form for form in found if form.kind == "pairs" and asked.reward_key is None]
    if len(found) > 1:
        kinds = " and ".join(form.kind for form in found)
        raise UserError(f"{file}: may be {kinds}; say with --kind which of them to read")
    return found[0] if found else None


def _form(
    recipe: TextRecipe | ChatRecipe, file: pathlib.Path, there: Sequence[str], asked: DataRequest
) -> AnswerForm | None:
    """Return the form of rows with answers, unless the flags are for another kind."""
    masked = False
    if asked.kind is None:
        if isinstance(recipe, TextRecipe):
            masked = recipe.ftfy or bool(recipe.mask_before)
        if TEXT in there if isinstance(recipe, TextRecipe) else recipe.no_mask:
            return None
    form = answer_form(file, there, asked)
    if form is not None and masked:
        raise UserError(
            f"{file}: has {form.kind}, whose labels are made without --mask-before-token, and for "
            "which there is no --ftfy: leave them out, or give --kind text"
        )
    return form


def _answers(
    recipe: TextRecipe | ChatRecipe, form: AnswerForm, asked: DataRequest
) -> PreferenceRecipe:
    chat = recipe if isinstance(recipe, ChatRecipe) else None
    reader = AnswerReader(form.kind, chat is not None)
    if chat is not None:
        reader = reader._replace(role=chat.role, only_last=chat.only_last)
    if form.kind == "rated":
        rule: RewardRule = asked.rule or "verdict"
        reader = reader._replace(reward_key=asked.reward_key or LABEL, rule=rule)
    return PreferenceRecipe(
        reader=reader,
        columns=form.keys,
        chat=chat,
        tokenizer=None if isinstance(recipe, ChatRecipe) else recipe.tokenizer,
        labels="end" if asked.for_rm else "turns",
    )


def _text_notes(
    files: Sequence[pathlib.Path], there: Sequence[str], chats: Sequence[str]
) -> tuple[str, ...]:
    if chats and TEXT not in there:
        raise UserError(
            f"{files[0]}: has conversations ({chats[0]}) and no {TEXT}; give --tokenizer-path DIR "
            "to render them with a tokenizer's chat template, or name a key with --jsonl-keys"
        )
    return (f"{TEXT} is read; {chats[0]} is there too and is not read",) if chats else ()


def _is(words: Sequence[str]) -> str:
    return "is" if len(words) == 1 else "are"


def _shown(there: Sequence[str]) -> str:
    return f"has the keys {', '.join(there)}" if there else "has no keys"
