"""Tokenizers in the files that transformers' AutoTokenizer loads, read and written."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from jaxneox.config.schema import TokenizerConfig
from jaxneox.data import Tokenizer, build_tokenizer
from jaxneox.data.companions import CONFIG, GENERATION, companions_in, parsed
from jaxneox.data.huggingface import notes_on
from jaxneox.data.tokenizer import (
    EOD,
    HuggingFaceTokenizer,
    SentencePieceTokenizer,
    companions_of,
)
from jaxneox.data.tokenizer_base import DESCRIPTION
from jaxneox.errors import UserError
from jaxneox.reading import INDEX_SIZE, read_json

WHOLE, VOCABULARY, MERGES, PIECES = "tokenizer.json", "vocab.json", "merges.txt", "tokenizer.model"
ENCODING = {"pat_str", "ranks"}
"""The keys of a tiktoken encoding as a run saves it."""


def beside(folder: Path) -> Tokenizer | None:
    """Open the tokenizer of a model's folder, or return None if there is none of a known kind."""
    for name in (WHOLE, VOCABULARY, PIECES):
        if (folder / name).is_file():
            return tokenizer_at(folder / name)
    return None


def tokenizer_at(path: Path, keys: TokenizerConfig | None = None) -> Tokenizer:
    """Open a tokenizer's file; its kind is determined from the file.

    Args:
        path: a tokenizer.json, a vocab.json beside its merges, a sentencepiece model, or a
            folder with one of them.
        keys: a NeoX run's keys, which say which of GPT-2's kinds it is and what ends a
            document. NeoX's sentencepiece models put no token before a text, whatever files lie
            beside them.

    Raises:
        UserError: the path is none of these, or the merges are missing.
    """
    if path.is_dir():
        file = next((path / n for n in (WHOLE, VOCABULARY, PIECES) if (path / n).is_file()), None)
        if file is None:
            raise UserError(f"{path}: has no {WHOLE}, {VOCABULARY} or {PIECES}; give the file")
        path = file
    as_neox, keys = keys is not None, keys or TokenizerConfig()
    cfg = replace(keys, kind="HFTokenizer", vocab_file=str(path), merge_file=None)
    if path.suffix == ".model":
        cfg = replace(cfg, kind="SPMTokenizer")
        own = (path.parent / DESCRIPTION).is_file()
        return build_tokenizer(cfg, None if as_neox or own else companions_of(cfg))
    if path.suffix == ".json" and path.is_file():
        content = contents(path)
        if content.keys() >= ENCODING:
            return build_tokenizer(replace(cfg, kind="TiktokenTokenizer"))
        if path.name == VOCABULARY or (content and _is_vocabulary(content)):
            kind = "HFGPT2Tokenizer" if keys.kind == "HFGPT2Tokenizer" else "GPT2BPETokenizer"
            return build_tokenizer(replace(cfg, kind=kind, merge_file=merges_of(path, keys)))
    return build_tokenizer(cfg)


def contents(path: Path) -> dict[str, Any]:
    """Read a JSON object; return an empty one for any other file, which later code refuses."""
    try:
        content = read_json(path, INDEX_SIZE)
    except UserError:
        return {}
    return content if isinstance(content, dict) else {}


def _is_vocabulary(content: Mapping[str, Any]) -> bool:
    return all(type(i) is int for i in content.values())


def merges_of(vocab: Path, keys: TokenizerConfig) -> str:
    """Find the merges of a vocab.json: beside it, under its name, or where the keys have them."""
    named = [vocab.with_name(MERGES)]
    if "vocab" in vocab.name:
        named.append(vocab.with_name(vocab.stem.replace("vocab", "merges") + ".txt"))
    if keys.merge_file is not None:
        named += [vocab.with_name(Path(keys.merge_file).name), Path(keys.merge_file)]
    return str(next((path for path in named if path.is_file()), named[0]))


def with_generation_of(tokenizer: Tokenizer, folder: Path) -> Tokenizer:
    """Add to a tokenizer from elsewhere what the model's own folder says about generation."""
    own, other = companions_in(folder, only=(GENERATION,)), tokenizer.companions
    files = {name: content for name, content in other.files.items() if name != GENERATION}
    files |= own.files
    tokenizer.settle(replace(other, files=files, stop=own.stop, config=own.config), None, None)
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path, length: int) -> list[str]:
    """Write a tokenizer for AutoTokenizer, with its companion files unchanged.

    Args:
        tokenizer: our tokenizer.
        folder: the folder of the written model.
        length: the model's context length, in tokens.

    Returns:
        What could not be written as it is, one line each.

    Raises:
        UserError: transformers has no tokenizer of this kind.
    """
    if not isinstance(tokenizer, HuggingFaceTokenizer | SentencePieceTokenizer):
        raise UserError(f"transformers has no {tokenizer.name}: there is no tokenizer beside it")
    kept = tokenizer.companions
    own, notes = own_files(tokenizer)
    for name, content in {**kept.files, **own}.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    if CONFIG not in kept.files and kept.config is None:
        config = {"model_max_length": length, "clean_up_tokenization_spaces": False}
        config |= _made_config(tokenizer, own)
        (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
    return notes + _chosen_end(tokenizer, folder)


def own_files(
    tokenizer: HuggingFaceTokenizer | SentencePieceTokenizer,
) -> tuple[dict[str, bytes], list[str]]:
    """Return the tokenizer's own files, by the names that transformers looks for, and notes."""
    contents = list(tokenizer.files.values())
    if isinstance(tokenizer, SentencePieceTokenizer):
        config = tokenizer.companions.files.get(CONFIG, b"{}")
        there = parsed(Path(CONFIG), config).get("add_bos_token") is True
        more = "add_bos_token puts a token before every text there, and this run does not"
        return {PIECES: contents[0]}, [more] if there and tokenizer.begin is None else []
    notes = [f"the tokenizer: {note}" for note in notes_on(tokenizer.dropout)]
    if tokenizer.name == "GPT2BPETokenizer" and tokenizer.companions.config is not None:
        size = tokenizer.vocab_size - len(tokenizer.added)
        far = [token for token in tokenizer.added if token.id >= size + len(tokenizer.added)]
        if far:
            notes.append(
                f"token {far[0].id}, {far[0].content!r}, and {len(far) - 1} more do not follow the "
                f"{size} of {VOCABULARY}: transformers 5 numbers them anew, 4 does not"
            )
        return dict(zip((VOCABULARY, MERGES), contents, strict=True)), notes
    return {WHOLE: whole(tokenizer)}, notes


def _made_config(
    tokenizer: HuggingFaceTokenizer | SentencePieceTokenizer, own: Mapping[str, bytes]
) -> dict[str, Any]:
    """Make tokenizer_config.json for a tokenizer that came without one."""
    config: dict[str, Any] = {}
    if isinstance(tokenizer, HuggingFaceTokenizer):
        special = {token["content"] for token in json.loads(own[WHOLE]).get("added_tokens", ())}
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
        if EOD in special:  # any other would become special by being named
            config |= {"bos_token": EOD, "eos_token": EOD, "unk_token": EOD}
        usual = EOD if EOD in special else None
    else:
        config |= {"tokenizer_class": "LlamaTokenizer", "add_bos_token": False}
        usual, unknown = "</s>", tokenizer.unknown()
        if tokenizer.bos is not None and tokenizer.text_of(tokenizer.bos) != "<s>":
            config["bos_token"] = tokenizer.text_of(tokenizer.bos)
        if unknown != "<unk>":
            config["unk_token"] = unknown
    if tokenizer.eod is not None and tokenizer.text_of(tokenizer.eod) != usual:
        config["eos_token"] = tokenizer.text_of(tokenizer.eod)
    return config


def ids_of(tokenizer: Tokenizer | None) -> dict[str, Any]:
    """Return the tokens for config.json: the source's, or else the end of a document."""
    end = tokenizer.eod if tokenizer else None
    if tokenizer is None or tokenizer.companions.config is None:
        begin = end
        if tokenizer is not None and tokenizer.bos is not None and end != tokenizer.id_of(EOD):
            begin = tokenizer.bos
        return {"bos_token_id": begin, "eos_token_id": end}
    ids = {"eos_token_id": end, **tokenizer.companions.config}
    if tokenizer.eod != tokenizer.named_eod:
        ids["eos_token_id"] = _with(ids["eos_token_id"], tokenizer.eod)
    return ids


def _chosen_end(tokenizer: Tokenizer, folder: Path) -> list[str]:
    """Make generation stop at the end of a document that training was told by `eod-token`."""
    if tokenizer.eod is None or tokenizer.eod == tokenizer.named_eod:
        return []
    path, kept = folder / GENERATION, tokenizer.companions
    if GENERATION in kept.files:
        generation = parsed(path, kept.files[GENERATION])
        generation["eos_token_id"] = _with(generation.get("eos_token_id"), tokenizer.eod)
        path.write_text(json.dumps(generation, indent=2) + "\n")
    if not kept.files:
        return []
    return [
        f"documents end with {tokenizer.text_of(tokenizer.eod)!r} (eod-token), token "
        f"{tokenizer.eod}: it is added to eos_token_id, and tokenizer_config.json's eos_token stays"
    ]


def _with(ids: Any, more: int | None) -> Any:
    """Add one id to an eos_token_id."""
    listed = ids if isinstance(ids, list) else [] if ids is None else [ids]
    if more is None or more in listed:
        return ids
    return [*listed, more] if listed else more


def whole(tokenizer: HuggingFaceTokenizer) -> bytes:
    """Return the whole tokenizer.json: the original, or one of vocab.json and merges.txt."""
    if tokenizer.name == "HFTokenizer" and not tokenizer.dropout:
        return next(iter(tokenizer.files.values()))
    return tokenizer.whole()
