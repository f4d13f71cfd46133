"""A model small enough to be planned in a second, and where."""

import dataclasses

from jaxneox.plan.planned import Planned, compile_for
from jaxneox.plan.topology import Topology
from jaxneox.train.plan import build_plan
from tests.parallel.meshes import MODEL, Mesh, config
from tests.train.runs import KEYS as RAW

KEYS = {name.replace("-", "_"): value for name, value in RAW.items()}
CPU = Topology("cpu", (4,))
WIDE = dataclasses.replace(  # so that biases and norms, which the formula counts, are few
    MODEL,
    hidden_size=256,
    num_layers=2,
    vocab_size=1024,
    attention=dataclasses.replace(MODEL.attention, head_dim=64),
    mlp=dataclasses.replace(MODEL.mlp, size=1024),
)
POD = Topology("v5p", (4, 4, 4))


def compiled(mesh: Mesh, remat: str) -> Planned:
    cfg = config(WIDE, mesh)
    cfg = dataclasses.replace(cfg, remat=dataclasses.replace(cfg.remat, policy=remat))
    return compile_for(build_plan(cfg, mesh.sizes), CPU)
