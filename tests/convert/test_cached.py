"""`jaxneox.load` of other programs' checkpoints: converted once, found again by what is in them."""

import os
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("safetensors")

import jaxneox
from convert import cached, to_hf
from jaxneox.console.hints import remember
from jaxneox.errors import UserError
from jaxneox.loading import locate
from tests.convert.hf_models import GPT2, GPT_NEOX, LLAMA, MISTRAL, QWEN2, QWEN3, write_run
from tests.convert.synthetic import Synthetic
from tests.convert.tokenizer_folders import FOLDERS
from tests.data.test_library import saved
from tests.reference.compare import relative_l2

FAMILIES = {"neox": GPT_NEOX, "llama": LLAMA, "gpt2": GPT2}
FAMILIES |= {"mistral": MISTRAL, "qwen2": QWEN2, "qwen3": QWEN3}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAXNEOX_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def hf(tmp_path: Path) -> Path:
    return written(tmp_path, GPT_NEOX)


def written(folder: Path, keys: dict[str, Any], seed: int = 0) -> Path:
    """A transformers folder of a random model."""
    write_run(folder / f"run{seed}", keys)
    with pytest.raises(SystemExit) as ended:
        to_hf.main([str(folder / f"run{seed}"), str(folder / "hf"), "--no-verify"])
    assert ended.value.code == 0
    return folder / "hf"


def refuse_to_convert(monkeypatch: pytest.MonkeyPatch) -> None:
    def make(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("it was converted once more")

    monkeypatch.setattr(cached, "make", make)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_each_family_computes_what_it_did(
    family: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = written(tmp_path, FAMILIES[family])
    tokens = np.random.default_rng(0).integers(0, 40, (2, 9))
    expected = np.asarray(jaxneox.load(tmp_path / "run0")(tokens))
    capsys.readouterr()
    found = np.asarray(jaxneox.load(folder)(tokens))
    out, err = capsys.readouterr()
    (line,) = [line for line in err.splitlines() if "converted" in line]
    assert line.startswith(f"{folder}: a Hugging Face checkpoint, converted to ") and not out
    assert relative_l2(found, expected) <= 1e-6
    refuse_to_convert(monkeypatch)
    assert np.array_equal(jaxneox.load(folder)(tokens), found)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("case", ["neox/pythia_mp2", "megatron/gpt2_tp2/legacy"])
def test_golden_runs_are_loaded(
    case: str, shared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shared / "golden" / case
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    model = jaxneox.load(folder)
    assert "converted to" in capsys.readouterr().err
    assert np.isfinite(np.asarray(model(np.arange(16)[None]))).all()
    jaxneox.load(folder)
    assert capsys.readouterr().err == ""


def test_it_is_found_again_by_its_content(hf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = locate(hf)
    refuse_to_convert(monkeypatch)
    copy = hf.parent / "elsewhere"
    shutil.copytree(hf, copy)
    os.utime(hf / "config.json", (1, 1))
    assert locate(copy) == locate(hf) == first
    record = next((hf.parent / "cache/converted/seen").iterdir())
    record.write_text('{"key": "')  # as a killed process leaves it
    assert locate(copy) == locate(hf) == first


def test_two_at_once_convert_it_once(hf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, whole, both = [], cached.make, threading.Barrier(2)

    def make(*args: Any, **kwargs: Any) -> list[str]:
        made.append(args)
        time.sleep(0.5)  # the other one comes to the lock meanwhile
        return whole(*args, **kwargs)

    def find() -> Path:
        both.wait(10)
        return cached.in_our_form(hf)

    monkeypatch.setattr(cached, "make", make)
    with ThreadPoolExecutor(2) as pool:
        first, second = [each.result(60) for each in [pool.submit(find), pool.submit(find)]]
    assert first == second and len(made) == 1


def test_a_changed_file_is_noticed(hf: Path) -> None:
    first = locate(hf)
    content = bytearray((hf / "model.safetensors").read_bytes())
    content[-4:] = np.float32(0.5).tobytes()
    (hf / "model.safetensors").write_bytes(content)
    second = locate(hf)
    assert second.run != first.run
    before, after = (jaxneox.load(one.run).params for one in (first, second))
    assert any(not np.array_equal(before[name], after[name]) for name in before)


def test_what_cannot_be_proved_is_not_kept(hf: Path) -> None:
    content = bytearray((hf / "model.safetensors").read_bytes())
    content[-4:] = np.float32(np.nan).tobytes()
    (hf / "model.safetensors").write_bytes(content)
    with pytest.raises(UserError, match="NaN"):
        locate(hf)
    assert not [
        p for p in (hf.parent / "cache/converted").iterdir() if p.is_dir() and p.name != "seen"
    ]


def test_our_own_checkpoints_are_opened_where_they_are(hf: Path) -> None:
    run = hf.parent / "run0"
    assert locate(run).run == locate(run / "step_3").run == run
    assert not (hf.parent / "cache").exists()


def test_nothing_is_named(tmp_path: Path) -> None:
    for where in (tmp_path / "absent", tmp_path):
        with pytest.raises(UserError):
            locate(where)


def test_another_template_is_another_checkpoint(tmp_path: Path) -> None:
    """The same weights with another tokenizer or chat template beside them, in another folder."""
    hf, places = written(tmp_path, LLAMA | {"padded_vocab_size": 512}), []
    for number, template in enumerate(("one", "two", "one")):
        folder = shutil.copytree(hf, tmp_path / f"with_{number}")
        FOLDERS["ChatML"](folder)
        (folder / "chat_template.jinja").write_text(template)
        places.append(locate(folder).run)
        kept = places[-1] / "tokenizer" / "chat_template.jinja"
        assert kept.read_text() == template
    assert places[0] == places[2] != places[1]


def test_its_certificate_does_not_quote_what_was_typed(hf: Path) -> None:
    """A server is started with a key, and text is generated from a prompt."""
    remember(["serve", str(hf), "--api-key", "secret"])
    entry = locate(hf).run
    for name in ("certificate.json", "certificate.md"):
        text = (entry / name).read_text()
        assert "secret" not in text and f"jaxneox convert from-hf {hf} {entry}" in text


def test_a_tokenizer_outside_that_comes_and_changes_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file that a NeoX run's YAML names, which may be there only later."""
    named = tmp_path / "elsewhere" / "tokenizer.json"
    named.parent.mkdir()
    keys = {"tokenizer-type": "HFTokenizer", "vocab-file": str(named)}
    Synthetic(keys=keys).write(tmp_path / "run")
    runs = [locate(tmp_path / "run").run]
    for unknown in ("a", "b"):
        model = {"type": "WordLevel", "vocab": {"a": 0, "b": 1, "<|endoftext|>": 2}}
        saved(named, model=model | {"unk_token": unknown})
        runs.append(locate(tmp_path / "run").run)
    (named.parent / "chat_template.jinja").write_text("{{ messages }}")
    runs.append(locate(tmp_path / "run").run)
    assert len(set(runs)) == 4
    assert [(run / "tokenizer").exists() for run in runs] == [False, True, True, True]
    refuse_to_convert(monkeypatch)
    assert locate(tmp_path / "run").run == runs[-1]
