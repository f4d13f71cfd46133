"""The command: NeoX's bytes, whatever the workers, the kills and the tokenizer; clear errors."""

import gzip
import hashlib
import json
import pathlib
import re

import numpy as np
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from jaxneox.data.indexed import IndexedDataset
from jaxneox.preprocess import output, run
from jaxneox.preprocess.arguments import parser
from jaxneox.preprocess.encode import masked
from tests.preprocess.command import CHAR, call, made, status_of, texts

END = "<|endoftext|>"


@pytest.mark.parametrize(
    ("corpus", "theirs", "more"),
    [
        ("a", "neox_corpus_a", []),
        ("b", "neox_corpus_b", []),
        ("a", "neox_ftfy_corpus_a", ["--ftfy"]),
        ("q", "neox_corpus_q", ["--mask-before-token", "32869,27"]),
    ],
)
def test_golden(
    shared: pathlib.Path, tmp_path: pathlib.Path, corpus: str, theirs: str, more: list[str]
) -> None:
    if "--ftfy" in more:
        pytest.importorskip("ftfy")
    corpora = shared / "golden" / "data" / "corpora"
    vocab = shared / "data" / "tokenizer" / "20B_tokenizer.json"
    kind = ["--tokenizer-type", "HFTokenizer", "--vocab-file", str(vocab), "--append-eod"]
    assert call(corpora / f"corpus_{corpus}.jsonl", tmp_path / theirs, *kind, *more) == 0
    expected = sorted(corpora.glob(f"{theirs}_*"))
    assert len(expected) == (4 if corpus == "q" else 2)
    for path in expected:
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()


@pytest.mark.slow
@pytest.mark.usefixtures("small_chunks")
def test_any_number_of_workers(lines: pathlib.Path, tmp_path: pathlib.Path) -> None:
    assert call(lines, tmp_path / "one", *CHAR) == call(lines, tmp_path / "two", *CHAR, workers=2)
    one, two = made(tmp_path / "one"), made(tmp_path / "two")
    assert one.keys() == {f"_text_document{end}" for end in (".bin", ".idx", ".sha256")}
    assert all(one[name] == two[name] for name in one if not name.endswith("sha256"))
    assert len(texts(tmp_path / "two")) == 40


def test_checksums(lines: pathlib.Path, tmp_path: pathlib.Path) -> None:
    assert call(lines, tmp_path / "x", *CHAR) == 0
    found = (tmp_path / "x_text_document.sha256").read_text().splitlines()
    for line, end in zip(found, (".bin", ".idx"), strict=True):
        data = (tmp_path / f"x_text_document{end}").read_bytes()
        assert line == f"{hashlib.sha256(data).hexdigest()}  x_text_document{end}"


def test_summary_on_one_line(
    lines: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(lines, tmp_path / "x", *CHAR) == 0
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1
    assert said.err.startswith("40 documents, 1,") and "x_text_document.bin" in said.err


def test_several_inputs_in_their_order(tmp_path: pathlib.Path) -> None:
    (tmp_path / "in").mkdir()
    for name, text in (("in/b.txt", "B"), ("in/a.txt", "A"), ("z.txt", "Z"), ("y,.txt", "Y")):
        (tmp_path / name).write_text(text)
    (tmp_path / "g.json.gz").write_bytes(gzip.compress(b'"G"\n'))
    names = [f"{tmp_path}/z.txt,{tmp_path}/in", f"{tmp_path}/y,.txt", f"{tmp_path}/g.json.gz"]
    words = ["--output-prefix", f"{tmp_path}/out/x", "--tokenizer-type", "CharLevelTokenizer"]
    assert status_of(["--input", *names, *words]) == 0
    assert texts(tmp_path / "out" / "x") == ["Z", "A", "B", "Y", "G"]


def test_keys_become_datasets_of_the_same_documents(tmp_path: pathlib.Path) -> None:
    """NeoX's tool writes the tokens of "text" under the name of every key."""
    rows = [{"q": "1", "a": "one"}, {"q": "2", "a": ""}, {"q": "3", "a": ["thr", "ee"]}]
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert call(tmp_path / "x.jsonl", tmp_path / "x", *CHAR[:2], "--jsonl-keys", "q", "a") == 0
    assert texts(tmp_path / "x", "q") == ["1", "3"]
    assert texts(tmp_path / "x", "a") == ["one", "thr\n\nee"]


def test_existing_datasets(
    lines: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(lines, tmp_path / "x", *CHAR) == 0
    before = made(tmp_path / "x")
    lines.write_text('"other"\n')
    assert call(lines, tmp_path / "x", *CHAR) == 2
    assert "x_text_document.bin: exists already; give --overwrite" in capsys.readouterr().err
    assert made(tmp_path / "x") == before
    assert call(lines, tmp_path / "x", *CHAR, "--overwrite") == 0
    assert texts(tmp_path / "x") == ["other\0"]


@given(
    st.lists(st.integers(0, 2), max_size=12), st.lists(st.integers(0, 2), min_size=1, max_size=3)
)
def test_masked(tokens: list[int], pattern: list[int]) -> None:
    size = len(pattern)
    at = [i for i in range(len(tokens)) if tokens[i : i + size] == pattern]
    hidden = at[0] + size if at else 0
    found = masked(np.asarray(tokens, np.int32), pattern)
    assert found.tolist() == [-100] * hidden + tokens[hidden:]


@pytest.fixture
def vocabularies(tmp_path: pathlib.Path) -> pathlib.Path:
    folder = tmp_path / "tokenizers"
    folder.mkdir()
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    words = [*alphabet, "th", "the", END]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\nt h\nth e\n")
    backend = tokenizers.ByteLevelBPETokenizer.from_file(
        str(folder / "vocab.json"), str(folder / "merges.txt")
    )
    backend.add_special_tokens([END])
    backend.save(str(folder / "tokenizer.json"))
    return folder


@pytest.mark.parametrize("kind", ["HFTokenizer", "GPT2BPETokenizer", "HFGPT2Tokenizer",
                                  "SPMTokenizer", "TiktokenTokenizer"])  # fmt: skip
def test_kinds(vocabularies: pathlib.Path, tmp_path: pathlib.Path, kind: str) -> None:
    vocab = {
        "HFTokenizer": "tokenizer.json",
        "GPT2BPETokenizer": "vocab.json",
        "HFGPT2Tokenizer": "",
        "SPMTokenizer": "m.model",
        "TiktokenTokenizer": "t.json",
    }
    if kind == "SPMTokenizer":
        spm = pytest.importorskip("sentencepiece")
        (tmp_path / "text").write_text("the theory, the hat")
        spm.SentencePieceTrainer.train(
            input=str(tmp_path / "text"), model_prefix=str(vocabularies / "m"), vocab_size=280,
            model_type="bpe", byte_fallback=True, user_defined_symbols=[END],
            normalization_rule_name="identity", hard_vocab_limit=False, minloglevel=2,
        )  # fmt: skip
    if kind == "TiktokenTokenizer":
        pytest.importorskip("tiktoken")
        import base64

        ranks = {base64.b64encode(bytes([i])).decode(): i for i in range(256)}
        (vocabularies / "t.json").write_text(json.dumps({
            "name": "t", "pat_str": r"\S+|\s+", "special_tokens": {END: 256}, "ranks": ranks
        }))  # fmt: skip
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps({"text": f"the hat é{END}."}) + "\n" + '{"text": ""}\n')
    words = ["--tokenizer-type", kind, "--vocab-file", str(vocabularies / vocab[kind])]
    if kind == "GPT2BPETokenizer":
        words += ["--merge-file", str(vocabularies / "merges.txt")]
    assert call(path, tmp_path / "x", *words, "--append-eod") == 0
    recipe = run.recipe_of(parser().parse_args([
        "--input", "x", "--output-prefix", "x", "--append-eod", *words
    ]))  # fmt: skip
    tokenizer = recipe.build()._tokenizer  # type: ignore[attr-defined]
    dataset = IndexedDataset(tmp_path / "x_text_document")
    assert dataset.dtype == np.uint16 and len(dataset) == 1
    assert dataset.get(0).tolist() == [*tokenizer.encode(f"the hat é{END}."), tokenizer.eod]


def test_an_empty_document_is_none_whatever_its_tokenizer_adds(
    vocabularies: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    backend = tokenizers.Tokenizer.from_file(str(vocabularies / "tokenizer.json"))
    begin = (END, backend.token_to_id(END))
    backend.post_processor = tokenizers.processors.TemplateProcessing(f"{END} $0", None, [begin])
    backend.save(str(tmp_path / "begin.json"))
    (tmp_path / "in.jsonl").write_text('""\n"the"\n""\n')
    kind = ["--tokenizer-type", "HFTokenizer", "--vocab-file", str(tmp_path / "begin.json")]
    assert call(tmp_path / "in.jsonl", tmp_path / "x", *kind) == 0
    dataset = IndexedDataset(tmp_path / "x_text_document")
    assert len(dataset) == 1 and dataset.get(0).tolist() == backend.encode("the").ids


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--tokenizer-type: missing, one of HFTokenizer"),
        (["--tokenizer-type", "Bert"], "'Bert' is unknown"),
        ([*CHAR, "--dataset-impl", "lazy"], "--dataset-impl lazy: only mmap"),
        ([*CHAR, "--for-rm"], "--for-rm: is for conversations; give --tokenizer-path DIR"),
        ([*CHAR, "--reward-key", "r"], "--reward-key: is for conversations"),
        ([*CHAR, "--workers", "0"], "--workers 0: expected 1 or more"),
        ([*CHAR, "--only-last"], "--only-last: is for conversations"),
        ([*CHAR, "--mask-before-token", "1,x"], "expected token ids such as"),
        ([*CHAR, "--mask-before-token", "1", "--jsonl-keys", "a", "b"], "made of one key"),
        ([*CHAR, "--jsonl-keys", "a", "a"], "'a' is given twice"),
        ([*CHAR, "--jsonl-keys", "body"], 'in.jsonl, line 1: the keys text, n, expected .* "body"'),
        ([*CHAR, "--input", "none.jsonl"], "none.jsonl: no such file"),
        ([*CHAR, "--such"], "unrecognized arguments: --such; see .*preprocess --help"),
        (["--chat-template"], "--chat-template: needs --tokenizer-path"),
        ([*CHAR, "--chat-template", "--tokenizer-path", "x"], "--tokenizer-type: is not for"),
    ],
)
def test_wrong_words(
    lines: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str],
    words: list[str], message: str,
) -> None:  # fmt: skip
    assert call(lines, tmp_path / "x", *words) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert re.search(message, said)
    assert made(tmp_path / "x") == {}


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.usefixtures("small_chunks")
def test_bad_line(
    lines: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], workers: int
) -> None:
    lines.write_text(lines.read_text() + "{\n")
    assert call(lines, tmp_path / "x", *CHAR, workers=workers) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {lines}, line 42: not JSON") and said.count("\n") == 1
    assert not list(tmp_path.glob("x*"))


def test_no_text_and_no_end(
    vocabularies: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text('""\n\n{"text": ""}\n')
    assert call(path, tmp_path / "x", *CHAR) == 2
    assert "in.jsonl: no text in 1 file(s)" in capsys.readouterr().err
    vocab = {word: i for word, i in json.loads((vocabularies / "vocab.json").read_text()).items()
             if word != END}  # fmt: skip
    (vocabularies / "vocab.json").write_text(json.dumps(vocab))
    words = ["--tokenizer-type", "HFGPT2Tokenizer", "--vocab-file", str(vocabularies)]
    assert call(path, tmp_path / "x", *words, "--append-eod") == 2
    assert "--append-eod: HFGPT2Tokenizer has no <|endoftext|>" in capsys.readouterr().err
    assert made(tmp_path / "x") == {}


def test_a_full_disk(
    lines: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", "x.bin")

    monkeypatch.setattr(output.Output, "add", full)
    assert call(lines, tmp_path / "x", *CHAR) == 2
    assert capsys.readouterr().err == "error: x.bin: No space left on device\n"
    assert made(tmp_path / "x") == {}
