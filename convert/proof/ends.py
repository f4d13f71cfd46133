"""How far whole models are apart, in words: by their logits, or by a reward model's values."""

from collections.abc import Sequence
from typing import Any

from convert.proof.blocks import table
from jaxneox.console.text import markdown

Record = dict[str, Any]


def is_of_values(end: Record) -> bool:
    """Tell whether the models are reward models, which give no probabilities."""
    return end["perplexity"] is None


def cost(proof: Record) -> str:
    """Say how far the converted model is from the source, as the end of a sentence."""
    end, source = proof["ends"][0], proof["perplexity_of_source"]
    on = f"on {markdown(proof['text'])}, both in float64"
    if is_of_values(end):
        return f"at most {end['max_abs']:.1e} in a value, {end['relative']:.1e} relative, {on}."
    return (
        f"at most {end['max_abs']:.1e} in a logit, {end['relative']:.1e} relative, KL "
        f"{max(end['kl'], 0):.1e} nats, {on}; perplexity: source {source:.6f}, converted "
        f"{end['perplexity']:.6f} ({change(end['perplexity'], source)})."
    )


def change(value: float, of: float) -> str:
    return "0" if value == of else f"{value / of - 1:+.1e}"


def introduction(proof: Record) -> str:
    """Say on what the functions were compared."""
    on = f"Against the source's own function, in float64, on {markdown(proof['text'])}"
    if is_of_values(proof["ends"][0]):
        return f"{on}, by the value after each token:"
    source = proof["perplexity_of_source"]
    return f"{on}, with perplexity {source:.6f} over all rows of the vocabulary:"


def ends_table(proof: Record, ends: Sequence[Record]) -> str:
    """Tabulate whole models; the first is the converted one, in bold."""
    values = is_of_values(ends[0])
    head = ["model", f"largest {'value' if values else 'logit'} difference", "relative L2"]
    if not values:
        head += ["KL, nats", "perplexity", "relative to the source's"]
    rows = [tuple(cells(proof, end)) for end in ends]
    return table(head, [tuple(f"**{cell}**" for cell in rows[0]), *rows[1:]])


def cells(proof: Record, end: Record) -> list[str]:
    found = [markdown(end["title"]), f"{end['max_abs']:.1e}", f"{end['relative']:.1e}"]
    if is_of_values(end):
        return found
    changed = change(end["perplexity"], proof["perplexity_of_source"])
    return [*found, f"{max(end['kl'], 0):.1e}", f"{end['perplexity']:.6f}", changed]
