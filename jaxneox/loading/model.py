"""A checkpoint as a model in Python: its function, its parameters, and text from it."""
# B batch, T length, V padded vocabulary

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from numpy.typing import NDArray

from jaxneox.config.optimization_schema import Dtype
from jaxneox.config.schema import Config
from jaxneox.data import Tokenizer
from jaxneox.errors import UserError
from jaxneox.infer.generate import Answer, Pool, generate
from jaxneox.infer.pools import Pools
from jaxneox.infer.recompute import Recompute
from jaxneox.infer.rewards import RewardScorer, check_length, with_end
from jaxneox.infer.sampling import Sampling
from jaxneox.infer.scoring import pair
from jaxneox.infer.stopping import StopConditions
from jaxneox.infer.stream import check_text
from jaxneox.loading.compiled import Functions
from jaxneox.loading.function import ModelFunction
from jaxneox.loading.resting import laid_out
from jaxneox.model import Params
from jaxneox.model.neox import NO_VALUES
from jaxneox.parallel.rules import Rules


class LoadedModel(ModelFunction):
    """A checkpoint in memory: a function of tokens, with its tokenizer a writer of text.

    Attributes:
        config: the whole configuration of the run.
        tokenizer: the run's, or None if it has none.
        conversion: what the checkpoint records about how it was converted, if it was.
    """

    def __init__(
        self,
        config: Config,
        params: Params,
        tokenizer: Tokenizer | None,
        mesh: Mesh,
        rules: Rules,
        compute: Dtype,
        functions: Functions | None = None,
        conversion: Mapping[str, Any] | None = None,
    ):
        super().__init__(config, params, mesh, rules, compute, functions)
        self.tokenizer = tokenizer
        self.conversion = dict(conversion or {})
        self._pools: Pools | None = None

    def with_params(self, params: Mapping[str, jax.Array | np.ndarray]) -> "LoadedModel":
        """Make another model of the same configuration, tokenizer and mesh from other weights.

        Args:
            params: all parameters by dotted names, with the shapes and dtype (float32) of
                `model.params`; laid out on the mesh here. This model stays as it is.

        Raises:
            UserError: a name is missing or unknown, or an array has another shape or dtype.
        """
        laid = laid_out(params, self._functions.model, self._rules, self._mesh)
        same = self._mesh, self._rules, self._compute, self._functions, self.conversion
        return LoadedModel(self.config, laid, self.tokenizer, *same)

    def save(self, path: "str | PathLike[str]") -> Path:
        """Save the model as a run of ours, at step 0, and return its folder.

        What reads a run reads it: `jaxneox.load`, training with `--finetune`, conversions.

        Raises:
            UserError: something is there already, or it cannot be written.
        """
        from jaxneox.loading.exporting import save

        return save(self, Path(path))

    def to_hf(self, path: "str | PathLike[str]", *, dtype: str = "keep") -> Path:
        """Write the model as a folder of Hugging Face's, with a certificate, and return it.

        Args:
            path: a folder that does not exist yet.
            dtype: of the weights: keep (float32), float32, bfloat16 or float16.

        Raises:
            UserError: no architecture of transformers has its function, or it cannot be written.
        """
        from jaxneox.loading.exporting import to_hf

        return to_hf(self, Path(path), dtype)

    def push(self, repo: str, *, private: bool = True, dtype: str = "keep") -> str:
        """Put the model on the Hugging Face hub, with a model card, and return its address.

        Args:
            repo: `owner/name`; it is made if it is not there.
            private: whether a repository that is made can be seen by its owner alone.
            dtype: of the weights, as of `to_hf`.

        Raises:
            UserError: as of `to_hf`; or the hub refuses it.
        """
        from jaxneox.loading.exporting import push

        return push(self, repo, private=private, dtype=dtype)

    def generate(
        self,
        prompts: str | Sequence[str | Sequence[int]],
        *,
        max_tokens: int | None = 64,
        stop: Sequence[str] = (),
        stop_token_ids: Sequence[int] = (),
        ignore_eos: bool = False,
        min_tokens: int = 0,
        temperature: float = 0.0,
        top_p: float = 0.0,
        top_k: int = 0,
        presence_penalty: float = 0.0,
        frequency_penalty: float = 0.0,
        logit_bias: Mapping[int, float] | None = None,
        seed: int = 0,
        rows: int = 8,
        recompute: bool = False,
        on_text: Callable[[int, str], None] | None = None,
        on_answer: Callable[[int, Answer], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> list[Answer]:
        """Generate what follows each prompt, text or tokens; greedy unless a sampling key is set.

        Args:
            prompts: one text, or several texts or lists of tokens.
            max_tokens: of each answer; None for all that the context has room for.
            stop: strings before which an answer ends.
            stop_token_ids: tokens before which it ends, besides the tokenizer's end tokens.
            ignore_eos: go on after an end token, as if it were any other.
            min_tokens: of each answer. Until then no end token is chosen and no stop string counts.
            temperature: as NeoX's key, see `Sampling`.
            top_p: as NeoX's key.
            top_k: as NeoX's key.
            presence_penalty: OpenAI's, lowers the logit of each token that the answer has.
            frequency_penalty: OpenAI's, lowers it as often as the answer has the token.
            logit_bias: OpenAI's, what is added to the logits of these tokens.
            seed: of the first prompt; each next one has the next number.
            rows: how many answers are generated at once.
            recompute: generate without a cache, slowly.
            on_text: called with (number of the prompt, new text) while it is generated.
            on_answer: called with (number of the prompt, answer) when it is finished.
            cancelled: asked after each token; once it is true, all answers stay as they are.

        Returns:
            An answer for each prompt.

        Raises:
            UserError: a prompt or a setting cannot be used, or the model gives no numbers.
        """
        given = [prompts] if isinstance(prompts, str) else prompts
        biases = tuple((logit_bias or {}).items())
        penalties = (presence_penalty, frequency_penalty, biases)
        first = Sampling(temperature, top_p, top_k, seed % 2**32, 0, (), *penalties)
        until = StopConditions(stop, stop_token_ids, ignore_eos, min_tokens)
        pool = self._recompute if recompute else self.pools
        return self._generate(
            given, first, until, pool, max_tokens, rows, on_text, on_answer, cancelled
        )

    def _generate(
        self,
        prompts: Sequence[str | Sequence[int]],
        first: Sampling,
        until: StopConditions,
        pool: Pool,
        max_tokens: int | None,
        rows: int,
        on_text: Callable[[int, str], None] | None,
        on_answer: Callable[[int, Answer], None] | None,
        cancelled: Callable[[], bool] | None,
    ) -> list[Answer]:
        tokens = [self.encode(prompt) for prompt in prompts]
        seeds = [(first.seed + number) % 2**32 for number in range(len(tokens))]
        return generate(
            pool,
            self.config.model,
            tokens,
            self.tokenizer,
            sampling=[replace(first, seed=seed) for seed in seeds],
            max_tokens=max_tokens,
            until=until,
            rows=rows,
            on_text=on_text,
            on_answer=on_answer,
            cancelled=cancelled,
        )

    def loglikelihood(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[float, bool]]:
        """Score continuations: for each (context, continuation) its log-probability.

        Beside it stands whether greedy generation would give the continuation. Texts are split into
        tokens as by lm-eval, see `pair`.

        Raises:
            UserError: the checkpoint has no tokenizer.
        """
        if self.tokenizer is None:
            raise UserError("the checkpoint has no tokenizer, which loglikelihood needs")
        room = self.config.model.seq_length
        requests = [pair(self.tokenizer, *texts, room) for texts in pairs]
        scored = self.score(requests)
        return [(one.total, bool(one.likeliest.all())) for one in scored]

    def rewards(
        self,
        texts: str | Sequence[str | Sequence[int]],
        *,
        on_done: Callable[[int], object] | None = None,
        budget: int | None = None,
    ) -> NDArray[np.float32]:
        """Compute how a reward model values texts: its value after the last token of each.

        A text gets the end-of-document token, at which its value is read: that is what NeoX's
        training reads, whose data has two of these tokens after each text, of which the last is the
        label of the first. Lists of tokens are taken as they are.

        Args:
            texts: one text, or several texts or lists of tokens.
            on_done: called with how many more texts are done.
            budget: tokens of a batch on each device; as many as are usually fastest unless given.

        Returns:
            float32 [texts]. How texts are put together in batches changes nothing.

        Raises:
            UserError: it is no reward model, a text is too long for it or empty, or its tokenizer
                is missing or names no end of documents.
        """
        if self.config.model.head != "reward":
            raise UserError(NO_VALUES)
        given = [texts] if isinstance(texts, str) else texts
        rows = [with_end(x, self.tokenizer) if isinstance(x, str) else list(x) for x in given]
        for number, row in enumerate(rows):
            check_length(f"text {number}", row, self.config.model)
        scorer = self._functions.reward_scorer
        if budget is not None:
            scorer = RewardScorer(scorer.model, scorer.mesh, budget)
        return scorer.rewards(self._params, rows, on_done)

    def encode(self, prompt: str | Sequence[int]) -> list[int]:
        """Encode a prompt; an empty one becomes the end of a document, as in NeoX."""
        if not isinstance(prompt, str):
            return [int(token) for token in prompt]
        if self.tokenizer is None:
            raise UserError("the checkpoint has no tokenizer; give prompts as lists of tokens")
        check_text(prompt, "a prompt")
        tokens = self.tokenizer.encode(prompt)
        if tokens or self.tokenizer.eod is None:
            return tokens
        return [self.tokenizer.eod]

    def release(self, base: "LoadedModel | None" = None) -> "LoadedModel":
        """Give the weights to generation alone: one copy of them instead of two.

        Args:
            base: a released model, whose arrays stand for the parameters that this one lacks.
        """
        self._pools = self._make_pools(release=True, base=base)
        return self

    @property
    def pools(self) -> Pools:
        """The engines that generate, with a copy of the weights that is made at the first use."""
        if self._pools is None:
            self._pools = self._make_pools(release=False)
        return self._pools

    def _make_pools(self, release: bool, base: "LoadedModel | None" = None) -> Pools:
        cfg, below = self._functions.model.cfg, None if base is None else base.pools
        return Pools(cfg, self._params, self._mesh, self._compute, release=release, base=below)

    def _recompute(self, rows: int, length: int, known: int | None) -> Recompute:
        model = self._functions.model
        return Recompute(model, self._params, self._mesh, rows=rows, length=length, known=known)

    def __repr__(self) -> str:
        size = sum(w.size for w in self._params.values())
        return f"LoadedModel({size:,} parameters, {self.config.model})"
