"""`make faults`: one process of several is killed again and again, and the run is none the worse.

    python -m tests.hosts.faults [--processes 4] [--kills 10] [--seed 0]

Each process has two devices. One after the other gets kill -9 at a random step, or in the middle of
a save; measured is how long the others need to stop. Each start again is by
`--restarts`. In the end the parameters and the figures of all steps are compared, bit for bit,
with those of a run that was left alone. Prints a Markdown table.
"""

import argparse
import random
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from tests.hosts.processes import Processes, alive, half_written, kill, steps_done, wait_for
from tests.train.runs import assert_same_run, write_yaml

EVERY = 10  # steps from checkpoint to checkpoint


class Kill(NamedTuple):
    process: int
    when: str
    seconds: float  # until none of those that were running then is left
    lines: list[str]  # what the others said


def main() -> None:
    p = argparse.ArgumentParser()
    p.add_argument("--processes", type=int, default=4)
    p.add_argument("--kills", type=int, default=10)
    p.add_argument("--iters", type=int, default=250)
    p.add_argument("--seed", type=int, default=0)
    args = p.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        kills = torment(Path(folder), args.processes, args.kills, args.iters, args.seed)
    print(table(kills, args.processes))


def torment(folder: Path, processes: int, kills: int, iters: int, seed: int) -> list[Kill]:
    yaml = write_yaml(folder, train_iters=iters, checkpoint_factor=EVERY)
    mesh = f"--mesh=dp={processes},tp=2"
    with Processes(processes, folder, yaml, mesh, "--save", folder / "whole") as undisturbed:
        assert [end.code for end in undisturbed.wait(600)] == [0] * processes
    say(f"the undisturbed run of {iters} steps is done")
    chance, done = random.Random(seed), []
    save = ("--save", folder / "run", "--restarts", str(3 * kills))
    with Processes(processes, folder, yaml, mesh, *save) as run:
        for number in range(kills):
            done.append(one_kill(run, folder / "run", number, kills, iters, chance))
            say(f"{number + 1} of {kills}: {done[-1].when}, {done[-1].seconds:.1f} s")
        assert [end.code for end in run.wait(900)] == [0] * processes
    assert_same_run(folder / "run", folder / "whole")
    say("the same figures and parameters, bit for bit")
    return done


def one_kill(
    run: Processes, folder: Path, number: int, kills: int, iters: int, chance: random.Random
) -> Kill:
    """Every third one in the middle of a save; the others at a step in their share of the run."""
    share = (iters - 2 * EVERY) // kills
    target = number * share + chance.randrange(2, share)
    wait_for(lambda: steps_done(folder) >= target and all(run.children()), 300)
    if number % 3 == 2:
        wait_for(lambda: half_written(folder), 300)
    victim, before = number % len(run.all), run.children()
    pids = [pid for pid in before if pid is not None]
    said = [len(text.splitlines()) for text in errors(run)]
    kill(pids[victim])
    start = time.monotonic()
    halves = [path.name.split(".")[0] for path in half_written(folder)]
    when = f"saving {halves[0]}" if halves else f"step {steps_done(folder)}"
    wait_for(lambda: not any(map(alive, pids)), 120)
    seconds = time.monotonic() - start
    lines = [
        re.sub(r" at [\d:]+|since [\d:]+", "", line)
        for text, skip in zip(errors(run), said, strict=True)
        for line in text.splitlines()[skip:]
        if "no sign of life" in line or "was lost" in line or "not answered" in line
    ]
    return Kill(victim, when, seconds, lines)


def errors(run: Processes) -> list[str]:
    return [(run.folder / f"err.{i}").read_text() for i in range(len(run.all))]


def table(kills: list[Kill], processes: int) -> str:
    rows = [
        "| kill -9 of process | while | seconds until all had stopped |",
        "|---|---|---|",
        *(
            f"| {kill.process} of {processes} | {kill.when} | {kill.seconds:.1f} |"
            for kill in kills
        ),
    ]
    longest = max(kill.seconds for kill in kills)
    assert longest < 60, f"{longest:.0f} s until all had stopped"
    return "\n".join(
        [
            *rows,
            "",
            f"Longest {longest:.1f} s. The final parameters and the figures of all steps "
            "equal the undisturbed run's bit for bit.",
        ]
    )


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
