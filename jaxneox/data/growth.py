"""A limit on how much longer a tokenizer.json can make a text by replacing characters.

Six of them that write a thousand characters for one would make more of a line than memory holds,
and the library in Rust then ends the whole process.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from re import _parser as expressions  # type: ignore[attr-defined]
from typing import Any

import tokenizers

from jaxneox.data.library import TokenizerFault
from jaxneox.data.pretokens import settings

MOST = 64  # times; tokenizers of models write one or two characters for one


def bounded(backend: tokenizers.Tokenizer, path: Path) -> tokenizers.Tokenizer:
    """Return a tokenizer, unless it can make a text much longer.

    Args:
        backend: the tokenizer.
        path: its file, for errors.

    Raises:
        TokenizerFault: names the part that does it.
    """
    for name in ("normalizer", "decoder"):
        times = growth(settings(getattr(backend, name)))
        if times > MOST:
            raise TokenizerFault(
                f"{path}: its {name} can make a text {times:,} times as long, expected at most "
                f"{MOST} times; is it the model's own?"
            )
    return backend


def growth(part: Mapping[str, Any]) -> int:
    """Return the characters that a normalizer or a decoder can make of one.

    Args:
        part: as a tokenizer.json describes it.
    """
    inner = part.get("normalizers") or part.get("decoders") or ()
    factor = math.prod(growth(one) for one in inner)
    if part.get("type") == "Replace":
        pattern, content = part.get("pattern", {}), len(part.get("content", ""))
        beside = "Regex" in pattern and _matches_nothing(pattern["Regex"])
        return factor * max(1, content + beside)
    if part.get("type") == "Prepend":
        return factor * max(1, len(part.get("prepend", "")))
    return factor


def _matches_nothing(expression: str) -> bool:
    """Tell whether an expression may match between two characters, and so add to each.

    It is parsed and not matched: a file's expression may take years to match even an empty text.
    """
    try:
        least, _ = expressions.parse(expression).getwidth()
    except (expressions.error, RecursionError, OverflowError):
        return True  # written for another library
    return bool(least == 0)
