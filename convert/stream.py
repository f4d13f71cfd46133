"""The conversion itself: modules are read, merged and written two at a time, in bounded memory."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

from convert.apply import layer_of, merge_module
from convert.fate import Fate, check_whole
from convert.plan import Plan
from convert.readers.digest import Digest, Digests
from convert.readers.neox import NeoxCheckpoint
from convert.readers.torch_file import TorchFile
from convert.rules import neox
from convert.writers.jaxneox import STACKED, JaxneoxWriter, written

WORKERS = 2
"""Modules in memory at once: more would help where there are more cores, and cost their memory."""


def stream(
    source: NeoxCheckpoint,
    plan: Plan,
    writer: JaxneoxWriter,
    advance: Callable[[int], None],
    more: Iterable[TorchFile] = (),
) -> tuple[list[Fate], list[Digest]]:
    """Every module of `source` into `writer`: what became of each tensor, and what was read.

    The checksums of its files, and of `more`, are verified meanwhile: UserError is raised before
    anything is finished.
    """

    def convert(index: int) -> list[Fate]:
        digests.check()
        leaves, fates = merge_module(source, plan, index)
        source.forget(index)
        layer = layer_of(index, plan.model)
        futures = [
            writer.write(name, layer if name.startswith(STACKED) else None, value)
            for name, value in leaves.items()
        ]
        written(futures, writer.folder)
        advance(sum(t.nbytes for rank in source.shards.get(index, []) for t in rank.values()))
        return fates

    pool = ThreadPoolExecutor(WORKERS, "convert")
    with Digests([*source.yamls, *source.weight_files, *more]) as digests:
        try:
            jobs = [pool.submit(convert, index) for index in neox.modules(plan.model)]
            fates = [fate for job in jobs for fate in job.result()]
            check_whole(fates)
            return fates, digests.results()
        finally:
            pool.shutdown(cancel_futures=True)
