"""Conversations as documents, of which the answers are learned; and the rewards of them."""

import pathlib
from dataclasses import dataclass
from typing import Any, TypeGuard

import numpy as np

from jaxneox.data.documents import Chunk
from jaxneox.errors import UserError
from jaxneox.preprocess.conversations import Chat, ChatTokenizer, Labels
from jaxneox.preprocess.encode import Document, Encoded, packed
from jaxneox.preprocess.rewards import NUMBER, RewardRule, reward_of
from jaxneox.preprocess.turns import Conversation

Turns = list[dict[str, Any]]
INT32 = np.dtype(np.int32)
CONVERSATIONS = ("conversation", "messages")
PROMPT, COMPLETION = "prompt", "completion"


@dataclass(frozen=True)
class ChatRecipe:
    """Settings for keys that each hold a conversation, a list of {"role": …, "content": …}.

    The turns of `role` are learned; of a `pair`, a prompt with its completion, only those of the
    completion. With a `reward_key` each document has a reward.
    """

    folder: pathlib.Path  # tokenizer.json, tokenizer_config.json
    template: pathlib.Path | None = None  # in place of the folder's
    keys: tuple[str, ...] = CONVERSATIONS[:1]
    role: str = "assistant"
    only_last: bool = False
    no_mask: bool = False
    pair: bool = False
    eos: str | None = None  # ends a text, where the folder has no tokenizer_config.json
    for_rm: bool = False  # for a reward model: only the end is labelled
    reward_key: str | None = None
    reward_rule: RewardRule = "number"

    @property
    def columns(self) -> tuple[str, ...]:
        read = (PROMPT, *self.keys) if self.pair else self.keys
        if self.reward_key is None or self.reward_key in read:
            return read
        return (*read, self.reward_key)

    @property
    def labels(self) -> Labels:
        """What is labelled."""
        return "none" if self.no_mask else "end" if self.for_rm else "turns"

    def build(self) -> "ChatEncoder":
        return ChatEncoder(self)


class ChatEncoder:
    """Encodes conversations by a chat template."""

    def __init__(self, recipe: ChatRecipe) -> None:
        self.recipe = recipe
        self.tokenizer = ChatTokenizer(recipe.folder, recipe.template, recipe.eos, recipe.labels)
        self.tokenizer.require_template()
        self.notes = self.tokenizer.notes
        self.dtypes = {
            name: dtype for key in recipe.keys for name, dtype in self._datasets(key).items()
        }
        self.identity = self.tokenizer.identity | {
            "keys": list(recipe.keys),
            "settings": [recipe.role, recipe.only_last, recipe.labels, recipe.pair],
            "rewards": [recipe.reward_key, recipe.reward_rule],
        }

    def encode(self, chunk: Chunk) -> Encoded:
        chats: list[Chat] = []
        rewards: list[Document] = []
        for where, value in chunk.records():
            for key in self.recipe.keys:
                chats.append(Chat(self.conversation(value, key, where), where, key))
                rewards.append(self._reward(value, where))
        made = self.tokenizer.documents(chats)
        columns = [(*one, *reward) for one, reward in zip(made, rewards, strict=True)]
        width = len(self.recipe.keys)
        documents = [
            tuple(column for some in columns[i : i + width] for column in some)
            for i in range(0, len(columns), width)
        ]
        return packed(chunk.read, documents, self.dtypes)

    def _datasets(self, key: str) -> dict[str, np.dtype[Any]]:
        datasets: dict[str, np.dtype[Any]] = {key: INT32}
        if self.recipe.labels != "none":
            datasets[f"{key}_label"] = INT32
        if self.recipe.reward_key is not None:
            datasets[f"{key}_reward"] = NUMBER
        return datasets

    def _reward(self, value: Any, where: str) -> Document:
        key = self.recipe.reward_key
        if key is None:
            return ()
        return (np.array([reward_of(value, key, where, self.recipe.reward_rule)], NUMBER),)

    def conversation(self, value: Any, key: str, where: str) -> Conversation:
        """Read the conversation that a row has under a key.

        Raises:
            UserError: it has none.
        """
        role, only_last = self.recipe.role, self.recipe.only_last
        if not self.recipe.pair:
            return Conversation(turns_of(value, key, where), role, only_last)
        asked = turns_of(_spoken(value, PROMPT, "user"), PROMPT, where)
        answered = turns_of(_spoken(value, COMPLETION, role), COMPLETION, where)
        return Conversation([*asked, *answered], role, only_last, first=len(asked))


def turns_of(value: Any, key: str, where: str) -> Turns:
    """Return the conversation of a row.

    Raises:
        UserError: there is none.
    """
    turns = value.get(key) if isinstance(value, dict) else None
    if is_conversation(turns):
        return turns
    raise UserError(
        f'{where}: "{key}" is no conversation, expected '
        f'{{"{key}": [{{"role": "user", "content": "…"}}, …]}}'
    )


def is_conversation(turns: Any) -> TypeGuard[Turns]:
    """Tell whether a value is a list of turns, each with a role."""
    return isinstance(turns, list) and bool(turns) and all(map(_is_turn, turns))


def _spoken(value: Any, key: str, role: str) -> Any:
    """Make a turn of a text; a list of turns is one already."""
    text = value.get(key) if isinstance(value, dict) else None
    return {key: [{"role": role, "content": text}]} if isinstance(text, str) else value


def _is_turn(turn: Any) -> bool:
    return isinstance(turn, dict) and isinstance(turn.get("role"), str)
