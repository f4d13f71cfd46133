"""The kinds of files: how each is damaged, and the command that reads it."""

import json
import random
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from tests.fuzz import damage, pickles, trees
from tests.fuzz.outcome import SECONDS

Prepared = tuple[str, list[str]]  # the module of the command, and its words


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        count: cases in a whole run.
        prepare: puts a damaged file into a folder, from the valid ones of another.
        seconds: of the processor that its command may take.
        findings: the exit status with which it tells, on stdout, what is wrong in a file.
    """

    count: int
    prepare: Callable[[Path, Path, random.Random], Prepared]
    seconds: float = SECONDS
    findings: int = 2


def inspect(folder: Path) -> Prepared:
    return "convert.inspect", [str(folder)]


def data(*words: object) -> Prepared:
    return "tests.fuzz.commands", ["data", *map(str, words)]


def pickled(base: Path, folder: Path, rng: random.Random) -> Prepared:
    """As weights of transformers, a rank of Megatron-LM or an index of torch."""
    content = pickles.hostile({"a": [1, (2, "b")], "c": {3: None}}, rng)
    where = rng.randrange(4)
    if where == 3:
        path = folder / "iter_0000001"
        path.mkdir()
        (path / ".metadata").write_bytes(content)
        (path / "__0_0.distcp").write_bytes(b"")
        return inspect(folder)
    if where == 0:
        shutil.copy(base / "hf/config.json", folder)
    path = folder / ["pytorch_model.bin", "iter_0000001/mp_rank_00/model_optim_rng.pt",
                     "global_step1/layer_00-model_00-model_states.pt"][where]  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", content)
        archive.writestr("x/data/0", bytes(64))
    return inspect(folder)


def config_json(base: Path, folder: Path, rng: random.Random) -> Prepared:
    shutil.copy(base / "hf/model.safetensors", folder)
    config = json.loads((base / "hf/config.json").read_text())
    (folder / "config.json").write_bytes(trees.json_like(config, rng))
    return inspect(folder)


def safetensors(base: Path, folder: Path, rng: random.Random) -> Prepared:
    """Damage the header as JSON, or any of the bytes."""
    shutil.copy(base / "hf/config.json", folder)
    content = (base / "hf/model.safetensors").read_bytes()
    if rng.random() < 0.6:
        length = int.from_bytes(content[:8], "little")
        header = trees.json_like(json.loads(content[8 : 8 + length]), rng)
        content = len(header).to_bytes(8, "little") + header + content[8 + length :]
    else:
        content = damage.damaged(content[:4096], rng) + content[4096:]
    (folder / "model.safetensors").write_bytes(content)
    return inspect(folder)


def keys(base: Path, folder: Path, rng: random.Random) -> Prepared:
    """NeoX's YAML, of which the data are asked, and now and then the whole program."""
    tree = yaml.safe_load((base / "tiny.yml").read_text())
    (folder / "a.yml").write_bytes(trees.yaml_like(tree, rng))
    return data("inspect", folder / "a.yml", "--step", 1)


def program(base: Path, folder: Path, rng: random.Random) -> Prepared:
    tree = yaml.safe_load((base / "tiny.yml").read_text())
    (folder / "a.yml").write_bytes(trees.yaml_like(tree, rng))
    return "jaxneox.train.command", [str(folder / "a.yml"), "--dry-run"]


def tokenizer(base: Path, folder: Path, rng: random.Random) -> Prepared:
    """tokenizer.json or tokenizer_config.json, by which a text is counted."""
    shutil.copytree(base / "tokenizer", folder, dirs_exist_ok=True)
    path = rng.choice(sorted(folder.glob("*.json")))
    path.write_bytes(trees.json_like(json.loads(path.read_text()), rng))
    words = ["--set", "tokenizer-type=HFTokenizer", f"vocab-file={folder / 'tokenizer.json'}"]
    return data("inspect", base / "tiny.yml", "--step", 1, *words)


def metrics(base: Path, folder: Path, rng: random.Random) -> Prepared:
    """The log of a run, one row of which is asked for."""
    run = folder / "run"
    run.mkdir()
    shutil.copy(base / "run/config.yml", run)
    rows = (base / "run/metrics.jsonl").read_text().splitlines()
    at = rng.randrange(len(rows))
    broken = trees.json_like(json.loads(rows[at]), rng)
    content = b"\n".join([*(row.encode() for row in rows[:at]), broken, b""])
    (run / "metrics.jsonl").write_bytes(content)
    return data("inspect", run, "--step", at + 1)


def index(base: Path, folder: Path, rng: random.Random) -> Prepared:
    shutil.copy(base / "x.bin", folder)
    content = damage.damaged((base / "x.idx").read_bytes(), rng)
    (folder / "x.idx").write_bytes(content)
    return data(rng.choice(["inspect", "verify"]), folder / "x")


def arrays(base: Path, folder: Path, rng: random.Random) -> Prepared:
    """Damage the archive, or the header of an array in it."""
    path = base / rng.choice(["x.npz", "y.npz"])
    content = damage.damaged(path.read_bytes(), rng)
    (folder / path.name).write_bytes(content)
    if rng.random() < 0.5:
        shape = rng.choice(
            ["(1000000000000000000,)", "(-1,)", "(1099511627776, 4)", "(2, 12)", "()", "3", "[]"]
        )
        kind = rng.choice(
            ["'<i8'", "'|O'", "'<U999999999'", "[('a', '<i8')] * 9", "'<M8[ns]'", "7"]
        )
        header = f"{{'descr': {kind}, 'fortran_order': False, 'shape': {shape}}}"
        start = b"\x93NUMPY\x01\x00" + np.uint16(len(header)).tobytes()
        with zipfile.ZipFile(folder / path.name, "w", rng.choice([0, 8])) as archive:
            archive.writestr("tokens.npy", start + header.encode() + bytes(rng.choice([0, 192])))
    reader = "windows" if path.name == "x.npz" else "batches"
    return "tests.fuzz.commands", [reader, str(folder / path.name)]


KINDS: dict[str, Kind] = {
    "pickle": Kind(100, pickled),
    "config.json": Kind(200, config_json),
    "safetensors": Kind(200, safetensors),
    "YAML": Kind(200, keys),
    "YAML, compiled": Kind(10, program, seconds=60),
    "tokenizer": Kind(200, tokenizer),
    "metrics": Kind(200, metrics),
    "index": Kind(200, index, findings=1),
    "npz": Kind(200, arrays),
}

Case = tuple[str, int]


def chance(seed: int, kind: str, number: int) -> random.Random:
    return random.Random(f"{seed} {kind} {number}")


def prepared(base: Path, folder: Path, kind: str, seed: int, number: int) -> tuple[Any, list[str]]:
    """Write the files of a case; return the module of the command and its words."""
    folder.mkdir()
    return KINDS[kind].prepare(base, folder, chance(seed, kind, number))
