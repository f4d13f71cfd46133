"""`python -m tests.programs TOPOLOGY NAME…` compiles programs; a line of JSON for each.

In a process of its own, since that has one compiler. The lines are `facts` of the programs.
"""

import json
import sys
from typing import Any

from jaxneox.plan.plugins import prepare
from jaxneox.plan.topology import Topology, parse_topology
from tests.programs.cases import MODEL, PROGRAMS, Program


def main() -> None:
    name, *programs = sys.argv[1:]
    topology = parse_topology(name)
    prepare(topology)
    from tests.programs.reading import facts

    for program in programs:
        with topology.described():
            text, sizes, layers, memory = compiled(PROGRAMS[program], topology)
        said = {"program": program, **facts(text, sizes, layers), "memory": memory}
        print(json.dumps(said), flush=True)


def compiled(program: Program, topology: Topology) -> tuple[str, dict[str, int], int, int]:
    """The text of a program, its mesh, how many layers a loop goes through, and bytes of a device.

    The bytes are those of arguments, results that do not overwrite them, and temporaries.
    """
    from jaxneox.config import Settings
    from jaxneox.parallel.mesh import asked_sizes, final_sizes
    from jaxneox.train.plan import build_plan
    from tests.programs.pools import compile_pool

    settings = Settings(MODEL | program.keys)
    sizes = final_sizes(asked_sizes(program.mesh, settings.parallel), topology.count)
    cfg = settings.resolve(dp=sizes["dp"], vocab_size=None)
    executable: Any
    if program.kind == "step":
        from jaxneox.plan.planned import compile_for

        planned = compile_for(build_plan(cfg, sizes), topology)
        executable, layers = planned.compiled.program, planned.depth
    else:
        executable, layers = compile_pool(program.kind, cfg, sizes, topology), cfg.model.num_layers
    stats = executable.memory_analysis()
    own = stats.output_size_in_bytes - stats.alias_size_in_bytes
    needed = stats.argument_size_in_bytes + own + stats.temp_size_in_bytes
    return executable.as_text(), sizes, layers, needed


if __name__ == "__main__":
    main()
