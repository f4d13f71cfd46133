"""The one command `jaxneox`, and which module does what is asked of it."""

import difflib
import importlib
import signal
import sys
from collections.abc import Sequence
from typing import NamedTuple, NoReturn

from jaxneox.console.execute import Ending, end
from jaxneox.console.hints import command
from jaxneox.console.say import say
from jaxneox.console.waiting import waiting

GROUPS = ("convert", "data")
"""The first words of commands that have two."""


class Command(NamedTuple):
    """A command as it is typed, and the module whose `main(argv)` it is.

    Attributes:
        words: after `jaxneox`, such as "convert from-neox".
        example: arguments of a typical call.
        summary: what it does, on one line.
    """

    words: str
    module: str
    example: str
    summary: str


COMMANDS = (
    Command("train", "jaxneox.train.command", "pythia-70m --save runs/70m",
            "train a model from NeoX's YAML, or continue a run"),
    Command("tune", "jaxneox.tune.command", "EleutherAI/pythia-410m chats.jsonl --lora 16",
            "train a pretrained model on conversations, prompts or texts"),
    Command("generate", "jaxneox.generate.command", 'RUN --prompt "Once upon"',
            "generate text from a checkpoint"),
    Command("chat", "jaxneox.chat.command", 'RUN --system "Be brief."',
            "talk with a model by its chat template"),
    Command("evaluate", "jaxneox.evaluate.command", "RUN --perplexity book.txt",
            "measure perplexity, or lm-eval's tasks"),
    Command("serve", "jaxneox.serve.command", "RUN",
            "serve a checkpoint as an OpenAI-compatible endpoint"),
    Command("compare", "jaxneox.compare.command", "runs/a runs/b --png losses.png",
            "compare runs: losses, speed, and how they differ"),
    Command("plan", "jaxneox.plan.command", "20B --topology v5p:4x4x4",
            "compile a training step for machines that are not here"),
    Command("coord-check", "jaxneox.coord_check.command", "mup.yml",
            "measure whether activations keep their size in wider models (muP)"),
    Command("inspect", "convert.inspect", "PATH",
            "say what a checkpoint is and what can be done with it"),
    Command("convert from-neox", "convert.from_neox", "NEOX_RUN runs/mine",
            "convert a GPT-NeoX checkpoint, certified"),
    Command("convert from-hf", "convert.from_hf", "EleutherAI/pythia-70m runs/70m",
            "convert a model of transformers"),
    Command("convert from-megatron", "convert.from_megatron", "MEGATRON_RUN runs/mine",
            "convert a Megatron-LM checkpoint"),
    Command("convert to-neox", "convert.to_neox", "RUN OUT --mp 2",
            "write a checkpoint for GPT-NeoX"),
    Command("convert to-hf", "convert.to_hf", "RUN OUT",
            "write a checkpoint for transformers"),
    Command("convert to-megatron", "convert.to_megatron", "RUN OUT --tp 2",
            "write a checkpoint for Megatron-LM"),
    Command("convert from-peft", "convert.from_peft", "ADAPTER runs/lora --base runs/base",
            "convert a LoRA adapter of PEFT"),
    Command("convert to-peft", "convert.to_peft", "RUN OUT",
            "write an adapter for PEFT"),
    Command("convert merge-adapter", "convert.merge_adapter", "RUN OUT",
            "make one model of an adapter and its base"),
    Command("convert fold-mup", "convert.fold_mup", "RUN OUT",
            "put muP's multipliers into the weights"),
    Command("verify", "convert.verify", "SRC DST",
            "prove that two checkpoints compute the same"),
    Command("scores", "convert.scores", "NEOX_RUN --perplexity book.txt",
            "compare the merges of a NeoX checkpoint by perplexity"),
    Command("preprocess", "jaxneox.preprocess.command", "--input corpus/ --output-prefix X …",
            "turn text into .bin/.idx files"),
    Command("precompute", "jaxneox.precompute.command", "dpo.yml",
            "compute a reference model's log-probabilities of a run's data"),
    Command("data inspect", "jaxneox.data.commands.inspect", "data/mine_text_document",
            "look into a dataset, or at what a run saw at a step"),
    Command("data batch", "jaxneox.data.commands.batch", "my.yml --steps 0:8 --out X.npz",
            "write the global batches of a run as a file"),
    Command("data merge", "jaxneox.data.commands.merge", "OUT PREFIX PREFIX",
            "join several datasets"),
    Command("data verify", "jaxneox.data.commands.verify", "PREFIX",
            "check that datasets are whole"),
)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Hand the words after `jaxneox` to the command that they name, and exit with its status."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["help"] and len(words) > 1:
        words = [*words[1:], "--help"]
    if not words or words[0] in ("-h", "--help", "help"):
        end_with(overview(COMMANDS))
    if words[0] in ("-V", "--version"):
        end_with(version())
    if words[0] in GROUPS and (len(words) == 1 or words[1] in ("-h", "--help")):
        end_with(overview([one for one in COMMANDS if one.words.split()[0] == words[0]]))
    length = 2 if words[0] in GROUPS else 1
    asked = " ".join(words[:length]).replace("_", "-")
    for one in COMMANDS:
        if one.words == asked:
            start(one.module, words[length:])
    end(Ending(2, f"error: {unknown(asked)}"))


def start(module: str, words: Sequence[str]) -> NoReturn:
    """Hand the words to a command, whose modules take a second or two to be read."""
    try:
        with waiting("starting"):
            command_module = importlib.import_module(module)
    except KeyboardInterrupt:
        end(Ending(128 + signal.SIGINT, "interrupted before anything was done"))
    command_module.main(words)
    raise AssertionError(f"{module}.main returned")


def end_with(text: str) -> NoReturn:
    say(text)
    sys.exit(0)


def overview(commands: Sequence[Command]) -> str:
    """Each command on a line, as it is typed, with what it does."""
    calls = [command(*one.words.split()) + f" {one.example}" for one in commands]
    width = max(map(len, calls))
    lines = [f"  {call:<{width}}  {one.summary}" for call, one in zip(calls, commands, strict=True)]
    return "\n".join(
        [
            "jaxneox: EleutherAI's GPT-NeoX in JAX, the same run on any mesh",
            "",
            *lines,
            "",
            f"Each says more with --help, as in `{command(*commands[0].words.split(), '--help')}`.",
        ]
    )


def version() -> str:
    """Give our version, jax's and Python's, for bug reports."""
    import importlib.metadata
    import platform

    import jaxneox

    jax = importlib.metadata.version("jax")
    return f"jaxneox {jaxneox.__version__} (jax {jax}, Python {platform.python_version()})"


def unknown(asked: str) -> str:
    """Name the command that was most likely meant."""
    names = {one.words.split()[-1]: one for one in COMMANDS}
    names |= {one.words: one for one in COMMANDS}
    near = difflib.get_close_matches(asked, names, n=1)
    meant = f"; did you mean `{command(*names[near[0]].words.split())}`?" if near else ""
    return f"{asked!r} is not a command of jaxneox{meant or '; see ' + command('--help')}"
