"""Reads files into requests: texts cut into windows, or windows of tokens as they are."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxneox.config.schema import ModelConfig
from jaxneox.data import Tokenizer
from jaxneox.errors import UserError
from jaxneox.infer.scoring import Request
from jaxneox.npz import read_arrays
from jaxneox.reading import refuse_special


@dataclass(frozen=True)
class Corpus:
    """One file. Bytes and words are those of its text; None if there are only tokens."""

    name: str
    requests: list[Request]
    bytes: int | None = None
    words: int | None = None

    @property
    def tokens(self) -> int:
        return sum(len(request.tokens) - request.given for request in self.requests)


def read(
    name: str, cfg: ModelConfig, tokenizer: Tokenizer | None, stride: int | None, limit: int | None
) -> Corpus:
    """Read a file.

    Args:
        name: a text, a JSONL or an .npz file.
        cfg: the model, which limits windows and tokens.
        tokenizer: cuts texts into tokens; None if only an .npz file can be read.
        stride: how many tokens each window but the first scores, with the rest of it as context;
            all that the model has room for unless given.
        limit: how many documents, or rows of tokens, from the first.
    """
    if stride is not None and not 1 <= stride <= cfg.seq_length:
        raise UserError(f"--stride {stride}: expected 1 to {cfg.seq_length}, the model's context")
    if name.endswith(".npz"):
        return Corpus(name, rows_of(name, cfg)[:limit])
    if tokenizer is None:
        raise UserError(
            f"{name}: the checkpoint has no tokenizer for text; expected one in its folder, or an "
            ".npz file of token windows"
        )
    documents = list(texts_of(name))[:limit]
    wheres, texts = [where for where, _ in documents], [text for _, text in documents]
    before = tokenizer.eod if tokenizer.begin is None else None  # else each text has its own
    requests = [
        window
        for ids in tokenizer.encode_batch(texts, wheres)
        for window in windows(ids.tolist(), before, cfg.seq_length, stride)
    ]
    if not requests:
        raise UserError(f"{name}: no tokens to score in it; expected text")
    check_vocabulary(name, requests, cfg)
    size = sum(len(text.encode()) for text in texts)
    return Corpus(name, requests, size, sum(len(text.split()) for text in texts))


def texts_of(name: str) -> Iterator[tuple[str, str]]:
    """Read the `text` of each line of a JSONL file, or any other file as one; and where it is."""
    refuse_special(name)
    try:
        whole = Path(name).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{name}: byte {error.start} is no UTF-8; expected text") from error
    if not name.endswith((".jsonl", ".json")):
        yield name, whole
        return
    for number, line in lines_of(whole):
        where = f"{name}, line {number}"
        yield where, text_of(line, where)


def lines_of(text: str) -> Iterator[tuple[int, str]]:
    """Number the lines, without empty ones.

    JSON may hold other line ends than a newline as they are, at which `splitlines` would cut it.
    """
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield number, line


def text_of(line: str, where: str) -> str:
    text = object_of(line, where).get("text")
    if not isinstance(text, str):
        raise UserError(f'{where}: expected an object with a string "text"')
    return text


def object_of(line: str, where: str) -> dict[str, Any]:
    """Parse the JSON object in a line.

    Half of a surrogate pair, which JSON can name, is no text.
    """
    try:
        document = json.loads(line)
        json.dumps(document, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{where}: half of a surrogate pair; expected whole characters") from error
    except (ValueError, RecursionError) as error:  # of digits and of depth there can be too many
        reason = getattr(error, "msg", error)
        raise UserError(f"{where}: no JSON ({reason}); expected an object a line") from error
    if not isinstance(document, dict):
        raise UserError(f"{where}: expected an object, as a JSON line is")
    return document


def windows(ids: Sequence[int], eod: int | None, room: int, stride: int | None) -> list[Request]:
    """Score each token of a document once, after as many before it as there is room for.

    With a stride of `room` these are lm-eval's rolling windows: the first begins with the end of a
    document, each next one with the last token of the one before. Without such a token in the
    vocabulary a document's first token is context only.
    """
    whole = ([] if eod is None else [eod]) + list(ids)
    end = min(room, len(whole) - 1)
    requests = [Request(whole[: end + 1], 1)] if end > 0 else []
    while end < len(whole) - 1:
        first, end = end + 1, min(end + (stride or room), len(whole) - 1)
        start = end - room
        requests.append(Request(whole[start : end + 1], first - start))
    return requests


def rows_of(name: str, cfg: ModelConfig) -> list[Request]:
    """Read an .npz file's two-dimensional array of whole numbers.

    Each row stands by itself, its first token as context. If there are several arrays, it is the
    one called windows or tokens.
    """
    arrays = read_arrays(name)
    fitting = {k: a for k, a in arrays.items() if a.ndim == 2 and a.dtype.kind in "iu"}
    named: list[str] = [key for key in ("windows", "tokens") if key in fitting] or list(fitting)
    if not named or (len(named) > 1 and len(fitting) > 1 and named == list(fitting)):
        shapes = ", ".join(f"{k} {a.dtype}{list(a.shape)}" for k, a in arrays.items())
        raise UserError(
            f"{name}: has {shapes or 'nothing'}; expected one array of whole numbers [windows, "
            "tokens], or one of that name"
        )
    rows = fitting[named[0]]
    if rows.shape[0] < 1 or not 2 <= rows.shape[1] <= cfg.seq_length + 1:
        raise UserError(
            f"{name}: {named[0]} is {list(rows.shape)}; expected rows of 2 to "
            f"{cfg.seq_length + 1} tokens, the model's context and one"
        )
    requests = [Request(row.tolist(), 1) for row in rows]
    check_vocabulary(name, requests, cfg)
    return requests


def check_vocabulary(name: str, requests: Sequence[Request], cfg: ModelConfig) -> None:
    for number, request in enumerate(requests):
        wrong = [token for token in request.tokens if not 0 <= token < cfg.vocab_size]
        if wrong:
            raise UserError(
                f"{name}, window {number}: token {wrong[0]}, and the model's vocabulary has "
                f"{cfg.vocab_size:,}; expected what this model's tokenizer makes"
            )
