"""The files beside a tokenizer in a Hugging Face folder, and what they say of its tokens.

They are kept as they are, so that a run, a training and a conversion pass them on byte for byte.
What they mean follows transformers: tokenizer_config.json counts before special_tokens_map.json,
and its added_tokens_decoder before added_tokens.json.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxneox.errors import UserError
from jaxneox.reading import parse_json, refuse_special

CONFIG, MAP, ADDED = "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"
GENERATION, MODEL = "generation_config.json", "config.json"
TEMPLATES = ("chat_template.jinja", "chat_template.json")
MORE_TEMPLATES = "additional_chat_templates"
SAYING = (CONFIG, MAP, ADDED, GENERATION, *TEMPLATES)
VOCABULARIES = ("tokenizer.model", "vocab.json", "merges.txt")
"""Kept beside a tokenizer that was made from another file, if any of SAYING is there too."""

LARGEST = 64 << 20  # bytes of one file; published ones have a few millions at most
MOST = 1 << 20  # tokens that may be added
NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
LISTS = ("additional_special_tokens", "extra_special_tokens")
IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
"""The keys of config.json that name tokens; they are no part of the model's function."""


@dataclass(frozen=True)
class Added:
    """A token that is looked for in a text before anything else is.

    Attributes:
        content: its text.
        id: the row of the embedding that is its own.
        special: decoding leaves it out.
        lstrip: it swallows the white space before it.
        rstrip: it swallows the white space after it.
        single_word: it is not looked for within a word.
        normalized: it is looked for in the normalized text.
    """

    content: str
    id: int
    special: bool = False
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False
    normalized: bool = False


@dataclass(frozen=True)
class Companions:
    """The files and tokens that go with a tokenizer besides its vocabulary.

    Attributes:
        files: content by name, as it lay in the folder.
        eos: the text of tokenizer_config.json's eos_token.
        bos: the text of its bos_token.
        special: the texts of all tokens that are named there.
        added: the tokens that have an id there.
        stop: ids at which config.json and generation_config.json end generation.
        config: config.json's ids of tokens; None where no config.json was read.
        add_bos: whether add_bos_token is set, which a sentencepiece model does not know.
        legacy: whether LlamaTokenizer puts its space before every part of a text.
    """

    files: Mapping[str, bytes] = field(default_factory=dict)
    eos: str | None = None
    bos: str | None = None
    special: tuple[str, ...] = ()
    added: tuple[Added, ...] = ()
    stop: tuple[int, ...] = ()
    config: Mapping[str, Any] | None = None
    add_bos: bool = False
    legacy: bool = False


NONE = Companions()


def companions_in(
    folder: Path, without: tuple[str, ...] = (), only: tuple[str, ...] = SAYING
) -> Companions:
    """Read what lies in a Hugging Face folder beside the tokenizer's own files.

    Args:
        folder: of the tokenizer.
        without: the names of the files that the tokenizer is made from.
        only: which of the files to read.

    Raises:
        UserError: a file is too large, is not valid JSON or has a value of another type.
    """
    names = [name for name in only if (folder / name).is_file()]
    more = sorted((folder / MORE_TEMPLATES).glob("*.jinja")) if TEMPLATES[0] in only else []
    names += [f"{MORE_TEMPLATES}/{path.name}" for path in more if path.is_file()]
    if names and only == SAYING:
        names += [name for name in VOCABULARIES if (folder / name).is_file()]
    files = {name: read(folder / name) for name in names if name not in without}
    model = folder / MODEL
    config = token_ids(model, parsed(model, read(model))) if model.is_file() else None
    return understood(folder, files, config)


def understood(
    folder: Path, files: Mapping[str, bytes], config: Mapping[str, Any] | None
) -> Companions:
    """Read what the files say; errors name `folder`, and `config` has the ids of config.json."""
    at = {name: parsed(folder / name, files[name]) for name in SAYING[:4] if name in files}
    own = at.get(CONFIG, {})
    tokens = at.get(MAP, {}) | {name: value for name, value in own.items() if value is not None}
    named = {name: _text(folder / CONFIG, name, tokens.get(name)) for name in NAMES}
    lists = [tokens.get(name) for name in LISTS]
    special = [*named.values(), *(text for one in lists for text in _texts(folder / CONFIG, one))]
    generation = token_ids(folder / GENERATION, at.get(GENERATION, {}))
    stops = [ids.get("eos_token_id") for ids in (config or {}, generation)]
    return Companions(
        files=files,
        eos=named["eos_token"],
        bos=named["bos_token"],
        special=tuple(dict.fromkeys(text for text in special if text)),
        added=tuple(_added(folder, own, at.get(ADDED, {}))),
        stop=tuple(sorted({i for ids in stops for i in _listed(ids) if i >= 0})),
        config=config,
        add_bos=own.get("add_bos_token") is True,
        legacy=own.get("legacy") is True,
    )


def token_ids(path: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the ids that a config.json or generation_config.json gives to tokens, as they are.

    Raises:
        UserError: a value is neither an id, a list of ids nor null.
    """
    named = {name: config[name] for name in IDS if name in config}
    for name, value in named.items():
        ids = value if isinstance(value, list) else [] if value is None else [value]
        if len(ids) > MOST or not all(type(i) is int for i in ids):
            raise UserError(
                f"{path}: {name} is {_short(value)}, expected the id of a token or a list of ids; "
                "correct the file"
            )
    return named


def read(path: Path) -> bytes:
    """Read a file.

    Raises:
        UserError: it cannot be read, or is too large for what it should be.
    """
    try:
        refuse_special(path)
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    if len(content) > LARGEST:
        raise UserError(f"{path}: has more than {LARGEST:,} bytes; it is no file of a tokenizer")
    return content


def parsed(path: Path, content: bytes) -> dict[str, Any]:
    """Parse the block of keys in a JSON file.

    Raises:
        UserError: it is anything else.
    """
    try:
        value = parse_json(content, path)
    except UserError as error:
        raise UserError(f"{error}; copy it again") from error
    if not isinstance(value, dict):
        raise UserError(f"{path}: holds {_short(value)}, expected a block of keys")
    return value


def _added(folder: Path, config: dict[str, Any], plain: dict[str, Any]) -> Iterator[Added]:
    """Read added_tokens_decoder, or the added_tokens.json of older folders, by ids."""
    path, decoder = folder / CONFIG, config.get("added_tokens_decoder")
    if decoder is None:
        for text, number in plain.items():
            if type(number) is not int or number < 0 or not text or len(plain) > MOST:
                raise _wrong(folder / ADDED, text, number, "the id of a token")
        yield from (Added(text, i) for text, i in sorted(plain.items(), key=lambda row: row[1]))
        return
    if not isinstance(decoder, dict) or len(decoder) > MOST:
        raise _wrong(path, "added_tokens_decoder", decoder, "tokens by their ids")
    rows: list[Added] = []
    for number, one in decoder.items():
        flags = {"content": one} if isinstance(one, str) else one
        good = number.isascii() and number.isdecimal() and len(number) < 10
        if not good or not isinstance(flags, dict) or not _is_token(flags):
            raise _wrong(path, f"added_tokens_decoder {number}", one, "a token by its id")
        names = ("special", "lstrip", "rstrip", "single_word", "normalized")
        rows.append(
            Added(flags["content"], int(number), *(flags.get(name) is True for name in names))
        )
    yield from sorted(rows, key=lambda token: token.id)


def _is_token(flags: dict[str, Any]) -> bool:
    content = flags.get("content")
    return isinstance(content, str) and content != ""


def _text(path: Path, name: str, value: Any) -> str | None:
    """Read a token's text: a string, or a block that says more of it."""
    text = value.get("content") if isinstance(value, dict) else value
    if text is not None and not isinstance(text, str):
        raise _wrong(path, name, value, "the text of a token")
    return text or None


def _texts(path: Path, value: Any) -> list[str | None]:
    """Read further special tokens: a list, or a block of names and texts."""
    values = list(value.values()) if isinstance(value, dict) else value or []
    if not isinstance(values, list) or len(values) > MOST:
        raise _wrong(path, LISTS[0], value, "a list of tokens")
    return [_text(path, LISTS[0], one) for one in values]


def _listed(ids: Any) -> list[int]:
    return ids if isinstance(ids, list) else [] if ids is None else [ids]


def _wrong(path: Path, name: str, value: Any, expected: str) -> UserError:
    return UserError(f"{path}: {_line(name)} is {_short(value)}, expected {expected}")


def _short(value: Any) -> str:
    """Shorten a value to one line for a message."""
    text = repr(value) if not isinstance(value, dict | list) else f"a {type(value).__name__}"
    return text if len(text) <= 60 else text[:57] + "…"


def _line(value: Any) -> str:
    return " ".join(str(value).split())[:200]
