"""Rows of answers that are compared, judged or rewarded: what was asked, and what was answered.

The rows are those of TRL (https://huggingface.co/docs/trl/dataset_formats) for DPO and KTO, and
those of NeoX's OnlineDataset for REINFORCE:

    {"prompt": …, "chosen": …, "rejected": …}           pairs; without a prompt, what both sides
                                                        begin with is the prompt
    {"prompt": …, "completion": …, "label": true}       rated, or {"messages": […], "label": true}
    {"prefix": …, "completions": […], "rewards": […]}   completions

A prompt or an answer is a text or a list of turns, {"role": …, "content": …}.
"""

from typing import Any, Literal, NamedTuple

from jaxneox.data.documents import text_of
from jaxneox.errors import UserError, cut
from jaxneox.preprocess.chat import COMPLETION, CONVERSATIONS, PROMPT, Turns, is_conversation
from jaxneox.preprocess.prompts import SIDES, divided
from jaxneox.preprocess.rewards import RewardRule, as_reward, reward_of
from jaxneox.preprocess.turns import Conversation

AnswerKind = Literal["pairs", "rated", "completions"]
PREFIX, COMPLETIONS, REWARDS = "prefix", "completions", "rewards"
LABEL = "label"


class GivenAnswer(NamedTuple):
    """A text that continues another, or a conversation of which the answers are learned."""

    said: tuple[str, str] | Conversation
    where: str
    key: str


class AnswerRow(NamedTuple):
    """The answers of a row, and their rewards where it has some."""

    answers: tuple[GivenAnswer, ...]
    rewards: tuple[float, ...] = ()


class AnswerReader(NamedTuple):
    """Reads rows of one kind.

    Attributes:
        kind: of the rows.
        chat: whether there is a chat template. A `prompt` that is a text, with its answers, becomes
            turns by it; without one, the answer continues the text, and turns are refused.
        role: whose turns are answers.
        only_last: whether only the last turn is learned.
        reward_key: of rated rows.
        rule: how their rewards are read.
    """

    kind: AnswerKind
    chat: bool
    role: str = "assistant"
    only_last: bool = False
    reward_key: str = LABEL
    rule: RewardRule = "verdict"

    def read(self, value: Any, where: str) -> AnswerRow:
        """Read what a line of JSON or a row of a table holds.

        Raises:
            UserError: something is missing, or cannot be used.
        """
        if not isinstance(value, dict):
            raise UserError(f"{where}: {cut(repr(value))}, expected an object with keys")
        if self.kind == "pairs":
            return self._pair(value, where)
        return self._rated(value, where) if self.kind == "rated" else self._many(value, where)

    def _pair(self, value: dict[str, Any], where: str) -> AnswerRow:
        sides = [_present(value, key, where) for key in SIDES]
        prompt, sides, texts = divided(value.get(PROMPT), sides, self.role, where)
        answers = [
            self._answer(prompt, side, where, PROMPT, key, as_turns=self.chat and not texts)
            for key, side in zip(SIDES, sides, strict=True)
        ]
        return AnswerRow(tuple(answers))

    def _rated(self, value: dict[str, Any], where: str) -> AnswerRow:
        reward = reward_of(value, self.reward_key, where, self.rule)
        for key in CONVERSATIONS:
            if value.get(key) is not None:
                answer = self._answer([], value[key], where, key, key, as_turns=self.chat)
                return AnswerRow((answer,), (reward,))
        prompt, answer = (_present(value, key, where) for key in (PROMPT, COMPLETION))
        read = self._answer(prompt, answer, where, PROMPT, COMPLETION, as_turns=self.chat)
        return AnswerRow((read,), (reward,))

    def _many(self, value: dict[str, Any], where: str) -> AnswerRow:
        prefix, answers, rewards = (
            _present(value, key, where) for key in (PREFIX, COMPLETIONS, REWARDS)
        )
        for key, given in ((COMPLETIONS, answers), (REWARDS, rewards)):
            if not isinstance(given, list) or not given:
                raise UserError(
                    f'{where}: "{key}" is {cut(repr(given))}, expected a list with one or more'
                )
        if len(answers) != len(rewards):
            raise UserError(
                f"{where}: {len(answers)} completions and {len(rewards)} rewards, expected one "
                "reward for each completion"
            )
        numbers = [
            as_reward(given, f'{where}: "{REWARDS}", number {i}')
            for i, given in enumerate(rewards, 1)
        ]
        read = [
            self._answer(prefix, answer, where, PREFIX, COMPLETIONS, as_turns=False, empty=True)
            for answer in answers
        ]
        return AnswerRow(tuple(read), tuple(numbers))

    def _answer(
        self,
        prompt: Any,
        answer: Any,
        where: str,
        prompt_key: str,
        key: str,
        *,
        as_turns: bool,
        empty: bool = False,
    ) -> GivenAnswer:
        """Put a prompt and its answer together.

        Args:
            prompt: a text or turns.
            answer: likewise.
            where: the file and line.
            prompt_key: the prompt's.
            key: the answer's.
            as_turns: whether texts become turns, even if both are texts.
            empty: whether an answer may be nothing but its end.
        """
        for name, given in ((prompt_key, prompt), (key, answer)):
            if not isinstance(given, str) and not is_conversation(given) and given != []:
                raise UserError(
                    f'{where}: "{name}" is {cut(repr(given))}, expected a text or a list of turns, '
                    '[{"role": "user", "content": "…"}, …]'
                )
        if isinstance(prompt, str) and isinstance(answer, str) and not as_turns:
            if not empty and not answer.strip():
                raise _empty(key, where)
            said = text_of((where, {prompt_key: prompt}), prompt_key)
            return GivenAnswer((said, text_of((where, {key: answer}), key)), where, key)
        if not self.chat:
            raise UserError(
                f'{where}: "{key}" belongs to a conversation, which a chat template renders; give '
                "--tokenizer-path DIR in place of --tokenizer-type"
            )
        asked: Turns = _as_turns(prompt, "user")
        answered: Turns = _as_turns(answer, self.role)
        chat = Conversation([*asked, *answered], self.role, self.only_last, first=len(asked))
        pairs = zip(chat.turns, chat.learned, strict=True)
        learned = [turn for turn, is_learned in pairs if is_learned]
        if not learned or not (empty or any(map(_says_something, learned))):
            raise _empty(key, where, self.role)
        return GivenAnswer(chat, where, key)


def _present(value: dict[str, Any], key: str, where: str) -> Any:
    if value.get(key) is None:
        raise UserError(f'{where}: no "{key}", found {cut(", ".join(value)) or "no keys"}')
    return value[key]


def _empty(key: str, where: str, role: str | None = None) -> UserError:
    turn = "" if role is None else f" in a turn of {role!r}, the role that is learned"
    return UserError(f'{where}: "{key}" has no answer{turn}; leave the row out, or write one')


def _as_turns(said: str | Turns, role: str) -> Turns:
    return [{"role": role, "content": said}] if isinstance(said, str) else said


def _says_something(turn: dict[str, Any]) -> bool:
    """Tell whether a turn has more than a role: a text, or calls of tools."""
    values = [value for key, value in turn.items() if key != "role"]
    return any(value.strip() if isinstance(value, str) else value for value in values)
