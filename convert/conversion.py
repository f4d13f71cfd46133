"""The steps of every conversion: refuse, stage, move, account, record, prove, certify.

What differs between programs is in the `Source` and the `Target`; see `convert.checkpoint`.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from convert.checkpoint import Source, Target
from convert.fate import Fate, check_whole, named
from convert.parts import Part, nbytes, parts_of
from convert.proof.case import Case
from convert.proof.certificate import certificate
from convert.proof.conclude import conclude
from convert.readers.digest import Digest, Digests
from convert.writers.staging import Staging, refuse_existing
from jaxneox.console.hints import typed_command
from jaxneox.console.progress import progress
from jaxneox.console.say import say, warn
from jaxneox.errors import UserError


def convert(
    dst: Path,
    read: Callable[[], Source],
    write: Callable[[Source], Target],
    *,
    verify: bool,
    older_merges: bool = False,
) -> int:
    """Convert a checkpoint as `make` does, print what was done, and return the exit status."""
    say(*make(dst, read, write, verify=verify, older_merges=older_merges))
    return 0


def make(
    dst: Path,
    read: Callable[[], Source],
    write: Callable[[Source], Target],
    *,
    verify: bool,
    by: str | None = None,
    older_merges: bool = False,
) -> list[str]:
    """Convert a checkpoint.

    Args:
        dst: a path where nothing exists yet.
        read: opens the source.
        write: prepares the target of that source.
        verify: whether to prove that both compute the same.
        by: the command for the certificate, where it is not the one that was typed.
        older_merges: whether the certificate also says what older merges of the source cost.

    Returns:
        What was done, in lines for the terminal: the verdict first.

    Raises:
        UserError: the source cannot be read, the target cannot be written, or the target does
            not compute the same. In the last case the target is kept under another name.
    """
    refuse_existing(dst)
    source = read()
    target = write(source)
    with Staging(dst, target.nbytes) as folder:
        target.start(folder)
        notes = [*source.notes, *target.notes]
        warn(notes)
        fates, digests = move(source, target)
        late = notes_of_nan(source, fates, refuse=verify)
        move_training(source, target)
        late += target.finish()
        warn(late)
        command = by or typed_command()
        record = certificate(source, target, dst, fates, [*notes, *late], digests, command)
        case = None
        if verify:
            case = Case.of(source.checkpoint, target.reopen(), older_merges=older_merges)
        verdict = conclude(record, case, folder, dst)
    here, next_step = target.result(dst)
    proved = " and how it was proved" if verify else ""
    return [*verdict, here, f"{dst}/certificate.md   what was done{proved}", next_step]


def move(source: Source, target: Target) -> tuple[list[Fate], list[Digest]]:
    """Move every part from the source to the target.

    Returns:
        The fate of each tensor, and the digest of each file that was read.

    Raises:
        UserError: a file of the source is damaged. Checksums are verified while parts are
            moved, so the error comes before the target is finished.
    """
    parts = parts_of(source.checkpoint.model)
    with (
        Digests(source.files) as digests,
        progress("converting", nbytes(source.shapes, source.dtypes)) as advance,
    ):

        def move_part(part: Part) -> list[Fate]:
            digests.check()
            leaves, fates = source.read(part)
            written = target.write(part, leaves)
            advance(sum(leaf.nbytes for leaf in leaves.values()))
            return [*fates, *written]

        pool = ThreadPoolExecutor(target.at_once, "convert")
        try:
            moved = [pool.submit(move_part, part) for part in parts]
            fates = [fate for future in moved for fate in future.result()]
        finally:
            pool.shutdown(cancel_futures=True)
        check_whole(fates)
        return [*fates, *source.left_out], digests.results()


def move_training(source: Source, target: Target) -> None:
    """Move the optimizer's state, if it was asked for."""
    if source.training is not None:
        total = 2 * nbytes(source.shapes, source.dtypes)
        with progress("carrying over the optimizer", total) as advance:
            target.write_training(source.training, advance)


def notes_of_nan(source: Source, fates: Sequence[Fate], *, refuse: bool) -> list[str]:
    """Name the source's tensors that hold NaN or infinity, in one line, or return no line.

    Raises:
        UserError: there are such tensors, and `refuse` is set.
    """
    bad = [fate for fate in fates if fate.not_finite]
    if not bad:
        return []
    where = [f"{fate.where}: {fate.not_finite} of {fate.elements}" for fate in bad]
    line = (
        f"{source.path}: the source itself holds numbers that are NaN or infinite, in "
        f"{named(where)}"
    )
    if refuse:
        raise UserError(
            f"{line}. Its function cannot be compared: convert an earlier step, or copy the "
            "numbers as they are with --no-verify"
        )
    return [line]
