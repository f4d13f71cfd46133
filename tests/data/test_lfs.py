"""Git LFS pointers in place of data and tokenizers, as clones without git-lfs have: refused."""

from pathlib import Path

import pytest

from jaxneox.config.schema import TokenizerConfig
from jaxneox.data.documents import input_files
from jaxneox.data.indexed import IndexedDataset
from jaxneox.data.tokenizer import build_tokenizer
from jaxneox.errors import UserError

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


@pytest.mark.parametrize("kind", ["HFTokenizer", "SPMTokenizer"])
def test_a_tokenizer(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(POINTER)
    cfg = TokenizerConfig(kind=kind, vocab_file=str(path))
    with pytest.raises(UserError, match=r"tokenizer\.json: is a Git LFS pointer.*git lfs pull"):
        build_tokenizer(cfg)


@pytest.mark.parametrize("name", ["book.txt", "rows.jsonl"])
def test_text(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(POINTER)
    for path in (tmp_path, tmp_path / name):
        with pytest.raises(UserError, match=f"{name}: is a Git LFS pointer"):
            input_files(path)


def test_a_dataset(tmp_path: Path) -> None:
    for suffix in (".bin", ".idx"):
        (tmp_path / f"data{suffix}").write_text(POINTER)
    with pytest.raises(UserError, match="is a Git LFS pointer"):
        IndexedDataset(str(tmp_path / "data"))
