"""What foreign tokenizers do wrong becomes one line, which names the tokenizer and the text."""

import json
import os
import pathlib
import time
from typing import Any

import pytest

from convert.proof.sample import sample
from jaxneox.config.schema import AttentionConfig, MlpConfig, ModelConfig, TokenizerConfig
from jaxneox.data import library
from jaxneox.data.growth import growth
from jaxneox.data.library import TokenizerFault, faults, reason, within
from jaxneox.data.text import cached_dataset
from jaxneox.data.tokenizer import Tokenizer, build_tokenizer
from tests.preprocess.command import call


def saved(path: pathlib.Path, **parts: Any) -> pathlib.Path:
    """A tokenizer.json that knows two words and an end, with other parts."""
    model = {"type": "WordLevel", "vocab": {"a": 0, "b": 1, "<|endoftext|>": 2}, "unk_token": "u"}
    split = {"type": "Whitespace"}
    whole: dict[str, Any] = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [],
        "normalizer": None, "pre_tokenizer": split, "post_processor": None, "decoder": None,
        "model": model,
    }  # fmt: skip
    path.write_text(json.dumps(whole | parts))
    return path


def regex(pattern: str) -> dict[str, Any]:
    split = {"pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return {"pre_tokenizer": {"type": "Split", **split}}


PANICS = {
    "post_processor": {
        "type": "TemplateProcessing",
        "single": [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "x",
                                                                              "type_id": 0}}],
        "pair": [],
        "special_tokens": {},
    }
}  # fmt: skip


def opened(path: pathlib.Path) -> Tokenizer:
    return build_tokenizer(TokenizerConfig("HFTokenizer", str(path)))


@pytest.mark.parametrize(
    "parts", [{}, PANICS, regex("(a+)+$")], ids=["raises", "panics", "backtracks"]
)
@pytest.mark.parametrize("workers", [1, 2])
def test_one_line_names_tokenizer_and_document(
    tmp_path: pathlib.Path, capfd: pytest.CaptureFixture[str], parts: dict[str, Any], workers: int
) -> None:
    path = saved(tmp_path / "t.json", **parts)
    good = "a b" if not parts else ""
    lines = [good, "a" * 40 + "!", good]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in lines))
    flags = ("--append-eod", "--tokenizer-type", "HFTokenizer", "--vocab-file", str(path))
    assert call(tmp_path / "in.jsonl", tmp_path / "o", *flags, workers=workers) == 2
    said = capfd.readouterr().err
    assert said.count("\n") == 1, said
    assert "in.jsonl, line 2: the tokenizer " in said and "t.json cannot encode 'aaa" in said
    assert not list(tmp_path.glob("*o_*"))


def test_text_to_train_on(
    tmp_path: pathlib.Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JAXNEOX_CACHE", str(tmp_path / "cache"))
    (tmp_path / "in.jsonl").write_text('{"text": "a"}\n\n{"text": "c"}\n')
    with pytest.raises(TokenizerFault, match=r"in\.jsonl, line 3: the tokenizer .*t\.json cannot"):
        cached_dataset(str(tmp_path / "in.jsonl"), opened(saved(tmp_path / "t.json")))
    assert not capfd.readouterr().err


def test_decoding_and_opening(tmp_path: pathlib.Path, capfd: pytest.CaptureFixture[str]) -> None:
    panicking = opened(saved(tmp_path / "t.json", **PANICS))
    with pytest.raises(TokenizerFault, match=r"t\.json cannot encode 'a'.*no entry"):
        panicking.encode("a")
    with pytest.raises(TokenizerFault, match=r"t\.json cannot decode 1 tokens"):
        panicking.decode([2**40])
    prefix = {"continuing_subword_prefix": "#" * 900, "vocab": {"a": 0, "b": 1, "ab": 2}}
    bpe = {"type": "BPE", "merges": ["a b"], "unk_token": None, **prefix}
    with pytest.raises(TokenizerFault, match=r"t\.json: not a tokenizer\.json"):
        opened(saved(tmp_path / "t.json", model=bpe))
    assert not capfd.readouterr().err


def test_a_limit_of_time(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each place of this text takes just less than what the library itself stops."""
    monkeypatch.setattr(library, "SECONDS", 0.2)
    tokenizer = opened(saved(tmp_path / "t.json", **regex("(a+)+$")))
    began = time.monotonic()
    with pytest.raises(TokenizerFault, match=r"in, line 1: .*longer than 0 seconds"):
        tokenizer.encode_batch([("a" * 19 + "!") * 2000], ["in, line 1"])
    assert time.monotonic() - began < 30


def test_a_conversion_is_proven_with_other_tokens(tmp_path: pathlib.Path) -> None:
    """A model's weights are no worse for a tokenizer that cannot be used."""
    broken = opened(saved(tmp_path / "t.json", **PANICS))
    assert broken.begin is None
    tokens, what = sample(ModelConfig(1, 8, 16, 32, AttentionConfig(2, 2, 4), MlpConfig(8)), broken)
    assert tokens.size and "random tokens (the tokenizer " in what and "cannot encode" in what


def test_truncation_and_padding_are_off(tmp_path: pathlib.Path) -> None:
    cut = {"max_length": 2, "stride": 5, "strategy": "LongestFirst", "direction": "Right"}
    tokenizer = opened(saved(tmp_path / "t.json", truncation=cut))
    assert tokenizer.encode("a b a b") == [0, 1, 0, 1]


def test_a_text_does_not_grow_without_end(tmp_path: pathlib.Path) -> None:
    """The library ends the whole process where memory ends."""

    def replaces(pattern: dict[str, str], content: str) -> dict[str, Any]:
        return {"type": "Replace", "pattern": pattern, "content": content}

    path = tmp_path / "t.json"
    thousand = replaces({"String": "a"}, "a" * 1000)
    twice = {"type": "Sequence", "normalizers": [{"type": "NFC"}, replaces({"Regex": "b?"}, "b")]}
    for name, part in (
        ("normalizer", {"type": "Sequence", "normalizers": [thousand] * 6}),
        ("normalizer", {"type": "Sequence", "normalizers": [twice] * 7}),
        ("normalizer", {"type": "Prepend", "prepend": "a" * 1000}),
        ("decoder", {"type": "Sequence", "decoders": [thousand]}),
    ):
        with pytest.raises(
            TokenizerFault, match=rf"t\.json: its {name} can make a text [\d,]+ times"
        ):
            opened(saved(path, **{name: part}))
    llama = [{"type": "Prepend", "prepend": "\u2581"}, replaces({"String": " "}, "\u2581")]
    spaces = replaces({"Regex": " {2,}"}, " ")
    opened(saved(path, normalizer={"type": "Sequence", "normalizers": [*llama, *[spaces] * 9]}))


def test_an_expression_that_takes_years_is_not_matched(tmp_path: pathlib.Path) -> None:
    """Not even with an empty text."""
    years = {"Regex": f"{'(?:' * 5}a?{'){300}' * 5}"}
    replace = {"type": "Replace", "pattern": years, "content": "b"}
    began = time.thread_time()
    assert growth(replace) == 2
    assert time.thread_time() - began < 2


def test_reasons() -> None:
    assert reason(MemoryError()) == "not enough memory"
    assert reason(RecursionError("x")) == "nested too deep"
    assert reason(ValueError()) == "ValueError" and reason(ValueError("a\n b")) == "a b"
    with pytest.raises(TokenizerFault, match=r"^what \(why\)$"), faults("what"):
        raise ValueError("why")
    with pytest.raises(KeyboardInterrupt), faults("what"):
        raise KeyboardInterrupt
    with pytest.raises(ValueError, match="why"):
        within(raises)


def raises() -> None:
    raise ValueError("why")


def test_other_lines_on_stderr_stay(capfd: pytest.CaptureFixture[str]) -> None:
    with faults("what"), faults("inner"):
        os.write(2, b"a note\n")
    assert capfd.readouterr().err == "a note\n"
