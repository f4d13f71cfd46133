"""Tokenizers of Hugging Face's `tokenizers` library: a tokenizer.json."""

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import tokenizers
from numpy.typing import NDArray
from tokenizers import AddedToken

from jaxneox.config.schema import TokenizerConfig
from jaxneox.data.companions import Added, Companions
from jaxneox.data.growth import bounded
from jaxneox.data.library import faults, within
from jaxneox.data.pretokens import pretoken_cache, settings
from jaxneox.data.tokenizer_base import EOD, PADDING, Tokenizer, vocab_file

T = TypeVar("T")


class HuggingFaceTokenizer(Tokenizer):
    """A tokenizer of the `tokenizers` library: HFTokenizer and both GPT-2 kinds.

    Attributes:
        dropout: of its merges, as its file has it; here it is off.
    """

    def __init__(
        self,
        name: str,
        backend: tokenizers.Tokenizer,
        files: Mapping[str, bytes],
        added: Sequence[Added] = (),
    ) -> None:
        """Take a backend as it was opened.

        Args:
            name: NeoX's `tokenizer-type`.
            backend: the library's tokenizer; what was saved of one use of it is switched off.
            files: what it was made from.
            added: the tokens that `backend` got besides what the files list.
        """
        self.name = name
        self.dropout = made_whole(backend)
        self.notes = notes_on(self.dropout)
        self.vocab_size = backend.get_vocab_size()
        self.eod = backend.token_to_id(EOD)
        self.pad = backend.token_to_id(PADDING)
        self.files = files
        self.added = tuple(added)
        self._backend = backend
        self._pretokens = pretoken_cache(backend)
        self._call = within if has_expressions(backend) else _at_once

    @property
    def rows(self) -> int:
        return 1 + max(self._backend.get_vocab().values(), default=-1)

    def _encode(self, text: str) -> list[int]:
        if self._call is _at_once:
            return list(self._backend.encode(text).ids)
        # of the library's calls those for several texts give up Python's lock
        return list(self._call(lambda: self._backend.encode_batch([text]), len(text))[0].ids)

    def _encode_rendered(self, text: str) -> list[int]:
        encode = functools.partial(self._backend.encode_batch, [text], add_special_tokens=False)
        return list(self._call(encode, len(text))[0].ids)

    def spans(self, text: str) -> list[tuple[int, int]]:
        return [(begin, end) for begin, end in self._untrimmed.encode(text).offsets]

    @functools.cached_property
    def _untrimmed(self) -> tokenizers.Tokenizer:
        """The same tokenizer, whose offsets count the spaces at the ends of tokens."""
        description = json.loads(self._backend.to_str())
        last = description.get("post_processor") or {}
        for step in (last, *last.get("processors", ())):
            if "trim_offsets" in step:
                step["trim_offsets"] = False
        return tokenizers.Tokenizer.from_str(json.dumps(description))

    def _encode_batch(self, texts: Sequence[str]) -> list[NDArray[np.int32]]:
        if self._pretokens is not None:
            return [self._pretokens.encode(text) for text in texts]
        every = list(texts)
        size = sum(map(len, every))
        encodings = self._call(lambda: self._backend.encode_batch_fast(every), size)
        return [np.asarray(e.ids, np.int32) for e in encodings]

    def _decode(self, ids: Sequence[int]) -> str:
        numbers = [int(i) for i in ids]
        return str(self._call(lambda: self._backend.decode_batch([numbers]), len(numbers))[0])

    def id_of(self, token: str) -> int | None:
        id_: int | None = self._backend.token_to_id(token)
        return id_

    def text_of(self, token: int) -> str:
        return str(self._backend.id_to_token(token))

    def whole(self) -> bytes:
        """Return a tokenizer.json that encodes as this tokenizer does, whoever opens it."""
        return str(self._backend.to_str(pretty=True)).encode()


def has_expressions(backend: tokenizers.Tokenizer) -> bool:
    """Tell whether a file's own regular expressions are searched for, which may never end."""
    parts = (backend.normalizer, backend.pre_tokenizer, backend.decoder)
    return any("Regex" in json.dumps(settings(part)) for part in parts)


def _at_once(call: Callable[[], T], characters: int = 0) -> T:
    return call()


def opened(path: Path, content: bytes) -> tokenizers.Tokenizer:
    """Read a tokenizer.json.

    Raises:
        TokenizerFault: the library cannot read it, or it makes far more of a text than there is.
    """
    with faults(f"{path}: not a tokenizer.json that the tokenizers library can read"):
        return bounded(tokenizers.Tokenizer.from_buffer(content), path)


class RenderedTexts:
    """Encodes texts that have their special tokens already, such as rendered conversations."""

    def __init__(self, backend: tokenizers.Tokenizer, path: Path) -> None:
        self._backend, self._path = backend, path
        self._timed = has_expressions(backend)

    def encodings(self, texts: Sequence[str], where: str) -> list[tokenizers.Encoding]:
        """Encode texts.

        Args:
            texts: any.
            where: what an error calls them, such as a file and a line.

        Raises:
            TokenizerFault: the library fails, or does not end.
        """
        with faults(f"{where}: the tokenizer {self._path} cannot encode a text"):
            every = list(texts)
            call = functools.partial(self._backend.encode_batch, every, add_special_tokens=False)
            return within(call, sum(map(len, every))) if self._timed else call()


def made_whole(backend: tokenizers.Tokenizer) -> float:
    """Switch off what was saved of one use of a tokenizer; return the dropout of its merges.

    A tokenizer.json keeps the truncation and padding of the call before it was saved, which
    transformers sets anew for every call, and the dropout of merges with which a model was trained.
    """
    backend.no_truncation()
    backend.no_padding()
    dropout = getattr(backend.model, "dropout", None) or 0.0
    if dropout:
        backend.model.dropout = None
    return float(dropout)


def notes_on(dropout: float) -> tuple[str, ...]:
    """Note that the merges' dropout is off, if they have one."""
    if not dropout:
        return ()
    return (
        f"its merges have a dropout of {dropout:.3g}, which is off here: tokens are the same each "
        "time",
    )


def tokenizer_json(cfg: TokenizerConfig, companions: Companions) -> Tokenizer:
    path = vocab_file(cfg)
    content = path.read_bytes()
    backend = opened(path, content)
    added, notes = register(backend, companions)
    tokenizer = HuggingFaceTokenizer("HFTokenizer", backend, {path.name: content}, added)
    tokenizer.notes += tuple(notes)
    return tokenizer


def register(
    backend: tokenizers.Tokenizer, companions: Companions
) -> tuple[list[Added], list[str]]:
    """Add what the companions list and the file does not; as transformers does, with their ids.

    Returns what was added, and a line for each token that has no place in the vocabulary.
    """
    known = {token.content for token in backend.get_added_tokens_decoder().values()}
    given = {token.content: token for token in companions.added}
    for text in companions.special:
        id_ = backend.token_to_id(text)
        if text not in given and id_ is not None:
            given[text] = Added(text, id_, special=True)
    added, notes = [], []
    following = _next_id(backend)
    for text, token in given.items():
        there = backend.token_to_id(text)
        if text in known:
            if there != token.id:
                notes.append(
                    f"{text!r} is listed as token {token.id}, but is {there} in the tokenizer's "
                    "own file, which counts"
                )
            continue
        if there != token.id and not (there is None and token.id == following):
            notes.append(
                f"{text!r} is listed as token {token.id}, where the tokenizer's own file has "
                "another or none: it is read as ordinary text"
            )
            continue
        _add(backend, token)
        added.append(token)
        following = max(following, token.id + 1)
    return added, notes


def _next_id(backend: tokenizers.Tokenizer) -> int:
    """Return the id that the library gives to an unknown token: its own ids may have gaps."""
    size = backend.get_vocab_size(with_added_tokens=False)
    return max(size, 1 + max(backend.get_added_tokens_decoder(), default=-1))


def _add(backend: tokenizers.Tokenizer, token: Added) -> None:
    made = AddedToken(
        token.content,
        single_word=token.single_word,
        lstrip=token.lstrip,
        rstrip=token.rstrip,
        normalized=token.normalized,
        special=token.special,
    )
    (backend.add_special_tokens if token.special else backend.add_tokens)([made])
