"""Passes over a loaded model that no plain question needs: token-distribution shift, and induction by attention heads.

Both take a list and answer it in the same order, as everything of `models` does, and give named numbers (`Answer.values`).

Legend of shapes: B rows of a batch, T positions, V vocabulary, H heads of all layers, N sequences.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from untax import models
from untax.types import Answer, UserError

__all__ = [
    "Own",
    "Positions",
    "induction",
    "own_answers",
    "positions",
    "prefix_matching",
    "read",
    "sequence",
    "shift",
]

Tick = Callable[[int], object]

#: share of positions at which the model's own likeliest token must be the one that it wrote
SAME_TOKEN = 0.995
#: ranks below this are "marginal" when they are not 0, ranks from it on are "shifted"
SHIFTED_FROM = 3
#: heads whose mean is reported beside the best one
BEST_HEADS = 5


def _no_tick(done: int) -> None:
    """Progress that nobody watches."""


# --------------------------------------------------------------------------- token-distribution shift


@dataclass(frozen=True)
class Positions:
    """What the base thinks of each token of one answer, in order; end and stop tokens are not among them.

    `ids` are the tokens. `ranks` are the base's, 0 for its own first choice, None for a token that the base does not have.
    `kl_base_tuned` and `kl_tuned_base` are KL(base || tuned) and KL(tuned || base) in nats over the common vocabulary, `drop` is the
    token's log-probability under the tuned model minus that under the base, which is `base_logprobs`. `agreed` says where the tuned
    model, reading its answer in one pass, would write the same token again.
    """

    ids: tuple[int, ...]
    ranks: tuple[int | None, ...]
    kl_base_tuned: tuple[float, ...]
    kl_tuned_base: tuple[float, ...]
    drop: tuple[float, ...]
    agreed: tuple[bool, ...]
    base_logprobs: tuple[float, ...] = ()


@dataclass(frozen=True)
class Own:
    """A model's own greedy answer, whether the budget ended it, and what the base thinks of each of its tokens."""

    text: str
    truncated: bool
    positions: Positions


def shift(
    base: Any | None,
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    *,
    max_new_tokens: int,
    stop: Sequence[str] = (),
    batch_size: int = 64,
    base_tokenizer: Any | None = None,
    tick: Tick = _no_tick,
) -> list[Answer]:
    """At which share of the tokens of its own greedy answers would the base have written something else?

    The tuned model continues each prompt; both models then read the same ids in one pass each. A token of rank 0 for the base is
    unshifted, of rank 1 or 2 marginal, from 3 on shifted (Lin et al. 2023, arXiv 2312.01552). `base=None` is the model with its
    adapter switched off. `values` of an answer: `unshifted`, `marginal`, `shifted` (shares of its tokens), `kl_base_tuned`,
    `kl_tuned_base` and `drop` (nats per token, see `Positions`), `new` (share of tokens that the base does not have; they are in no
    other share) and `n`. An answer without a token has no values. The base's prompt is the same text.
    Differs from the released code: ranks by id over the whole vocabulary, not by string in a saved top 30; the answer is never
    tokenised again; KL is a divergence, over the whole vocabulary in both directions.
    Raises: UserError for two tokenizers, without a base, or when the model reads its own answer otherwise than it wrote it.
    """
    owns = own_answers(
        base, model, tokenizer, prompts, max_new_tokens=max_new_tokens, stop=stop, batch_size=batch_size,
        base_tokenizer=base_tokenizer, tick=tick,
    )  # fmt: skip
    return [
        Answer(
            text=own.text,
            n_tokens=len(own.positions.ids),
            truncated=own.truncated,
            values=_values(own.positions),
        )
        for own in owns
    ]


def own_answers(
    base: Any | None,
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    *,
    max_new_tokens: int,
    stop: Sequence[str] = (),
    batch_size: int = 64,
    base_tokenizer: Any | None = None,
    base_prompts: Sequence[str] | None = None,
    tick: Tick = _no_tick,
) -> list[Own]:
    """What `shift` sums up, position by position: the model continues each prompt, and both models read the same ids.

    `base_prompts` are what the base reads in place of each prompt (without the tokens of a chat, for example).
    Raises: UserError as `shift`.
    """
    if base is None and not models.has_adapter(model):
        raise UserError("Token shift needs the base model: the one measured has no adapter to switch off.")
    if base_tokenizer is not None and base_tokenizer is not tokenizer:
        prints = [models.tokenizer_fingerprint(each) for each in (base_tokenizer, tokenizer)]
        if prints[0] != prints[1]:
            raise UserError(
                "Token shift needs one tokenizer: those of base and tuned model differ, so the base cannot read the same ids."
            )
    rows = [models.prompt_ids(tokenizer, prompt) for prompt in prompts]
    base_rows = rows if base_prompts is None else [models.prompt_ids(tokenizer, prompt) for prompt in base_prompts]
    if len(base_rows) != len(rows):
        raise UserError(
            f"token shift: {len(base_rows)} prompts for the base and {len(rows)} for the model; give as many."
        )
    limit = models.context_length(model)
    for number, row in enumerate([*rows, *(base_rows if base_prompts is not None else [])]):
        if limit is not None and len(row) + max_new_tokens > limit:
            raise UserError(
                f"prompt {number % len(prompts)} has {len(row)} tokens; with {max_new_tokens} new ones it exceeds the model's context of {limit}."
            )
    owns: list[Own] = [Own("", False, Positions((), (), (), (), (), ()))] * len(rows)
    seen: list[bool] = []
    sizes = [max(len(row), len(other)) + max_new_tokens for row, other in zip(rows, base_rows, strict=True)]
    for chosen in _batches(sizes, batch_size, model):
        written = _greedy(model, tokenizer, [rows[i] for i in chosen], max_new_tokens, tuple(stop))
        seen_by_base = [base_rows[i] for i in chosen]
        both = positions(base, model, [rows[i] for i in chosen], [ids for ids, _ in written], base_prompts=seen_by_base)
        for i, (ids, truncated), found in zip(chosen, written, both, strict=True):
            owns[i] = Own(models.decoded(tokenizer, ids), truncated, found)
            seen += found.agreed
        tick(len(chosen))
    _check_own(seen)
    return owns


def _check_own(agreed: Sequence[bool]) -> None:
    """Stop when what was read is not what the model would write (forgetting measures compare answers that are its own)."""
    same = sum(agreed)
    if agreed and same < SAME_TOKEN * len(agreed):
        raise UserError(
            f"token shift: reading its own greedy answers in one pass, the model would write the same token at {same} of "
            f"{len(agreed)} positions; {SAME_TOKEN:.1%} are needed. Its arithmetic differs between writing and reading (a low "
            "precision or a quantized cache), so ranks would measure that. Use dtype float32, or leave the line out."
        )


def _values(found: Positions) -> dict[str, float]:
    count = len(found.ids)
    if not count:
        return {}
    ranks = [rank for rank in found.ranks if rank is not None]
    values = {"n": float(count), "new": (count - len(ranks)) / count}
    if ranks:
        values |= {
            "unshifted": sum(rank == 0 for rank in ranks) / len(ranks),
            "marginal": sum(0 < rank < SHIFTED_FROM for rank in ranks) / len(ranks),
            "shifted": sum(rank >= SHIFTED_FROM for rank in ranks) / len(ranks),
            "drop": math.fsum(d for d in found.drop if not math.isnan(d)) / len(ranks),
        }
    return values | {
        "kl_base_tuned": math.fsum(found.kl_base_tuned) / count,
        "kl_tuned_base": math.fsum(found.kl_tuned_base) / count,
    }


def read(
    base: Any | None,
    model: Any,
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
    *,
    batch_size: int = 64,
    tick: Tick = _no_tick,
) -> list[Positions]:
    """`positions` of any number of rows, longest first, in batches that fit into memory; in the order in which they were given.

    Raises: UserError as `positions`.
    """
    found: list[Positions] = [Positions((), (), (), (), (), ())] * len(prompts)
    sizes = [len(prompt) + len(answer) for prompt, answer in zip(prompts, answers, strict=True)]
    for chosen in _batches(sizes, batch_size, model):
        both = positions(base, model, [prompts[i] for i in chosen], [answers[i] for i in chosen])
        for i, each in zip(chosen, both, strict=True):
            found[i] = each
        tick(len(chosen))
    return found


def positions(
    base: Any | None,
    model: Any,
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
    *,
    base_prompts: Sequence[Sequence[int]] | None = None,
) -> list[Positions]:
    """Both models' views of given answers: prompt ids and answer ids in, one `Positions` each out, in one batch.

    `base=None` is the model with its adapter switched off; the base reads `base_prompts`, where given, in place of `prompts`.
    Vocabularies of different size are cut to the common ids and renormalised. Curves over the position, or the tokens with the
    largest share of KL, can be drawn from what this returns.
    Raises: UserError when there is neither a base nor an adapter.
    """
    if not any(answers):
        return [Positions((), (), (), (), (), ())] * len(answers)
    before = prompts if base_prompts is None else base_prompts
    with models.asking(model):
        tuned = _predictions(model, prompts, answers)
    if base is model and before == prompts:
        old = tuned
    elif base is None:
        with models.adapter_off(model), models.asking(model):
            old = _predictions(model, before, answers)
    else:
        with models.asking(base):
            old = [logits.to(model.device) for logits in _predictions(base, before, answers)]
    return [_compared(*each) for each in zip(old, tuned, answers, strict=True)]


def _predictions(model: Any, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> list[torch.Tensor]:
    """For each row the logits (T, V) that predict its answer: from the last position of the prompt on."""
    rows = [[*prompt, *answer] for prompt, answer in zip(prompts, answers, strict=True)]
    spans = [(len(prompt), len(answer)) for prompt, answer in zip(prompts, answers, strict=True)]
    width = max(len(row) for row in rows)
    ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], device=model.device)
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=model.device)
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    return [logits[line, start - 1 : start - 1 + size] for line, (start, size) in enumerate(spans)]


def _compared(base_TV: torch.Tensor, tuned_TV: torch.Tensor, answer: Sequence[int]) -> Positions:
    ids_T = torch.tensor(answer, dtype=torch.long, device=tuned_TV.device)
    if not len(ids_T):
        return Positions((), (), (), (), (), ())
    agreed = _own_choice(tuned_TV, ids_T)
    # half-precision logits are compared in float32; float64 stays what it is
    base_TV, tuned_TV = (x.to(torch.promote_types(x.dtype, torch.float32)) for x in (base_TV, tuned_TV))
    common = min(base_TV.shape[-1], tuned_TV.shape[-1])
    base_TV, tuned_TV = base_TV[:, :common], tuned_TV[:, :common]
    known_T = ids_T < common
    picked_T1 = ids_T.clamp(max=common - 1)[:, None]
    ranks_T = rank(base_TV, picked_T1[:, 0])
    old_TV, new_TV = base_TV.log_softmax(-1), tuned_TV.log_softmax(-1)
    base_T = old_TV.gather(-1, picked_T1)[:, 0]
    drop_T = new_TV.gather(-1, picked_T1)[:, 0] - base_T
    known = known_T.tolist()
    return Positions(
        ids=tuple(answer),
        ranks=tuple(value if there else None for value, there in zip(ranks_T.tolist(), known, strict=True)),
        kl_base_tuned=tuple(divergence(old_TV, new_TV).tolist()),
        kl_tuned_base=tuple(divergence(new_TV, old_TV).tolist()),
        drop=tuple(value if there else math.nan for value, there in zip(drop_T.tolist(), known, strict=True)),
        agreed=tuple(agreed.tolist()),
        base_logprobs=tuple(value if there else math.nan for value, there in zip(base_T.tolist(), known, strict=True)),
    )


def rank(logits_TV: torch.Tensor, ids_T: torch.Tensor) -> torch.Tensor:
    """How many tokens stand before the given one: larger logits, and equal ones of a smaller id. All equal and id 5: rank 5."""
    own_T1 = logits_TV.gather(-1, ids_T[:, None])
    earlier_TV = torch.arange(logits_TV.shape[-1], device=ids_T.device)[None] < ids_T[:, None]
    return ((logits_TV > own_T1) | ((logits_TV == own_T1) & earlier_TV)).sum(-1)


def divergence(p_TV: torch.Tensor, q_TV: torch.Tensor) -> torch.Tensor:
    """KL(p || q) at each position from log-probabilities, in nats. A token of probability 0 under p adds nothing."""
    return torch.where(p_TV > -torch.inf, p_TV.exp() * (p_TV - q_TV), 0.0).sum(-1)


def _own_choice(logits_TV: torch.Tensor, ids_T: torch.Tensor) -> torch.Tensor:
    """Where the token written is the likeliest when read, or equals it up to the rounding of the logits themselves."""
    best_T = logits_TV.max(-1).values
    own_T = logits_TV.gather(-1, ids_T[:, None])[:, 0]
    slack_T = max(2 * torch.finfo(logits_TV.dtype).eps, 2e-6) * best_T.abs().clamp(min=1.0)
    return own_T >= best_T - slack_T


def _batches(sizes: Sequence[int], batch_size: int, model: Any) -> Iterator[list[int]]:
    """Indices of rows, longest first, in batches whose four blocks of logits stay within what `models` allows."""
    order = sorted(range(len(sizes)), key=lambda i: (-sizes[i], i))
    vocabulary = model.config.get_text_config().vocab_size
    start = 0
    while start < len(order):
        fits = models.LOGITS_AT_ONCE // (4 * vocabulary * max(sizes[order[start]], 1))
        count = max(1, min(batch_size, fits))
        yield order[start : start + count]
        start += count


# --------------------------------------------------------------------------- greedy ids


def _greedy(
    model: Any, tokenizer: Any, rows: Sequence[Sequence[int]], budget: int, stop: tuple[str, ...]
) -> list[tuple[list[int], bool]]:
    """The likeliest continuation of each row as ids, and whether the budget ended it.

    Neither the end token nor a token that reaches into a stop string is among the ids.
    """
    if budget < 1:
        raise UserError(f"max_new_tokens is {budget}; it must be at least 1.")
    with models.asking(model):
        written = models.continued(model, tokenizer, rows, budget, stop)
    return [(_before(tokenizer, ids, stop), not done) for ids, done in written]


def _before(tokenizer: Any, ids: list[int], stop: tuple[str, ...]) -> list[int]:
    """The tokens that end before the first stop string begins."""
    text = models.decoded(tokenizer, ids)
    first = min((text.index(mark) for mark in stop if mark in text), default=None)
    if first is None:
        return ids
    kept = len(ids)
    while kept and len(models.decoded(tokenizer, ids[:kept])) > first:
        kept -= 1
    return ids[:kept]


# --------------------------------------------------------------------------- induction


def sequence(text: str, tokenizer: Any) -> list[int]:
    """The random tokens that "induction:SEED:INDEX:LENGTH" names: LENGTH different ones, none of them special.

    Different, so that the previous occurrence of a token is never in doubt. The same name gives the same ids for one
    vocabulary, in every process; another vocabulary gets its own.
    Raises: UserError for another text, or a vocabulary with too few tokens.
    """
    seed, index, length = _named(text)
    special = set(tokenizer.all_special_ids)
    ids = [token for token in range(len(tokenizer)) if token not in special]
    if length > len(ids):
        raise UserError(
            f"'{text}' asks for {length} different tokens; the tokenizer has {len(ids)} that are not special."
        )
    return random.Random(f"{seed}:{index}:{length}").sample(ids, length)


def _named(text: str) -> tuple[int, int, int]:
    parts = text.split(":")
    if len(parts) != 4 or parts[0] != "induction" or not all(part.isdecimal() for part in parts[1:]):
        raise UserError(f"'{text}' names no sequence: it must be induction:SEED:INDEX:LENGTH, three whole numbers.")
    seed, index, length = (int(part) for part in parts[1:])
    if length < 2:
        raise UserError(f"'{text}': a sequence needs at least 2 tokens to be told from its repetition.")
    return seed, index, length


def induction(
    model: Any, tokenizer: Any, texts: Sequence[str], *, batch_size: int = 64, tick: Tick = _no_tick
) -> list[Answer]:
    """How strongly the best heads look back to what followed the last time: prefix matching (Olsson et al. 2022, 2209.11895).

    Each text names a sequence of random tokens (see `sequence`) that is read twice in a row. The score of a head is its mean
    attention from each token of the second copy to the token after the same one in the first. `values` of an answer: `max`, the
    score of the best head, and `best5`, the mean of the five best. The heads are chosen for each model by their mean over the
    *other* half of the sequences (even and odd INDEX): the largest of many heads on the same sequence would be large by luck.
    A half without sequences leaves the other without values. Attention is computed eagerly, and the setting put back.
    Raises: UserError when a sequence does not fit into the context, or the model shows no attention.
    """
    opening = models.opening_ids(tokenizer)
    rows = [sequence(text, tokenizer) for text in texts]
    limit = models.context_length(model)
    for text, row in zip(texts, rows, strict=True):
        if limit is not None and len(opening) + 2 * len(row) > limit:
            raise UserError(
                f"'{text}' is read twice, {len(opening) + 2 * len(row)} tokens; the model's context is {limit}. Use a smaller length."
            )
    scores: list[torch.Tensor] = [torch.empty(0)] * len(rows)
    with _eager(model), models.asking(model):
        for chosen in _attention_batches([len(opening) + 2 * len(row) for row in rows], batch_size, model):
            ids = torch.tensor([[*opening, *rows[i], *rows[i]] for i in chosen], device=model.device)
            found = _attentions(model, ids)
            batch_BH = torch.cat([prefix_matching(each, len(opening), len(rows[chosen[0]])) for each in found], dim=1)
            for line, i in enumerate(chosen):
                scores[i] = batch_BH[line].cpu().double()
            tick(len(chosen))
    return _by_the_other_half([_named(text)[1] % 2 for text in texts], scores)


def prefix_matching(attention_BHTT: torch.Tensor, start: int, length: int) -> torch.Tensor:
    """The score (B, H) of each head of one layer: attention from position t to t - length + 1, mean over the second copy.

    The first copy begins at `start` and the second at `start + length`. A head that always looks one past the previous
    occurrence scores 1; uniform attention over t positions scores 1 / t, so the mean over the second copy of that.
    """
    from_T = torch.arange(start + length, start + 2 * length, device=attention_BHTT.device)
    return attention_BHTT[:, :, from_T, from_T - length + 1].float().mean(-1)


def _by_the_other_half(halves: Sequence[int], scores: Sequence[torch.Tensor]) -> list[Answer]:
    order: dict[int, torch.Tensor] = {}
    for half in (0, 1):
        mine = [score for side, score in zip(halves, scores, strict=True) if side == half]
        if mine:
            order[half] = torch.stack(mine).mean(0).argsort(descending=True, stable=True)
    answers = []
    for half, score in zip(halves, scores, strict=True):
        if 1 - half not in order:
            answers.append(Answer())
            continue
        best = score[order[1 - half][:BEST_HEADS]]
        answers.append(Answer(values={"max": float(best[0]), "best5": float(best.mean())}))
    return answers


@contextmanager
def _eager(model: Any) -> Iterator[None]:
    """Attention that returns its weights, for the length of a `with` block: fused kernels do not."""
    inner = model.get_base_model() if models.has_adapter(model) else model
    before = inner.config._attn_implementation
    if before == "eager":
        yield
        return
    inner.set_attn_implementation("eager")
    try:
        yield
    finally:
        inner.set_attn_implementation(before)


def _attentions(model: Any, ids: torch.Tensor) -> list[torch.Tensor]:
    """The attention (B, H, T, T) of each layer that has one; layers of another kind give none."""
    out: Mapping[str, Any] = model(input_ids=ids, use_cache=False, output_attentions=True)
    found = [each for each in out.get("attentions") or () if each is not None]
    if not found:
        raise UserError("The model shows no attention weights, so induction cannot be measured. Leave that line out.")
    return found


def _attention_batches(sizes: Sequence[int], batch_size: int, model: Any) -> Iterator[list[int]]:
    """Indices of rows of one length, in batches whose attention weights stay within what `models` allows for logits."""
    config = model.config.get_text_config()
    for size in sorted(set(sizes), reverse=True):
        mine = [i for i, found in enumerate(sizes) if found == size]
        numbers = max(config.num_hidden_layers * config.num_attention_heads * size, config.vocab_size) * size
        count = max(1, min(batch_size, models.LOGITS_AT_ONCE // numbers))
        for start in range(0, len(mine), count):
            yield mine[start : start + count]
