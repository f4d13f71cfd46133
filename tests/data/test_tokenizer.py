"""Each tokenizer kind: NeoX's counts and ids, round trips, saving, and one line for bad files."""

import json
import pathlib
from collections.abc import Callable

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from jaxneox.config.schema import TokenizerConfig
from jaxneox.data.tokenizer import Tokenizer, build_tokenizer, load_tokenizer
from jaxneox.errors import UserError

TEXT = "the theory, the hat\n  über 東京 🙂"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Tiny files of every kind: 256 bytes, a few merges, the end of a document."""
    folder = tmp_path_factory.mktemp("tokenizers")
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    merges = ["t h", "th e", "Ġ the", "a t"]
    words = [*alphabet, *(merge.replace(" ", "") for merge in merges), "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    backend = tokenizers.ByteLevelBPETokenizer.from_file(
        str(folder / "vocab.json"), str(folder / "merges.txt")
    )
    backend.add_special_tokens(["<|endoftext|>", "<|padding|>"])
    backend.save(str(folder / "tokenizer.json"))
    return folder


def gpt2(folder: pathlib.Path) -> TokenizerConfig:
    return TokenizerConfig(
        "GPT2BPETokenizer", str(folder / "vocab.json"), str(folder / "merges.txt")
    )


Make = Callable[[pathlib.Path], TokenizerConfig]
KINDS: dict[str, tuple[Make, int, int]] = {  # configuration, vocabulary, end of document
    "HFTokenizer": (lambda f: TokenizerConfig("HFTokenizer", str(f / "tokenizer.json")), 262, 260),
    "GPT2BPETokenizer": (gpt2, 261, 260),
    "HFGPT2Tokenizer": (lambda f: TokenizerConfig("HFGPT2Tokenizer", str(f)), 262, 260),
    "CharLevelTokenizer": (lambda f: TokenizerConfig("CharLevelTokenizer"), 512, 0),
}


@pytest.mark.parametrize("kind", KINDS)
def test_kind(files: pathlib.Path, tmp_path: pathlib.Path, kind: str) -> None:
    make, vocab_size, eod = KINDS[kind]
    tokenizer = build_tokenizer(make(files))
    assert (tokenizer.name, tokenizer.vocab_size, tokenizer.eod) == (kind, vocab_size, eod)
    check(tokenizer, tmp_path)


def check(tokenizer: Tokenizer, folder: pathlib.Path) -> None:
    ids = tokenizer.encode(TEXT)
    assert tokenizer.decode(ids) == TEXT
    assert set(ids) <= set(range(tokenizer.vocab_size))
    assert [batch.tolist() for batch in tokenizer.encode_batch([TEXT, "", "the"])] == [
        ids, [], tokenizer.encode("the")
    ]  # fmt: skip
    tokenizer.save(folder / "run")
    loaded = load_tokenizer(folder / "run")
    assert (loaded.name, loaded.vocab_size, loaded.eod) == (
        tokenizer.name, tokenizer.vocab_size, tokenizer.eod
    )  # fmt: skip
    assert loaded.encode(TEXT) == ids and loaded.fingerprint() == tokenizer.fingerprint()
    loaded.save(folder / "run")  # onto itself, as a run that resumes does
    assert load_tokenizer(folder / "run").encode(TEXT) == ids


def test_kinds_have_their_own_fingerprints(files: pathlib.Path) -> None:
    prints = {build_tokenizer(make(files)).fingerprint() for make, _, _ in KINDS.values()}
    assert len(prints) == len(KINDS)


def test_same_file_elsewhere_has_the_same_fingerprint(
    files: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "other.json").write_bytes((files / "tokenizer.json").read_bytes())
    one, other = (
        build_tokenizer(TokenizerConfig("HFTokenizer", str(path)))
        for path in (files / "tokenizer.json", tmp_path / "other.json")
    )
    assert one.fingerprint() == other.fingerprint()


def test_gpt2_is_transformers(files: pathlib.Path) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.GPT2TokenizerFast(
        str(files / "vocab.json"), str(files / "merges.txt"), add_prefix_space=False
    )
    text = TEXT + "<|endoftext|>the"
    assert build_tokenizer(gpt2(files)).encode(text) == theirs.encode(text)


def test_special_tokens_in_the_text_are_parsed(files: pathlib.Path) -> None:
    for kind in ("HFTokenizer", "GPT2BPETokenizer", "HFGPT2Tokenizer"):
        make, _, eod = KINDS[kind]
        assert build_tokenizer(make(files)).encode("a<|endoftext|>b").count(eod) == 1


def test_20b_tokenizer(shared: pathlib.Path) -> None:
    path = shared / "data" / "tokenizer" / "20B_tokenizer.json"
    tokenizer = build_tokenizer(TokenizerConfig("HFTokenizer", str(path)))
    assert (tokenizer.vocab_size, tokenizer.eod) == (50277, 0)
    assert tokenizer.decode(tokenizer.encode(TEXT)) == TEXT


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")))
def test_char_level_is_bytes(text: str) -> None:
    tokenizer = build_tokenizer(TokenizerConfig("charleveltokenizer"))
    assert tokenizer.encode(text) == list(text.encode())
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_char_level_shows_what_is_no_text() -> None:
    tokenizer = build_tokenizer(TokenizerConfig("CharLevelTokenizer"))
    assert tokenizer.decode([104, 0, 105, 256, 511, 195]) == "hi" + "\ufffd" * 3


def test_sentencepiece(tmp_path: pathlib.Path) -> None:
    sentencepiece = pytest.importorskip("sentencepiece")
    (tmp_path / "text").write_text(TEXT)
    for name, symbols in (("with", ["<|endoftext|>"]), ("without", [])):
        sentencepiece.SentencePieceTrainer.train(
            input=str(tmp_path / "text"), model_prefix=str(tmp_path / name), vocab_size=280,
            model_type="bpe", byte_fallback=True, user_defined_symbols=symbols,
            normalization_rule_name="identity", remove_extra_whitespaces=False,
            hard_vocab_limit=False, minloglevel=2,
        )  # fmt: skip
    tokenizer = build_tokenizer(TokenizerConfig("SPMTokenizer", str(tmp_path / "with.model")))
    check(tokenizer, tmp_path)
    assert tokenizer.eod == 3
    without = build_tokenizer(TokenizerConfig("SPMTokenizer", str(tmp_path / "without.model")))
    assert without.eod == 2  # the model's own </s>, in a vocabulary without <|endoftext|>


def test_tiktoken(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiktoken = pytest.importorskip("tiktoken")
    ranks = {bytes([i]): i for i in range(256)} | {b"th": 256, b"the": 257}
    encoding = tiktoken.Encoding(
        "tiny", pat_str=r"\S+|\s+", mergeable_ranks=ranks, special_tokens={"<|endoftext|>": 258}
    )
    monkeypatch.setattr(tiktoken, "get_encoding", {"tiny": encoding}.__getitem__)
    tokenizer = build_tokenizer(TokenizerConfig("TiktokenTokenizer", "tiny"))
    assert (tokenizer.vocab_size, tokenizer.eod) == (259, 258)
    assert tokenizer.encode("a<|endoftext|>") == [97, 258]
    check(tokenizer, tmp_path)
    with pytest.raises(UserError, match="cannot get the encoding 'other'"):
        build_tokenizer(TokenizerConfig("TiktokenTokenizer", "other"))


@pytest.mark.parametrize(
    ("cfg", "message"),
    [
        (TokenizerConfig("HFTokeniser"), "'HFTokeniser' is unknown, did you mean HFTokenizer"),
        (TokenizerConfig("HFTokenizer"), "vocab-file: missing, HFTokenizer needs it"),
        (TokenizerConfig("HFTokenizer", "none.json"), "none.json: no such file; vocab-file"),
        (TokenizerConfig("SPMTokenizer", "none.model"), "none.model: no such file"),
        (TokenizerConfig("GPT2BPETokenizer", "vocab.json"), "vocab.json: no such file"),
        (TokenizerConfig("HFGPT2Tokenizer"), "nothing is downloaded"),
        (TokenizerConfig("HFGPT2Tokenizer", "gpt2"), "nothing is downloaded"),
    ],
)
def test_wrong_configuration(cfg: TokenizerConfig, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        build_tokenizer(cfg)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["HFTokenizer", "SPMTokenizer", "GPT2BPETokenizer"])
def test_file_of_something_else(tmp_path: pathlib.Path, kind: str) -> None:
    path = tmp_path / "vocab.json"
    path.write_text("[1,")
    with pytest.raises(UserError, match=r"vocab\.json") as caught:
        build_tokenizer(TokenizerConfig(kind, str(path), str(path)))
    assert "\n" not in str(caught.value)


def test_gpt2_needs_merges(files: pathlib.Path) -> None:
    with pytest.raises(UserError, match="merge-file: missing"):
        build_tokenizer(TokenizerConfig("GPT2BPETokenizer", str(files / "vocab.json")))


def test_folder_without_tokenizer(tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError, match=r"jaxneox_tokenizer\.json: no such file"):
        load_tokenizer(tmp_path)
