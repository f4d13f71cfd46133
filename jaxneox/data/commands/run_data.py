"""The data of a run as training has it, from its YAMLs or its folder."""

import argparse
import pathlib
from typing import NamedTuple

from jaxneox.config import Settings, apply_set, load_yaml
from jaxneox.config.schema import TokenizerConfig
from jaxneox.console.say import tell
from jaxneox.data.build import open_loader
from jaxneox.data.epoch_steps import with_steps
from jaxneox.data.examples import ExampleLoader
from jaxneox.data.loader import Loader, SampleLoader
from jaxneox.data.sample_request import Split
from jaxneox.data.tokenizer import Tokenizer, open_tokenizer
from jaxneox.errors import UserError

SPLITS: tuple[Split, ...] = ("train", "valid", "test")


class RunData(NamedTuple):
    """The data of a run, its tokenizer if that is at hand, and its folder if that was given."""

    loader: SampleLoader | ExampleLoader
    tokenizer: Tokenizer | None
    folder: pathlib.Path | None  # of the run, where that was given


def add_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("run", "as `jaxneox train` takes them")
    add = group.add_argument
    add("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="any YAML key")
    add("--dp", type=int, default=1, metavar="N", help="data parallel size, where the YAML gives "
        "the batch of a device alone")  # fmt: skip
    add("--split", choices=SPLITS, default="train", help="which part of the data")


def open_run(args: argparse.Namespace) -> RunData:
    """Open the data of a run.

    Raises:
        UserError: the configuration or the data is wrong, or the split is empty.
    """
    folder = _run_folder(args.paths)
    files = [str(folder / "config.yml")] if folder else args.paths
    settings = Settings(apply_set(load_yaml(files), args.set))
    tokenizer = _tokenizer(settings.tokenizer, folder)
    if args.dp < 1:
        raise UserError(f"--dp: {args.dp}, expected 1 or more")
    settings = with_steps(settings, args.dp, tokenizer)
    cfg = settings.data_run(args.dp, tokenizer.vocab_size if tokenizer else None)
    loader: Loader | None = open_loader(cfg, tokenizer, args.split)
    if loader is None:
        raise UserError(f"the {args.split} split is empty: no documents, or no iterations of it")
    assert isinstance(loader, SampleLoader | ExampleLoader)
    return RunData(loader, tokenizer, folder)


def _run_folder(paths: list[str]) -> pathlib.Path | None:
    """Return the run that a folder means: itself, or the one around a checkpoint's."""
    folders = [path for path in map(pathlib.Path, paths) if path.is_dir()]
    if not folders:
        return None
    if len(paths) > 1:
        raise UserError(f"{' '.join(paths)}: give one run, or YAMLs")
    for folder in (folders[0], folders[0].parent):
        if (folder / "config.yml").is_file():
            return folder
    raise UserError(f"{folders[0]}: no config.yml; expected the folder of a run")


def _tokenizer(cfg: TokenizerConfig, folder: pathlib.Path | None) -> Tokenizer | None:
    """Open the tokenizer; None, and a note, if its files are not here: tokens need none."""
    try:
        return open_tokenizer(cfg, [] if folder is None else [folder])
    except UserError as error:
        if cfg.eod_token is not None:
            raise
        tell(f"note: without a tokenizer ({error})")
        return None
