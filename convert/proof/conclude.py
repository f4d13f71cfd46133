"""The end of every conversion: make the proof, write the certificate, report the verdict."""

from pathlib import Path
from typing import Any

from convert.proof.case import Case
from convert.proof.certificate import with_proof, write
from convert.proof.logits import Comparison
from convert.proof.result import Proof
from convert.writers.staging import Unproven
from jaxneox.console.hints import command
from jaxneox.console.progress import progress


def conclude(record: dict[str, Any], case: Case | None, folder: Path, dst: Path) -> list[str]:
    """Prove a case, write the certificate, and return lines for the terminal.

    `case` is None with --no-verify.

    Raises:
        Unproven: the two should compute the same and do not.
    """
    if case is None:
        write(record, folder)
        verify = command("verify", record["source_path"], dst)
        return [f"not proved (--no-verify): `{verify}` does it later"]
    proof = prove_with_bar(case)
    write(with_proof(record, case, proof), folder)
    unexpected = proof.failures if case.exact else proof.unexplained
    if unexpected:
        raise Unproven(
            f"{dst}: was not written, for it does not compute what the source does: "
            f"{'; '.join(unexpected[:4])}. The unproven result was kept as {dst}.unproven"
        )
    return report(case, proof)


def prove_with_bar(case: Case) -> Proof:
    """Prove a case under a progress bar."""
    parts = case.target.model.num_layers + 2
    with progress("proving numbers and functions", parts, unit="parts") as bar:
        return case.prove(lambda: bar(1))


def report(case: Case, proof: Proof) -> list[str]:
    """Report the result of a proof, for the terminal."""
    lines = [f"differs: {failure}" for failure in proof.failures[:20]]
    if len(proof.failures) > 20:
        lines.append(f"… and {len(proof.failures) - 20} more")
    if proof.logits:
        end, worst = proof.logits[0], max(layer.random for layer in proof.layers)
        lines += [
            f"{proof.elements:,} numbers compared; the worst layer is off by {worst:.1e} of what "
            f"it adds (limit {proof.tolerance:.0e})",
            f"on {case.text}: {ends(proof.perplexity, end)}",
        ]
    if isinstance(proof.program, float):
        what = "values" if case.target.model.head == "reward" else "logits"
        how = f" ({proof.how_run})" if proof.how_run else ""
        lines.append(f"run in float32{how}, its {what} are within {proof.program:.1e}, relative")
    return [*lines, verdict(case, proof)]


def ends(perplexity: float | None, end: Comparison) -> str:
    """Say how far the converted model is from the source, whose perplexity is given."""
    if end.kl is None or end.perplexity is None:
        return f"values within {end.max_abs:.1e}, {end.relative:.1e} relative"
    return (
        f"logits within {end.max_abs:.1e}, KL {max(end.kl, 0):.1e}, perplexity of the source "
        f"{perplexity:.6f}, converted {end.perplexity:.6f}"
    )


def verdict(case: Case, proof: Proof) -> str:
    if proof.holds:
        narrow = sorted(dtype.name for dtype in case.rounding if dtype.itemsize < 4)
        return "the same function" + (f", rounded to {' and '.join(narrow)}" if narrow else "")
    if not case.mergeable:
        return "NOT the same function: no single model has that of these ranks"
    if not case.exact:
        return "NOT the same function: another merge than the exact one was asked for"
    return "NOT the same function"
