"""Turns a user's YAML files into the plan of a run on a mesh."""

import math

from jaxneox.config import Settings
from jaxneox.data.elsewhere import ANY_TOKEN, without_tokenizer
from jaxneox.data.tokenizer import build_tokenizer
from jaxneox.errors import UserError
from jaxneox.parallel.mesh import Sizes, asked_sizes, final_sizes, on_torus, replicas, show
from jaxneox.plan.topology import Topology
from jaxneox.train.plan import TrainPlan, build_plan


def sizes_on(mesh: str | None, settings: Settings, topology: Topology) -> Sizes:
    """Return the sizes of a mesh on a topology, with two axes of dp where its torus wants them.

    Raises:
        UserError: the mesh has not as many devices as the topology; names one that has.
    """
    asked = asked_sizes(mesh, settings.parallel)
    sizes = final_sizes(asked, topology.count)
    if (used := math.prod(sizes.values())) != topology.count:
        raise UserError(
            f"the mesh {show(sizes)} has {used} devices and {topology.name} {topology.count}; "
            f"expected a mesh of {topology.count}, such as {_fitting(sizes, topology.count)}"
        )
    return sizes


def _fitting(sizes: Sizes, count: int) -> str:
    """Return the mesh with another dp, or dp alone if none fits all devices."""
    others = math.prod(sizes.values()) // sizes["dp"]
    if count % others:
        return f"dp={count}"
    return show(sizes | {"dp": count // others}).replace(" ", "")


def plan_of(settings: Settings, sizes: Sizes, topology: Topology) -> tuple[TrainPlan, list[str]]:
    """Plan a run, and list what was assumed. No file of data or tokenizer need be there."""
    notes: list[str] = []
    vocabulary = None
    if settings.tokenizer.padded_size is None:
        try:
            vocabulary = build_tokenizer(settings.tokenizer).vocab_size
        except UserError as error:
            vocabulary, note = without_tokenizer(settings.tokenizer, error)
            notes.append(note)
    cfg = settings.resolve(replicas(sizes), vocabulary)
    return build_plan(cfg, on_torus(sizes, topology.devices), ANY_TOKEN), notes
