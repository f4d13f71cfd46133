"""Tokenizers that go with a model, there and back, and the rows that they have no token for."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers

from convert import from_hf, to_hf
from convert.hf.tokenizer import save_tokenizer, tokenizer_at
from convert.readers.hf import HfCheckpoint
from convert.readers.jaxneox import open_jaxneox
from jaxneox.config.schema import TokenizerConfig
from jaxneox.data import Tokenizer, build_tokenizer
from jaxneox.errors import UserError
from tests.convert.hf_models import GPT2, GPT_NEOX, LLAMA, export, write_run
from tests.convert.test_hf_refusals import refused

TEXT = "the theory, the hat\n  über 東京 🙂<|endoftext|>the end"


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Tiny files of both kinds: 256 bytes, a few merges, the end of a document at 0."""
    folder = tmp_path / "files"
    folder.mkdir()
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    merges = ["t h", "th e", "Ġ the", "a t"]
    words = ["<|endoftext|>", *alphabet, *(merge.replace(" ", "") for merge in merges)]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    backend = tokenizers.ByteLevelBPETokenizer.from_file(
        str(folder / "vocab.json"), str(folder / "merges.txt")
    )
    backend.add_special_tokens(["<|endoftext|>", "<|padding|>"])
    backend.save(str(folder / "tokenizer.json"))
    return folder


def kinds(files: Path) -> dict[str, Tokenizer]:
    return {
        "HFTokenizer": tokenizer_at(files / "tokenizer.json"),
        "GPT2BPETokenizer": tokenizer_at(files / "vocab.json"),
        "HFGPT2Tokenizer": build_tokenizer(TokenizerConfig("HFGPT2Tokenizer", str(files))),
    }


@pytest.mark.slow
@pytest.mark.parametrize("keys", [GPT_NEOX, LLAMA, GPT2])
@pytest.mark.parametrize("kind", ["HFTokenizer", "GPT2BPETokenizer", "HFGPT2Tokenizer"])
def test_tokenizers_encode_the_same(tmp_path: Path, files: Path, kind: str, keys: Any) -> None:
    transformers = pytest.importorskip("transformers", reason="needs the torch extra")
    ours = kinds(files)[kind]
    folder = export(tmp_path, keys=keys | {"padded_vocab_size": 384}, tokenizer=ours)
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    assert theirs(TEXT)["input_ids"] == ours.encode(TEXT)
    assert theirs.decode(theirs(TEXT)["input_ids"]) == TEXT
    assert (theirs.eos_token_id, theirs.bos_token_id) == (0, 0)
    config = transformers.AutoConfig.from_pretrained(folder)
    assert (config.eos_token_id, config.bos_token_id) == (0, 0)
    back = HfCheckpoint(folder).tokenizer
    assert back is not None and back.encode(TEXT) == ours.encode(TEXT)


def test_a_sentencepiece_model_goes_along(tmp_path: Path) -> None:
    sentencepiece = pytest.importorskip("sentencepiece", reason="needs the tokenizers extra")
    (tmp_path / "text").write_text(TEXT)
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "text"), model_prefix=str(tmp_path / "bpe"), vocab_size=280,
        model_type="bpe", byte_fallback=True, minloglevel=2,
    )  # fmt: skip
    ours = tokenizer_at(tmp_path / "bpe.model")
    folder = export(tmp_path, keys=LLAMA | {"padded_vocab_size": 384}, tokenizer=ours)
    assert (folder / "tokenizer.model").read_bytes() == (tmp_path / "bpe.model").read_bytes()
    back = HfCheckpoint(folder).tokenizer
    assert back is not None and back.encode(TEXT) == ours.encode(TEXT)


def test_a_tokenizer_that_transformers_has_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chars = build_tokenizer(TokenizerConfig("CharLevelTokenizer"))
    folder = export(tmp_path, keys=LLAMA | {"padded_vocab_size": 512}, tokenizer=chars)
    assert "warning: transformers has no CharLevelTokenizer" in capsys.readouterr().err
    assert not (folder / "tokenizer_config.json").exists()
    assert json.loads((folder / "config.json").read_text())["eos_token_id"] == 0
    with pytest.raises(UserError):
        save_tokenizer(chars, folder, 16)


def test_a_tokenizer_goes_in_and_may_be_given(
    tmp_path: Path, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = export(tmp_path, keys=GPT2 | {"padded_vocab_size": 384})
    assert "has no tokenizer" in capsys.readouterr().err
    for name, argv in (("without", []), ("given", ["--tokenizer", str(files / "vocab.json")])):
        with pytest.raises(SystemExit):
            from_hf.main([str(folder), str(tmp_path / name), *argv])
    ours = open_jaxneox(tmp_path / "given")
    assert ours.tokenizer is not None and ours.tokenizer.name == "GPT2BPETokenizer"
    assert ours.keys["tokenizer_type"] == "GPT2BPETokenizer"
    assert open_jaxneox(tmp_path / "without").tokenizer is None
    assert "--tokenizer FILE" in capsys.readouterr().err


def test_a_tokenizer_with_more_tokens_than_rows(
    tmp_path: Path, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, file = export(tmp_path), files / "tokenizer.json"
    capsys.readouterr()
    line = refused(from_hf.main, capsys, folder, tmp_path / "ours", "--tokenizer", file)
    assert "ids up to 261, but the model 40 rows" in line


@pytest.mark.parametrize("keys", [GPT_NEOX, LLAMA, GPT2])
def test_padded_rows_trimmed(
    tmp_path: Path, files: Path, capsys: pytest.CaptureFixture[str], keys: Any
) -> None:
    tokenizer = tokenizer_at(files / "tokenizer.json")
    keys = keys | {"padded_vocab_size": 384}
    folder = export(tmp_path, "--vocab", "trim", keys=keys, tokenizer=tokenizer)
    assert "122 padded rows" in capsys.readouterr().err
    trimmed, whole = HfCheckpoint(folder), open_jaxneox(tmp_path / "run")
    assert trimmed.model.vocab_size == 262
    for name in whole.shapes.keys() - {"embed.tokens", "unembed.weight"}:
        assert np.array_equal(trimmed.leaf(name), whole.leaf(name))
    for name, axis in (("embed.tokens", 0), ("unembed.weight", 1)):
        if name in whole.shapes:
            assert np.array_equal(trimmed.leaf(name), whole.leaf(name).take(range(262), axis))
    if "embed.positions" in whole.shapes:
        assert np.array_equal(trimmed.leaf("embed.positions"), whole.leaf("embed.positions"))


def test_trimming_needs_a_tokenizer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "run", LLAMA)
    argv = (tmp_path / "run", tmp_path / "hf", "--vocab", "trim")
    assert "use --vocab keep" in refused(to_hf.main, capsys, *argv)
