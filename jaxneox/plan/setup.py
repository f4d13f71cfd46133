"""From a user's YAMLs to the plan of a run on a mesh."""

import math

from jaxneox.config import Settings
from jaxneox.data.tokenizer import build_tokenizer
from jaxneox.errors import UserError
from jaxneox.parallel.mesh import Sizes, asked_sizes, final_sizes, show
from jaxneox.plan.topology import Topology
from jaxneox.train.plan import TrainPlan, build_plan

ANY = 0
"""For the token that ends a document: a program is as large with any."""

ASSUMED = 50277
"""Of GPT-NeoX-20B's tokenizer, which Pythia has as well."""


def sizes_on(mesh: str | None, settings: Settings, topology: Topology) -> Sizes:
    """Raises UserError where the mesh has not as many devices as the topology, with what has."""
    asked = asked_sizes(mesh, settings.parallel)
    sizes = final_sizes(asked, topology.count)
    if (used := math.prod(sizes.values())) != topology.count:
        raise UserError(
            f"the mesh {show(sizes)} has {used} devices and {topology.name} {topology.count}; "
            f"expected a mesh of {topology.count}, such as {_fitting(sizes, topology.count)}"
        )
    return sizes


def _fitting(sizes: Sizes, count: int) -> str:
    """The mesh with another dp, or where none fits all devices in dp."""
    others = math.prod(sizes.values()) // sizes["dp"]
    if count % others:
        return f"dp={count}"
    return show(sizes | {"dp": count // others}).replace(" ", "")


def plan_of(settings: Settings, sizes: Sizes) -> tuple[TrainPlan, list[str]]:
    """The plan, and what was assumed on the way. No file of data or tokenizer need be there."""
    notes: list[str] = []
    vocabulary = None
    if settings.tokenizer.padded_size is None:
        vocabulary, said = vocabulary_of(settings)
        notes += said
    cfg = settings.resolve(sizes["dp"], vocabulary)
    return build_plan(cfg, sizes, ANY), notes


def vocabulary_of(settings: Settings) -> tuple[int, list[str]]:
    try:
        return build_tokenizer(settings.tokenizer).vocab_size, []
    except UserError:
        return ASSUMED, [
            f"the tokenizer's file is not here: {ASSUMED:,} tokens, those of GPT-NeoX-20B's, are "
            "assumed; --set padded-vocab-size=N says another"
        ]
