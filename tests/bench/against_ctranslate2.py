"""Generation beside CTranslate2, in float32 on a CPU: `python -m tests.bench.against_ctranslate2`.

The same shape with random weights, greedily, in turns, each in a process of its own. FOLDER has
what `pip install --no-deps --target FOLDER ctranslate2 transformers==4.57.6 tokenizers==0.22.1
'huggingface_hub<1'` brings: CTranslate2's converter does not know transformers 5.
"""

import argparse
import statistics
import tempfile
from dataclasses import replace

from tests.bench.kinds import KINDS, OURS
from tests.bench.sizes import SIZES, Case
from tests.bench.turns import WITHOUT_GPU, Contender, take_turns

THEIRS = "ctranslate2"


def main() -> None:
    p = argparse.ArgumentParser(
        prog="python -m tests.bench.against_ctranslate2", description=__doc__
    )
    p.add_argument("folder", metavar="FOLDER")
    p.add_argument("--size", choices=SIZES, default="70m")
    p.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32], metavar="N")
    p.add_argument("--rounds", type=int, default=5)
    args = p.parse_args()
    path = WITHOUT_GPU | {"PYTHONPATH": args.folder}
    for batch in args.batches:
        with tempfile.TemporaryDirectory() as folder:
            case = replace(Case(args.size, batch, 64, new=64), folder=folder)
            with Contender("its files", "theirs.ctranslate:write", case, path) as writer:
                writer.run()
            ours = Contender(OURS, KINDS["decode"].contenders[OURS], case, WITHOUT_GPU)
            theirs = Contender(THEIRS, "theirs.ctranslate:prepare", case, path)
            take_turns([ours, theirs], args.rounds)
        pairs = zip(theirs.seconds, ours.seconds, strict=True)
        ratio = statistics.median(their / our for their, our in pairs)
        rates = (
            f"{one.name} {batch * case.new / statistics.median(one.seconds):,.0f} tokens/s"
            for one in (ours, theirs)
        )
        print(f"{KINDS['decode'].named(case)}: {', '.join(rates)}, {ratio:.2f} x", flush=True)


if __name__ == "__main__":
    main()
