"""`jaxneox convert to-hf SRC DST`: a jaxneox checkpoint as a model of transformers."""

import argparse
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from convert.casting import CHOICES, cast
from convert.fate import Fate, check_whole, laid_out
from convert.hf.config import config_of
from convert.hf.export import Export
from convert.hf.tokenizer import ids_of, save_tokenizer
from convert.proof.case import case_of
from convert.proof.certificate import certificate
from convert.proof.conclude import conclude
from convert.readers.hf import HfCheckpoint
from convert.readers.jaxneox import JaxneoxCheckpoint, open_jaxneox
from convert.rules.rule import Rule, Sizes, sizes_of
from convert.writers.hf import HfWriter, nbytes
from convert.writers.staging import Staging, refuse_existing
from jaxneox.config.schema import ModelConfig
from jaxneox.console.execute import entry_point
from jaxneox.console.parser import Parser
from jaxneox.console.progress import Advance, progress, warn
from jaxneox.errors import UserError


def parser() -> Parser:
    p = Parser(
        "convert to-hf",
        "Write a jaxneox checkpoint as safetensors that transformers loads: as GPTNeoXForCausalLM, "
        "LlamaForCausalLM or GPT2LMHeadModel, whichever has exactly its function.",
        [
            ("runs/mine OUT", "the newest step"),
            ("runs/mine OUT --dtype bfloat16 --vocab trim", "rounded, without padded rows"),
        ],
    )
    p.add_argument("src", metavar="SRC", type=Path, help="a run or one of its step_N folders")
    p.add_argument("dst", metavar="DST", type=Path, help="a folder that does not exist yet")
    how = p.add_argument_group("what to write")
    how.add_argument("--step", type=int, metavar="N", help="its step; the newest by default")
    how.add_argument("--dtype", choices=CHOICES, default="keep", help="type of the stored weights")
    how.add_argument("--vocab", choices=("keep", "trim"), default="keep",
        help="trim: without the padded rows, which the softmax then lacks")  # fmt: skip
    how.add_argument("--copy-shared-norm", action="store_true",
        help="write the one norm of a gpt_j_tied model twice: the same function")  # fmt: skip
    how.add_argument("--no-verify", action="store_true", help="do not prove the result")
    return p


def run(args: argparse.Namespace) -> int:
    refuse_existing(args.dst)
    source = open_jaxneox(args.src, args.step)
    export = Export(source, model_to_write(source, args), args.dtype)
    export.check()
    notes = [*trimmed(source, export.model), *too_new(export)]
    warn(notes)
    with Staging(args.dst, nbytes(export.tensors)) as folder:
        fates, more = write(export, folder)
        warn(more)
        notes += more
        record = certificate(
            f"jaxneox step {source.place.step} to {export.family.architecture}",
            (args.src, args.dst),
            {"kind": "jaxneox", "step": source.place.step},
            fates,
            notes,
            files=[],
        )
        case = None if args.no_verify else case_of(source, HfCheckpoint(folder))
        said = conclude(record, case, folder, args.dst)
    print("\n".join(said))
    print(f"{args.dst}   {export.family.architecture}, {len(export.tensors)} tensors")
    print(f"{args.dst}/certificate.md   what was done and how it was proved")
    print(f"Next: transformers.AutoModelForCausalLM.from_pretrained({str(args.dst)!r})")
    return 0


def write(export: Export, folder: Path) -> tuple[list[Fate], list[str]]:
    """Everything but the certificate: the account, and what could not be written, a line each."""
    tensors = export.tensors
    writer = HfWriter(folder, tensors)
    with progress("writing", nbytes(tensors)) as bar:
        fates = stream(export, writer, bar)
    notes = write_tokenizer(export.source, export.model, folder)
    writer.finish(config_of(export.family, export.model) | loading(export.source, tensors))
    check_whole(fates)
    return fates, notes


def model_to_write(source: JaxneoxCheckpoint, args: argparse.Namespace) -> ModelConfig:
    model = source.model
    if args.copy_shared_norm:
        model = replace(model, shared_norm=False)
    if args.vocab == "trim":
        if source.tokenizer is None:
            raise UserError(
                f"{args.src}: has no tokenizer, so that --vocab trim cannot know which rows are "
                "padding; use --vocab keep"
            )
        model = replace(model, vocab_size=min(model.vocab_size, source.tokenizer.rows))
    return model


def trimmed(source: JaxneoxCheckpoint, model: ModelConfig) -> list[str]:
    left_out = source.model.vocab_size - model.vocab_size
    if not left_out:
        return []
    return [
        f"{left_out} padded rows of the vocabulary are left out: the other logits are the same, "
        "but the softmax no longer has theirs, so that every probability is a little larger"
    ]


def too_new(export: Export) -> list[str]:
    config = config_of(export.family, export.model)
    return [
        f"transformers before {version} does not read {key}, and leaves what it is about out"
        for key, version in (export.family.since or {}).items()
        if config[key]
    ]


def stream(export: Export, writer: HfWriter, advance: Advance) -> list[Fate]:
    """Every tensor, in the memory of a layer and a shard."""
    sizes, at, leaves = sizes_of(export.model), None, dict[str, np.ndarray]()
    fates = []
    for name, rule, layer in export.order:
        if layer is None or layer != at:
            at, leaves = layer, {}
        for leaf in rule.leaves - leaves.keys():
            leaves[leaf] = export.stored(leaf, layer)
        dtype = export.dtype(rule.parts[0].leaf)
        tensor = cast(name, rule.get(leaves, sizes, rank=0), dtype)
        fates.append(account(rule, layer, leaves, tensor, sizes))
        writer.write(name, tensor)
        advance(tensor.nbytes)
    return fates


def account(
    rule: Rule,
    layer: int | None,
    leaves: Mapping[str, np.ndarray],
    tensor: np.ndarray,
    sizes: Sizes,
) -> Fate:
    regions = [leaves[part.leaf][part.region(sizes, 0)] for part in rule.parts]
    ours = np.concatenate([np.ravel(region) for region in regions])
    leaf = " + ".join(part.leaf for part in rule.parts)
    return laid_out(rule.theirs.replace("{}", "*"), layer, leaf, ours, tensor)


def write_tokenizer(source: JaxneoxCheckpoint, model: ModelConfig, folder: Path) -> list[str]:
    """What could not be written, one line each."""
    if source.tokenizer is None:
        return ["the checkpoint has no tokenizer: there is none beside the model"]
    nameless = [
        "nothing names the token that ends a document: eos_token_id is null, and transformers "
        "stops at none; set eod-token in the run's YAML and train on, or convert its source again"
    ]
    notes = [] if source.tokenizer.stops else nameless
    try:
        return notes + save_tokenizer(source.tokenizer, folder, model.positions.max_positions)
    except UserError as error:
        return [str(error)]


def loading(
    source: JaxneoxCheckpoint, tensors: Mapping[str, tuple[tuple[int, ...], np.dtype]]
) -> dict[str, Any]:
    """What config.json says that is not the model: its type, and which token ends a document."""
    dtypes = {dtype.name for _, dtype in tensors.values()}
    dtype = dtypes.pop() if len(dtypes) == 1 else "float32"  # holds the others exactly
    return ids_of(source.tokenizer) | {"dtype": dtype, "torch_dtype": dtype}


main = entry_point(parser, run, foreign=True)

if __name__ == "__main__":
    main()
