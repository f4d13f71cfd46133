"""Published tokenizers through from_hf, a run and to_hf: transformers reads the same at both ends.

`JAXNEOX_TEXTS=2000 pytest tests/convert/test_tokenizers_there_and_back.py` tries more texts.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import jaxneox
from convert import from_hf, from_neox, to_hf, to_neox
from jaxneox.config.schema import TokenizerConfig
from jaxneox.data import build_tokenizer, load_tokenizer
from tests.convert.commands import call
from tests.convert.hf_models import LLAMA, change_config, export
from tests.convert.tokenizer_folders import FOLDERS, texts
from tests.train.runs import command, write_words

transformers = pytest.importorskip("transformers", reason="needs the torch extra")

COUNT = int(os.environ.get("JAXNEOX_TEXTS", "60"))
NOT_RUNNING = {"certificate.json", "certificate.md", "certificate.png"}
REBUILT = {"GPT-2, slow, with a gap", "Llama, sentencepiece", "Llama", "GPT-NeoX"}
"""transformers makes these anew from their vocabulary, in its own way or with its own numbers."""
CHAT = [{"role": "user", "content": "the hat"}, {"role": "assistant", "content": "a theory"}]


class Ends(NamedTuple):
    there: Path
    run: Path
    back: Path


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama in transformers' files, without a tokenizer."""
    keys = LLAMA | {"padded_vocab_size": 512, "seq_length": 32, "max_position_embeddings": 32}
    return export(tmp_path_factory.mktemp("model"), keys=keys)


def folder_of(name: str, model: Path, folder: Path) -> Path:
    folder.mkdir()
    for file in ("config.json", "model.safetensors"):
        shutil.copy(model / file, folder / file)
    change_config(folder, bos_token_id=None, eos_token_id=None)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | FOLDERS[name](folder)))
    return folder


@pytest.fixture(scope="session", params=FOLDERS)
def ends(
    request: pytest.FixtureRequest, model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Ends:
    """A tokenizer's folder, the run, and what comes back after a run has saved it again."""
    place = tmp_path_factory.mktemp("ends")
    made = Ends(place / "there", place / "run", place / "back")
    folder_of(request.param, model, made.there)
    call(from_hf, made.there, made.run, "--no-verify")
    load_tokenizer(made.run / "tokenizer").save(made.run / "tokenizer")  # as training does
    call(to_hf, made.run, made.back, "--no-verify")
    return made


def opened(folder: Path) -> Any:
    found = transformers.AutoTokenizer.from_pretrained(folder)
    if getattr(found._tokenizer.model, "dropout", None):
        found._tokenizer.model.dropout = None
    return found


def test_transformers_reads_the_same(ends: Ends, request: pytest.FixtureRequest) -> None:
    there, back = opened(ends.there), opened(ends.back)
    for text in texts(COUNT):
        assert back(text)["input_ids"] == there(text)["input_ids"], text
    assert back.all_special_ids == there.all_special_ids
    for name in ("bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id"):
        assert getattr(back, name) == getattr(there, name), name
    assert back.chat_template == there.chat_template
    if isinstance(there.chat_template, str):
        rendered = [t.apply_chat_template(CHAT, tokenize=False) for t in (there, back)]
        assert rendered[0] == rendered[1] and "the hat" in rendered[0]


def test_we_read_what_transformers_reads(ends: Ends, request: pytest.FixtureRequest) -> None:
    if request.node.callspec.params["ends"] in REBUILT:
        pytest.skip("transformers makes this tokenizer anew")
    ours, theirs = load_tokenizer(ends.run / "tokenizer"), opened(ends.there)
    batch = texts(COUNT)
    many = [ids.tolist() for ids in ours.encode_batch(batch)]
    for text, ids in zip(batch, many, strict=True):
        assert ours.encode(text) == theirs(text)["input_ids"] == ids, text


def test_a_sentencepiece_model_reads_as_transformers_does(model: Path, tmp_path: Path) -> None:
    """With <s> before a text, and added tokens between its parts; by NeoX's keys without <s>."""
    there = folder_of("Llama, sentencepiece", model, tmp_path / "there")
    call(from_hf, there, tmp_path / "run", "--no-verify")
    ours, theirs = load_tokenizer(tmp_path / "run" / "tokenizer"), opened(there)
    for text in ("the theory", "the hat<|im_end|>\n a theory</s>of", "<|im_start|> hat"):
        assert ours.encode(text) == theirs(text)["input_ids"]
    keys = TokenizerConfig("SPMTokenizer", str(there / "tokenizer.model"))
    assert build_tokenizer(keys).encode("the hat") == ours.encode("the hat")[1:]
    run = tmp_path / "run" / "tokenizer"
    shutil.rmtree(run)
    build_tokenizer(keys).save(run)
    said = call(to_hf, tmp_path / "run", tmp_path / "back", "--no-verify")
    assert "add_bos_token puts a token before every text there, and this run does not" in said.err


def test_the_files_come_back(ends: Ends, request: pytest.FixtureRequest) -> None:
    """Byte for byte, but for config.json, which says the model in our order, and for dropout."""
    name = request.node.callspec.params["ends"]
    there = {path.relative_to(ends.there) for path in ends.there.rglob("*") if path.is_file()}
    back = {path.relative_to(ends.back) for path in ends.back.rglob("*") if path.is_file()}
    assert {str(path) for path in back - there} == NOT_RUNNING and there <= back
    for path in there - {Path("config.json")}:
        if (name, path.name) != ("dropout", "tokenizer.json"):
            assert (ends.back / path).read_bytes() == (ends.there / path).read_bytes(), path
    configs = [json.loads((end / "config.json").read_text()) for end in (ends.there, ends.back)]
    for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
        assert configs[0].get(key) == configs[1].get(key), key
        assert (key in configs[0]) == (key in configs[1]), key


def test_generation_ends_where_the_files_say(ends: Ends) -> None:
    ours, theirs = load_tokenizer(ends.run / "tokenizer"), opened(ends.back)
    assert ours.eod is not None and ours.text_of(ours.eod) == theirs.eos_token
    config = transformers.GenerationConfig.from_pretrained(
        ends.back, "generation_config.json" if has_generation(ends) else "config.json"
    )
    ids = config.eos_token_id
    said = set(ids if isinstance(ids, list) else [ids])
    assert said <= ours.stops <= said | {ours.eod}


def has_generation(ends: Ends) -> bool:
    return (ends.back / "generation_config.json").is_file()


def test_both_stop_at_the_same_token(model: Path, tmp_path: Path) -> None:
    """The token is generation_config.json's alone."""
    torch = pytest.importorskip("torch")
    there, back = folder_of("Llama", model, tmp_path / "there"), tmp_path / "back"
    call(from_hf, there, tmp_path / "free", "--no-verify")
    ours = jaxneox.load(tmp_path / "free")
    (free,) = ours.generate("the hat", max_tokens=8)
    stop = next(t for i, t in enumerate(free.tokens) if i >= 2 and t not in free.tokens[:i])
    (there / "generation_config.json").write_text(json.dumps({"eos_token_id": [stop]}))
    call(from_hf, there, tmp_path / "run", "--no-verify")
    call(to_hf, tmp_path / "run", back, "--no-verify")
    ours.tokenizer = load_tokenizer(tmp_path / "run" / "tokenizer")
    (answer,) = ours.generate("the hat", max_tokens=8)
    assert answer.finished == "eod" and answer.end is not None and answer.end[0] == stop
    assert answer.tokens == free.tokens[: free.tokens.index(stop)]
    theirs = transformers.AutoModelForCausalLM.from_pretrained(back)
    prompt = opened(back)("the hat")["input_ids"]
    padding = list(range(ours.tokenizer.rows, ours.config.model.vocab_size))
    made = theirs.generate(torch.tensor([prompt]), max_new_tokens=8, suppress_tokens=padding)
    assert made[0].tolist() == [*answer.prompt, *answer.tokens, stop]


def test_a_llama_is_trained_on_text_and_keeps_its_files(model: Path, tmp_path: Path) -> None:
    """A document ends with </s>; the run that goes on has every file, and so has its export."""
    there = folder_of("Llama", model, tmp_path / "there")
    run, after, back = (tmp_path / name for name in ("run", "after", "back"))
    call(from_hf, there, run, "--no-verify")
    words = write_words(tmp_path / "words.jsonl", documents=8)
    done = command(run, "--finetune", "--save", after, "--mesh", "dp=1", "--set",
                   f"data-path={words}", "split=1,0,0", "eval-iters=0", "warmup=0")  # fmt: skip
    assert done.code == 0, done.err
    files = {path.name: path.read_bytes() for path in (run / "tokenizer").iterdir()}
    assert {path.name: path.read_bytes() for path in (after / "tokenizer").iterdir()} == files
    call(to_hf, after, back, "--no-verify")
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (back / name).read_bytes() == (there / name).read_bytes()
    assert json.loads((back / "config.json").read_text())["eos_token_id"] == 2


def test_another_end_of_document_is_written(model: Path, tmp_path: Path) -> None:
    """With eod-token <s>: both kinds of generation stop there too, and the certificate says so."""
    there = folder_of("Llama", model, tmp_path / "there")
    call(from_hf, there, tmp_path / "run", "--no-verify")
    tokenizer = load_tokenizer(tmp_path / "run" / "tokenizer", eod_token="<s>")
    assert tokenizer.eod == 1 and tokenizer.stops == {1, 2}
    tokenizer.save(tmp_path / "run" / "tokenizer")
    assert load_tokenizer(tmp_path / "run" / "tokenizer").eod == 1
    said = call(to_hf, tmp_path / "run", tmp_path / "back", "--no-verify")
    assert "documents end with '<s>' (eod-token), token 1" in said.err
    assert "documents end with" in (tmp_path / "back" / "certificate.md").read_text()
    for name in ("config.json", "generation_config.json"):
        assert json.loads((tmp_path / "back" / name).read_text())["eos_token_id"] == [2, 1]


@pytest.mark.parametrize("name", ["Llama", "ChatML", "truncation and padding", "GPT-2, slow"])
def test_to_neox_and_back(name: str, model: Path, tmp_path: Path) -> None:
    """NeoX opens the one file that its YAML names: with the same tokens; what else there is comes
    back from the folder."""
    import tokenizers

    there = folder_of(name, model, tmp_path / "there")
    call(from_hf, there, tmp_path / "run", "--no-verify")
    said = call(to_neox, tmp_path / "run", tmp_path / "neox", "--no-verify")
    call(from_neox, tmp_path / "neox", tmp_path / "again", "--no-verify")
    ours, again = (load_tokenizer(tmp_path / n / "tokenizer") for n in ("run", "again"))
    neox = tokenizers.Tokenizer.from_file(str(tmp_path / "neox" / "tokenizer" / "tokenizer.json"))
    for text in texts(20):
        assert neox.encode(text).ids == ours.encode(text) == again.encode(text)
    assert (again.eod, again.stops) == (ours.eod, ours.stops)
    assert again.companions.files == ours.companions.files
    if name != "truncation and padding":
        assert "NeoX's HFTokenizer knows no end but <|endoftext|>" in said.err.replace("\n", " ")
