"""One contender in a process of its own: `python -m tests.bench.contender MODULE:FUNCTION CASE`,
the case as JSON. Each line on its standard input asks for one run, each of its output is a JSON
object: seconds; the last one, at the end of the input, the peak of its memory in bytes."""

import importlib
import json
import resource
import sys
from collections.abc import Callable
from typing import Any

from tests.bench.clock import seconds
from tests.bench.sizes import Case


def function(at: str) -> Callable[[Case], Any]:
    module, _, name = at.partition(":")
    return getattr(importlib.import_module(f"tests.bench.{module}"), name)


def memory() -> int:
    """The most bytes at once: of arrays on a GPU by its allocator, else of the whole process."""
    torch, jax = sys.modules.get("torch"), sys.modules.get("jax")
    if torch is not None and torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    stats = jax.local_devices()[0].memory_stats() if jax is not None else None
    if stats:
        return stats["peak_bytes_in_use"]
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    at, case = sys.argv[1:]
    answers, sys.stdout = sys.stdout, sys.stderr  # what is said meanwhile is no answer
    run = function(at)(Case(**json.loads(case)))
    for _ in sys.stdin:
        print(json.dumps({"seconds": seconds(run)}), file=answers, flush=True)
    print(json.dumps({"memory": memory()}), file=answers, flush=True)


if __name__ == "__main__":
    main()
