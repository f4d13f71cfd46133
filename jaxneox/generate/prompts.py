"""Reads prompts from files: split at their ends, without white space around, none empty."""

from pathlib import Path
from typing import TextIO

from jaxneox.errors import UserError
from jaxneox.infer.stream import check_text
from jaxneox.reading import INDEX_SIZE, read_text


def from_file(name: str | None, end: str) -> list[str]:
    if name is None:
        raise UserError(
            "text_gen_type is input-file and sample_input_file is missing: --input FILE"
        )
    return _split(read_text(Path(name), INDEX_SIZE), end, name)


def from_stream(stream: TextIO, end: str) -> list[str]:
    text = stream.read()
    check_text(text, "the standard input")
    return _split(text, end, "the standard input")


def _split(text: str, end: str, name: str) -> list[str]:
    prompts = [part.strip() for part in text.split(end)] if end else [text.strip()]
    prompts = [prompt for prompt in prompts if prompt]
    if not prompts:
        raise UserError(f"{name}: no prompt in it; expected text, one prompt up to each {end!r}")
    return prompts
