"""Texts and pairs of texts whose rewards are asked for: lines of JSON, as data sets have them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from jaxneox.console.say import tell
from jaxneox.errors import UserError
from jaxneox.evaluate.corpus import lines_of, object_of
from jaxneox.infer.rewards import check_length, end_of, with_end
from jaxneox.loading import LoadedModel
from jaxneox.reading import INDEX_SIZE, read_text
from jaxneox.templates.prompts import ChatPrompts, chat_prompts
from jaxneox.templates.source import template_of

Message = Mapping[str, Any]
Words = str | list[Message]
"""A text as it is, or a conversation for the chat template."""

CHOSEN, REJECTED = "chosen", "rejected"
TEXT, MESSAGES, PROMPT, COMPLETION = "text", "messages", "prompt", "completion"
EXPECTED = (
    f'"{TEXT}", "{PROMPT}" with "{COMPLETION}", "{MESSAGES}", or "{CHOSEN}" with "{REJECTED}"'
)


class RewardRow(NamedTuple):
    """One line of a file.

    Attributes:
        document: what the line says.
        tokens: of its one text, or of the chosen and the rejected one.
    """

    document: dict[str, Any]
    tokens: list[list[int]]

    @property
    def is_pair(self) -> bool:
        return len(self.tokens) == 2


class RewardTexts:
    """Reads a file's texts as tokens of a model, each with the end-of-document token after it."""

    def __init__(self, model: LoadedModel) -> None:
        self._model = model

    def rows(self, name: str, limit: int | None = None) -> list[RewardRow]:
        """Read a file.

        Args:
            name: a file of JSON lines.
            limit: how many lines, from the first.

        Raises:
            UserError: a line is not what is expected, with its number; or there is none.
        """
        lines = [*lines_of(read_text(Path(name), INDEX_SIZE))][:limit]
        if not lines:
            raise UserError(f"{name}: no line in it; expected JSON objects with {EXPECTED}")
        rows = [self._row(line, f"{name}, line {number}") for number, line in lines]
        if self._has_template and any(is_joined(row.document) for row in rows):
            tell(
                f'note: {name}: a "{PROMPT}" and an answer that are strings are joined as they '
                "are; `jaxneox preprocess --tokenizer-path` renders them by the chat template: "
                "where the model was trained on such, give lists of messages"
            )
        return rows

    @property
    def _has_template(self) -> bool:
        tokenizer = self._model.tokenizer
        if tokenizer is None:
            return False
        return template_of(tokenizer.companions.files, Path(tokenizer.origin).parent) is not None

    @cached_property
    def _prompts(self) -> ChatPrompts:
        return chat_prompts(self._model.tokenizer)

    def _row(self, line: str, where: str) -> RewardRow:
        document = object_of(line, where)
        tokens = [self._tokens(words, where) for words in texts_of(document, where)]
        for ids in tokens:
            check_length(f"{where}: a text with its end", ids, self._model.config.model)
        return RewardRow(document, tokens)

    def _tokens(self, words: Words, where: str) -> list[int]:
        tokenizer = self._model.tokenizer
        if isinstance(words, str):
            return _at(where, lambda: with_end(words, tokenizer))
        return _at(where, lambda: [*self._rendered(words), end_of(tokenizer)])

    def _rendered(self, messages: Sequence[Message]) -> list[int]:
        return self._prompts.encode(self._prompts.render(messages, answer=False))


def texts_of(document: Mapping[str, Any], where: str) -> Iterator[Words]:
    """Yield a line's one text, or the chosen one and the rejected one.

    Raises:
        UserError: the line has neither, or both.
    """
    kinds = [key for key in (TEXT, MESSAGES, COMPLETION, CHOSEN) if key in document]
    if len(kinds) != 1:
        found = " and ".join(f'"{key}"' for key in kinds) or "none of them"
        raise UserError(f"{where}: has {found}, expected one of {EXPECTED}")
    (kind,) = kinds
    if kind == TEXT and not isinstance(document[TEXT], str):
        raise UserError(f'{where}: "{TEXT}" is not a string')
    if kind == MESSAGES and not isinstance(document[MESSAGES], list):
        raise UserError(f'{where}: "{MESSAGES}" is not a list of messages')
    if kind in (TEXT, MESSAGES):
        yield words_of(document, kind, where)
        return
    if kind == COMPLETION and PROMPT not in document:
        raise UserError(f'{where}: has a "{COMPLETION}" and no "{PROMPT}"')
    for key in (CHOSEN, REJECTED) if kind == CHOSEN else (COMPLETION,):
        if key not in document:
            raise UserError(f'{where}: has "{CHOSEN}" and no "{key}"')
        words = words_of(document, key, where)
        yield after_prompt(words, document, key, where) if PROMPT in document else words


def is_joined(document: Mapping[str, Any]) -> bool:
    """Tell whether a line's prompt and its answers are strings."""
    answers = [document[key] for key in (COMPLETION, CHOSEN, REJECTED) if key in document]
    return all(isinstance(words, str) for words in (document.get(PROMPT), *answers))


def words_of(document: Mapping[str, Any], key: str, where: str) -> Words:
    """Return a string, or a list of messages that a template can render."""
    value = document[key]
    if isinstance(value, str):
        return value
    if not isinstance(value, list) or not value or not all(map(is_message, value)):
        raise UserError(
            f'{where}: "{key}" is neither a string nor a list of messages, each with a role and a '
            "content"
        )
    return value


def is_message(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and isinstance(value.get("role"), str)
        and isinstance(value.get("content"), str | list | None)
    )


def after_prompt(words: Words, document: Mapping[str, Any], key: str, where: str) -> Words:
    """Put the prompt before what follows it: strings are joined, messages are one conversation.

    Beside messages a prompt that is a string is the user's; data sets also repeat it there, in
    which case it is not put before them again.
    """
    prompt = words_of(document, PROMPT, where)
    if isinstance(words, str):
        if isinstance(prompt, str):
            return prompt + words
        return [*prompt, {"role": "assistant", "content": words}]
    if not isinstance(prompt, str):
        return [*prompt, *words]
    if any(one["role"] == "user" and one.get("content") == prompt for one in words):
        return words
    if words[0]["role"] == "assistant":
        return [{"role": "user", "content": prompt}, *words]
    raise UserError(
        f'{where}: "{PROMPT}" is a string that is no message of "{key}", which does not begin '
        "with an answer"
    )


def _at(where: str, make: Callable[[], list[int]]) -> list[int]:
    try:
        return make()
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
