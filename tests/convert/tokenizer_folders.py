"""A dozen tokenizers as people publish them, small, in the files that each kind has.

`FOLDERS[name](folder)` writes the files of one and returns the ids that its config.json names.
"""

import io
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors

Ids = dict[str, Any]
ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
MERGES = [("t", "h"), ("th", "e"), ("Ġ", "the"), ("a", "t"), ("Ġ", "a"), ("Ġ", "Ġ")]
WORDS = ["the theory", " a  hat", "Über", "東京", "🙂", "\n\n", "don't", "3.14", " ", "", "ﬁ", "é",
         "<|endoftext|>", "</s>", "<s>", "<|im_start|>", "<|im_end|>", "[INST]", "<unk>", "\t",
         "<|user|>", "x<|pad|>", "▁", "ON OFF", "\u200b", "a\u0301"]  # fmt: skip
TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def texts(count: int, seed: int = 0) -> list[str]:
    """Odd texts: words, special tokens and characters of any kind, one after the other."""
    chance = random.Random(seed)

    def part() -> str:
        if chance.random() < 0.75:
            return chance.choice(WORDS)
        return chr(chance.choice([*range(1, 0x2FF), *range(0x4E00, 0x4E20), 0x1F600]))

    return ["".join(part() for _ in range(chance.randint(0, 12))) for _ in range(count)]


def byte_level(*special: str, at: int = 0, **bpe: Any) -> tokenizers.Tokenizer:
    """GPT-2's kind, with the special tokens as the first of its vocabulary."""
    words = [*special, *ALPHABET, *("".join(pair) for pair in MERGES)]
    ids = {word: at + i for i, word in enumerate(words)}
    made = tokenizers.Tokenizer(models.BPE(ids, MERGES, **bpe))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(list(special))
    return made


def write(folder: Path, made: tokenizers.Tokenizer | None, **files: Any) -> None:
    """tokenizer.json, and others by their names without `.json`."""
    if made is not None:
        made.save(str(folder / "tokenizer.json"))
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))


def neox(folder: Path) -> Ids:
    made = byte_level("<|endoftext|>", "<|padding|>")
    made.normalizer = normalizers.NFC()
    made.add_tokens([AddedToken(" " * n, normalized=True) for n in (4, 3)])
    end = "<|endoftext|>"
    config = {"tokenizer_class": "GPTNeoXTokenizer", "bos_token": end, "eos_token": end,
              "unk_token": end}  # fmt: skip
    write(folder, made, tokenizer_config=config)
    return {"bos_token_id": 0, "eos_token_id": 0}


def gpt2(folder: Path, first: int | None = None) -> Ids:
    """Slow: vocab.json, merges.txt and added_tokens.json; `first`: the id of the first added."""
    words = [*ALPHABET, *("".join(pair) for pair in MERGES), "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    lines = ["#version: 0.2", *(" ".join(pair) for pair in MERGES)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n")
    start = len(words) if first is None else first
    end = "<|endoftext|>"
    write(folder, None, added_tokens={"<|im_start|>": start, "<|im_end|>": start + 1},
          special_tokens_map={"bos_token": end, "eos_token": "<|im_end|>", "unk_token": end},
          tokenizer_config={"tokenizer_class": "GPT2Tokenizer", "eos_token": "<|im_end|>",
                            "chat_template": TEMPLATE})  # fmt: skip
    return {"bos_token_id": len(words) - 1, "eos_token_id": start + 1}


def sentencepieces(folder: Path) -> None:
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["the theory of the hat", "a theory at a hat"] * 9),
        model_writer=model, vocab_size=280, model_type="bpe", byte_fallback=True,
        normalization_rule_name="identity", remove_extra_whitespaces=False,
        hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    (folder / "tokenizer.model").write_bytes(model.getvalue())


LLAMA_CONFIG = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>",
                "unk_token": "<unk>", "add_bos_token": True, "add_eos_token": False,
                "legacy": False, "model_max_length": 4096}  # fmt: skip


def llama_slow(folder: Path) -> Ids:
    sentencepieces(folder)
    import sentencepiece

    size = sentencepiece.SentencePieceProcessor(
        model_file=str(folder / "tokenizer.model")
    ).get_piece_size()
    decoder = {str(size + i): {"content": word, "special": True, "normalized": False,
                               "lstrip": False, "rstrip": False, "single_word": False}
               for i, word in enumerate(("<|im_start|>", "<|im_end|>"))}  # fmt: skip
    config = LLAMA_CONFIG | {"added_tokens_decoder": decoder, "chat_template": TEMPLATE}
    write(folder, None, tokenizer_config=config, generation_config={"eos_token_id": [2, size + 1]})
    return {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


def metaspace(*special: str) -> tokenizers.Tokenizer:
    """Llama's kind as tokenizer.json has it: pieces with byte fallback."""
    letters = [f"<0x{byte:02X}>" for byte in range(256)] + list("▁abcdefghijklmnopqrstuvwxyz")
    merges = [("t", "h"), ("th", "e"), ("▁", "the"), ("▁", "a")]
    words = [*special, *letters, *("".join(pair) for pair in merges)]
    ids = {word: i for i, word in enumerate(words)}
    made = tokenizers.Tokenizer(
        models.BPE(ids, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
         decoders.Strip(" ", 1, 0)]
    )  # fmt: skip
    made.add_special_tokens(list(special))
    made.post_processor = processors.TemplateProcessing("<s> $A", None, [("<s>", 1)])
    return made


def llama(folder: Path) -> Ids:
    sentencepieces(folder)  # lies beside, as in Meta's own folders
    write(folder, metaspace("<unk>", "<s>", "</s>"), tokenizer_config=LLAMA_CONFIG,
          special_tokens_map={"eos_token": {"content": "</s>"}, "bos_token": "<s>"},
          generation_config={"eos_token_id": 2, "temperature": 0.6, "do_sample": True})  # fmt: skip
    return {"bos_token_id": 1, "eos_token_id": 2}


def mistral(folder: Path) -> Ids:
    made = metaspace("<unk>", "<s>", "</s>", "[INST]", "[/INST]")
    template = "{{ bos_token }}{% for m in messages %}[INST]{{ m.content }}[/INST]{% endfor %}"
    write(folder, made, tokenizer_config={
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>",
        "unk_token": "<unk>", "chat_template": template, "clean_up_tokenization_spaces": False,
    })  # fmt: skip
    return {"bos_token_id": 1, "eos_token_id": 2}


def chatml(folder: Path) -> Ids:
    made = byte_level("<|endoftext|>", "<|padding|>", "<|im_start|>", "<|im_end|>")
    write(folder, made, generation_config={"eos_token_id": [3, 0], "pad_token_id": 1},
          tokenizer_config={"tokenizer_class": "TokenizersBackend", "eos_token": "<|im_end|>",
                            "bos_token": "<|endoftext|>", "pad_token": "<|padding|>",
                            "extra_special_tokens": ["<|im_start|>"]})  # fmt: skip
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tools.jinja").write_text("{{ tools }}")
    return {"bos_token_id": 0, "eos_token_id": 3, "pad_token_id": 1}


def bytes_alone(folder: Path) -> Ids:
    """Neither config.json nor tokenizer_config.json is full of words; padding is the end."""
    made = byte_level("<eos>")
    write(folder, made, tokenizer_config={"tokenizer_class": "PreTrainedTokenizerFast",
                                          "eos_token": "<eos>", "pad_token": "<eos>"})  # fmt: skip
    return {"eos_token_id": 0, "bos_token_id": None}


def truncating(folder: Path) -> Ids:
    made = byte_level("<|endoftext|>", "<|padding|>")
    made.enable_truncation(4)
    made.enable_padding(pad_id=1, pad_token="<|padding|>", length=8)
    write(folder, made, tokenizer_config={"tokenizer_class": "PreTrainedTokenizerFast",
                                          "eos_token": "<|endoftext|>"})  # fmt: skip
    return {"eos_token_id": 0}


def dropping(folder: Path) -> Ids:
    made = byte_level("<|endoftext|>", dropout=0.5)
    write(folder, made, tokenizer_config={"tokenizer_class": "PreTrainedTokenizerFast",
                                          "eos_token": "<|endoftext|>"})  # fmt: skip
    return {"eos_token_id": 0}


def with_gaps(folder: Path) -> Ids:
    """Ids from 40 on, and flags: a token that takes spaces, one within no word."""
    made = byte_level("<|endoftext|>", at=40)
    made.add_tokens([AddedToken("<|user|>", lstrip=True, rstrip=True)])
    made.add_tokens([AddedToken("ON", single_word=True, normalized=False)])
    decoder = {"320": {"content": "<|pad|>", "special": True}}
    write(folder, made, tokenizer_config={
        "tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>",
        "pad_token": "<|pad|>", "added_tokens_decoder": decoder,
    })  # fmt: skip
    vocabulary = json.loads((folder / "tokenizer.json").read_text())
    next_id = 1 + max(token["id"] for token in vocabulary["added_tokens"])
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config["added_tokens_decoder"] = {str(next_id): decoder["320"]}
    write(folder, None, tokenizer_config=config)
    return {"eos_token_id": 40, "pad_token_id": next_id}


def normalizing(folder: Path) -> Ids:
    """WordPiece behind a row of normalizers, as BERT's."""
    words = ["[UNK]", "[SEP]", "the", "a", "hat", "##ory", *"abcdefghijklmnopqrstuvwxyz0123456789",
             *(f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz0123456789")]  # fmt: skip
    ids = {word: i for i, word in enumerate(words)}
    made = tokenizers.Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    made.normalizer = normalizers.Sequence(
        [normalizers.NFD(), normalizers.Lowercase(), normalizers.StripAccents()]
    )
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    made.add_special_tokens(["[UNK]", "[SEP]"])
    write(folder, made, tokenizer_config={"tokenizer_class": "PreTrainedTokenizerFast",
                                          "eos_token": "[SEP]", "unk_token": "[UNK]"})  # fmt: skip
    return {"eos_token_id": 1}


def unigram(folder: Path) -> Ids:
    pieces = [("<unk>", 0.0), ("</s>", 0.0), ("▁the", -2.0), ("▁a", -2.5), ("▁", -3.0)]
    pieces += [(letter, -4.0 - i / 9) for i, letter in enumerate("abcdefghijklmnopqrstuvwxyz.'")]
    made = tokenizers.Tokenizer(models.Unigram(pieces, unk_id=0))
    made.normalizer = normalizers.Replace(tokenizers.Regex(" {2,}"), " ")
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    made.add_special_tokens(["<unk>", "</s>"])
    write(folder, made, tokenizer_config={"tokenizer_class": "PreTrainedTokenizerFast",
                                          "eos_token": "</s>", "unk_token": "<unk>"})  # fmt: skip
    return {"eos_token_id": [1], "bos_token_id": 1}


FOLDERS: dict[str, Callable[[Path], Ids]] = {
    "GPT-NeoX": neox,
    "GPT-2, slow": gpt2,
    "GPT-2, slow, with a gap": lambda folder: gpt2(folder, first=500),
    "Llama, sentencepiece": llama_slow,
    "Llama": llama,
    "Mistral": mistral,
    "ChatML": chatml,
    "bytes": bytes_alone,
    "truncation and padding": truncating,
    "dropout": dropping,
    "gaps and flags": with_gaps,
    "normalizers": normalizing,
    "Unigram": unigram,
}
