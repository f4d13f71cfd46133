"""What lies beside a tokenizer: which token ends a document, which end generation, what is kept."""

import hashlib
import json
import pathlib
from typing import Any

import pytest
import tokenizers
from tokenizers import models, pre_tokenizers, processors

from jaxneox.config.schema import TokenizerConfig
from jaxneox.data.companions import companions_in
from jaxneox.data.indexed import IndexedDataset
from jaxneox.data.text import cached_dataset
from jaxneox.data.tokenizer import (
    Tokenizer,
    build_tokenizer,
    companions_of,
    load_tokenizer,
    open_tokenizer,
)
from jaxneox.errors import UserError
from jaxneox.evaluate.corpus import read as read_corpus
from jaxneox.infer.scoring import pair

ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
CONFIG = {"eos_token": "</s>", "bos_token": "<s>"}


def backend_of(*special: str, **bpe: Any) -> tokenizers.Tokenizer:
    words = [*special, *ALPHABET, "th"]
    made = tokenizers.Tokenizer(
        models.BPE({word: i for i, word in enumerate(words)}, [("t", "h")], **bpe)
    )
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    made.add_special_tokens(list(special))
    return made


def folder_of(path: pathlib.Path, made: tokenizers.Tokenizer, **files: Any) -> pathlib.Path:
    path.mkdir(exist_ok=True)
    made.save(str(path / "tokenizer.json"))
    for name, content in files.items():
        (path / f"{name}.json").write_text(json.dumps(content))
    return path


def opened(folder: pathlib.Path, eod_token: str | None = None) -> Tokenizer:
    file = str(folder / "tokenizer.json")
    return build_tokenizer(TokenizerConfig("HFTokenizer", file, eod_token=eod_token))


def test_what_was_saved_of_one_use_is_off(tmp_path: pathlib.Path) -> None:
    made = backend_of("<|endoftext|>", "<|padding|>", dropout=0.9)
    made.enable_truncation(3)
    made.enable_padding(pad_id=1, pad_token="<|padding|>", length=9)
    ours = opened(folder_of(tmp_path / "tok", made))
    ids = ours.encode("thth thth")
    assert len(ids) == 5 and ids == ours.encode("thth thth")
    assert [row.tolist() for row in ours.encode_batch(["thth thth", "th"])] == [ids, ids[:1]]
    (note,) = ours.notes
    assert "dropout of 0.9, which is off" in note


@pytest.mark.parametrize(
    ("special", "files", "eod", "stops"),
    [
        (("<|endoftext|>", "</s>"), {}, 0, {0}),
        (("<|endoftext|>", "</s>"), {"tokenizer_config": CONFIG}, 1, {1}),
        (("<|endoftext|>", "</s>"), {"special_tokens_map": {"eos_token": {"content": "</s>"}}},
         1, {1}),
        (("<|endoftext|>", "</s>"), {"tokenizer_config": {"eos_token": None},
                                     "special_tokens_map": {"eos_token": "</s>"}}, 1, {1}),
        (("<s>", "</s>"), {"config": {"eos_token_id": 1}}, 1, {1}),
        (("<s>", "</s>"), {"config": {"eos_token_id": [1, 0]}}, 1, {0, 1}),
        (("<|endoftext|>", "</s>"), {"config": {"eos_token_id": 1}}, 0, {0, 1}),
        (("<s>", "</s>", "<x>"), {"tokenizer_config": CONFIG, "config": {"eos_token_id": 0},
                                  "generation_config": {"eos_token_id": [2, -1]}}, 1, {0, 1, 2}),
        (("<s>",), {}, None, set()),
        (("<s>",), {"tokenizer_config": {"eos_token": "gone"}}, None, set()),
    ],
)  # fmt: skip
def test_the_end_of_a_document(
    tmp_path: pathlib.Path, special: Any, files: Any, eod: int | None, stops: set[int]
) -> None:
    ours = opened(folder_of(tmp_path / "tok", backend_of(*special), **files))
    assert (ours.eod, ours.stops) == (eod, stops)
    ours.save(tmp_path / "run")
    again = load_tokenizer(tmp_path / "run")
    assert (again.eod, again.stops, again.bos) == (eod, stops, ours.bos)
    assert again.fingerprint() == ours.fingerprint()
    assert ("no token of its vocabulary" in "".join(ours.notes)) == ("gone" in str(files))


def test_eod_token_names_another_and_is_kept(tmp_path: pathlib.Path) -> None:
    folder = folder_of(tmp_path / "tok", backend_of("<s>", "</s>"), tokenizer_config=CONFIG)
    ours = opened(folder, "<s>")
    assert (ours.eod, ours.named_eod) == (0, 1)
    ours.save(tmp_path / "run")
    assert load_tokenizer(tmp_path / "run").eod == 0
    assert load_tokenizer(tmp_path / "run", "</s>").eod == 1
    # the file of a run's own folder has what the run settled on
    assert opened(tmp_path / "run").eod == 0
    with pytest.raises(UserError, match=r"eod-token: '<\|end\|>' is no token of this HFTokenizer"):
        opened(folder, "<|end|>")


def test_fingerprints_of_before_stay(tmp_path: pathlib.Path) -> None:
    """Of a tokenizer that ends documents with <|endoftext|>, whatever lies beside it; another end
    makes other documents."""
    made = backend_of("<|endoftext|>", "</s>")
    folder = folder_of(tmp_path / "tok", made, generation_config={"eos_token_id": 1},
                       tokenizer_config={"eos_token": "<|endoftext|>"})  # fmt: skip
    content = (folder / "tokenizer.json").read_bytes()
    before = hashlib.sha256(b"HFTokenizer" + hashlib.sha256(content).digest()).hexdigest()
    assert opened(folder).fingerprint() == before
    assert opened(folder, "</s>").fingerprint() != before


def test_a_run_of_before_keeps_its_end(tmp_path: pathlib.Path) -> None:
    """Its description says nothing of one: documents ended with <|endoftext|>."""
    made = backend_of("<|endoftext|>", "</s>")
    folder = folder_of(tmp_path / "tok", made, tokenizer_config=CONFIG)
    (tmp_path / "run").mkdir()
    kept = folder_of(tmp_path / "run" / "tokenizer", made)
    (kept / "jaxneox_tokenizer.json").write_text(
        json.dumps({"tokenizer_type": "HFTokenizer", "files": ["tokenizer.json"]})
    )
    cfg = TokenizerConfig("HFTokenizer", str(folder / "tokenizer.json"))
    assert build_tokenizer(cfg).eod == 1
    assert open_tokenizer(cfg, [tmp_path / "run"]).eod == 0
    assert open_tokenizer(cfg, [tmp_path / "none"]).eod == 1
    chosen = TokenizerConfig("HFTokenizer", str(folder / "tokenizer.json"), eod_token="</s>")
    assert open_tokenizer(chosen, [tmp_path / "run"]).eod == 1
    missing = TokenizerConfig("HFTokenizer", "none.json")
    assert open_tokenizer(missing, [tmp_path / "run"]).eod == 0
    with pytest.raises(UserError, match=r"none\.json: no such file"):
        open_tokenizer(missing, [])


def test_text_ends_with_the_named_token(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JAXNEOX_CACHE", str(tmp_path / "cache"))
    (tmp_path / "a.txt").write_text("th")
    folder = folder_of(tmp_path / "tok", backend_of("<s>", "</s>"), tokenizer_config=CONFIG)
    for eod_token, last in ((None, 1), ("<s>", 0)):
        tokenizer = opened(folder, eod_token)
        dataset = IndexedDataset(cached_dataset(str(tmp_path / "a.txt"), tokenizer))
        assert dataset.get(0).tolist() == [*tokenizer.encode("th"), last]
    nameless = opened(folder_of(tmp_path / "bare", backend_of("<s>")))
    with pytest.raises(UserError, match="set eod-token to the text of another") as caught:
        cached_dataset(str(tmp_path / "a.txt"), nameless)
    assert "\n" not in str(caught.value)


def test_tokens_of_the_folder_are_read_as_such(tmp_path: pathlib.Path) -> None:
    """The next ids, and words of the vocabulary that are named; what has no place is said."""
    made = backend_of("<s>")
    size = made.get_vocab_size()
    decoder = {str(size): {"content": "<a>", "special": True}, "9999": {"content": "<far>"},
               str(size + 1): {"content": "<b>", "lstrip": True, "rstrip": True}}  # fmt: skip
    folder = folder_of(tmp_path / "tok", made, tokenizer_config={
        "added_tokens_decoder": decoder, "additional_special_tokens": ["th"]
    })  # fmt: skip
    ours = opened(folder)
    assert ours.encode("<a> <b> th<far>")[:3] == [size, size + 1, made.token_to_id("th")]
    assert (ours.vocab_size, ours.rows) == (size + 2, size + 2)
    assert [note for note in ours.notes if "'<far>' is listed as token 9999" in note]
    ours.save(tmp_path / "run")
    assert load_tokenizer(tmp_path / "run").encode("<a> <b> th") == ours.encode("<a> <b> th")


def test_a_slow_folder_has_its_ids_or_none(tmp_path: pathlib.Path) -> None:
    words = [*ALPHABET, "th", "<|endoftext|>"]
    (tmp_path / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\nt h\n")
    files = (str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt"))
    added = {"<x>": 400, "<y>": 300}
    (tmp_path / "added_tokens.json").write_text(json.dumps(added))
    ours = build_tokenizer(TokenizerConfig("GPT2BPETokenizer", *files))
    th = words.index("th")
    assert ours.encode("th<x><y>th") == [th, 400, 300, th] and ours.rows == 401
    assert ours.decode([th, 400]) == "th<x>"
    for wrong, message in (
        ({"<x>": 5}, f"'<x>' the id 5, which vocab.json gives to {words[5]!r}"),
        ({"th": 400}, f"'th' the id 400, which vocab.json has as {th}"),
        ({"<x>": 400, "<y>": 400}, "'<y>' the id 400, which vocab.json gives to '<x>'"),
    ):
        (tmp_path / "added_tokens.json").write_text(json.dumps(wrong))
        with pytest.raises(UserError) as caught:
            build_tokenizer(TokenizerConfig("GPT2BPETokenizer", *files))
        assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer_config", '{"eos_token": 3}', "eos_token is 3, expected the text of a token"),
        ("tokenizer_config", "[1]", "holds a list, expected a block of keys"),
        ("tokenizer_config", "{", "is not valid JSON"),
        ("tokenizer_config", "[" * 100_000, "nests more than"),
        ("tokenizer_config", '{"added_tokens_decoder": [1]}', "is a list, expected tokens by"),
        ("tokenizer_config", '{"added_tokens_decoder": {"x": "a"}}', "expected a token by its id"),
        ("tokenizer_config", '{"added_tokens_decoder": {"7": {}}}', "expected a token by its id"),
        ("tokenizer_config", '{"extra_special_tokens": 7}', "is 7, expected a list of tokens"),
        ("added_tokens", '{"a": "7"}', "a is '7', expected the id of a token"),
        ("added_tokens", '{"a": -7}', "a is -7, expected the id of a token"),
        ("generation_config", '{"eos_token_id": "2"}', "eos_token_id is '2', expected the id"),
        ("generation_config", '{"eos_token_id": [true]}', "is a list, expected the id of a token"),
        ("config", '{"bos_token_id": 1.5}', "bos_token_id is 1.5, expected the id of a token"),
    ],
)
def test_foreign_files_of_the_wrong_shape_are_one_line(
    tmp_path: pathlib.Path, name: str, content: str, message: str
) -> None:
    (tmp_path / f"{name}.json").write_text(content)
    with pytest.raises(UserError) as caught:
        companions_in(tmp_path)
    line = str(caught.value)
    assert message in line and f"{name}.json: " in line and "\n" not in line and len(line) < 400


def test_a_file_that_is_too_large(tmp_path: pathlib.Path) -> None:
    with (tmp_path / "chat_template.jinja").open("wb") as file:
        file.truncate((64 << 20) + 1)
    with pytest.raises(UserError, match=r"chat_template\.jinja: has more than 67,108,864 bytes"):
        companions_in(tmp_path)


@pytest.mark.parametrize(
    "changed",
    [{"files": ["../x"]}, {"files": "tokenizer.json"}, {"companions": ["config.yml"]},
     {"companions": ["../tokenizer_config.json"]}, {"eod": "x"}, {"tokenizer_type": 3}],
)  # fmt: skip
def test_a_description_names_files_of_its_folder(tmp_path: pathlib.Path, changed: Any) -> None:
    opened(folder_of(tmp_path / "tok", backend_of("<s>"))).save(tmp_path / "run")
    (tmp_path / "x").write_text("{}")
    path = tmp_path / "run" / "jaxneox_tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))
    with pytest.raises(UserError, match="does not describe a tokenizer in its folder"):
        load_tokenizer(tmp_path / "run")


def test_what_begins_a_text_is_context_alone(tmp_path: pathlib.Path) -> None:
    """A tokenizer that puts <s> before every text: it is not scored, and nothing comes before."""
    made = backend_of("<s>", "</s>")
    made.post_processor = processors.TemplateProcessing("<s> $A", None, [("<s>", 0)])
    ours = opened(folder_of(tmp_path / "tok", made, tokenizer_config=CONFIG))
    assert (ours.begin, ours.eod) == (0, 1)
    request = pair(ours, "", "thth", 20)
    assert (request.tokens, request.given) == (ours.encode("thth"), 1)
    (tmp_path / "a.txt").write_text("thth")
    cfg: Any = type("Model", (), {"seq_length": 20, "vocab_size": 300})
    corpus = read_corpus(str(tmp_path / "a.txt"), cfg, ours, None, None)
    assert corpus.requests[0].tokens == ours.encode("thth")
    plain = opened(folder_of(tmp_path / "tok", backend_of("<s>", "</s>"), tokenizer_config=CONFIG))
    assert plain.begin is None and pair(plain, "", "thth", 20).tokens[0] == 1


def test_sentencepiece_with_added_tokens(tmp_path: pathlib.Path) -> None:
    sentencepiece = pytest.importorskip("sentencepiece")
    (tmp_path / "text").write_text("the theory of the hat\n" * 9)
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "text"), model_prefix=str(tmp_path / "tokenizer"), vocab_size=280,
        model_type="bpe", byte_fallback=True, normalization_rule_name="identity",
        remove_extra_whitespaces=False, hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    cfg = TokenizerConfig("SPMTokenizer", str(tmp_path / "tokenizer.model"))
    plain = build_tokenizer(cfg)
    assert (plain.eod, plain.bos, plain.added) == (2, 1, ())
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<x>": 500, "<x>y": 501}))
    config = {"eos_token": "<x>", "add_bos_token": True, "bos_token": "<s>", "pad_token": "</s>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    by_neox = build_tokenizer(cfg)  # whose SPMTokenizer puts nothing before a text
    assert by_neox.encode("the") == plain.encode("the") and by_neox.eod == 500
    ours = build_tokenizer(cfg, companions_of(cfg))
    start = plain.encode("the")
    within = [i for i in plain.encode("a the")][-len(start) :]  # within a text, with its space
    assert ours.encode("the<x>ythe</s> the") == [
        1, *start, 501, *plain.encode("hatthe")[len(plain.encode("hat")) :], 2, *within
    ]  # fmt: skip
    assert (ours.eod, ours.rows, ours.begin) == (500, 502, 1)
    for text in ("the<x>y the", "<x> <x>the", "hat <x>y\n", "é<x>y東"):
        assert ours.decode(ours.encode(text)) == text
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config | {"legacy": True}))
    legacy = build_tokenizer(cfg, companions_of(cfg))
    assert legacy.encode("the<x>ythe") == [1, *start, 501, *start]
    assert legacy.fingerprint() != ours.fingerprint() != plain.fingerprint()
    ours.save(tmp_path / "run")
    of_run = TokenizerConfig("SPMTokenizer", str(tmp_path / "run" / "tokenizer.model"))
    for again in (load_tokenizer(tmp_path / "run"), build_tokenizer(of_run)):
        assert again.encode("a<x> the") == ours.encode("a<x> the")
