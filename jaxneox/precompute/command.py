"""`jaxneox precompute`: a reference model's log-probabilities of a run's data."""

import argparse

from jaxneox.config import Settings, apply_set
from jaxneox.console.execute import entry_point
from jaxneox.console.hints import command
from jaxneox.console.model_options import ONE_DEVICE
from jaxneox.console.parser import Parser
from jaxneox.console.say import say
from jaxneox.console.waiting import waiting
from jaxneox.errors import UserError

INTERRUPTED = "interrupted; the same command goes on, and keeps the files that are whole"


def parser() -> Parser:
    p = Parser(
        "precompute",
        "Compute a reference model's log-probabilities of the data of a run that is trained by "
        "preferences, so that the run itself holds no reference model. The run then reads them by "
        "its key precompute_model_name.",
        [
            ("dpo.yml", "with the keys load and precompute_model_name in the file"),
            (
                "dpo.yml --load EleutherAI/pythia-410m --set precompute_model_name=base",
                "the same by options",
            ),
        ],
    )
    p.add_argument("paths", nargs="+", metavar="A.yml", help="the YAML files of the run")
    p.add_argument("--load", metavar="MODEL",
        help="the reference model: a run, a Hugging Face folder, a NeoX run or the hub's "
        "owner/name (the YAML's key load)")  # fmt: skip
    p.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE",
        help="any YAML key, over the files'")  # fmt: skip
    p.add_argument("--again", action="store_true", help="replace existing files")
    p.add_argument("--mesh", metavar="dp=2,tp=4", help=ONE_DEVICE)
    return p


def run(args: argparse.Namespace) -> int:
    from jaxneox.loading import load_model, locate
    from jaxneox.parallel.compilation import use_compilation_cache
    from jaxneox.parallel.mesh import parse_mesh, replicas, whole
    from jaxneox.precompute.files import fingerprint_of, is_there
    from jaxneox.precompute.logs import Logs
    from jaxneox.precompute.texts import texts_of
    from jaxneox.train.keys import read_keys

    settings = Settings(apply_set(read_keys(args.paths), args.set))
    load, length = checked(settings, args.load), settings.needed("seq_length")
    use_compilation_cache()
    location = locate(load, settings["iteration"])
    with waiting(f"loading {load}"):
        compute = settings.precision.compute
        model = load_model(location.folder, step=None, mesh=args.mesh, compute=compute)
    logs = Logs(model, length, replicas(whole(parse_mesh(args.mesh or "dp=1"))))
    model_is = fingerprint_of(location, model)
    written = 0
    for texts in texts_of(settings.data, settings.objective, length, model.tokenizer):
        if not args.again and is_there(texts, model_is, load):
            say(f"{texts.to}: exists already and is kept; --again replaces it")
            continue
        logs.write(texts, model_is)
        written += 1
        say(f"{texts.to}   {texts.count:,} x {length} log-probabilities by {load}")
    name = settings.objective.reference
    if written:
        words = ["train", *args.paths, "--set", f"precompute_model_name={name}"]
        say(f"\nNext: {command(*words)}")
    return 0


def checked(settings: Settings, load: str | None) -> str:
    """Return where the reference model is.

    Raises:
        UserError: the run needs none, or it is not said which it is or how it is called.
    """
    objective = settings.objective
    if not objective.has_reference:
        raise UserError(
            f"train_impl: {objective.kind}: a run of this kind compares with no reference model; "
            "there is nothing to compute"
        )
    if objective.reference is None:
        raise UserError(
            "precompute_model_name: is not set: give the reference model a name, which becomes "
            "part of the files' names, as --set precompute_model_name=base"
        )
    where = load or settings["load"]
    if not where:
        raise UserError("load: is not set: name the reference model with --load MODEL")
    return str(where)


main = entry_point(parser, run, interrupted=INTERRUPTED)
