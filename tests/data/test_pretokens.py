"""Encoding pretoken by pretoken gives the ids of the library itself, or is not done at all."""

import pathlib

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, models, normalizers, pre_tokenizers, processors

from jaxneox.data import documents, pretokens
from jaxneox.data.pretokens import PRETOKEN, PretokenCache, pretoken_cache

MERGES = [
    "t h", "th e", "Ġ the", "Ġ t", "a t", "Ġ Ġ", "' s", "1 2", ', "', "Ċ Ċ", "Â ł", "Âł Ċ", "Ã ©",
    ". .",
]  # fmt: skip
NASTY = [
    *"aeth1290'\u2019.,;!\"(<|>=-_ \t\n\r\x0b\x0c\0\x1c\x1f\x7f\x85\xa0éßك東🙂ㅎㅏ각١²ǅ",
    "\u0300", "\u0338", "\u1160", "\u180e", "\u2000", "\u2028", "\u200b", "\u3000", "\ufeff",
    "\u037e", "\u212a", "\u1fef", "'s", "'ll", "'T", "  ", "     ", "the", " the", "\r\n",
    "\xa0\n b", "<|endoftext|>", "<|end", "text|>", "≠", "e\u0301", "\U0001d7d9", "\U000e0100",
]  # fmt: skip


def byte_level(normalizer: bool = True) -> tokenizers.Tokenizer:
    """As the 20B tokenizer is made, with a few merges: NFC, special tokens and runs of spaces."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [*alphabet, *(merge.replace(" ", "") for merge in MERGES)]
    pairs = [tuple(merge.split(" ")) for merge in MERGES]
    backend = tokenizers.Tokenizer(models.BPE({word: i for i, word in enumerate(words)}, pairs))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.post_processor = processors.ByteLevel()
    if normalizer:
        backend.normalizer = normalizers.NFC()
    backend.add_special_tokens(["<|endoftext|>"])
    backend.add_tokens([AddedToken(" " * n, normalized=True, special=False) for n in (2, 3, 5)])
    return backend


def fast(backend: tokenizers.Tokenizer) -> PretokenCache:
    found = pretoken_cache(backend)
    assert found is not None
    return found


def with_token(content: str, **flags: bool) -> tokenizers.Tokenizer:
    backend = byte_level()
    backend.add_tokens([AddedToken(content, **flags)])
    return backend


TOKENIZERS = {
    "nfc": byte_level(),
    "plain": byte_level(normalizer=False),
    "a normalized token": with_token("a.K", normalized=True),
    "a token across pretokens": with_token("the, 12", normalized=False),
}


@pytest.mark.parametrize("kind", TOKENIZERS)
@settings(max_examples=400, deadline=None)
@given(st.lists(st.sampled_from([*NASTY, "a.K", "a.\u212a", "the, 12"]), max_size=14))
def test_nasty_text(kind: str, parts: list[str]) -> None:
    text = "".join(parts)
    assert "".join(PRETOKEN.findall(text)) == text
    backend = TOKENIZERS[kind]
    assert fast(backend).encode(text).tolist() == backend.encode(text).ids


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text(text: str) -> None:
    backend = TOKENIZERS["nfc"]
    assert fast(backend).encode(text).tolist() == backend.encode(text).ids


def test_every_character_of_the_common_scripts() -> None:
    """Python and the library may know different versions of Unicode."""
    backend = TOKENIZERS["nfc"]
    encode = fast(backend).encode
    for first in range(0, 0x3100, 256):
        chars = map(chr, range(first, first + 256))
        text = "".join(f"a{c} b!{c}\nc{c},{c}1{c}.. {c}" for c in chars)
        assert encode(text).tolist() == backend.encode(text).ids, hex(first)


def test_the_20b_tokenizer_on_the_corpora(shared: pathlib.Path) -> None:
    path = shared / "data" / "tokenizer" / "20B_tokenizer.json"
    backend = tokenizers.Tokenizer.from_file(str(path))
    encode = fast(backend).encode
    corpora = (shared / "golden" / "data" / "corpora").glob("*.jsonl")
    texts = [documents.text_of(r) for c in documents.chunks(corpora) for r in c.records()]
    code = "".join(p.read_text() for p in pathlib.Path(pretokens.__file__).parent.glob("*.py"))
    for text in [*texts, code, " " * 100 + "\n" * 30]:
        assert encode(text).tolist() == backend.encode(text).ids


def other(change: str) -> tokenizers.Tokenizer:
    backend = byte_level()
    if change == "prefix space":
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    elif change == "no pattern":
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    elif change == "another pattern":
        backend.pre_tokenizer = pre_tokenizers.Sequence([backend.pre_tokenizer])
    elif change == "dropout":
        backend.model.dropout = 0.5
    elif change == "normalizer":
        backend.normalizer = normalizers.Lowercase()
    elif change == "template":
        backend.post_processor = processors.TemplateProcessing("<|endoftext|> $0", None, [
            ("<|endoftext|>", backend.token_to_id("<|endoftext|>"))
        ])  # fmt: skip
    elif change == "truncation":
        backend.enable_truncation(4)
    elif change == "padding":
        backend.enable_padding(length=8)
    return backend


@pytest.mark.parametrize(
    "backend",
    [
        *map(other, ("prefix space", "no pattern", "another pattern", "dropout", "normalizer",
                     "template", "truncation", "padding")),
        with_token("<x>", lstrip=True), with_token("<x>", rstrip=True),
        with_token("<x>", single_word=True), with_token(" "),
        tokenizers.Tokenizer(models.WordLevel({"a": 0}, unk_token="a")),
    ],
)  # fmt: skip
def test_what_is_not_known_to_allow_it(backend: tokenizers.Tokenizer) -> None:
    assert pretoken_cache(backend) is None


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretokens, "MOST", 10)
    backend = TOKENIZERS["nfc"]
    found = fast(backend)
    text = " ".join(f"word{n} {'x' * 100}" for n in range(50))
    for _ in range(2):
        assert found.encode(text).tolist() == backend.encode(text).ids
        assert 0 < len(found) <= 10 and max(map(len, found)) <= pretokens.LONGEST
