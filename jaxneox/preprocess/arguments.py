"""The command's flags: those of NeoX's three preprocessing tools, and a few more."""

import argparse
import os
import pathlib
from typing import get_args

from jaxneox.config.schema import TokenizerConfig
from jaxneox.console.parser import Parser
from jaxneox.data.tokenizer import BUILDERS, load_tokenizer
from jaxneox.data.tokenizer_base import DESCRIPTION
from jaxneox.errors import UserError
from jaxneox.preprocess.chat import COMPLETION, PROMPT, ChatRecipe
from jaxneox.preprocess.encode import TextRecipe
from jaxneox.preprocess.recognition import ANSWERS, DataKind, DataRequest
from jaxneox.preprocess.rewards import RewardRule


def parser() -> Parser:
    p = Parser(
        "preprocess",
        "Turn text into PREFIX_text_document.bin and .idx, byte for byte those of NeoX's tools. A "
        "command that was stopped goes on where it was.",
        [
            ("--input corpus/ --output-prefix data/mine --append-eod --tokenizer-type HFTokenizer "
             "--vocab-file tokenizer.json", "a folder of texts"),
            ("--input chats.jsonl --output-prefix data/chats --chat-template "
             "--tokenizer-path model/", "conversations, of which the answers are learned"),
            ("--input pairs.jsonl --output-prefix data/pairs --tokenizer-path model/",
             "pairs of a chosen and a rejected answer"),
        ],
    )  # fmt: skip
    p.add_argument("--input", nargs="+", required=True, metavar="PATH",
        help="files or folders; also a,b,c")  # fmt: skip
    p.add_argument("--output-prefix", required=True, metavar="PREFIX",
        help="the output without its suffix")  # fmt: skip
    p.add_argument("--jsonl-keys", nargs="+", metavar="KEY",
        help="keys or columns that are read; by default `text`, or of conversations `messages`, "
        "`conversation` or `prompt` with `completion`")  # fmt: skip
    p.add_argument("--kind", choices=get_args(DataKind),
        help="what the input is, if its keys do not say: text; conversations (chat); pairs of a "
        "chosen and a rejected answer; rated answers; completions with rewards")  # fmt: skip
    p.add_argument("--overwrite", action="store_true", help="replace datasets of that prefix")
    p.add_argument(
        "--workers", type=int, metavar="N", help="processes; by default one for each core"
    )
    text = p.add_argument_group("text to tokens")
    text.add_argument("--tokenizer-type", metavar="KIND", help=", ".join(BUILDERS))
    text.add_argument("--vocab-file", metavar="FILE", help="the tokenizer's, as in a NeoX YAML")
    text.add_argument("--merge-file", metavar="FILE",
        help="its merges, where it has them in a file of its own")  # fmt: skip
    text.add_argument("--append-eod", action="store_true",
        help="end each document with the tokenizer's eos_token, or <|endoftext|>")  # fmt: skip
    text.add_argument(
        "--eod-token", metavar="TEXT", help="the token that --append-eod adds instead"
    )
    text.add_argument("--ftfy", action="store_true", help="repair broken Unicode first")
    _add_learning(p)
    same = p.add_argument_group("as in NeoX's tools")
    same.add_argument("--dataset-impl", default="mmap", help="only mmap is written")
    same.add_argument("--num-docs", type=int, help="accepted and not needed")
    same.add_argument("--log-interval", type=int, help="accepted and not needed")
    return p


def _add_learning(p: Parser) -> None:
    """Add the flags that say what is learned, and how good it is."""
    mask = p.add_argument_group("labels, to learn only what follows a delimiter")
    mask.add_argument("--mask-before-token", metavar="ID,ID,…", help="the delimiter's tokens")
    chat = p.add_argument_group("conversations, of which only one role is learned")
    chat.add_argument("--chat-template", nargs="?", const="", metavar="FILE",
        help="render with the tokenizer's template, or with this one (Jinja)")  # fmt: skip
    chat.add_argument("--tokenizer-path", metavar="DIR",
        help="the folder of a Hugging Face tokenizer, or a run")  # fmt: skip
    chat.add_argument("--generation-role", default="assistant", metavar="ROLE",
        help="whose turns are learned")  # fmt: skip
    chat.add_argument("--only-last", action="store_true", help="learn only the last turn")
    chat.add_argument("--no-mask", action="store_true", help="learn all, write no labels")
    reward = p.add_argument_group("rewards")
    reward.add_argument("--for-rm", action="store_true",
        help="for a reward model: only a second end token, of a conversation or of each side of a "
        "pair, is labelled")  # fmt: skip
    reward.add_argument("--reward-key", metavar="KEY",
        help="the number, true or false, that is a conversation's reward; of rated rows it is "
        "`label`")  # fmt: skip
    reward.add_argument("--binary-reward", action="store_true",
        help="a reward is 1 if it is true or above 0, else -1")  # fmt: skip


def recipe_of(args: argparse.Namespace) -> TextRecipe | ChatRecipe:
    """Make the recipe for a document, without keys if no flag names any.

    Raises:
        UserError: the flags do not go together.
    """
    if args.dataset_impl != "mmap":
        raise UserError(f"--dataset-impl {args.dataset_impl}: only mmap is read and written here")
    if args.workers is not None and args.workers < 1:
        raise UserError(f"--workers {args.workers}: expected 1 or more")
    _check_kind(args)
    if args.chat_template is not None or args.tokenizer_path is not None:
        return _chat(args)
    rewards = ("for_rm", "reward_key") if args.kind not in ANSWERS else ()
    for name in ("only_last", "no_mask", *rewards):
        if getattr(args, name):
            raise UserError(
                f"--{name.replace('_', '-')}: is for conversations; give --tokenizer-path DIR, a "
                "Hugging Face tokenizer's folder, whose chat template renders them"
            )
    if args.kind == "chat":
        raise UserError(
            "--kind chat: needs --tokenizer-path DIR, a Hugging Face tokenizer's folder"
        )
    if args.eod_token is not None and not args.append_eod and args.kind not in ANSWERS:
        raise UserError("--eod-token needs --append-eod, which adds the token: give both")
    if args.tokenizer_type is None:
        raise UserError(f"--tokenizer-type: missing, one of {', '.join(BUILDERS)}")
    return TextRecipe(
        tokenizer=TokenizerConfig(
            args.tokenizer_type, args.vocab_file, args.merge_file, eod_token=args.eod_token
        ),
        keys=_distinct(args.jsonl_keys or []),
        append_eod=args.append_eod,
        ftfy=args.ftfy,
        mask_before=_ids(args.mask_before_token or ""),
    )


def asked_of(args: argparse.Namespace) -> DataRequest:
    """Return what the flags say of the input."""
    rule: RewardRule | None = "sign" if args.binary_reward else None
    return DataRequest(args.kind, args.reward_key, rule, args.for_rm)


def _check_kind(args: argparse.Namespace) -> None:
    """Refuse flags that are not for the kind of input that is asked for."""
    if args.for_rm and args.no_mask:
        raise UserError(
            "--for-rm, --no-mask: a reward model needs the label that the former makes and the "
            "latter leaves out; give one of them"
        )
    if args.binary_reward and args.reward_key is None and args.kind != "rated":
        raise UserError("--binary-reward: needs --reward-key KEY, which says what the reward is")
    if args.kind not in ANSWERS:
        return
    others = ["jsonl_keys", "no_mask", "ftfy", "mask_before_token"]
    others += ["for_rm"] if args.kind != "pairs" else []
    others += ["reward_key"] if args.kind != "rated" else []
    for name in others:
        if getattr(args, name):
            raise UserError(
                f"--{name.replace('_', '-')}: is not for --kind {args.kind}, whose rows have keys "
                "and labels of their own; leave it out"
            )


def _chat(args: argparse.Namespace) -> ChatRecipe:
    if args.kind == "text":
        raise UserError(
            "--kind text: is made tokens of by --tokenizer-type and --vocab-file; leave out "
            "--tokenizer-path and --chat-template"
        )
    if args.tokenizer_path is None:
        raise UserError("--chat-template: needs --tokenizer-path, a Hugging Face folder")
    for name in ("tokenizer_type", "vocab_file", "merge_file", "append_eod", "eod_token", "ftfy",
                 "mask_before_token"):  # fmt: skip
        if getattr(args, name):
            flag = "--" + name.replace("_", "-")
            raise UserError(f"{flag}: is not for conversations, their template says it all")
    keys = _distinct(args.jsonl_keys or [])
    pair = {*keys} == {PROMPT, COMPLETION}
    folder, eos = _chat_tokenizer(pathlib.Path(args.tokenizer_path))
    return ChatRecipe(
        folder=folder,
        template=pathlib.Path(args.chat_template) if args.chat_template else None,
        keys=(COMPLETION,) if pair else keys,
        pair=pair,
        eos=eos,
        role=args.generation_role,
        only_last=args.only_last,
        no_mask=args.no_mask,
        for_rm=args.for_rm,
        reward_key=args.reward_key,
        reward_rule="sign" if args.binary_reward else "number",
    )


def _chat_tokenizer(path: pathlib.Path) -> tuple[pathlib.Path, str | None]:
    """Find a tokenizer's folder, and the text of its end token where a run's description says it.

    Args:
        path: a Hugging Face folder, a run, or the `tokenizer/` of a run.

    Raises:
        UserError: a run's tokenizer cannot be read.
    """
    for folder in (path, path / "tokenizer"):
        if (folder / DESCRIPTION).is_file():
            tokenizer = load_tokenizer(folder)
            return folder, None if tokenizer.eod is None else tokenizer.text_of(tokenizer.eod)
    return path, None


def inputs_of(args: argparse.Namespace) -> list[str]:
    """The paths of --input, which may be separated by commas, as in NeoX's tool."""
    return [
        part
        for given in args.input
        for part in ([given] if os.path.exists(given) else given.split(","))
    ]


def _distinct(keys: list[str]) -> tuple[str, ...]:
    for key in keys:
        if keys.count(key) > 1 or not key or "/" in key:
            raise UserError(
                f"--jsonl-keys: {key!r} is given twice, is empty or has a slash, but "
                "each key becomes part of a file's name: give different names without slashes"
            )
    return tuple(keys)


def _ids(text: str) -> tuple[int, ...]:
    parts = [part.strip(" []") for part in text.split(",")] if text else []
    if not all(part.isdecimal() for part in parts):
        raise UserError(f"--mask-before-token {text}: expected token ids such as 32869,27")
    return tuple(map(int, parts))
