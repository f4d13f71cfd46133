"""The certificate for a reader: Markdown of what `certificate.json` holds."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

Record = dict[str, Any]


def page(record: Record) -> str:
    parts = [
        f"# Certificate: {record['title']}",
        verdict(record),
        "![drift and errors](certificate.png)",
        *section("What was converted", facts(record)),
        *section("What to know", bullets(record["warnings"])),
        *section("How the ranks' copies became one", merges(record)),
        *section("Where every number went", fates(record)),
        *section("The proof", proof_lines(record)),
        *section("Files read", files(record)),
        *section("How to check again", again(record)),
    ]
    return "\n\n".join(parts) + "\n"


def section(title: str, body: str) -> Iterator[str]:
    if body:
        yield f"## {title}"
        yield body


def verdict(record: Record) -> str:
    proof = record.get("proof")
    if proof is None:
        return (
            "**Not proved.** The conversion was asked for with `--no-verify`. Every number of the "
            "source is accounted for below; that the function is the same was not checked."
        )
    if proof["same_function"]:
        end = proof["ends"][0]
        return (
            f"**The same function.** On {proof['text']} the converted model's logits are within "
            f"{end['max_abs']:.1e} of the source's, both in float64; the perplexity is "
            f"{end['perplexity']:.6f} there and {proof['perplexity_of_source']:.6f} here, and "
            f"every one of {proof['elements_compared']:,} numbers is the one that the rules below "
            "give."
        )
    if proof["ends"]:
        end = proof["ends"][0]
        why = "" if proof["exact_merge_exists"] else " No single model has the ranks' function."
        return (
            f"**Not the same function.**{why} On {proof['text']} the logits are off by "
            f"{end['max_abs']:.3g} at most, {end['relative']:.3g} relative; the perplexity is "
            f"{end['perplexity']:.4f}, the source's {proof['perplexity_of_source']:.4f}.\n\n"
            + bullets(proof["failures"][:20])
        )
    return "**Not the same function.**\n\n" + bullets(proof["failures"])


def facts(record: Record) -> str:
    return table(("", ""), [(key, value) for key, value in record["source"].items()])


def merges(record: Record) -> str:
    """Copies by tensor, over all layers: the largest drift, and what was done about it."""
    rows: dict[tuple[str, str], list[Record]] = {}
    for tensor in record["tensors"]:
        if tensor.get("drift"):
            rows.setdefault((tensor["name"], tensor["fate"]), []).append(tensor)
    lines = []
    for (name, fate), tensors in rows.items():
        worst = max(tensor["drift"]["max"] for tensor in tensors)
        rms = max(tensor["drift"]["rms"] for tensor in tensors)
        size = max(tensor["drift"]["of"] for tensor in tensors)
        differ = sum(tensor["drift"]["max"] > 0 for tensor in tensors)
        lines.append(
            (f"`{name}`", f"{differ} of {len(tensors)}", f"{worst:.2e}", f"{rms:.1e}",
             f"{size:.1e}", fate)
        )  # fmt: skip
    head = (
        "tensor",
        "differ between ranks",
        "largest difference",
        "rms",
        "the tensor's rms",
        "made one by",
    )
    return table(head, lines) if lines else ""


def fates(record: Record) -> str:
    """All tensors of one name together; certificate.json has each by itself."""
    rows: dict[tuple[str, str, str], list[Record]] = {}
    for tensor in record["tensors"]:
        key = (tensor["name"], tensor["leaf"] or "", tensor["fate"])
        rows.setdefault(key, []).append(tensor)
    lines = [
        (f"`{name}`", f"`{leaf}`" if leaf else "", len(found),
         f"{sum(t['elements'] for t in found):,}", f"{sum(t['used'] for t in found):,}",
         f"{sum(t['changed'] for t in found):,}", fate)
        for (name, leaf, fate), found in rows.items()
    ]  # fmt: skip
    head = ("tensor", "ours", "tensors", "elements", "used, once each", "changed", "fate")
    return table(head, lines)


def proof_lines(record: Record) -> str:
    proof = record.get("proof")
    if proof is None or not proof["ends"]:
        return ""
    rows = [
        (e["title"], f"{e['max_abs']:.2e}", f"{e['relative']:.1e}", f"{e['kl']:.1e}",
         f"{e['perplexity']:.6f}", f"{e['perplexity'] / proof['perplexity_of_source'] - 1:+.1e}")
        for e in proof["ends"]
    ]  # fmt: skip
    head = ("against the source", "largest logit difference", "relative L2", "KL, nats",
            "perplexity", "relative to the source's")  # fmt: skip
    worst = max(proof["layers"], key=lambda layer: layer["random"])
    ran = proof["program"]
    said = (
        ran if isinstance(ran, str) else f"its logits in float32 are within {ran:.1e} of float64's"
    )
    return (
        f"The source's own function, in float64, on {proof['text']}: perplexity "
        f"{proof['perplexity_of_source']:.6f} over all rows of the vocabulary.\n\n"
        + table(head, rows)
        + "\n\nEvery layer by itself on random hidden states: the worst is "
        f"{worst['name']}, off by {worst['random']:.1e} of what it adds (limit "
        f"{proof['tolerance']:.0e}). Every row of the embedding and of the unembedding was looked "
        f"at.\n\nThe program itself: {said}."
    )


def files(record: Record) -> str:
    rows = [(f["name"], f"{f['size']:,}", f"`{f['sha256']}`") for f in record["files"]]
    others = record["files_not_read"]
    text = table(("file", "bytes", "SHA-256"), rows)
    if others:
        names = ", ".join(f["name"] for f in others[:6]) + (" …" if len(others) > 6 else "")
        text += f"\n\nNot read, because no weight is in them: {names}."
    return text


def again(record: Record) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    return (
        "    python -m convert.verify SRC DST [--tokens FILE]\n\n"
        f"Made {record['made']} with {versions}."
    )


def bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in lines
    )
