"""`python -m tests.convert.continued [--mesh dp=2,tp=2] [CASE …]`: NeoX's runs go on here.

Each golden checkpoint is imported with its optimizer and trained on the batches that NeoX itself
went on with; the table says how far the losses and the last logits are from NeoX's.
"""

import argparse
import contextlib
import io
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import jaxneox
from convert import from_neox
from jaxneox.train.command import main as train
from tests.convert.commands import call
from tests.convert.golden import BFLOAT16, FLOAT32, Golden, find_case
from tests.convert.golden_arch import ArchCase

MESH = "dp=1"


class Continued(NamedTuple):
    """The largest difference of a loss, the relative L2 of the last logits, the rates' largest."""

    loss: float
    logits: float
    rate: float


def with_optimizer(name: str) -> Golden:
    return find_case(name, optimizer=True)


def go_on(
    name: str,
    folder: Path,
    mesh: str = MESH,
    *flags: Any,
    find: Callable[[str], Golden | ArchCase] = with_optimizer,
) -> Continued:
    """Import, train on the golden batches, compare."""
    case = find(name)
    with np.load(case.folder / "golden.npz") as golden:
        keys = ("train_tokens", "train_losses", "train_lrs", "tokens")
        wanted = {key: golden[key] for key in keys}
        # NeoX cannot evaluate models with mamba layers
        last = "final_logits_train_mode" if "final_logits" not in golden else "final_logits"
        final = golden[last]
    np.savez(folder / "tokens.npz", tokens=wanted["train_tokens"])
    dst = folder / "run"
    call(from_neox, case.folder, dst, "--optimizer", "--no-verify", *flags)
    tokens = str(folder / "tokens.npz")
    finish([str(dst), "--mesh", mesh, "--tokens", tokens, "--set", "checkpoint-activations=false"])
    rows = [json.loads(line) for line in (dst / "metrics.jsonl").read_text().splitlines()]
    logits = np.asarray(jaxneox.load(str(dst))(wanted["tokens"]))
    return Continued(
        float(np.abs([row["loss"] for row in rows] - wanted["train_losses"]).max()),
        float(np.linalg.norm(logits - final) / np.linalg.norm(final)),
        float(np.abs([row["lr"] for row in rows] - wanted["train_lrs"]).max()),
    )


def finish(argv: list[str]) -> None:
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            train(argv)
        except SystemExit as stop:
            assert stop.code == 0, said.getvalue()


def main() -> None:
    p = argparse.ArgumentParser()
    p.add_argument("cases", nargs="*", default=[*FLOAT32, *BFLOAT16])
    p.add_argument("--mesh", default=MESH)
    args = p.parse_args()
    print("| case | largest difference of a loss | last logits, relative | of a rate |")
    print("|---|---|---|---|")
    for name in args.cases:
        with tempfile.TemporaryDirectory() as folder:
            found = go_on(name, Path(folder), args.mesh)
        print(f"| {name} | {found.loss:.1e} | {found.logits:.1e} | {found.rate:.0e} |", flush=True)


if __name__ == "__main__":
    main()
