"""The certificate for a reader: the content of `certificate.json` in Markdown."""

import shlex
from collections import Counter
from collections.abc import Iterator
from typing import Any

from convert.proof.blocks import bullets, count, safe, section, table
from convert.proof.case import SLACK
from convert.proof.compare import EXACT
from convert.proof.ends import cost, ends_table, introduction, is_of_values
from jaxneox.console.text import markdown, markdown_block, markdown_code

Record = dict[str, Any]

MERGES = {
    "zeroth partition": "takes rank 0's copy of every norm and output bias, each bias once.",
    "averaged": "takes the ranks' mean of every norm and output bias, each bias once.",
    "NeoX's converter": "takes the ranks' mean of every norm and the sum of every output bias, "
    "whatever the residual.",
}
"""Descriptions of NeoX's own merges, by their titles in `ends`."""

NO_PROOF = """\
**Not proved.** The conversion was asked for with `--no-verify`: whether the function is the same
was not checked. The last section has the command that checks it, at any time; to have the proof on
this page, convert again without `--no-verify`."""

ROUNDED = {2.0**-7: "bfloat16", 2.0**-10: "float16", 2.0**-23: "float32"}
"""Floating-point types by the distance from 1 to the next number."""


def page(record: Record) -> str:
    parts = [
        f"# Certificate: {markdown(record['title'])}",
        verdict(record),
        "![errors by layer, and drift if there is any](certificate.png)",
        *section("What was converted", table(("", ""), safe(record["source"].items()))),
        *section("What to know", bullets(map(markdown, record["warnings"]))),
        *section("How the ranks' copies became one", merges(record)),
        *section("Where every number went", fates(record)),
        *section("The proof", proof_lines(record)),
        *section("Files read", files(record)),
        *section("How to check again", again(record)),
    ]
    return "\n\n".join(parts) + "\n"


def verdict(record: Record) -> str:
    proof = record.get("proof")
    if proof is None:
        return NO_PROOF
    if proof["same_function"]:
        eps = proof["tolerance"] / SLACK
        but = f", but for rounding to {ROUNDED[eps]}" if eps > 1e-5 else ""
        numbers = count(proof["elements_compared"], "number")
        return (
            f"**The same function{but}.** The two differ by {cost(proof)} Of {numbers} that were "
            "compared, all are what the rules below give."
        )
    asked = options(record["command"], "--norms", "--biases")
    if not unexplained(proof) and not proof["exact_merge_exists"]:
        this = f"what {asked} makes of them" if asked else "the mean"
        return (
            "**Not the same function.** No single model has these ranks' function; this is "
            f"{this}, kept, at a cost of {cost(proof)}"
        )
    if not unexplained(proof) and not proof["exact_merge_asked"]:
        return (
            f"**Not the same function, as asked.** You asked for {asked or 'another merge'}; the "
            f"exact merge (the default) exists; this one costs {cost(proof)}"
        )
    more = [f"and {n} more, in certificate.json"] if (n := len(proof["failures"]) - 20) > 0 else []
    differ = f" The two differ by {cost(proof)}" if proof["ends"] else ""
    listed = bullets([*map(markdown, proof["failures"][:20]), *more])
    return f"**The proof FAILED: do not use this model.**{differ}\n\n{listed}"


def unexplained(proof: Record) -> list[str]:
    """List the failures other than layers that are off, which a lossy merge always has."""
    layers = tuple(f"{layer['name']}: off by" for layer in proof["layers"])
    return [failure for failure in proof["failures"] if not failure.startswith(layers)]


def merges(record: Record) -> str:
    """Tabulate the decisions about tensors that every rank has a copy of."""
    kinds: dict[tuple[str, str], list[Record]] = {}
    for tensor in copies(record):
        if tensor["ranks"] == 1:
            return undrifted(record)
        kinds.setdefault((tensor["name"], tensor["fate"]), []).append(tensor)
    rows, same = [], dict[str, list[str]]()
    for (name, fate), tensors in kinds.items():
        drifts = [tensor["drift"] for tensor in tensors]
        if not any(drift["between"] for drift in drifts):
            same.setdefault(fate, []).append(markdown_code(name))
            continue
        differ = sum(drift["between"] > 0 for drift in drifts)
        largest, rms, of = (max(d[key] for d in drifts) for key in ("between", "rms", "of"))
        sizes = f"{largest:.1e}", f"{rms:.1e}", f"{of:.1e}"
        rows.append((markdown_code(name), f"{differ} of {len(drifts)}", *sizes, markdown(fate)))
    head = ("tensor", "layers where they differ", "largest difference between ranks",
            "rms from the mean", "rms of the mean", "made one by")  # fmt: skip
    lines = bullets(f"{', '.join(names)}: {markdown(fate)}" for fate, names in same.items())
    if rows and lines:
        lines = "These copies do not differ:\n\n" + lines
    return "\n\n".join(part for part in (undrifted(record), table(head, rows), lines) if part)


def copies(record: Record) -> list[Record]:
    return [tensor for tensor in record["tensors"] if tensor["drift"]]


def undrifted(record: Record) -> str:
    """Say that no copy differs; empty if one does, or if there are no copies."""
    replicated = copies(record)
    if not replicated or any(tensor["drift"]["between"] for tensor in replicated):
        return ""
    if all(tensor["ranks"] == 1 for tensor in replicated):
        return "There is 1 rank, so that there was nothing to merge."
    kinds = len({tensor["name"] for tensor in replicated})
    return f"No copy differs between ranks ({count(len(replicated), 'tensor')} of " + (
        f"{count(kinds, 'kind')})."
    )


def fates(record: Record) -> str:
    """Tabulate tensors by kind, over all layers; certificate.json has each by itself."""
    tensors = record["tensors"]
    kinds: dict[tuple[str, str | None], list[Record]] = {}
    for tensor in tensors:
        kinds.setdefault((tensor["name"], tensor["leaf"]), []).append(tensor)
    elements, used, changed = (sum(t[k] for t in tensors) for k in ("elements", "used", "changed"))
    total = f"{count(elements, 'element')} of {count(len(tensors), 'tensor')}"
    summary = f"All {total} were used, each once."
    if used != elements:
        summary = (
            f"Of {total}, {used:,} were used, each once; the rows say why the others were not."
        )
    summary += f" {changed:,} became other numbers." if changed else " None became another number."
    summary += (
        " *Same bits*, yes: the sum of all bit patterns before and after is equal; same numbers: "
        "equal one by one, as copies or in another type."
    )
    head = ("tensor", "in jaxneox", "tensors", "elements", "used", "changed", "same bits",
            "what was done")  # fmt: skip
    rows = [(markdown_code(name), markdown_code(leaf) if leaf else "", *fate_cells(group))
            for (name, leaf), group in kinds.items()]  # fmt: skip
    return f"{summary}\n\n{table(head, rows)}" if rows else ""


def fate_cells(kind: list[Record]) -> Iterator[str]:
    elements, used, changed = (sum(t[k] for t in kind) for k in ("elements", "used", "changed"))
    bits = {tensor["same_bits"] for tensor in kind}
    yield str(len(kind))
    yield f"{elements:,}"
    yield "all" if used == elements else f"{used:,}" if used else "none"
    yield f"{changed:,}"
    if not used:
        yield "not used"
    elif False in bits:
        yield "**NO**"
    else:
        yield "numbers changed" if changed else "same numbers" if None in bits else "yes"
    whys = Counter(tensor["fate"] for tensor in kind)
    many = len(whys) > 1
    why = "; ".join(f"{fate} ({n} of {len(kind)})" if many else fate for fate, n in whys.items())
    yield markdown(why if used or why.startswith("not used") else f"not used: {why}")


def proof_lines(record: Record) -> str:
    proof = record.get("proof")
    if proof is None:
        return ""
    if not proof["ends"]:
        return "The functions were not compared: the two differ before that, as said above."
    ours, *others = proof["ends"]
    older = [end for end in others if end["title"] in MERGES]
    rest = [end for end in others if end["title"] not in MERGES]
    ran = proof["program"]
    if isinstance(ran, str):
        ran = markdown(ran)
    else:
        what = "values" if is_of_values(ours) else "logits"
        ran = f"its {what} are within {ran:.1e} of float64's, relative"
    parts = [
        introduction(proof),
        ends_table(proof, [ours, *rest]),
        layers_summary(proof),
        f"The program that you will use, in float32{run_how(proof)}: {ran}.",
    ]
    if older:
        exact = proof["exact_merge_exists"] and proof["exact_merge_asked"]
        parts += [
            "### What NeoX's older merges of the same files would have scored",
            "For comparison only" + (": none of them was used." if exact else "."),
            ends_table(proof, [ours, *older]),
            bullets(f"*{end['title']}* {MERGES[end['title']]}" for end in older),
        ]
    if left_out := proof.get("older_merges_not_computed"):
        parts.append(
            f"NeoX's older merges of the same files ({markdown(', '.join(left_out))}) were not "
            "computed: `--older-merges` compares them too."
        )
    return "\n\n".join(parts)


def run_how(proof: Record) -> str:
    how = proof.get("program_how_run")
    return f" ({markdown(how)})" if how else ""


def layers_summary(proof: Record) -> str:
    tolerance, last = proof["tolerance"], proof["layers"][-1]["name"]
    worst = max(proof["layers"], key=lambda layer: layer["random"])
    off = "all are exactly the source's"
    if worst["random"] != 0:
        off = (
            f"the worst is {markdown(worst['name'])}, off by {worst['random']:.1e} of what it adds"
        )
    limit = "nothing was rounded, so that it is float64's own rounding, summed up over a layer"
    if tolerance > EXACT:
        eps = tolerance / SLACK
        limit = f"{SLACK} roundings ({eps:.1e}) of {ROUNDED[eps]}, the coarsest type rounded to"
    return (
        f"Every layer by itself, on random hidden states: {off}. What a layer adds is its output "
        f"less its input; of the embedding and {last} every row was looked at. The limit "
        f"is {tolerance:.1e}: {limit}."
    )


def files(record: Record) -> str:
    rows = [(markdown(f["name"]), f"{f['size']:,}", f"`{f['sha256']}`") for f in record["files"]]
    others = record["files_not_read"]
    text = table(("file", "bytes", "SHA-256"), rows)
    if others:
        names = ", ".join(markdown(f["name"]) for f in others[:6]) + " …" * (len(others) > 6)
        text += f"\n\nNot read, because no weight is in them: {names}."
    return text.strip()


def again(record: Record) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    made = markdown_block(record["command"], "sh")
    return f"{check(record)}\n\nMade {record['made']} by\n\n{made}\n\nwith {versions}."


def check(record: Record) -> str:
    if record["source_path"] is None:
        return "The source was a model in memory, which is gone: the two cannot be compared again."
    paths = [record["source_path"], record["destination_path"]]
    config = options(record["command"], "--config")
    line = shlex.join(["jaxneox", "verify", *paths]) + (f" {config}" * bool(config))
    return markdown_block(f"{line}   # exits 0 or 1; --tokens FILE for another text", "sh")


def options(command: str, *names: str) -> str:
    """Return the options of a command line with their values."""
    words = [part for word in shlex.split(command)
             for part in (word.split("=", 1) if word.startswith("--") else [word])]  # fmt: skip
    kept, taken = list[str](), False
    for word in words:
        taken = word in names if word.startswith("-") else taken
        kept += [shlex.quote(word)] * taken
    return " ".join(kept)
