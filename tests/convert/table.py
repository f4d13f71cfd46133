"""The table of docs/conversion.md: every golden case, ours and the merges that NeoX has had.

python -m tests.convert.table > table.md
"""

import tempfile
from pathlib import Path

import numpy as np

import jaxneox
from convert import from_neox, to_hf
from convert.hf.program import logits as transformers_logits
from convert.neox.checkpoint import NeoxModel
from convert.neox.merge import make_plan
from convert.neox.plan import MergeChoices
from convert.oracle import run as forward
from convert.readers.neox_open import open_neox
from tests.convert.commands import call, run
from tests.convert.golden import BFLOAT16, FLOAT32, find_case, perplexity
from tests.reference.compare import relative_l2

HEAD = (
    "| checkpoint | perplexity in NeoX | ours, difference | largest logit difference | relative L2 "
    "| through transformers, relative L2 | zeroth partition | averaged | NeoX's converter's rules |"
)


def main() -> None:
    print(HEAD)
    print("|" + " --- |" * HEAD[1:].count("|"))
    with tempfile.TemporaryDirectory() as work:
        for name in (*FLOAT32, *BFLOAT16):
            print("| " + " | ".join(row(name, Path(work) / name)) + " |", flush=True)


def row(name: str, work: Path) -> list[str]:
    case = find_case(name)
    labels = case.arrays["labels"]
    call(from_neox, case.folder, work / "ours", "--no-verify")
    logits = np.asarray(jaxneox.load(str(work / "ours"))(case.tokens))
    difference = perplexity(logits, labels) / case.perplexity - 1
    cells = [f"`{name}`", f"{case.perplexity:.4f}", f"{difference:+.0e}"]
    cells += [f"{abs(logits - case.logits).max():.1e}", f"{relative_l2(logits, case.logits):.1e}"]
    return [*cells, through_transformers(case, work), *merges(case)]


def through_transformers(case, work: Path) -> str:
    flags = ("--no-verify", "--copy-shared-norm") if "gptjtied" in case.folder.name else ()
    said = run(to_hf, work / "ours", work / "hf", *(flags or ("--no-verify",)))
    if said.status:
        return "refused"
    return f"{relative_l2(transformers_logits(work / 'hf', case.tokens), case.logits):.1e}"


def merges(case) -> list[str]:
    """Perplexity less NeoX's own, of the merges by the rules that NeoX has had."""
    source = open_neox(case.folder)
    if source.mp == 1:
        return ["", "", ""]
    labels, found = case.arrays["labels"], []
    model = NeoxModel(source, make_plan(source, MergeChoices()))
    for merged in model.older_merges.values():
        off = perplexity(forward(merged(), case.tokens), labels) - case.perplexity
        found.append(f"{off:+.4f}" if abs(off) > 5e-5 or case.folder.name in BFLOAT16 else "0")
    return found


if __name__ == "__main__":
    main()
