"""`jaxneox convert from-hf SRC DST`: a model of transformers as a jaxneox checkpoint."""

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from convert import next_command
from convert.casting import CHOICES, cast, chosen
from convert.fate import Fate, check_whole, laid_out
from convert.hf.tokenizer import tokenizer_at, with_generation_of
from convert.proof.case import case_of
from convert.proof.certificate import certificate
from convert.proof.conclude import conclude
from convert.readers.digest import Digests
from convert.readers.hf import PRECISION, HfCheckpoint
from convert.readers.hub import download, is_hub_name
from convert.readers.jaxneox import open_jaxneox
from convert.tokenizers import check_rows, notes_of
from convert.writers.jaxneox import STACKED, JaxneoxWriter, nbytes, written
from convert.writers.staging import Staging, refuse_existing
from jaxneox.config import resolve, saved_keys
from jaxneox.console.execute import entry_point
from jaxneox.console.parser import Parser
from jaxneox.console.progress import Advance, progress, warn
from jaxneox.data import Tokenizer
from jaxneox.data.companions import token_ids
from jaxneox.errors import UserError

Leaves = dict[str, tuple[tuple[int, ...], np.dtype]]

DESCRIPTION = ("*.json", "merges.txt", "tokenizer.model", "*.jinja")
WEIGHTS = ("model*.safetensors", "pytorch_model*.bin")
"""Safetensors first: a repository often has both."""


def parser() -> Parser:
    p = Parser(
        "convert from-hf",
        "Convert a GPTNeoXForCausalLM, LlamaForCausalLM or GPT2LMHeadModel of transformers to a "
        "jaxneox checkpoint with the same function, and certify it.",
        [
            ("EleutherAI/pythia-70m runs/70m", "a model of the Hugging Face hub"),
            ("models/llama runs/llama --dtype bfloat16", "a folder here, its weights rounded"),
        ],
    )
    p.add_argument("src", metavar="SRC",
        help="a folder, owner/name or hf://owner/name[@revision]")  # fmt: skip
    p.add_argument("dst", metavar="DST", type=Path, help="a folder that does not exist yet")
    how = p.add_argument_group("how to convert it")
    how.add_argument("--tokenizer", type=Path, metavar="FILE",
        help="instead of the one beside the model")  # fmt: skip
    how.add_argument("--dtype", choices=CHOICES, default="keep", help="type of the stored weights")
    how.add_argument("--no-verify", action="store_true", help="do not prove the result")
    return p


def run(args: argparse.Namespace) -> int:
    refuse_existing(args.dst)
    source = HfCheckpoint(local(args.src))
    leaves = {
        name: (shape, chosen(args.dtype, source.dtype(name)))
        for name, shape in source.shapes.items()
    }
    tokenizer, notes = choose_tokenizer(source, args.tokenizer)
    keys = source.keys | precision(leaves)
    if tokenizer is not None:
        keys["tokenizer_type"] = tokenizer.name
    config = resolve(keys, dp=1, vocab_size=None)
    said = [*source.warnings, *notes]
    warn(said)
    with Staging(args.dst, nbytes(leaves)) as folder, Digests(source.files) as digests:
        writer = JaxneoxWriter(folder, 0, leaves)
        with progress("reading", nbytes(leaves)) as bar:
            fates = stream(source, writer, leaves, bar)
        if tokenizer is not None:
            tokenizer.save(folder / "tokenizer")
        writer.finish(saved_keys(config), {"conversion": {"from": source.family.architecture}})
        record = certificate(
            f"{source.family.architecture} to jaxneox",
            (source.folder, args.dst),
            {"kind": "Hugging Face", "folder": source.folder.name},
            fates,
            said,
            digests.results(),
        )
        case = None if args.no_verify else case_of(source, open_jaxneox(folder))
        found = conclude(record, case, folder, args.dst)
    print("\n".join(found))
    print(f"{args.dst}   the checkpoint: jaxneox.load({str(args.dst)!r})")
    print(f"{args.dst}/certificate.md   what was done and how it was proved")
    print(next_command.after(args.dst))
    return 0


def local(src: str) -> Path:
    if not is_hub_name(src):
        return Path(src)
    for weights in WEIGHTS:
        folder = download(src, (*DESCRIPTION, weights))
        if any(folder.glob(weights)):
            break
    return folder


def choose_tokenizer(
    source: HfCheckpoint, given: Path | None
) -> tuple[Tokenizer | None, list[str]]:
    """The given one or the one beside the model, and what there is to say where there is none."""
    ids = token_ids(source.folder / "config.json", source.config)
    if given is not None:
        tokenizer = with_generation_of(tokenizer_at(given), source.folder)
        check_rows(tokenizer, source.model.vocab_size, given)
        return tokenizer, notes_of(tokenizer)
    none = "the checkpoint gets no tokenizer; give one with --tokenizer FILE"
    if ids.get("eos_token_id") is not None:
        none += f". Generation stops at config.json's eos_token_id {ids['eos_token_id']} only then"
    try:
        found = source.tokenizer
        if found is None:
            return None, [f"{source.folder}: has no tokenizer that we know: {none}"]
        check_rows(found, source.model.vocab_size, source.folder)
    except UserError as error:
        return None, [f"{error}: {none}"]
    return found, notes_of(found)


def precision(leaves: Leaves) -> dict[str, Any]:
    dtypes = {dtype.name for _, dtype in leaves.values()}
    return {"precision": PRECISION[dtypes.pop() if len(dtypes) == 1 else "float32"]}


def stream(
    source: HfCheckpoint, writer: JaxneoxWriter, leaves: Leaves, advance: Advance
) -> list[Fate]:
    """Every leaf, in the memory of a layer. Returns the account of every tensor."""
    fates = []
    stacked = [name for name in leaves if name.startswith(STACKED)]
    outside = [name for name in leaves if name not in stacked]
    for layer in (None, *range(source.model.num_layers)):
        values = {}
        for name in outside if layer is None else stacked:
            leaf = source.leaf(name, layer)
            values[name] = cast(name, leaf, leaves[name][1])
            fates.append(laid_out(source.origin(name), layer, name, leaf, values[name]))
        futures = [writer.write(name, layer, value) for name, value in values.items()]
        written(futures, writer.folder)
        advance(sum(value.nbytes for value in values.values()))
    check_whole(fates)
    return fates


main = entry_point(parser, run, foreign=True)

if __name__ == "__main__":
    main()
