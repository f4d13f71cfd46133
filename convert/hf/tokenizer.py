"""Tokenizers as transformers' AutoTokenizer loads them, and ours from the files that it has."""

import json
from pathlib import Path
from typing import Any

from jaxneox.config.schema import TokenizerConfig
from jaxneox.data import Tokenizer, build_tokenizer
from jaxneox.data.tokenizer import EOD, HuggingFaceTokenizer, SentencePieceTokenizer
from jaxneox.errors import UserError

WHOLE, VOCABULARY, MERGES, PIECES = "tokenizer.json", "vocab.json", "merges.txt", "tokenizer.model"


def beside(folder: Path) -> Tokenizer | None:
    """Of a model's folder; None where it has none that we know."""
    for name in (WHOLE, VOCABULARY, PIECES):
        if (folder / name).is_file():
            return tokenizer_at(folder / name)
    return None


def tokenizer_at(path: Path) -> Tokenizer:
    """From a tokenizer.json, a vocab.json with its merges.txt or a sentencepiece model."""
    if path.suffix == ".model":
        return build_tokenizer(TokenizerConfig("SPMTokenizer", str(path)))
    if path.name == VOCABULARY:
        merges = str(path.with_name(MERGES))
        return build_tokenizer(TokenizerConfig("GPT2BPETokenizer", str(path), merges))
    return build_tokenizer(TokenizerConfig("HFTokenizer", str(path)))


def rows(tokenizer: Tokenizer) -> int:
    """Rows of an embedding that its ids can name; more than its tokens where ids have gaps."""
    if isinstance(tokenizer, HuggingFaceTokenizer):
        return 1 + max(tokenizer._backend.get_vocab().values())
    return tokenizer.vocab_size


def save_tokenizer(tokenizer: Tokenizer, folder: Path, length: int) -> None:
    """For AutoTokenizer; `length` is the model's. UserError for what transformers has not."""
    config: dict[str, Any] = {"model_max_length": length, "clean_up_tokenization_spaces": False}
    if isinstance(tokenizer, HuggingFaceTokenizer):
        content = whole(tokenizer)
        (folder / WHOLE).write_bytes(content)
        special = {token["content"] for token in json.loads(content).get("added_tokens", ())}
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
        if EOD in special:  # any other would become special by being named
            config |= {"bos_token": EOD, "eos_token": EOD, "unk_token": EOD}
    elif isinstance(tokenizer, SentencePieceTokenizer):
        (folder / PIECES).write_bytes(next(iter(tokenizer.files.values())))
        config |= {"tokenizer_class": "LlamaTokenizer", "add_bos_token": False}
    else:
        raise UserError(f"transformers has no {tokenizer.name}: there is no tokenizer beside it")
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


def whole(tokenizer: HuggingFaceTokenizer) -> bytes:
    """A tokenizer.json: the file it came from, or what vocab.json and merges.txt amount to."""
    if tokenizer.name == "HFTokenizer":
        return next(iter(tokenizer.files.values()))
    return tokenizer._backend.to_str(pretty=True).encode()
