"""How fast text is tokenized, against NeoX's way: `python -m tests.preprocess.throughput`.

NeoX's tool sends documents one at a time to a pool of processes (`imap`, 25 together), which answer
with lists of `tokenizers.Tokenizer.encode(text).ids`, and writes each. Both sides are timed from
start to end, processes included, on the same text with the same number of processes, and must
leave the same bytes.
"""

import argparse
import functools
import json
import multiprocessing
import os
import pathlib
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator

import numpy as np
import tokenizers

from jaxneox.data.writer import IndexedWriter
from tests.preprocess.command import status_of

SHARED = pathlib.Path(os.environ.get("JAXNEOX_SHARED", "../shared"))
PIECE = 3000  # characters of a document of the JSONL
theirs: tokenizers.Tokenizer


def start(vocab: str) -> None:
    global theirs
    theirs = tokenizers.Tokenizer.from_file(vocab)


def encode(text: str) -> list[int]:
    return [*theirs.encode(text).ids, 0]


def documents(paths: list[pathlib.Path]) -> Iterator[str]:
    for path in paths:
        if path.suffix == ".txt":
            yield path.read_text()
        else:
            with path.open() as lines:
                yield from (json.loads(line)["text"] for line in lines)


def neox_way(paths: list[pathlib.Path], vocab: str, out: pathlib.Path, workers: int) -> None:
    with (
        multiprocessing.Pool(workers, start, (vocab,)) as pool,
        IndexedWriter(out, np.uint16) as writer,
    ):
        for ids in pool.imap(encode, documents(paths), chunksize=25):
            writer.add(np.array(ids, np.uint16))


def ours(paths: list[pathlib.Path], vocab: str, out: pathlib.Path, workers: int) -> None:
    words = ["--input", *map(str, paths), "--output-prefix", str(out), "--append-eod"]
    words += ["--tokenizer-type", "HFTokenizer", "--vocab-file", vocab, "--workers", str(workers)]
    assert status_of(words) == 0


def inputs(folder: pathlib.Path, megabytes: int) -> dict[str, list[pathlib.Path]]:
    """Write pieces of novels, from the first again where they end, and list both kinds of files."""
    novels = sorted((SHARED / "data" / "novels").glob("*.txt"))
    left, shift = megabytes * 1_000_000, 0
    pieces = folder / "pieces.jsonl"
    with pieces.open("w") as file:
        while left > 0:
            for text in (novel.read_text() for novel in novels):
                for start in range(shift, len(text), PIECE):
                    if left > 0:
                        piece = text[start : start + PIECE]
                        left -= len(piece.encode())
                        file.write(json.dumps({"text": piece}) + "\n")
            shift += PIECE // 7  # other pieces of the same texts
    return {"pieces.jsonl": [pieces], "novels, .txt": novels}


def seconds(run: Callable[[], None]) -> tuple[float, float]:
    """By the clock, and of all processors: on a busy machine the second says more."""
    before = os.times()
    run()
    spent = [after - b for after, b in zip(os.times(), before, strict=True)]
    return spent[4], sum(spent[:4])


def once(
    paths: list[pathlib.Path], vocab: str, folder: pathlib.Path, workers: int
) -> list[tuple[float, float]]:
    """Time both sides, one after the other, and check that they leave the same bytes."""
    outs = [folder / who for who in ("theirs", "ours")]
    taken = [
        seconds(functools.partial(way, paths, vocab, out, workers))
        for way, out in zip((neox_way, ours), outs, strict=True)
    ]
    theirs_bin, ours_bin = folder / "theirs.bin", folder / "ours_text_document.bin"
    if theirs_bin.read_bytes() != ours_bin.read_bytes():
        sys.exit("the two have left OTHER bytes")
    for made in (*folder.glob("theirs.*"), *folder.glob("ours_*")):
        made.unlink()
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--megabytes", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3, help="in turns")
    args = parser.parse_args()
    vocab = str(SHARED / "data" / "tokenizer" / "20B_tokenizer.json")
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        for label, paths in inputs(folder, args.megabytes).items():
            size, ratios = sum(path.stat().st_size for path in paths) / 1e6, []
            for _ in range(args.rounds):
                (clock, cpu), (our_clock, our_cpu) = once(paths, vocab, folder, args.workers)
                ratios.append(clock / our_clock)
                print(
                    f"{label}, {size:.1f} MB, {args.workers} processes: "
                    f"NeoX's way {clock:.2f} s ({size / clock:.1f} MB/s), "
                    f"jaxneox {our_clock:.2f} s ({size / our_clock:.1f} MB/s), "
                    f"{ratios[-1]:.1f} x; processor time {cpu:.1f} s and {our_cpu:.1f} s, "
                    f"{cpu / our_cpu:.1f} x; the same bytes",
                    flush=True,
                )
            print(f"{label}: median {statistics.median(ratios):.1f} x")


if __name__ == "__main__":
    main()
