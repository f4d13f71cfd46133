"""Every objective a second time, in plain torch and float64, written from the papers.

A batch is that of `batches`, whole. `policy` and `reference` are functions from tokens [R, T] to
what the model computes of them: logits [R, T, V], or a reward model's values [R, T].
"""
# R rows, P pairs, T length, V vocabulary

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from jaxneox.config.objective_schema import ObjectiveConfig

Function = Callable[[Tensor], Tensor]
Fields = Mapping[str, Tensor]


def label_logs(function: Function, tokens: Tensor) -> Tensor:
    """The log-probability of every token but the first, [*, T + 1] -> [*, T]."""
    rows = tokens.reshape(-1, tokens.shape[-1])
    logits_RTV = function(rows[:, :-1])
    normalizer_RT = torch.logsumexp(logits_RTV, dim=-1)
    chosen_RT = torch.stack(
        [of_row[range(len(of_row)), row[1:]] for of_row, row in zip(logits_RTV, rows, strict=True)]
    )
    return (chosen_RT - normalizer_RT).reshape(*tokens.shape[:-1], -1)


def text_logs(function: Function, tokens: Tensor, counted: Tensor) -> Tensor:
    """The log-probability of the part of a text that counts."""
    return torch.where(counted > 0, label_logs(function, tokens), 0.0).sum(-1)


def reference_logs(reference: Function, batch: Fields, prefix: str = "") -> Tensor:
    """The same of the reference model, unless the batch has them."""
    counted = batch[f"{prefix}labelled"]
    given = batch.get(f"{prefix}reference")
    if given is not None:
        return torch.where(counted > 0, given, 0.0).sum(-1)
    with torch.no_grad():
        return text_logs(reference, batch[f"{prefix}tokens"], counted)


def masked_mean(policy: Function, batch: Fields) -> Tensor:
    """Fine-tuning on answers: the mean over all labels that count."""
    weights = batch["weights"]
    return -(weights * label_logs(policy, batch["tokens"])).sum() / weights.sum()


def dpo(policy: Function, reference: Function, batch: Fields, settings: ObjectiveConfig) -> Tensor:
    """Rafailov et al. 2023, (7); Azar et al. 2023, (17); Zhao et al. 2023; Mitchell 2023."""
    logs_P2 = text_logs(policy, batch["tokens"], batch["labelled"])
    if not settings.dpo_reference_free:
        logs_P2 = logs_P2 - reference_logs(reference, batch)
    h_P, beta = logs_P2[:, 0] - logs_P2[:, 1], settings.dpo_beta
    if settings.dpo_loss == "ipo":
        return ((h_P - 1 / (2 * beta)) ** 2).mean()
    if settings.dpo_loss == "hinge":
        return torch.clamp(1 - beta * h_P, min=0).mean()
    right, wrong = torch.sigmoid(beta * h_P), torch.sigmoid(-beta * h_P)
    share = settings.dpo_label_smoothing
    return (-(1 - share) * torch.log(right) - share * torch.log(wrong)).mean()


def kto(policy: Function, reference: Function, batch: Fields, settings: ObjectiveConfig) -> Tensor:
    """Ethayarajh et al. 2024, equations 7 and 8: the mean of lambda_y - v(x, y)."""
    rho_R = text_logs(policy, batch["tokens"], batch["labelled"])
    rho_R = rho_R - reference_logs(reference, batch)
    with torch.no_grad():
        other_R = text_logs(policy, batch["kl_tokens"], batch["kl_labelled"])
        z = (other_R - reference_logs(reference, batch, "kl_")).mean().clamp(min=0)
    losses = []
    for rho, reward in zip(rho_R, batch["reward"], strict=True):
        gain = settings.kto_beta * (rho - z)
        weight, value = settings.kto_desirable_weight, torch.sigmoid(gain)
        if reward < 0:
            weight, value = settings.kto_undesirable_weight, torch.sigmoid(-gain)
        losses.append(weight - weight * value)
    return torch.stack(losses).mean()


def reward_pairs(values: Function, batch: Fields, z_loss: float) -> Tensor:
    """Ouyang et al. 2022, equation 1, each text's value being the one at its label."""
    tokens_P2T = batch["tokens"][..., :-1]
    all_P2T = values(tokens_P2T.flatten(0, 1)).reshape(tokens_P2T.shape)
    v_P2 = all_P2T[batch["labelled"] > 0].reshape(-1, 2)
    losses_P = -torch.log(torch.sigmoid(v_P2[:, 0] - v_P2[:, 1]))
    return (losses_P + z_loss * (v_P2**2).sum(-1)).mean()


def reinforce(
    policy: Function, reference: Function, batch: Fields, settings: ObjectiveConfig
) -> Tensor:
    """The mean over labels of -log p times the reward, and of the distance from the reference."""
    tokens, weights = batch["tokens"], batch["weights"]
    terms_RT = -label_logs(policy, tokens) * batch["reward"][:, None]
    if settings.kl_weight > 0:
        terms_RT = terms_RT + settings.kl_weight * distance(policy, reference, tokens, settings)
    return (weights * terms_RT).sum() / weights.sum()


def distance(
    policy: Function, reference: Function, tokens: Tensor, settings: ObjectiveConfig
) -> Tensor:
    """Each form of REINFORCE's kl, of every label."""
    if settings.kl_form == "full":
        ours_RTV = torch.log_softmax(policy(tokens[:, :-1]), dim=-1)
        with torch.no_grad():
            theirs_RTV = torch.log_softmax(reference(tokens[:, :-1]), dim=-1)
        return (ours_RTV.exp() * (ours_RTV - theirs_RTV)).sum(-1)
    with torch.no_grad():
        theirs_RT = label_logs(reference, tokens)
    apart_RT = label_logs(policy, tokens) - theirs_RT
    forms = {"mse": 0.5 * apart_RT**2, "abs": apart_RT.abs(), "kl": apart_RT}
    return forms[settings.kl_form]
