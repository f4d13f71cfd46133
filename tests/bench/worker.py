"""One contender in a process of its own: `python -m tests.bench.worker NAME KIND SIZE BATCH LENGTH
DTYPE`. Each line on its standard input asks for one run, each of its output is a JSON object:
seconds and what came out; the last one, at the end of the input, the peak of its memory."""

import json
import resource
import sys
import time
from collections.abc import Callable

from tests.bench.sizes import Case


def runner(name: str, kind: str, case: Case) -> Callable[[], float]:
    if name == "ours":
        from tests.bench import ours

        return ours.training(case) if kind == "train" else ours.forward(case)
    import numpy as np

    from tests.bench import theirs

    length = case.length + (kind == "train")
    tokens = np.random.default_rng(0).integers(0, 50000, (case.batch, length))
    make = theirs.training if kind == "train" else theirs.forward
    return make(case, tokens, compiled=name == "compiled")


def main() -> None:
    name, kind, size, batch, length, dtype = sys.argv[1:]
    run = runner(name, kind, Case(size, int(batch), int(length), dtype))
    for _ in sys.stdin:
        began = time.perf_counter()
        value = run()
        print(json.dumps({"seconds": time.perf_counter() - began, "value": value}), flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"peak": peak}), flush=True)


if __name__ == "__main__":
    main()
