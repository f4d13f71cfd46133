"""What a step really takes of this machine's memory beside what its plan says, on eight virtual
devices: `python -m tests.plan.running dp=4,tp=2 KEY=VALUE…`, a JSON object. Linux only."""

import ctypes
import gc
import json
import sys
from pathlib import Path
from typing import Any

from jaxneox.config import Settings, apply_set
from jaxneox.parallel.mesh import asked_sizes, final_sizes
from jaxneox.plan.plugins import prepare
from jaxneox.plan.topology import parse_topology

KEYS: dict[str, Any] = {
    "num_layers": 4,
    "hidden_size": 768,
    "num_attention_heads": 8,
    "seq_length": 256,
    "max_position_embeddings": 256,
    "padded_vocab_size": 8192,
    "pos_emb": "rotary",
    "gpt_j_residual": True,
    "hidden_dropout": 0,
    "attention_dropout": 0,
    "train_batch_size": 8,
    "train_iters": 10,
}
"""Large enough that what a process has besides its arrays is little."""


def status(name: str) -> int:
    """Bytes: `VmRSS` now, `VmHWM` at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(name))


def main() -> None:
    mesh_text, *changes = sys.argv[1:]
    topology = parse_topology("cpu:8")
    prepare(topology)
    import jax
    import jax.numpy as jnp

    from jaxneox.parallel.compilation import use_compilation_cache
    from jaxneox.parallel.mesh import make_mesh
    from jaxneox.plan.planned import compile_for
    from jaxneox.train.checkpoints.restore import initial_state
    from jaxneox.train.plan import build_plan
    from jaxneox.train.step.step import build_step

    use_compilation_cache()
    keys = apply_set(KEYS, changes)
    sizes = final_sizes(asked_sizes(mesh_text, Settings(keys).parallel), topology.count)
    cfg = Settings(keys).resolve(dp=sizes["dp"], vocab_size=None)
    plan = build_plan(cfg, sizes)
    planned = compile_for(plan, topology)
    mesh = make_mesh(sizes)
    rows = (cfg.batch.accumulation, cfg.batch.global_size // cfg.batch.accumulation)
    batch = {
        "tokens": jnp.zeros((*rows, cfg.model.seq_length + 1), jnp.int32),
        "weights": jnp.ones((*rows, cfg.model.seq_length), jnp.float32),
    }
    with jax.set_mesh(mesh):
        step = build_step(plan, mesh)
        state, _ = step(initial_state(plan, mesh, None), batch)
        jax.block_until_ready(state)
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        shards = (shard for leaf in jax.tree.leaves(state) for shard in leaf.addressable_shards)
        before = status("VmRSS") - sum(shard.data.nbytes for shard in shards)
        Path("/proc/self/clear_refs").write_text("5")  # the most so far is forgotten
        jax.block_until_ready(step(state, batch))
    running = (status("VmHWM") - before) / topology.count
    print(json.dumps({"planned": planned.total, "running": running}))


if __name__ == "__main__":
    main()
