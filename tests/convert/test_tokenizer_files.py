"""`--tokenizer FILE`: the kind is the file's, and what is not carried is in the certificate."""

import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers

from convert import from_hf, from_neox, to_hf, to_neox
from convert.hf.tokenizer import save_tokenizer, tokenizer_at
from convert.neox.tokenizer_in import find_tokenizer
from jaxneox.config.schema import TokenizerConfig
from jaxneox.data import build_tokenizer, load_tokenizer
from jaxneox.errors import UserError
from jaxneox.preprocess.command import main as preprocess
from tests.convert.commands import call, run
from tests.convert.hf_models import LLAMA, change_config, export, write_run
from tests.convert.synthetic import Synthetic
from tests.convert.test_hf_refusals import refused
from tests.convert.tokenizer_folders import byte_level, gpt2, llama, llama_slow, write

KEYS = LLAMA | {"padded_vocab_size": 512}


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """One file of each kind, none with a name that tells which."""
    folder = tmp_path / "files"
    folder.mkdir()
    gpt2(folder)
    llama_slow(folder)
    byte_level("<|endoftext|>").save(str(folder / "20B.json"))
    names = {"vocab.json": "gpt2-vocab.json", "merges.txt": "gpt2-merges.txt",
             "tokenizer.model": "mine.model"}  # fmt: skip
    for name, other in names.items():
        (folder / name).rename(folder / other)
    ranks = {
        "name": "x",
        "pat_str": ".",
        "special_tokens": {"<|endoftext|>": 1},
        "ranks": {"YQ==": 0},
    }
    (folder / "encoding.json").write_text(json.dumps(ranks))
    return {
        "HFTokenizer": folder / "20B.json",
        "GPT2BPETokenizer": folder / "gpt2-vocab.json",
        "SPMTokenizer": folder / "mine.model",
        "TiktokenTokenizer": folder / "encoding.json",
    }


@pytest.mark.parametrize("kind", ["HFTokenizer", "GPT2BPETokenizer", "SPMTokenizer",
                                  "TiktokenTokenizer"])  # fmt: skip
def test_the_kind_is_the_file_s(files: dict[str, Path], tmp_path: Path, kind: str) -> None:
    """Whatever the YAML says, or when it says nothing."""
    for keys in (TokenizerConfig(), TokenizerConfig("CharLevelTokenizer"),
                 TokenizerConfig("HFTokenizer", "gone.json")):  # fmt: skip
        found, _ = find_tokenizer(keys, files[kind], tmp_path)
        assert found is not None and found.name == kind
    if kind == "GPT2BPETokenizer":
        found, _ = find_tokenizer(TokenizerConfig("HFGPT2Tokenizer"), files[kind], tmp_path)
        assert found is not None and found.name == "HFGPT2Tokenizer"


def test_a_yaml_without_a_tokenizer(tmp_path: Path) -> None:
    """No None is printed, the certificate says what is missing, and the given file is taken."""
    keys = {"vocab-file": None, "tokenizer-type": "GPT2BPETokenizer"}
    Synthetic(keys=keys).write(tmp_path / "neox")
    said = call(from_neox, tmp_path / "neox", tmp_path / "without", "--no-verify")
    assert "None" not in said.err and "names no file of a tokenizer" in said.err
    record = json.loads((tmp_path / "without" / "certificate.json").read_text())
    assert any("names no file of a tokenizer" in line for line in record["warnings"])
    (tmp_path / "tok").mkdir()
    words = {"<|endoftext|>": 0, "a": 1}
    made = tokenizers.Tokenizer(tokenizers.models.BPE(words, []))
    made.add_special_tokens(["<|endoftext|>"])
    made.save(str(tmp_path / "tok" / "small.json"))
    argv = (tmp_path / "neox", tmp_path / "with", "--no-verify", "--tokenizer")
    call(from_neox, *argv, tmp_path / "tok" / "small.json")
    config = (tmp_path / "with" / "config.yml").read_text()
    assert "tokenizer_type: HFTokenizer" in config and "vocab_file" not in config
    assert load_tokenizer(tmp_path / "with" / "tokenizer").eod == 0
    back = call(to_neox, tmp_path / "without", tmp_path / "neox2", "--no-verify")
    assert "None" not in back.err and "the YAML has no vocab-file" in back.err


def test_too_many_ids_for_the_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Synthetic().write(tmp_path / "neox")
    byte_level("<|endoftext|>").save(str(tmp_path / "large.json"))
    line = refused(from_neox.main, capsys, tmp_path / "neox", tmp_path / "dst", "--tokenizer",
                   tmp_path / "large.json")  # fmt: skip
    assert "large.json: the tokenizer has ids up to 262, but the model" in line


def test_a_given_tokenizer_and_the_model_s_own_generation(tmp_path: Path) -> None:
    """Of the tokenizer's folder its files; of the model's what it says of generation."""
    there = export(tmp_path, keys=KEYS)
    change_config(there, bos_token_id=1, eos_token_id=7)
    (there / "generation_config.json").write_text(json.dumps({"eos_token_id": [8, 9]}))
    (tmp_path / "tok").mkdir()
    llama(tmp_path / "tok")
    file = tmp_path / "tok" / "tokenizer.json"
    call(from_hf, there, tmp_path / "ours", "--no-verify", "--tokenizer", file)
    ours = load_tokenizer(tmp_path / "ours" / "tokenizer")
    assert (ours.eod, ours.stops) == (2, {2, 7, 8, 9})
    call(to_hf, tmp_path / "ours", tmp_path / "back", "--no-verify")
    generation = (tmp_path / "back" / "generation_config.json").read_bytes()
    assert generation == (there / "generation_config.json").read_bytes()
    assert json.loads((tmp_path / "back" / "config.json").read_text())["eos_token_id"] == 7


def test_wrong_ids_of_tokens_refuse_the_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    there = export(tmp_path, keys=KEYS)
    capsys.readouterr()
    change_config(there, eos_token_id="two")
    line = refused(from_hf.main, capsys, there, tmp_path / "dst", "--no-verify")
    assert "config.json: eos_token_id is 'two', expected the id of a token" in line


def test_a_folder_whose_added_tokens_are_no_token_s(tmp_path: Path) -> None:
    """None is taken, and its name and the reason are in the certificate."""
    there = export(tmp_path, keys=KEYS)
    change_config(there, eos_token_id=2)
    gpt2(there)
    (there / "added_tokens.json").write_text(json.dumps({"<x>": 5}))
    said = call(from_hf, there, tmp_path / "ours", "--no-verify")
    assert "which vocab.json gives to" in said.err and "gets no tokenizer" in said.err
    assert "stops at config.json's eos_token_id 2 only then" in said.err
    assert not (tmp_path / "ours" / "tokenizer").exists()
    assert "which vocab.json gives to" in (tmp_path / "ours" / "certificate.md").read_text()


def test_dropout_is_said_and_not_written(tmp_path: Path) -> None:
    there = export(tmp_path, keys=KEYS)
    write(there, byte_level("<|endoftext|>", dropout=0.25))
    said = call(from_hf, there, tmp_path / "ours", "--no-verify")
    assert "a dropout of 0.25, which is off here" in said.err
    call(to_hf, tmp_path / "ours", tmp_path / "back", "--no-verify")
    assert "dropout of 0.25" in (tmp_path / "back" / "certificate.md").read_text()
    assert (
        json.loads((tmp_path / "back" / "tokenizer.json").read_text())["model"]["dropout"] is None
    )
    neox = call(to_neox, tmp_path / "ours", tmp_path / "neox", "--no-verify")
    kept = json.loads((tmp_path / "neox" / "tokenizer" / "tokenizer.json").read_text())
    assert kept["model"]["dropout"] is None and neox.status == 0


@pytest.mark.parametrize("dropout", [None, 0.25])
def test_what_is_written_is_noted_and_not_what_was_read(
    tmp_path: Path, dropout: float | None
) -> None:
    """How its files were read was said when they were; of what is written it is untrue."""
    write(tmp_path, byte_level("<|endoftext|>", dropout=dropout))
    tokenizer = tokenizer_at(tmp_path / "tokenizer.json")
    tokenizer.notes += ("token 7 is where token 8 should be",)
    notes = save_tokenizer(tokenizer, tmp_path, 16)
    assert len(notes) == (dropout is not None) and "token 7" not in " ".join(notes)


def test_a_sentencepiece_model_names_its_ends(tmp_path: Path) -> None:
    """A NeoX run with Llama's model alone: documents end with its own </s>; NeoX knows no such."""
    (tmp_path / "tok").mkdir()
    llama_slow(tmp_path / "tok")
    model = tmp_path / "only.model"
    (tmp_path / "tok" / "tokenizer.model").rename(model)
    ours = tokenizer_at(model)
    write_run(tmp_path / "run", KEYS, tokenizer=ours)
    call(to_hf, tmp_path / "run", tmp_path / "back", "--no-verify")
    config = json.loads((tmp_path / "back" / "config.json").read_text())
    assert (config["bos_token_id"], config["eos_token_id"]) == (1, 2)
    said = call(to_neox, tmp_path / "run", tmp_path / "neox", "--no-verify")
    assert "documents end with '</s>', token 2: NeoX's SPMTokenizer knows no end but" in said.err


def test_a_chosen_end_without_companions(tmp_path: Path) -> None:
    byte_level("<eot>", "<x>").save(str(tmp_path / "plain.json"))
    keys = TokenizerConfig("HFTokenizer", str(tmp_path / "plain.json"), eod_token="<eot>")
    assert save_tokenizer(build_tokenizer(keys), tmp_path, 16) == []
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert config["eos_token"] == "<eot>" and "bos_token" not in config


def test_preprocess_ends_documents_with_what_it_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    byte_level("<a>", "<b>").save(str(tmp_path / "plain.json"))
    (tmp_path / "in.jsonl").write_text('{"text": "the"}\n')
    words = ["--input", str(tmp_path / "in.jsonl"), "--output-prefix", str(tmp_path / "out"),
             "--workers", "1", "--tokenizer-type", "HFTokenizer", "--vocab-file",
             str(tmp_path / "plain.json")]  # fmt: skip

    def status(*more: str) -> Any:
        with pytest.raises(SystemExit) as stopped:
            preprocess([*words, *more])
        return stopped.value.code

    assert status("--append-eod") == 2
    assert "name another with --eod-token" in capsys.readouterr().err
    assert status("--eod-token", "<b>") == 2
    assert "--eod-token needs --append-eod" in capsys.readouterr().err
    assert status("--append-eod", "--eod-token", "<c>") == 2
    assert "'<c>' is no token" in capsys.readouterr().err
    assert not status("--append-eod", "--eod-token", "<b>")
    ids = tokenizers.Tokenizer.from_file(str(tmp_path / "plain.json")).encode("the<b>").ids
    assert list((tmp_path / "out_text_document.bin").read_bytes()[::2]) == [i % 256 for i in ids]


def test_a_folder_may_be_given(tmp_path: Path) -> None:
    llama(tmp_path)
    assert tokenizer_at(tmp_path).name == "HFTokenizer"
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"has no tokenizer\.json, vocab\.json or"):
        tokenizer_at(tmp_path / "empty")
    assert run(from_hf, tmp_path / "empty", tmp_path / "dst").status == 2
