"""The certificate: what was converted, by which rules, and why the functions are known to be equal.

`certificate.json` is for programs; `certificate.md`, with its picture, is for the person who
decides whether to trust the model.
"""

import importlib.metadata
import json
import platform
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from convert.checkpoint import Source, Target
from convert.fate import Fate
from convert.proof.case import Case
from convert.proof.page import page
from convert.proof.picture import picture
from convert.proof.result import Proof
from convert.readers.digest import Digest

Record = dict[str, Any]

PACKAGES = ("jaxneox", "jax", "numpy", "orbax-checkpoint", "tensorstore", "safetensors")


def certificate(
    source: Source,
    target: Target,
    dst: Path,
    tensors: Sequence[Fate],
    warnings: Sequence[str],
    files: Sequence[Digest],
    command: str,
) -> Record:
    """Make the record of a certificate, without its proof.

    Args:
        source: the converted checkpoint.
        target: the checkpoint that was written.
        dst: the target's final path.
        tensors: every tensor of the source, or of the target, with its fate.
        warnings: what a person should know, one line each.
        files: the digests of the files that were read.
        command: by which it was made.
    """
    comma = "," if "," in source.title else ""  # it ends what the first one began
    return {
        "certificate": 1,
        "title": f"{source.title}{comma} to {target.title}",
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
        "source_path": str(source.path) if source.kept else None,
        "destination_path": str(dst),
        "source": {**source.facts, **target.facts},
        "files": [{"name": d.path.name, "size": d.size, "sha256": d.sha256} for d in files],
        "files_not_read": [{"name": p.name, "size": p.stat().st_size} for p in source.unread],
        "warnings": list(warnings),
        "tensors": [asdict(fate) for fate in tensors],
        "versions": versions(),
    }


def with_proof(record: Record, case: Case, proof: Proof) -> Record:
    section = {
        "same_function": proof.holds,
        "exact_merge_exists": case.mergeable,
        "exact_merge_asked": case.exact or not case.mergeable,
        "failures": proof.failures,
        "unexplained": proof.unexplained,
        "text": case.text,
        "elements_compared": proof.elements,
        "tolerance": proof.tolerance,
        "perplexity_of_source": proof.perplexity,
        "ends": [asdict(one) for one in proof.logits],
        "older_merges_not_computed": proof.not_computed,
        "layers": [asdict(layer) for layer in proof.layers],
        "program": proof.program,
        "program_how_run": proof.how_run,
    }
    return record | {"proof": section}


def write(record: Record, folder: Path) -> None:
    """Write `certificate.json`, `.md` and `.png` into a folder."""
    (folder / "certificate.json").write_text(json.dumps(record, indent=1) + "\n")
    picture(record, folder / "certificate.png")
    (folder / "certificate.md").write_text(page(record))


def versions() -> dict[str, str]:
    installed = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            installed[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return installed
