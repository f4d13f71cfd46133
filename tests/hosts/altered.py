"""`train.py` with a loader that writes down what it is asked for, or gets stuck.

$ROWS: a folder; `rows.I` there gets a line of JSON [step, rows] for each reading of process I.
$STUCK: "I,N": in process I, the batch of step N (from 0) never comes.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from jaxneox.data.loader import SampleLoader
from jaxneox.hosts import supervisor
from jaxneox.train.command import main


def alter(index: int) -> None:
    read = SampleLoader.read

    def altered(self: SampleLoader, step: int, wanted: Any) -> Any:
        if folder := os.environ.get("ROWS"):
            with (Path(folder) / f"rows.{index}").open("a") as file:
                file.write(json.dumps([step, list(wanted)]) + "\n")
        if os.environ.get("STUCK") == f"{index},{step}":
            time.sleep(10_000)
        return read(self, step, wanted)

    SampleLoader.read = altered  # type: ignore[method-assign]


if __name__ == "__main__":
    index = next(int(arg.partition("=")[2]) for arg in sys.argv if arg.startswith("--process-id"))
    if supervisor.CHILD not in os.environ:
        command = [sys.executable, "-m", "tests.hosts.altered", *sys.argv[1:]]
        sys.exit(supervisor.supervise(command, 0, f"process {index}: " if index else ""))
    alter(index)
    main()
