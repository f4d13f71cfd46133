"""text_offset: between two offsets stand the characters of the first one's token."""

import re
import unicodedata
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("starlette", reason="the extra `serve` is not installed")

from tokenizers import processors

from convert.hf.tokenizer import tokenizer_at
from jaxneox.data.tokenizer import CharLevelTokenizer, Tokenizer
from jaxneox.serve.offsets import prompt_offsets, starts
from tests.convert.tokenizer_folders import FOLDERS, byte_level, texts
from tests.serve.place import Place

TEXTS = ["The old man", "e\u0301 É 東京 🙂x", "  two  spaces ", "a<|endoftext|> b", "<s> x</s>y"]


def opened(name: str, folder: Path) -> Tokenizer:
    FOLDERS[name](folder)
    names = ("tokenizer.json", "vocab.json", "tokenizer.model")
    return tokenizer_at(next(folder / file for file in names if (folder / file).is_file()))


def slices(tokenizer: Tokenizer, text: str, tokens: list[int], given: str | None) -> list[str]:
    """The characters of each token, which together are the text."""
    served = SimpleNamespace(tokenizer=tokenizer, decode=tokenizer.decode)
    places = prompt_offsets(served, given, tokens, text)
    assert len(places) == len(tokens) and places == sorted(places)
    assert not places or (places[0] == 0 and places[-1] <= len(text))
    return [text[a:b] for a, b in pairwise([*places, len(text)])]


def plain(text: str) -> str:
    """What a tokenizer's changes leave as it is."""
    kept = unicodedata.normalize("NFKD", text).lower().replace("▁", " ").removeprefix("##")
    return re.sub(r"[\s\u0300-\u036f\u200b]", "", kept)


@pytest.mark.parametrize("name", FOLDERS)
def test_each_token_has_its_characters(name: str, tmp_path: Path) -> None:
    pytest.importorskip("sentencepiece", reason="the extra `tokenizers` is not installed")
    tokenizer = opened(name, tmp_path)
    for text in [*TEXTS, *texts(60)]:
        tokens = tokenizer.encode(text)
        if not tokens:
            continue
        for token, part in zip(tokens, slices(tokenizer, text, tokens, text), strict=True):
            piece = tokenizer.decode([token])
            # in "gaps and flags" these have the ids of others
            shared_id = piece in ("ON", "<|user|>", "<|pad|>") and piece not in part
            if shared_id or "\ufffd" in piece or not piece or not plain(part) or "\ufffd" in text:
                continue  # a part of a character, or no text of its own
            assert plain(piece) == plain(part), (text, tokens, part, token)
        told = tokenizer.decode(tokens)
        assert "".join(slices(tokenizer, told, tokens, None)) == told


@pytest.mark.parametrize(
    ("spans", "expected"),
    [
        ([(0, 3), (3, 7)], [0, 3]),
        ([(0, 5), (6, 11), (11, 12)], [0, 5, 11]),  # a space that belongs to no token
        ([(0, 1), (1, 2), (1, 2), (1, 2), (2, 3)], [0, 1, 1, 1, 2]),  # a character of three
        ([(0, 2), (1, 2), (2, 3)], [0, 1, 2]),  # one that begins in a token with others
        ([(0, 0), (0, 3), (0, 0)], [0, 0, 3]),  # tokens that are put around a text
        ([(2, 3)], [0]),
        ([(0, 0)], [0]),
        ([], []),
    ],
)
def test_where_tokens_begin(spans: list, expected: list[int]) -> None:
    assert list(starts(spans)) == expected


def test_spaces_count_where_a_file_says_to_trim_them(tmp_path: Path) -> None:
    """As GPT-NeoX's and GPT-2's tokenizer.json do."""
    made = byte_level("<|endoftext|>")
    made.post_processor = processors.ByteLevel(trim_offsets=True)
    made.save(str(tmp_path / "tokenizer.json"))
    tokenizer = tokenizer_at(tmp_path / "tokenizer.json")
    text = "  a the  é "
    assert slices(tokenizer, text, tokenizer.encode(text), text) == [
        *(" ", " a", " the", " ", " ", "", "é", " ")
    ]


def test_tiktokens_own_bytes() -> None:
    tiktoken = pytest.importorskip("tiktoken", reason="the extra `tokenizers` is not installed")
    from jaxneox.data.tiktokens import TiktokenTokenizer

    ranks = {bytes([i]): i for i in range(256)} | {b"th": 256, b"the": 257}
    ours = TiktokenTokenizer.__new__(TiktokenTokenizer)
    special = {"<|endoftext|>": 258}
    ours._backend = tiktoken.Encoding(
        "tiny", pat_str=r"\S+|\s+", mergeable_ranks=ranks, special_tokens=special
    )
    text = "the é<|endoftext|>x"
    found = slices(ours, text, ours.encode(text), text)
    assert found == ["the", " ", "", "é", "<|endoftext|>", "x"]


def test_an_echo_and_its_answer(here: Place) -> None:
    fields = {"max_tokens": 6, "temperature": 0, "echo": True, "logprobs": 0}
    bytewise = CharLevelTokenizer()
    for prompt in ("Thé 🙂!", bytewise.encode("Thé 🙂!"), [5, 0, 0xE2, 0x82], [0xC3]):
        (choice,) = here.complete(prompt=prompt, **fields).json["choices"]
        said, text = choice["logprobs"], choice["text"]
        tokens = bytewise.encode(prompt) if isinstance(prompt, str) else prompt
        echo = prompt if isinstance(prompt, str) else bytewise.decode(prompt)
        assert text.startswith(echo)
        assert said["text_offset"][len(tokens)] == len(echo)
        parts = [*said["text_offset"], len(text)]
        pieces = [text[a:b] for a, b in pairwise(parts)]
        assert "".join(pieces) == text
        for token, piece in zip(said["tokens"], pieces, strict=True):
            # what is no character comes with the next that is one
            assert token == piece.lstrip("\ufffd") or token.startswith("token_id:")
        streamed = list(here.stream(prompt=prompt, **fields))
        told = [at for e in streamed for at in e["choices"][0]["logprobs"]["text_offset"]]
        assert told == said["text_offset"]
