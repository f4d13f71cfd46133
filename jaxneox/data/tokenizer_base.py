"""The base of all kinds of tokenizers.

Vocabulary sizes and end-of-document tokens are NeoX's (gpt-neox `megatron/tokenizer/tokenizer.py`),
unless something beside the tokenizer's own files says otherwise.
"""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from jaxneox.config.schema import TokenizerConfig
from jaxneox.data.companions import NONE, Added, Companions
from jaxneox.data.library import TokenizerFault, faults
from jaxneox.errors import UserError
from jaxneox.reading import refuse_unreadable

EOD = "<|endoftext|>"
PADDING = "<|padding|>"
DESCRIPTION = "jaxneox_tokenizer.json"


class Tokenizer(ABC):
    """Turns text into token ids and back.

    Attributes:
        name: NeoX's `tokenizer-type`.
        origin: the file that it was opened from, for messages.
        vocab_size: as NeoX counts it, before padding.
        eod: the token after each document; None if nothing names one.
        bos: the token that begins a text, if that is known.
        pad: the token that fills short rows; None if the vocabulary has none.
        files: content by file name, first of `vocab-file`, then of `merge-file`.
        companions: what goes with it besides.
        added: the tokens that are looked for first and that its own files do not list as such.
        notes: what a person should know of it, one line each.
    """

    name: str
    origin: str = ""
    vocab_size: int
    eod: int | None
    bos: int | None = None
    pad: int | None = None
    files: Mapping[str, bytes]
    companions: Companions = NONE
    added: tuple[Added, ...] = ()
    notes: tuple[str, ...] = ()

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text.

        Raises:
            TokenizerFault: the tokenizer's library fails, or does not end.
        """
        with faults(f"the tokenizer {self.origin or self.name} cannot encode {_shown(text)}"):
            return self._encode(text)

    def encode_rendered(self, text: str) -> list[int]:
        """Return the tokens of a text that has its special tokens already, such as a rendered chat.

        Nothing is put before or after it.

        Raises:
            TokenizerFault: the tokenizer's library fails, or does not end.
        """
        with faults(f"the tokenizer {self.origin or self.name} cannot encode {_shown(text)}"):
            return self._encode_rendered(text)

    def encode_batch(
        self, texts: Sequence[str], where: Sequence[str] | None = None
    ) -> list[NDArray[np.int32]]:
        """Encode each text, the fastest way there is.

        Args:
            texts: any number.
            where: what an error calls each of them, such as a file and a line.

        Raises:
            TokenizerFault: the tokenizer's library fails, or does not end; it names the text.
        """
        try:
            with faults(f"the tokenizer {self.origin or self.name} cannot encode a text"):
                return self._encode_batch(texts)
        except TokenizerFault as fault:
            if isinstance(fault.__cause__, TimeoutError) and len(texts) == 1:
                raise _at(where, 0, fault) from fault
        results = []
        for number, text in enumerate(texts):
            try:
                results.append(np.asarray(self.encode(text), np.int32))
            except TokenizerFault as fault:
                raise _at(where, number, fault) from fault
        return results

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of tokens.

        Raises:
            TokenizerFault: the tokenizer's library fails, or does not end.
        """
        with faults(f"the tokenizer {self.origin or self.name} cannot decode {len(ids)} tokens"):
            return self._decode(ids)

    @abstractmethod
    def _encode(self, text: str) -> list[int]: ...

    def _encode_rendered(self, text: str) -> list[int]:
        return self._encode(text)

    @abstractmethod
    def _decode(self, ids: Sequence[int]) -> str: ...

    def _encode_batch(self, texts: Sequence[str]) -> list[NDArray[np.int32]]:
        return [np.asarray(self._encode(text), np.int32) for text in texts]

    @abstractmethod
    def spans(self, text: str) -> list[tuple[int, int]]:
        """Return from which characters of a text each token of `encode(text)` was made.

        They are half-open ranges, in order. Those of tokens that share a character have it in
        common; a token that is put before or after the text has an empty one.
        """

    def text_of(self, token: int) -> str:
        """Return the text by which `id_of` finds a token."""
        return self.decode([token])

    @abstractmethod
    def id_of(self, token: str) -> int | None:
        """Return the id of the one token that has this text; None if there is none."""

    @property
    def rows(self) -> int:
        """Rows of an embedding that its ids can name; more than its tokens where ids have gaps."""
        return self.vocab_size

    @property
    def stops(self) -> frozenset[int]:
        """The tokens at which generation ends."""
        return frozenset(self.companions.stop) | (set() if self.eod is None else {self.eod})

    @cached_property
    def begin(self) -> int | None:
        """The begin-of-text token, if `encode` puts it before every text; else None."""
        try:
            first = self.encode("")[:1]
        except TokenizerFault:  # whoever encodes a text will be told
            return None
        return self.bos if self.bos != self.eod and first == [self.bos] else None

    @property
    def natural_eod(self) -> int | None:
        """The end of a document if nothing names another, as in NeoX."""
        return self.id_of(EOD)

    def settle(self, companions: Companions, chosen: str | None, saved: int | None) -> None:
        """Decide which tokens end a document and begin a text.

        Args:
            companions: what goes with the tokenizer.
            chosen: `eod-token`, the text of the token that ends a document.
            saved: the id of that token as a run saved it.

        Raises:
            UserError: `chosen` is not one token.
        """
        self.companions = companions
        if companions.bos is not None:
            self.bos = self.id_of(companions.bos)
        if chosen is not None:
            self.eod = self.id_of(chosen)
            if self.eod is None:
                raise UserError(
                    f"eod-token: {chosen!r} is no token of this {self.name}; expected the text of "
                    "one, such as </s>"
                )
        elif saved is not None:
            self.eod = saved
        else:
            self.eod = self.named_eod
        named = companions.eos
        if named is not None and self.id_of(named) is None:
            self.notes += (f"eos_token {named!r} is no token of its vocabulary: passed over",)

    @property
    def named_eod(self) -> int | None:
        """The end of a document if `eod-token` names none.

        It is tokenizer_config.json's, else that of NeoX's rule, else config.json's.
        """
        named = self.companions.eos
        eod = None if named is None else self.id_of(named)
        if eod is None:
            eod = self.natural_eod
        if eod is None:
            ids = (self.companions.config or {}).get("eos_token_id")
            eod = ids if isinstance(ids, int) else next(iter(ids or ()), None)
        return eod if eod is None or 0 <= eod < self.rows else None

    def fingerprint(self) -> str:
        """The SHA-256 of all that decides a document's tokens, whatever the files are called."""
        digest = hashlib.sha256(self.name.encode())
        for content in self.files.values():
            digest.update(hashlib.sha256(content).digest())
        own = self._own()
        if own:  # else as it has always been
            digest.update(json.dumps(own).encode())
        return digest.hexdigest()

    def _own(self) -> list[object]:
        """Return what makes other tokens than the files alone would by NeoX's rules."""
        end = [] if self.eod == self.natural_eod else ["eod", self.eod]
        return end + [[token.content, token.id] for token in self.added]

    def save(self, folder: Path) -> None:
        """Leave in `folder` all that `load_tokenizer` needs, and the companions as they are."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in {**self.companions.files, **self.files}.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(content)
        description: dict[str, object] = {"tokenizer_type": self.name, "files": list(self.files)}
        description |= {"eod": self.eod, "companions": list(self.companions.files)}
        if self.companions.add_bos:
            description["add_bos"] = True
        if self.companions.config is not None:
            description["config"] = dict(self.companions.config)
        (folder / DESCRIPTION).write_text(json.dumps(description, indent=1) + "\n")


def _shown(text: str) -> str:
    return ascii(text) if len(text) <= 40 else ascii(text[:40]) + "…"


def _at(where: Sequence[str] | None, number: int, fault: TokenizerFault) -> TokenizerFault:
    return fault if where is None else TokenizerFault(f"{where[number]}: {fault}")


def given(cfg: TokenizerConfig) -> str:
    """Return `vocab-file`.

    Raises:
        UserError: it is missing.
    """
    if cfg.vocab_file is None:
        raise UserError(f"vocab-file: missing, {cfg.kind} needs it")
    return cfg.vocab_file


def vocab_file(cfg: TokenizerConfig) -> Path:
    """Return the path of `vocab-file`, which exists."""
    return existing(given(cfg), "vocab-file")


def existing(path: str, key: str) -> Path:
    """Return the path of a file that `key` names.

    Raises:
        UserError: it does not exist, or is a Git LFS pointer.
    """
    if not Path(path).exists():
        raise UserError(f"{path}: no such file; {key} must be the path of a file here")
    refuse_unreadable(path)
    return Path(path)
