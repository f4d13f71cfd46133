"""Conversations to tokens by a tokenizer's chat template, and labels for one role's turns.

The tokens and labels are those of NeoX's preprocess_data_with_chat_template.py; a template is
rendered as transformers does (`apply_chat_template`), in jinja2's sandbox.
"""

import datetime
import hashlib
import json
import pathlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import tokenizers

from jaxneox.data.documents import Chunk, Record
from jaxneox.errors import UserError
from jaxneox.preprocess.encode import UNSEEN, Document, Encoded, packed

Turns = list[dict[str, Any]]
Render = Callable[..., str]
INT32 = np.dtype(np.int32)


@dataclass(frozen=True)
class ChatRecipe:
    """Each key holds a conversation, a list of {"role": …, "content": …}; `role` is learned."""

    folder: pathlib.Path  # tokenizer.json, tokenizer_config.json
    template: pathlib.Path | None = None  # in place of the folder's
    keys: tuple[str, ...] = ("conversation",)
    role: str = "assistant"
    only_last: bool = False
    no_mask: bool = False

    def build(self) -> "ChatEncoder":
        return ChatEncoder(self)


class ChatEncoder:
    def __init__(self, recipe: ChatRecipe) -> None:
        self.recipe = recipe
        config = _json(recipe.folder / "tokenizer_config.json")
        special = _special_tokens(config)
        source = _template(recipe, config)
        self._render = renderer(source, special)
        path = recipe.folder / "tokenizer.json"
        try:
            content = path.read_text()
            self._backend = tokenizers.Tokenizer.from_str(content)
        except Exception as error:  # the library raises the bare class
            raise UserError(f"{path}: no tokenizer.json ({error})") from error
        eos = special.get("eos_token")
        self._eos = None if eos is None else self._backend.token_to_id(eos)
        self.dtypes = {name: INT32 for key in recipe.keys for name in self._names(key)}
        self.identity = {
            "tokenizer": hashlib.sha256(content.encode()).hexdigest(),
            "template": source,
            "special": special,
            "keys": list(recipe.keys),
            "settings": [recipe.role, recipe.only_last, recipe.no_mask],
        }

    def encode(self, chunk: Chunk) -> Encoded:
        documents = [self._document(record) for record in chunk.records()]
        return packed(chunk.read, documents, self.dtypes)

    def _names(self, key: str) -> list[str]:
        return [key] if self.recipe.no_mask else [key, f"{key}_label"]

    def _document(self, record: Record) -> Document:
        where, value = record
        columns: list[list[int]] = []
        for key in self.recipe.keys:
            turns = _turns(value, key, where)
            try:
                columns += [self._ids(turns)] if self.recipe.no_mask else self._labelled(turns)
            except _TemplateError as error:
                raise UserError(f'{where}: the chat template fails on "{key}": {error}') from error
        return tuple(np.asarray(column, np.int32) for column in columns)

    def _labelled(self, turns: Turns) -> tuple[list[int], list[int]]:
        """Tokens, and labels that are UNSEEN but in the turns that are learned."""
        tokens: list[int] = []
        labels: list[int] = []
        for i, turn in enumerate(turns):
            last = i == len(turns) - 1
            prompt = not last and turns[i + 1]["role"] == self.recipe.role
            new = self._ids(turns[: i + 1], prompt)[len(tokens) :]
            learned = turn["role"] == self.recipe.role and (last or not self.recipe.only_last)
            tokens += new
            labels += new if learned else [UNSEEN] * len(new)
        if self._eos is not None:
            learned = bool(labels) and labels[-1] != UNSEEN
            labels.append(self._eos if learned else UNSEEN)
            tokens.append(self._eos)
        return tokens, labels

    def _ids(self, turns: Turns, prompt: bool = False) -> list[int]:
        text = self._render(messages=turns, add_generation_prompt=prompt)
        return list(self._backend.encode(text, add_special_tokens=False).ids)


class _TemplateError(Exception):
    """Of a template that cannot render a conversation."""


def renderer(source: str, special: dict[str, str]) -> Render:
    """A template with what transformers gives to templates."""
    try:
        from jinja2 import TemplateError, ext, nodes
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ImportError as error:
        raise UserError("--chat-template needs `pip install jinja2`") from error

    class Generation(ext.Extension):
        """{% generation %}…{% endgeneration %} marks what a model writes; here it is plain text."""

        tags = {"generation"}  # noqa: RUF012, as jinja2 wants it

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body, lineno=line)

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, ext.loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
    try:
        template = environment.from_string(source)
    except TemplateError as error:
        raise UserError(f"the chat template is not Jinja: {_line(error)}") from error

    def render(**values: Any) -> str:
        try:
            text = template.render(tools=None, documents=None, **special, **values)
            text.encode()  # half a surrogate pair has no tokens
        except Exception as error:  # a template may do anything
            raise _TemplateError(_line(error)) from error
        return text

    return render


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Jinja's own would write < and & as HTML does."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _template(recipe: ChatRecipe, config: dict[str, Any]) -> str:
    """The file that was given, the folder's chat_template.jinja, or its configuration's."""
    beside = recipe.folder / "chat_template.jinja"
    if path := recipe.template or (beside if beside.is_file() else None):
        try:
            return path.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path}: cannot read the chat template ({error})") from error
    found = config.get("chat_template")
    if isinstance(found, list):  # several, by names
        found = {one.get("name"): one.get("template") for one in found}.get("default")
    if not isinstance(found, str):
        raise UserError(
            f"{recipe.folder}: no chat_template.jinja and no chat_template in "
            "tokenizer_config.json; give --chat-template FILE"
        )
    return found


def _special_tokens(config: dict[str, Any]) -> dict[str, str]:
    """bos_token, eos_token, …: a template sees them by these names."""
    named = {key: value for key, value in config.items() if key.endswith("_token")}
    words = {key: v.get("content") if isinstance(v, dict) else v for key, v in named.items()}
    return {key: word for key, word in words.items() if isinstance(word, str)}


def _turns(value: Any, key: str, where: str) -> Turns:
    turns = value.get(key) if isinstance(value, dict) else None
    if isinstance(turns, list) and turns and all(map(_is_turn, turns)):
        return turns
    raise UserError(
        f'{where}: "{key}" is no conversation, expected '
        f'{{"{key}": [{{"role": "user", "content": "…"}}, …]}}'
    )


def _is_turn(turn: Any) -> bool:
    return isinstance(turn, dict) and isinstance(turn.get("role"), str)


def _json(path: pathlib.Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path}: cannot be read ({error}); --tokenizer-path is a Hugging Face folder"
        ) from error
    return content if isinstance(content, dict) else {}


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
