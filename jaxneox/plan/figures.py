"""A plan's figures for a program: plain numbers and words by name."""

from typing import Any

from jaxneox.hlo.overlap import in_layers, share
from jaxneox.parallel.mesh import show, shown_axes
from jaxneox.plan.planned import Planned


def figures(planned: Planned) -> dict[str, Any]:
    """Collect the figures of one device and one step.

    Returns:
        Words and numbers, and tables of them, that JSON has: sizes in bytes, work in FLOPs, times
        in seconds; `usable`, `fits`, `seconds` and what follows from them are None where the
        device's memory and rates are not known.
    """
    cfg, known = planned.plan.cfg, planned.topology.chip is not None
    return {
        "topology": planned.topology.name,
        "devices": planned.topology.count,
        "mesh": show(planned.plan.sizes).replace(" ", ""),
        "zero": cfg.parallel.zero_stage,
        "remat": cfg.remat.policy,
        "sequence_parallel": cfg.parallel.sequence_parallel,
        "micro_batch": cfg.batch.micro,
        "accumulation": cfg.batch.accumulation,
        "tokens": planned.tokens,
        "needed": planned.needed,
        "usable": planned.topology.usable if known else None,
        "fits": planned.fits,
        "memory": planned.parts,
        "model_flops": planned.model_flops,
        "program_flops": planned.work.flops,
        "moved": planned.work.bytes,
        "compiled_in": planned.compiled.seconds,
        "sent": [_row(planned, one) for one in planned.sent],
    } | (_timed(planned) if known else dict.fromkeys(("seconds", "mfu", "days", "layers")))


def _row(planned: Planned, row: Any) -> dict[str, Any]:
    named = ("kind", "axes", "count", "bytes", "in_layer", "layer_bytes")
    through = planned.links.level(row) if planned.topology.chip is not None else None
    figures = {name: getattr(row, name) for name in named}
    return figures | {"axes": shown_axes(row.axes), "through": through}


def _timed(planned: Planned) -> dict[str, Any]:
    times = planned.times
    assert times is not None
    ends = (times.least, times.most)
    layers = share(in_layers(planned.sendings, planned.depth))
    return {
        "seconds": {
            "arithmetic": times.flops,
            "memory": times.memory,
            "links": times.links,
            "exposed": times.exposed,
            "all_at_once": times.least,
            "in_order": times.most,
        },
        "mfu": [planned.mfu(end) for end in ends],
        "days": [planned.days(end) for end in ends],
        "layers": {
            "bytes": layers.bytes,
            "asynchronous": layers.asynchronous,
            "beside_products": layers.beside_products,
        },
    }
