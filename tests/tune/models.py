"""A tiny model with a tokenizer.json, and conversations to tune it on."""

import json
import random
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from jaxneox.config.schema import TokenizerConfig
from jaxneox.data import build_tokenizer
from tests.infer.models import speaker

NAMES = ("Anna", "Ben", "Clara", "Dan")
THINGS = ("a boat", "the sea", "a letter")


def talk(chance: random.Random) -> dict[str, list[dict[str, str]]]:
    name, thing = chance.choice(NAMES), chance.choice(THINGS)
    asked = {"role": "user", "content": f"Tell me of {name} and {thing}."}
    answer = {"role": "assistant", "content": f"{name} saw {thing}."}
    return {"messages": [asked, answer]}


def write_talks(path: Path, count: int = 120) -> Path:
    chance = random.Random(0)
    path.write_text("".join(json.dumps(talk(chance)) + "\n" for _ in range(count)))
    return path


def write_tokenizer(folder: Path) -> Path:
    """A byte-level BPE of the words that are spoken, which ends texts with `<|endoftext|>`."""
    chance = random.Random(0)
    texts = [turn["content"] for _ in range(200) for turn in talk(chance)["messages"]]
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(texts, trainer)
    folder.mkdir(parents=True, exist_ok=True)
    made.save(str(folder / "tokenizer.json"))
    return folder / "tokenizer.json"


def write_model(folder: Path) -> Path:
    """A run of random weights, without a chat template."""
    config = TokenizerConfig("HFTokenizer", str(write_tokenizer(folder / "own")))
    model = speaker(seq_length=64)
    model.tokenizer = build_tokenizer(config)
    return model.save(folder / "model")
