"""NeoX's tokenizers by `tokenizer-type`, from local files.

Vocabulary sizes and end-of-document tokens are NeoX's (gpt-neox `megatron/tokenizer/tokenizer.py`);
padding the vocabulary is the configuration's affair.
"""

import base64
import difflib
import hashlib
import json
import pathlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import tokenizers
from numpy.typing import NDArray
from tokenizers import decoders, models, pre_tokenizers

from jaxneox.config.schema import TokenizerConfig
from jaxneox.data.pieces import pieces_of
from jaxneox.errors import UserError

EOD = "<|endoftext|>"
PADDING = "<|padding|>"
DESCRIPTION = "jaxneox_tokenizer.json"


class Tokenizer(ABC):
    """Text to token ids and back.

    Attributes:
        name: NeoX's `tokenizer-type`.
        vocab_size: as NeoX counts it, before padding.
        eod: the token after each document; None where the vocabulary has none.
        pad: the token that fills short rows; None where the vocabulary has none.
        files: content by file name, first of `vocab-file`, then of `merge-file`.
    """

    name: str
    vocab_size: int
    eod: int | None
    pad: int | None = None
    files: Mapping[str, bytes]

    @abstractmethod
    def encode(self, text: str) -> list[int]: ...

    @abstractmethod
    def decode(self, ids: Sequence[int]) -> str: ...

    def encode_batch(self, texts: Sequence[str]) -> list[NDArray[np.int32]]:
        """`encode` of each text, the fastest way there is."""
        return [np.asarray(self.encode(text), np.int32) for text in texts]

    def fingerprint(self) -> str:
        """SHA-256 of the kind and of what the files hold, whatever they are called."""
        digest = hashlib.sha256(self.name.encode())
        for content in self.files.values():
            digest.update(hashlib.sha256(content).digest())
        return digest.hexdigest()

    def save(self, folder: pathlib.Path) -> None:
        """Leave in `folder` all that `load_tokenizer` needs."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in self.files.items():
            (folder / name).write_bytes(content)
        description = {"tokenizer_type": self.name, "files": list(self.files)}
        (folder / DESCRIPTION).write_text(json.dumps(description, indent=1) + "\n")


class CharLevelTokenizer(Tokenizer):
    """The bytes of UTF-8 in NeoX's vocabulary of 512; token 0 ends a document.

    NeoX decodes byte by byte, as Latin-1 and with a space for every control character. Here
    `decode` is the inverse of `encode`, so that a sample keeps its lines and its accents.
    """

    name = "CharLevelTokenizer"
    vocab_size = 512
    eod = 0
    files: Mapping[str, bytes] = {}

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def encode_batch(self, texts: Sequence[str]) -> list[NDArray[np.int32]]:
        return [np.frombuffer(text.encode(), np.uint8).astype(np.int32) for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        # UTF-8 has no byte 255: it stands for the ids that are no bytes and shows as U+FFFD.
        return bytes(min(int(i), 255) for i in ids if i != self.eod).decode(errors="replace")


class HuggingFaceTokenizer(Tokenizer):
    """A tokenizer of the `tokenizers` library: HFTokenizer and both GPT-2 kinds."""

    def __init__(self, name: str, backend: tokenizers.Tokenizer, *files: pathlib.Path) -> None:
        self.name = name
        self.vocab_size = backend.get_vocab_size()
        self.eod = backend.token_to_id(EOD)
        self.pad = backend.token_to_id(PADDING)
        self.files = {path.name: path.read_bytes() for path in files}
        self._backend = backend
        self._pieces = pieces_of(backend)

    def encode(self, text: str) -> list[int]:
        return list(self._backend.encode(text).ids)

    def encode_batch(self, texts: Sequence[str]) -> list[NDArray[np.int32]]:
        if self._pieces is not None:
            return [self._pieces.encode(text) for text in texts]
        return [np.asarray(e.ids, np.int32) for e in self._backend.encode_batch_fast(list(texts))]

    def decode(self, ids: Sequence[int]) -> str:
        return str(self._backend.decode([int(i) for i in ids]))


class SentencePieceTokenizer(Tokenizer):
    """A sentencepiece model file."""

    name = "SPMTokenizer"

    def __init__(self, model: pathlib.Path) -> None:
        try:
            import sentencepiece
        except ImportError as error:
            raise UserError(f"tokenizer-type: {self.name} needs `pip install sentencepiece`") from (
                error
            )
        self.files = {model.name: model.read_bytes()}
        try:
            self._backend = sentencepiece.SentencePieceProcessor(model_file=str(model))
        except RuntimeError as error:
            raise UserError(f"{model}: vocab-file is no sentencepiece model") from error
        self.vocab_size = self._backend.get_piece_size()
        # For a piece that is missing sentencepiece answers <unk>: no end of anything.
        eod = self._backend.piece_to_id(EOD)
        self.eod = None if eod == self._backend.unk_id() else eod

    def encode(self, text: str) -> list[int]:
        return list(self._backend.encode(text))

    def decode(self, ids: Sequence[int]) -> str:
        return str(self._backend.decode([int(i) for i in ids]))


class TiktokenTokenizer(Tokenizer):
    """A tiktoken encoding, saved with its ranks so that a run folder needs no download."""

    name = "TiktokenTokenizer"

    def __init__(self, encoding: str) -> None:
        try:
            import tiktoken
        except ImportError as error:
            raise UserError(f"tokenizer-type: {self.name} needs `pip install tiktoken`") from error
        if encoding.endswith(".json"):
            saved = json.loads(_existing(encoding, "vocab-file").read_text())
            ranks = {base64.b64decode(token): rank for token, rank in saved.pop("ranks").items()}
            self._backend = tiktoken.Encoding(**saved, mergeable_ranks=ranks)
        else:
            try:
                self._backend = tiktoken.get_encoding(encoding)
            except Exception as error:  # its downloader may raise anything
                known = ", ".join(tiktoken.list_encoding_names())
                raise UserError(
                    f"vocab-file: tiktoken cannot get the encoding {encoding!r} "
                    f"({type(error).__name__}); it knows {known}, whose files it looks for in "
                    "$TIKTOKEN_CACHE_DIR"
                ) from error
        self.vocab_size = self._backend.n_vocab
        self.eod = self._backend._special_tokens.get(EOD)
        ranks_of = self._backend._mergeable_ranks
        content = {
            "name": self._backend.name,
            "pat_str": self._backend._pat_str,
            "special_tokens": self._backend._special_tokens,
            "ranks": {base64.b64encode(token).decode(): rank for token, rank in ranks_of.items()},
        }
        self.files = {"tiktoken.json": json.dumps(content).encode()}

    def encode(self, text: str) -> list[int]:
        return self._backend.encode(text, allowed_special="all")

    def decode(self, ids: Sequence[int]) -> str:
        return self._backend.decode([int(i) for i in ids])


def build_tokenizer(cfg: TokenizerConfig) -> Tokenizer:
    """The tokenizer of `tokenizer-type`, `vocab-file` and `merge-file`.

    Raises UserError for an unknown kind and for a missing or unreadable file.
    """
    builders = {kind.lower(): builder for kind, builder in BUILDERS.items()}
    if cfg.kind.lower() not in builders:
        near = difflib.get_close_matches(cfg.kind, BUILDERS, n=1, cutoff=0)[0]
        raise UserError(
            f"tokenizer-type: {cfg.kind!r} is unknown, did you mean {near}? "
            f"There are {', '.join(BUILDERS)}"
        )
    return builders[cfg.kind.lower()](cfg)


def load_tokenizer(folder: pathlib.Path) -> Tokenizer:
    """The tokenizer that `Tokenizer.save` left in a folder."""
    path = folder / DESCRIPTION
    if not path.is_file():
        raise UserError(f"{path}: no such file; expected the tokenizer that a run saves")
    saved = json.loads(path.read_text())
    files = [str(folder / name) for name in saved["files"]]
    vocab_file, merge_file = [*files, None, None][:2]
    return build_tokenizer(TokenizerConfig(saved["tokenizer_type"], vocab_file, merge_file))


def _hf(cfg: TokenizerConfig) -> Tokenizer:
    path = _vocab_file(cfg)
    try:
        backend = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises the bare class
        raise UserError(f"{path}: vocab-file is no tokenizer.json ({error})") from error
    return HuggingFaceTokenizer("HFTokenizer", backend, path)


def _gpt2_bpe(cfg: TokenizerConfig) -> Tokenizer:
    vocab = _vocab_file(cfg)
    if cfg.merge_file is None:
        raise UserError("merge-file: missing, GPT2BPETokenizer needs the path of its merges.txt")
    merges = _existing(cfg.merge_file, "merge-file")
    return HuggingFaceTokenizer("GPT2BPETokenizer", _byte_level_bpe(vocab, merges), vocab, merges)


def _hf_gpt2(cfg: TokenizerConfig) -> Tokenizer:
    """Like GPT2BPETokenizer with one more token, `<|padding|>`; `vocab-file` may be a folder."""
    given = cfg.vocab_file
    if given is not None and pathlib.Path(given).is_dir():
        given = str(pathlib.Path(given) / "vocab.json")
    if given is None or (not pathlib.Path(given).exists() and "/" not in given):
        raise UserError(
            f"vocab-file: {given!r}, HFGPT2Tokenizer needs a folder with vocab.json and "
            "merges.txt here (nothing is downloaded)"
        )
    vocab = _existing(given, "vocab-file")
    merges = _existing(cfg.merge_file or str(vocab.with_name("merges.txt")), "merge-file")
    backend = _byte_level_bpe(vocab, merges)
    backend.add_special_tokens([PADDING])
    return HuggingFaceTokenizer("HFGPT2Tokenizer", backend, vocab, merges)


def _byte_level_bpe(vocab: pathlib.Path, merges: pathlib.Path) -> tokenizers.Tokenizer:
    """GPT-2's tokenizer: bytes as printable characters, merged by rank, no leading space added."""
    try:
        backend = tokenizers.Tokenizer(models.BPE.from_file(str(vocab), str(merges)))
    except Exception as error:  # the library raises the bare class
        raise UserError(f"{vocab}, {merges}: no vocab.json and merges.txt ({error})") from error
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    if backend.token_to_id(EOD) is not None:
        backend.add_special_tokens([EOD])
    return backend


def _vocab_file(cfg: TokenizerConfig) -> pathlib.Path:
    return _existing(_given(cfg), "vocab-file")


def _given(cfg: TokenizerConfig) -> str:
    if cfg.vocab_file is None:
        raise UserError(f"vocab-file: missing, {cfg.kind} needs it")
    return cfg.vocab_file


def _existing(path: str, key: str) -> pathlib.Path:
    if not pathlib.Path(path).is_file():
        raise UserError(f"{path}: no such file; {key} must be the path of a file here")
    return pathlib.Path(path)


BUILDERS: dict[str, Callable[[TokenizerConfig], Tokenizer]] = {
    "HFTokenizer": _hf,
    "GPT2BPETokenizer": _gpt2_bpe,
    "HFGPT2Tokenizer": _hf_gpt2,
    "CharLevelTokenizer": lambda cfg: CharLevelTokenizer(),
    "SPMTokenizer": lambda cfg: SentencePieceTokenizer(_vocab_file(cfg)),
    "TiktokenTokenizer": lambda cfg: TiktokenTokenizer(_given(cfg)),
}
