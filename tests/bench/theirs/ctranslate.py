"""CTranslate2's greedy generation in float32, of the weights that transformers draws."""

from collections.abc import Callable
from pathlib import Path

from tests.bench.sizes import VOCABULARY, Case

THREADS = 2


def write(case: Case) -> Callable[[], None]:
    """Write the model as CTranslate2 has it; its converter needs transformers 4."""
    from ctranslate2.converters import TransformersConverter
    from tokenizers import Tokenizer, models
    from transformers import GPTNeoXForCausalLM, PreTrainedTokenizerFast

    plain = Path(case.folder) / "transformers"
    GPTNeoXForCausalLM(case.theirs()).save_pretrained(plain)
    words = {str(number): number for number in range(VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="0"))
    ends = dict.fromkeys(("unk_token", "bos_token", "eos_token"), "0")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **ends).save_pretrained(plain)

    def run() -> None:
        TransformersConverter(str(plain)).convert(str(Path(case.folder) / "made"), force=True)

    return run


def prepare(case: Case) -> Callable[[], list[list[int]]]:
    """-> greedy answers to a batch of prompts, as many tokens as were asked for."""
    from ctranslate2 import Generator

    made = str(Path(case.folder) / "made")
    model = Generator(made, device="cpu", compute_type="float32", intra_threads=THREADS)
    prompts = [[str(token) for token in row] for row in case.tokens(case.length).tolist()]

    def run() -> list[list[int]]:
        answers = model.generate_batch(
            prompts,
            max_batch_size=case.batch,
            max_length=case.new,
            min_length=case.new,
            sampling_topk=1,
            include_prompt_in_result=False,
        )
        return [answer.sequences_ids[0] for answer in answers]

    return run
