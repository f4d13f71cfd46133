"""The options of every command that opens a model: which checkpoint, and where to compute."""

import argparse

ONE_DEVICE = "devices by axis; one device by default"


def add_model_options(
    group: argparse._ArgumentGroup, mesh: str = ONE_DEVICE, *, several: bool = False
) -> None:
    """Add them to a group of a command's options.

    Args:
        group: of the command's parser.
        mesh: what the help says of `--mesh`.
        several: whether `--adapter` may be repeated, and name its adapters; `adapter` is a list.
    """
    group.add_argument("--step", type=int, metavar="N",
        help="which of the run's checkpoints; the newest by default")  # fmt: skip
    if several:
        group.add_argument("--adapter", metavar="[NAME=]RUN", action="append", default=[],
            help="a run that trained LoRA's matrices beside this model. With NAME, or repeated: "
            "models of their own beside it")  # fmt: skip
    else:
        group.add_argument("--adapter", metavar="RUN",
            help="a run that trained LoRA's matrices beside this model")  # fmt: skip
    group.add_argument("--mesh", metavar="dp=2,tp=4", help=mesh)
    group.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32",
        help="type of the computation")  # fmt: skip
