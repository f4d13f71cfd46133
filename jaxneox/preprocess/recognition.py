"""The keys of the input that are read if no flag names them: those of the first document.

Conversations are under `conversation`, as for NeoX's preprocess_data_with_chat_template.py, or
under `messages`, as OpenAI and Hugging Face have them, or are a `prompt` with its `completion`.
"""

import pathlib
from collections.abc import Sequence
from dataclasses import replace

from jaxneox.data import documents
from jaxneox.errors import UserError
from jaxneox.preprocess.chat import COMPLETION, CONVERSATIONS, PROMPT, ChatRecipe
from jaxneox.preprocess.encode import TEXT, Recipe, TextRecipe

PAIR = f"{PROMPT} with {COMPLETION}"


def recognized(recipe: Recipe, files: Sequence[pathlib.Path]) -> tuple[Recipe, tuple[str, ...]]:
    """Give a recipe the keys that the input has, and say which.

    Args:
        recipe: without keys where no flag names any.
        files: the input.

    Returns:
        The recipe, and notes for the user.

    Raises:
        UserError: the input has none of the keys that are known, or several.
    """
    if recipe.keys:
        return recipe, ()
    there = documents.keys_of(files)
    chats = [key for key in CONVERSATIONS if key in there]
    chats += [PAIR] if PROMPT in there and COMPLETION in there else []
    if isinstance(recipe, TextRecipe):
        return replace(recipe, keys=(TEXT,)), _text_notes(files, there, chats)
    assert isinstance(recipe, ChatRecipe)
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


def _text_notes(
    files: Sequence[pathlib.Path], there: Sequence[str], chats: Sequence[str]
) -> tuple[str, ...]:
    if chats and TEXT not in there:
        raise UserError(
            f"{files[0]}: has conversations ({chats[0]}) and no {TEXT}; give --tokenizer-path DIR "
            "to render them with a tokenizer's chat template, or name a key with --jsonl-keys"
        )
    return (f"{TEXT} is read; {chats[0]} is there too and is not read",) if chats else ()


def _shown(there: Sequence[str]) -> str:
    return f"has the keys {', '.join(there)}" if there else "has no keys"
