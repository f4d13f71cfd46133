"""transformers' own way from a checkpoint to a checkpoint: from_pretrained and save_pretrained."""

import shutil
from collections.abc import Callable
from pathlib import Path

from transformers import GPTNeoXForCausalLM

from tests.bench.clock import Seconds, seconds
from tests.bench.sizes import Case
from tests.bench.theirs.model import model_of


def write(case: Case) -> Callable[[], None]:
    return lambda: model_of(case).save_pretrained(Path(case.folder) / "hf")


def prepare(case: Case) -> Callable[[], Seconds]:
    """-> the checkpoint `hf` of the case's folder read, and written anew."""
    source, made = Path(case.folder) / "hf", Path(case.folder) / "anew"

    def run() -> Seconds:
        took = seconds(lambda: GPTNeoXForCausalLM.from_pretrained(source).save_pretrained(made))
        shutil.rmtree(made)
        return Seconds(took)

    return run
