"""`jaxneox tune`: a pretrained model and a file, to a model that is tuned."""

import argparse
import math
from pathlib import Path

from jaxneox.console.execute import entry_point
from jaxneox.console.parser import Parser, count

KINDS = ("text", "chat", "pairs", "rated")
INTERRUPTED = "interrupted; the same command goes on from the last checkpoint"


def parser() -> Parser:
    p = Parser(
        "tune",
        "Train a pretrained model on conversations, prompts with completions, or texts; on pairs "
        "of a chosen and a rejected answer (DPO), or on rated answers (KTO). Length, batch, rate "
        "and steps are chosen, and printed as the YAML of the run.",
        [
            ("EleutherAI/pythia-410m chats.jsonl --lora 16", "with LoRA, on conversations"),
            ("runs/mine texts/ --epochs 1", "all parameters, on texts"),
            ("runs/mine pairs.jsonl", "by DPO, on pairs of answers"),
        ],
    )
    p.add_argument("model", metavar="MODEL",
        help="a run, a Hugging Face folder, a NeoX run, or the hub's owner/name")  # fmt: skip
    p.add_argument("data", nargs="+", metavar="DATA", help="files or folders")
    p.add_argument("--save", metavar="DIR", help="the run's folder; runs/MODEL-DATA by default")
    what = p.add_argument_group("what is trained")
    what.add_argument("--lora", type=count, metavar="RANK",
        help="train LoRA's matrices of this rank; by default all parameters")  # fmt: skip
    what.add_argument("--chat-template", metavar="FILE|NAME",
        help="a file of Jinja, plain or chatml; by default the model's own")  # fmt: skip
    what.add_argument("--kind", choices=KINDS,
        help="what the data is, where its keys allow several kinds")  # fmt: skip
    what.add_argument("--hold-out", type=share, default=0.05, metavar="SHARE",
        help="the share of the documents that is held out for evaluation")  # fmt: skip
    how = p.add_argument_group("in place of what is chosen")
    how.add_argument(
        "--epochs", type=positive, metavar="N",
        help="passes over the data: 3, of pairs and rated answers 1",
    )  # fmt: skip
    how.add_argument("--length", type=count, metavar="N", help="tokens of a row")
    how.add_argument("--batch", type=count, metavar="N", help="rows of a step")
    how.add_argument("--lr", type=positive, metavar="RATE", help="the learning rate")
    how.add_argument("--stop-early", type=count, metavar="N",
        help="stop after N evaluations without a lower loss")  # fmt: skip
    how.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE",
        help="any YAML key")  # fmt: skip
    where = p.add_argument_group("where to train")
    where.add_argument("--mesh", metavar="dp=2,tp=4", help="devices by axis; all by default")
    where.add_argument("--dry-run", action="store_true",
        help="prepare the data, print the YAML, and stop")  # fmt: skip
    return p


def run(args: argparse.Namespace) -> int:
    from jaxneox.config import apply_set
    from jaxneox.console.say import say
    from jaxneox.train.checkpoints.lock import locked
    from jaxneox.train.fit import fit
    from jaxneox.tune import begun, report
    from jaxneox.tune.setup import set_up
    from jaxneox.tune.watching import Watch

    save = Path(args.save or default_folder(args.model, args.data[0]))
    command = begun.command_of(args, parser())
    with locked(save):
        keys = begun.read(save, command)
        if keys is None:
            keys = set_up(args, save)
            begun.write(save, command, keys)
        else:
            say(f"{save}: going on with {save / begun.FILE}")
    keys = apply_set(keys, args.set)
    say(f"\n{report.as_yaml(keys)}\n")
    if args.dry_run:
        return 0
    watch = Watch(save, args.stop_early)
    done = fit(keys, None, {}, None, [watch], args.mesh, verbose=True)
    watch.remove_others()
    say(f"\n{report.of_the_run(done, watch)}")
    return 0


def positive(text: str) -> float:
    """Parse a number above 0, for `type=`."""
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


def share(text: str) -> float:
    """Parse a number between 0 and 1, for `type=`."""
    if not 0 < float(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share between 0 and 1")
    return float(text)


def default_folder(model: str, data: str) -> str:
    """Name the folder of a run whose user names none."""
    return f"runs/{Path(model).resolve().name}-{Path(data).resolve().stem}"


main = entry_point(parser, run, interrupted=INTERRUPTED)
