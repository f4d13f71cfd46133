"""Measure which versions of NeoX's and Pythia's YAML files are accepted, by year.

`python -m tests.config.history GPT_NEOX PYTHIA`, given clones of both repositories, prints a table
of all versions that their histories hold, each distinct text once and by the date of its first
commit, and below it the reasons of the refusals. docs/configuration.md has the table.

A version is read alone, for one device and a tokenizer of GPT-NeoX-20B's size. NeoX's files are
meant to be combined, so that what is missing (a size of the model, the number of steps) is taken,
key by key, from gpt-neox's present 125M.yml and local_setup.yml.
"""

import collections
import logging
import pathlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Any, NamedTuple

from jaxneox.config import Settings, load_yaml
from jaxneox.errors import UserError

FOLDERS = (
    *("configs/", "post-training/", "models/"),
    *("tests/test_configs/", "tests/model/test_configs/", "tests/config/"),
)
"""Where the repositories keep YAML files of trainings; others are of Docker, Kubernetes and CI."""

COMPANIONS = ("configs/125M.yml", "configs/local_setup.yml")
VOCABULARY = 50277


class Version(NamedTuple):
    year: str
    path: str
    text: bytes


def git(clone: str, *args: str) -> bytes:
    return subprocess.run(["git", "-C", clone, *args], capture_output=True, check=True).stdout


def versions(clone: str) -> Iterator[Version]:
    """All distinct texts of YAML files in a clone's history, the oldest commit of each first."""
    log = git(
        clone,
        *("log", "HEAD", "--reverse", "--raw", "--no-abbrev", "--no-renames", "-m"),
        *("--format=commit %ad", "--date=format:%Y", "--", "*.yml", "*.yaml"),
    )
    seen = {"0" * 40}
    year = ""
    for line in log.decode().splitlines():
        if line.startswith("commit "):
            year = line.split()[1]
        elif line.startswith(":"):
            fields, path = line.split("\t", 1)
            blob = fields.split()[3]
            if blob not in seen and path.startswith(FOLDERS):
                seen.add(blob)
                yield Version(year, path, git(clone, "cat-file", "blob", blob))


def refusal(text: bytes, companions: dict[str, Any], folder: pathlib.Path) -> str | None:
    """Return the line with which a version is refused, or None."""
    file = folder / "version.yml"
    file.write_bytes(text)
    try:
        keys = load_yaml([file])
    except UserError as error:
        return re.sub(rf"{file}:[0-9]*:? ?", "", str(error))
    while True:
        try:
            Settings(keys).resolve(dp=1, vocab_size=VOCABULARY)
            return None
        except UserError as error:
            missing = re.match(r"(\w+)(?: and (\w+) are both)? (?:is )?missing", str(error))
            names = [name for name in missing.groups() if name] if missing else []
            more = {name: companions[name] for name in names if name in companions}
            if not more:
                return str(error)
            keys |= more


def kind(reason: str) -> str:
    """Return a refusal without the values and the advice of one file."""
    head, _, rest = re.sub(r" \(did you mean [^)]*\)", "", reason).partition(":")
    if head.startswith("unknown key"):
        return f"{head}: {rest.partition(';')[0].strip()}"
    return f"{head}: {rest.strip()}" if "not supported" in rest else head


def measure(clones: list[str]) -> None:
    companions: dict[str, Any] = {}
    accepted: collections.Counter[str] = collections.Counter()
    total: collections.Counter[str] = collections.Counter()
    reasons: collections.Counter[str] = collections.Counter()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        for path in COMPANIONS:
            (folder / "companion.yml").write_bytes(git(clones[0], "show", f"HEAD:{path}"))
            companions |= load_yaml([folder / "companion.yml"])
        for number, clone in enumerate(clones):
            for version in versions(clone):
                reason = refusal(version.text, companions, folder)
                row = f"{('GPT-NeoX', 'Pythia')[number]} {version.year}"
                total[row] += 1
                accepted[row] += reason is None
                if reason is not None:
                    reasons[kind(reason)] += 1
    for row in sorted(total):
        print(f"| {row} | {total[row]} | {accepted[row]} |")
    print(f"| all | {sum(total.values())} | {sum(accepted.values())} |\n")
    for reason, count in reasons.most_common():
        print(f"{count:4d}  {reason}")


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    measure(sys.argv[1:])
