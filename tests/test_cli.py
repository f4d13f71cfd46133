"""The command's answers to wrong input: one line that says what, where and what to do."""

import os
import subprocess
import sys
import warnings
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxneox import checkpoint
from jaxneox.console.execute import hush
from jaxneox.data.writer import IndexedWriter
from tests.limits import PATIENCE
from tests.train.runs import ROOT, command, error, succeeds, write_yaml

ONE = ("--mesh", "dp=1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """tiny.yml and words.jsonl, and around them what a user may mistake for something else."""
    folder = tmp_path_factory.mktemp("cli")
    write_yaml(folder)
    (folder / "broken.yml").write_text('"num-layers": 2\n"hidden-size": [1\n"seq-length": 3\n')
    (folder / "binary.yml").write_bytes(b"\x00\xff\xfe")
    (folder / "empty.txt").touch()
    (folder / "folder").mkdir()
    for name in ("data", "short", "torn"):
        with IndexedWriter(folder / name, np.uint16) as out:
            out.add(np.arange(200))
    (folder / "short.bin").write_bytes((folder / "short.bin").read_bytes()[:100])
    (folder / "torn.idx").write_bytes((folder / "torn.idx").read_bytes()[:-7])
    for name, tokens in {
        "flat": np.zeros((3, 4), int),
        "narrow": np.zeros((3, 4, 9), int),
        "high": np.full((3, 4, 17), 512),
        "float": np.zeros((3, 4, 17)),
    }.items():
        np.savez(folder / f"{name}.npz", tokens=tokens)
    return folder


@pytest.fixture(autouse=True)
def inside(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("args", "said"),
    [
        (
            "absent.yml",
            "absent.yml: there is no such file, nor a shipped configuration of",
        ),
        ("broken.yml", "broken.yml:3: not YAML: expected ',' or ']'"),
        ("binary.yml", "binary.yml: is not text in UTF-8"),
        ("tiny.yml tiny.yml", "was already set at tiny.yml:"),
        ("tiny.yml --set hiden-size=4", "unknown key: hiden_size (did you mean hidden_size?)"),
        ("tiny.yml --set train-iters", "--set train-iters: expected key=value"),
        (
            "tiny.yml --set num-layers=0",
            "num_layers: found 0 (int), expected int (from 1 to",
        ),
        ("tiny.yml --set lr=-1", "optimizer.params.lr: found -1"),
        ("tiny.yml --set train-iters=-5", "train_iters: found -5"),
        ("tiny.yml --set train-iters=0", "train_iters is 0: say how many"),
        ("tiny.yml --set train-iters=null", "train_iters is missing"),
        ("tiny.yml --set eval-interval=0", "eval_interval: found 0"),
        ("tiny.yml --set train-batch-size=0", "train_batch_size: found 0"),
        ("tiny.yml --sample -3", "argument --sample: '-3' is not a whole number from 0 on"),
        ("tiny.yml --steps 3", "unrecognized arguments: --steps 3; see "),
        ("--set train-iters=x", "train_iters: found 'x' (str), expected int"),
        ("tiny.yml --set data-path=absent", "absent.idx: no such file; a dataset is a pair"),
        ("tiny.yml --set data-path=absent.txt", "absent.txt: no such file"),
        ("tiny.yml --set data-path=folder", "folder: nothing to read, expected files .jsonl"),
        ("tiny.yml --set data-path=empty.txt", "empty.txt: no text in 1 file(s)"),
        ("tiny.yml --set data-path=short", "short.bin: 100 bytes, but"),
        ("tiny.yml --set data-path=torn", "torn.idx: "),
        ("tiny.yml --set data-path=null", "no data: set data-path"),
        ("tiny.yml --set padded-vocab-size=128", "the tokenizer has 512 tokens but padded_vocab"),
        ("tiny.yml --set tokenizer-type=HFTokenizer", "vocab-file: missing, HFTokenizer needs it"),
        ("tiny.yml --tokens absent.npz", "absent.npz: no such file"),
        ("tiny.yml --tokens words.jsonl", "words.jsonl: is no .npz file of plain arrays"),
        ("tiny.yml --tokens flat.npz", "flat.npz: tokens is [3, 4], expected [steps, batch, seq"),
        ("tiny.yml --tokens narrow.npz", "int64 [3, 4, 9], expected integers [steps, 4, 17]"),
        ("tiny.yml --tokens high.npz", "tokens[0, 0, 0] is 512, outside the vocabulary of 512"),
        ("tiny.yml --tokens float.npz", "tokens is float64 [3, 4, 17], expected integers"),
        ("tiny.yml --save words.jsonl", "words.jsonl: cannot be written (File exists); name a"),
        ("tiny.yml --save words.jsonl/x", "words.jsonl/x: cannot be written (Not a directory)"),
        ("tiny.yml --set tensorboard-dir=words.jsonl", "tensorboard-dir words.jsonl: cannot be"),
        ("tiny.yml --set log-dir=words.jsonl", "log-dir words.jsonl: cannot be written"),
        ("tiny.yml --set profile=true", "profile: true needs a folder for its trace"),
        ("tiny.yml --load absent", "absent: does not exist; expected a run with step_N folders"),
        ("tiny.yml --load folder", "folder: holds no whole checkpoint"),
        ("tiny.yml --finetune", "finetune is set, but there is no checkpoint: say where with"),
        ("folder", "folder: holds no whole checkpoint"),
        ("folder folder", "only one run can be continued at a time"),
    ],
)
def test_one_line(args: str, said: str, folder: Path) -> None:
    before = sorted(folder.rglob("*"))
    assert said in error(*args.split(), *ONE)
    assert sorted(folder.rglob("*")) == before, "what was wrong must leave nothing behind"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mesh", "keys", "said"),
    [
        ("dp=2,tp", "", "'tp' is not one of pp, dp, ep, cp, tp given once with a whole number, as"),
        ("dp=2,dp=2", "", "'dp=2' is not one of pp, dp, ep, cp, tp given once"),
        ("dp=²", "", "'dp=²' is not one of pp, dp, ep, cp, tp"),
        ("8", "", "'8' is not one of pp, dp, ep, cp, tp"),
        ("dp=0", "", "a size is a positive number, or -1"),
        ("dp=-1,tp=-1", "", "only one axis can be -1"),
        ("pp=3", "", "pp=3 does not divide num-layers 2; these do: 1, 2"),
        ("pp=2", "num-layers=6 pipe-parallel-chunks=2", "pp=2 does not divide num-layers, in 2 "
         "chunks for each stage, 3; these do: 1, 3"),
        ("pp=2", "pipe-parallel-chunks=3", "pipe-parallel-chunks 3 does not divide num-layers 2; "
                                           "these do: 1, 2"),
        ("cp=3", "", "cp=3 does not divide seq-length 16; the nearest smaller that divides all it "
                     "splits is cp=2"),
        ("cp=4", "seq-length=12 context-parallel-attention=ring attention-dropout=0", "seq-length "
         "12 must be a multiple of 2 x cp = 8 (a ring splits it into that many blocks)"),
        ("cp=2", "seq-length=15 context-parallel-attention=ring attention-dropout=0", "cp=2 does "
         "not divide seq-length 15"),
        ("cp=2", "context-parallel-attention=ring", "ring cannot do attention-dropout"),
        (None, "pipe-parallel-size=16", "the mesh pp=16 needs 16 devices and there are 8"),
        ("dp=4,tp=4", "", "the mesh dp=4, tp=4 needs 16 devices and there are 8"),
        ("dp=3", "", "4 is not a multiple of dp 3: the nearest that fits is 3 or 6"),
        ("tp=8", "", "tp=8 does not divide num-attention-heads 4; the nearest smaller that divides "
                     "all it splits is tp=4"),
        ("tp=4", "num-kv-heads=2", "tp=4 does not divide num-kv-heads 2; the nearest smaller that "
                                   "divides all it splits is tp=2"),
        ("tp=3", "", "does not divide num-attention-heads 4 and the MLP's width 128; the nearest "
                     "smaller that divides all it splits is tp=2"),
        ("tp=4", "intermediate-size=50", "does not divide the MLP's width 50; the nearest smaller "
                                         "that divides all it splits is tp=2"),
        ("tp=4", "seq-length=10 sequence-parallel=true", "does not divide seq-length, split by "
         "sequence-parallel, 10; the nearest smaller that divides all it splits is tp=2"),
        ("tp=2,dp=-1", "", "train_batch_size 4 is not a multiple of dp 4"),
    ],
)  # fmt: skip
def test_meshes_that_do_not_fit(mesh: str | None, keys: str, said: str) -> None:
    if mesh == "tp=2,dp=-1":  # which does fit: dp is all that is left
        assert "dp=4, tp=2" in succeeds("tiny.yml", "--mesh", mesh, "--dry-run")
    else:
        sets = ("--set", *keys.split()) if keys else ()
        meshes = ("--mesh", mesh) if mesh else ()
        assert said in error("tiny.yml", *meshes, *sets)


@pytest.mark.slow
def test_a_checkpoint_of_another_model_or_optimizer(folder: Path, tmp_path: Path) -> None:
    start = ("tiny.yml", *ONE, "--save", tmp_path / "run", "--set")
    succeeds(*start, "train-iters=2")
    line = error(*start, "train-iters=4", "hidden-size=64", "activation=relu", "rotary-pct=0.5")
    assert line.startswith(f"{tmp_path}/run/step_2 is a checkpoint of another model: ")
    assert set(line.partition("another model: ")[2].split("; ")) == {
        "hidden_size is 32 there and 64 here",
        "attention.head_dim is 8 there and 16 here",
        "mlp.size is 128 there and 256 here",
        "mlp.activation is gelu there and relu here",
        "positions.rotary_fraction is 1.0 there and 0.5 here",
    }
    line = error(*start, "train-iters=4", "optimizer.type=SGD", "optimizer.params.betas=null")
    assert "step_2: its optimizer is another one" in line and "--finetune" in line
    assert len(line) < 400
    assert checkpoint.steps(tmp_path / "run") == [2]


def test_dry_run_prints_and_writes_nothing(tmp_path: Path) -> None:
    out = succeeds("tiny.yml", "--mesh", "dp=2,tp=2", "--dry-run", "--save", tmp_path / "run")
    assert "58,240 parameters on a mesh of dp=2, tp=2" in out
    row = next(line.split() for line in out.splitlines() if line.startswith("layers.mlp.up "))
    assert row[1:] == ["2x32x128", "layers,embed,mlp", "-,-,tp", f"{2 * 32 * 128 * 4 // 2:,}"]
    assert not list(tmp_path.iterdir())
    kinds = [line.split()[:2] for line in out.splitlines() if line.startswith("  all-")]
    assert ["all-reduce", "tp"] in kinds and ["all-reduce", "dp"] in kinds
    said = next(line.split() for line in out.splitlines() if line.startswith("  arguments "))
    own = next(line.split() for line in out.splitlines() if line.startswith("  parameters "))
    assert 3 * float(own[1]) <= float(said[1]) < 3.1 * float(own[1])  # two moments, and a batch


def test_a_dry_run_for_more_devices_than_can_be_had_shows_what_it_can() -> None:
    out = succeeds("tiny.yml", "--mesh", "dp=4,tp=4", "--dry-run")
    assert "on a mesh of dp=4, tp=4" in out
    assert "not compiled: the mesh needs 16 devices, and XLA_FLAGS allow 8 virtual ones" in out


@pytest.mark.slow
def test_devices_of_a_process_of_its_own(folder: Path) -> None:
    """What is settled before JAX starts; data that is missing ends each process after it spoke."""
    virtual = "this machine has one CPU device: "
    cases = {
        ("--mesh", "dp=2,tp=4"): (
            "",
            f"mesh dp=2, tp=4\n{virtual}8 virtual",
        ),
        ("model-parallel-size=2",): (
            "",
            f"mesh tp=2\n{virtual}2 virtual",
        ),
        ("--mesh", "dp=1"): (
            "",
            "on cpu devices, mesh dp=1\n4 sequences of 16",
        ),
        ("--mesh", "dp=-1"): ("4", f"mesh dp=4\n{virtual}4 virtual"),
        ("--mesh", "tp=8"): ("4", "the mesh tp=8 needs 8 devices and there are 4"),
    }
    running = []
    for extra, (count, said) in cases.items():
        flags = f"--xla_force_host_platform_device_count={count}" if count else ""
        env = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
        line = [sys.executable, ROOT / "train.py", "tiny.yml", "--set", "data-path=no.txt", *extra]
        pipe = subprocess.PIPE
        child = subprocess.Popen(line, env=env, stdout=pipe, stderr=pipe, text=True, cwd=folder)
        running.append((child, said))
    for child, said in running:
        out, err = child.communicate(timeout=PATIENCE)
        assert child.returncode == 2 and err.count("\n") == 1 and err.startswith("error: "), err
        assert said in out + err


def async_serialize_from_host() -> Coroutine[Any, Any, None]:
    """A write as Orbax names it."""

    async def write_fragment() -> None: ...

    return write_fragment()


def test_a_failed_save_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the writes that Orbax never began nothing is said; of other coroutines it is."""

    async def forgotten() -> None: ...

    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        hush.__wrapped__()
        async_serialize_from_host()
        assert not told
        forgotten()  # type: ignore[unused-coroutine]
    (other,) = told
    assert "forgotten' was never awaited" in str(other.message)


def test_help_names_every_flag() -> None:
    outcome = command("--help")
    flags = ("--mesh", "--set", "--save", "--load", "--finetune", "--tokens", "--dry-run")
    flags += ("--check-replicas",)
    assert outcome.code == 0 and all(flag in outcome.out for flag in flags)


@pytest.mark.slow
def test_a_pipeline_says_its_bubble_and_what_would_shrink_it(folder: Path) -> None:
    """Nothing else of the run depends on it."""
    keys = ("--set", "train-iters=2", "train-batch-size=8")
    out = succeeds("tiny.yml", "--mesh", "pp=2", *keys)
    assert "pipeline: 2 stages, 1 micro-batches: 2 ticks, bubble 50.0%" in out
    assert "--set gradient-accumulation-steps=8" in out
    assert "pp=2 does not divide the 1 micro-batches" in out
    out = succeeds("tiny.yml", "--mesh", "pp=2", *keys, "gradient-accumulation-steps=8")
    assert "8 micro-batches: 9 ticks, bubble 11.1%" in out and "note: pp" not in out
