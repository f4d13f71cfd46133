"""Sets up a run of `jaxneox tune` before it trains: its tokenizer, its datasets and its keys."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax

from jaxneox.config import Settings
from jaxneox.console.say import say
from jaxneox.console.waiting import waiting
from jaxneox.data import Tokenizer, documents, load_tokenizer
from jaxneox.data.companions import TEMPLATES
from jaxneox.errors import UserError
from jaxneox.parallel.mesh import asked_sizes, final_sizes, prepare_devices, replicas
from jaxneox.preprocess.encode import Recipe
from jaxneox.tune import choices, datasets, pretrained, report
from jaxneox.tune.kinds import Kind, kind_of_data, recipe_of
from jaxneox.tune.pretrained import Pretrained
from jaxneox.tune.templates import Template, choose_template


def set_up(args: argparse.Namespace, save: Path) -> dict[str, Any]:
    """Prepare the tokenizer and the datasets of a run, and choose its keys.

    Args:
        args: the command's.
        save: the run's folder.

    Returns:
        The keys of its YAML.

    Raises:
        UserError: the model or the data cannot be used.
    """
    files = [file for path in args.data for file in documents.input_files(path)]
    kind = kind_of_data(files, args.kind)
    model = pretrained.find(args.model)
    template = choose_template(model.tokenizer, args.chat_template)
    count = prepare_replicas(args.mesh, Settings(choices.model_keys(model.keys)))
    tokenizer, recipe = prepare_tokenizer(model, kind, template, save / "tokenizer")
    with waiting(f"reading {args.data[0]}"):
        seed = Settings(model.keys).train.seed
        prepared = datasets.prepare(recipe, files, save / "data", args.hold_out, seed)
    asked = choices.Asked(args.lora, args.length, args.batch, args.lr, args.epochs)
    train, valid = prepared.train.sizes, prepared.valid.sizes
    keys = choices.choose(model.keys, train, valid, count, asked, kind.method)
    say(report.of_the_data(kind, prepared, keys["seq_length"], template.name))
    keys |= {"tokenizer_type": tokenizer.name} | prepared.keys | {"save": str(save)}
    if args.lora:
        return keys | {"lora": keys["lora"] | {"base": model.name}}
    return keys | {"load": str(model.folder), "finetune": True}


def prepare_replicas(mesh: str | None, settings: Settings) -> int:
    """Start the devices of a mesh, and count the replicas among which a batch is divided."""
    asked = asked_sizes(mesh, settings.parallel)
    prepare_devices(asked)
    return replicas(final_sizes(asked, jax.device_count()))


def prepare_tokenizer(
    model: Pretrained, kind: Kind, template: Template, folder: Path
) -> tuple[Tokenizer, Recipe]:
    """Save the model's tokenizer with the template that conversations of the run have.

    Args:
        model: the pretrained one.
        kind: of the documents.
        template: for conversations.
        folder: where the tokenizer goes.

    Returns:
        The tokenizer, and how documents become tokens by it.

    Raises:
        UserError: conversations need a Hugging Face tokenizer, and the model has another.
    """
    if kind.is_chat and not (model.tokenizer / "tokenizer.json").is_file():
        raise UserError(
            f"{model.name}: {kind.name} are rendered by a chat template, which needs a "
            "tokenizer.json; the model has another tokenizer, and can be tuned on texts"
        )
    eod_token = Settings(model.keys).tokenizer.eod_token
    tokenizer, file = load_tokenizer(model.tokenizer, eod_token), template.file
    if kind.is_chat and template.text is not None:
        files = {**tokenizer.companions.files, TEMPLATES[0]: template.text.encode()}
        tokenizer.companions = replace(tokenizer.companions, files=files)
        file = template.file or folder / TEMPLATES[0]
    (folder / TEMPLATES[0]).unlink(missing_ok=True)  # that of an earlier attempt
    tokenizer.save(folder)
    return tokenizer, recipe_of(kind, tokenizer, model.tokenizer, file)
