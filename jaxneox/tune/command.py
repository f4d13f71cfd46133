"""`jaxneox tune`: a pretrained model and a file, to a model that is tuned."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxneox.console.execute import entry_point
from jaxneox.console.parser import Parser, whole_number

if TYPE_CHECKING:
    from jaxneox.data import Tokenizer

INTERRUPTED = "interrupted; the same command goes on from the last checkpoint"


def parser() -> Parser:
    p = Parser(
        "tune",
        "Train a pretrained model on conversations, prompts with completions, or texts. Length, "
        "batch, rate and steps are chosen, and printed as the YAML of the run.",
        [
            ("EleutherAI/pythia-410m chats.jsonl --lora 16", "matrices of low rank beside it"),
            ("runs/mine texts/ --epochs 1", "all of its parameters"),
        ],
    )
    p.add_argument("model", metavar="MODEL",
        help="a run, a Hugging Face folder, a NeoX run, or the hub's owner/name")  # fmt: skip
    p.add_argument("data", nargs="+", metavar="DATA", help="files or folders")
    p.add_argument("--save", metavar="DIR", help="the run's folder; runs/MODEL-DATA by default")
    what = p.add_argument_group("what is trained")
    what.add_argument("--lora", type=whole_number, metavar="RANK",
        help="matrices of low rank beside the model's own; all parameters without it")  # fmt: skip
    what.add_argument("--chat-template", metavar="FILE|NAME",
        help="a file of Jinja, or plain or chatml; the model's own by default")  # fmt: skip
    what.add_argument("--hold-out", type=float, default=0.05, metavar="SHARE",
        help="of the documents, for the loss that is looked at")  # fmt: skip
    how = p.add_argument_group("instead of what is chosen")
    how.add_argument("--epochs", type=float, default=3.0, metavar="N", help="passes over the data")
    how.add_argument("--length", type=whole_number, metavar="N", help="tokens of a row")
    how.add_argument("--batch", type=whole_number, metavar="N", help="rows of a step")
    how.add_argument("--lr", type=float, metavar="RATE", help="the learning rate")
    how.add_argument("--stop-early", type=whole_number, metavar="N",
        help="stop after N evaluations without a better one")  # fmt: skip
    how.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE",
        help="any YAML key")  # fmt: skip
    where = p.add_argument_group("where to train")
    where.add_argument("--mesh", metavar="dp=2,tp=4", help="devices by axis; all by default")
    where.add_argument("--dry-run", action="store_true",
        help="prepare the data, print the YAML, and stop")  # fmt: skip
    return p


def run(args: argparse.Namespace) -> int:
    from jaxneox.config import apply_set, load_yaml
    from jaxneox.console.say import say
    from jaxneox.train.fit import fit
    from jaxneox.tune import report
    from jaxneox.tune.watching import Watch

    save = Path(args.save or default_folder(args.model, args.data[0]))
    plan = save / "tune.yml"
    if plan.is_file():
        say(f"{save}: going on with {plan}")
        keys = load_yaml([plan])
    else:
        keys = planned(args, save)
        plan.write_text(report.as_yaml(keys) + "\n")
    keys = apply_set(keys, args.set)
    say(f"\n{report.as_yaml(keys)}\n")
    if args.dry_run:
        return 0
    watch = Watch(save, args.stop_early)
    done = fit(keys, None, {}, None, [watch], args.mesh, verbose=True)
    watch.remove_others()
    say(f"\n{report.of_the_run(done, watch, args.model)}")
    return 0


def default_folder(model: str, data: str) -> str:
    """Name the folder of a run whose user names none."""
    return f"runs/{Path(model).resolve().name}-{Path(data).resolve().stem}"


def planned(args: argparse.Namespace, save: Path) -> dict[str, Any]:
    """Prepare the data, and choose the keys of the run."""
    import jax

    from jaxneox import checkpoint
    from jaxneox.base_model import META
    from jaxneox.config import Settings
    from jaxneox.console.say import say
    from jaxneox.console.waiting import waiting
    from jaxneox.data import documents, load_tokenizer
    from jaxneox.errors import UserError
    from jaxneox.loading import locate
    from jaxneox.parallel.mesh import asked_sizes, final_sizes, prepare_devices
    from jaxneox.tune import choices, data, report, templates

    if not 0 < args.hold_out < 1:
        raise UserError(f"--hold-out {args.hold_out}: expected a share between 0 and 1")
    files = [file for path in args.data for file in documents.input_files(path)]
    kind = data.kind_of_data(files)
    location = locate(args.model)
    meta = checkpoint.read_meta(location)
    if META in meta:
        raise UserError(
            f"{args.model}: is an adapter; go on with it by `jaxneox train`, or make one model of "
            "it and its base with `jaxneox convert merge-adapter`"
        )
    asked_mesh = asked_sizes(args.mesh, Settings(dict(choices.model_keys(meta["keys"]))).parallel)
    prepare_devices(asked_mesh)
    sizes = final_sizes(asked_mesh, jax.device_count())
    tokenizer = location.run / "tokenizer"
    if not tokenizer.is_dir():
        raise UserError(
            f"{args.model}: has no tokenizer, which a file of text needs; convert it with "
            "--tokenizer FILE, and tune the run"
        )
    chosen = templates.template_of_model(own_template(tokenizer), args.chat_template)
    file = save / "chat_template.jinja"
    if kind.is_chat and chosen is not None:
        save.mkdir(parents=True, exist_ok=True)
        file.write_text(chosen.text)
    settings = Settings(meta["keys"])
    own = load_tokenizer(tokenizer, settings.tokenizer.eod_token)
    recipe = data.recipe_of(kind, own, tokenizer, file if file.is_file() else None)
    if file.is_file():
        own = with_template(own, file.read_text())
    own.save(save / "tokenizer")
    with waiting(f"reading {args.data[0]}"):
        encoder = recipe.build()
        counts = data.prepare(
            encoder, recipe.columns, files, save / "data", args.hold_out, settings.train.seed
        )
    asked = choices.Asked(args.lora, args.length, args.batch, args.lr, args.epochs)
    train, valid = (counts[split].sizes or [] for split in data.SPLITS)
    keys = choices.choose(meta["keys"], train, valid, sizes["dp"], asked)
    for split in data.SPLITS:
        names = [str(save / "data" / n) for n in data.names_of(split, len(encoder.dtypes) > 1)]
        keys[f"{split}_data_paths"] = names[:1]
        if len(names) > 1:
            keys[f"{split}_label_data_paths"] = names[1:]
    for name in ("vocab_file", "merge_file"):
        keys.pop(name, None)
    keys |= {"tokenizer_type": own.name, "save": str(save)}
    if args.lora:
        keys["lora"] |= {"base": args.model}
    else:
        keys |= {"load": str(location.folder), "finetune": True}
    template = "the model's own" if chosen is None else chosen.name
    say(report.of_the_data(kind, counts, keys["seq_length"], template))
    return keys


def own_template(tokenizer: Path) -> Path | None:
    """Return the file with the chat template of a tokenizer; None if it has none."""
    from jaxneox.data.companions import companions_in
    from jaxneox.templates.source import template_of

    if not tokenizer.is_dir():
        return None
    beside = companions_in(tokenizer, without=("tokenizer.json",))
    source = template_of(beside.files, tokenizer)
    return None if source is None else source.origin


def with_template(tokenizer: "Tokenizer", text: str) -> "Tokenizer":
    """Return the tokenizer with a chat template beside it, where chat and exports find it."""
    from jaxneox.data.companions import TEMPLATES

    files = {**tokenizer.companions.files, TEMPLATES[0]: text.encode()}
    tokenizer.companions = replace(tokenizer.companions, files=files)
    return tokenizer


main = entry_point(parser, run, interrupted=INTERRUPTED)
