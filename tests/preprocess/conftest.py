"""A small corpus, and chunks that it does not fit in one of."""

import json
import pathlib

import pytest

from jaxneox.data import compressed, documents


@pytest.fixture
def lines(tmp_path: pathlib.Path) -> pathlib.Path:
    """40 documents and an empty one."""
    path = tmp_path / "in.jsonl"
    texts = ["", *(f"document {n} " * (n % 5 + 1) for n in range(40))]
    path.write_text(
        "".join(json.dumps({"text": text, "n": n}) + "\n" for n, text in enumerate(texts))
    )
    return path


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "CHUNK", 256)
    monkeypatch.setattr(compressed, "BLOCK", 100)
