"""Where a tuned model writes what its base would not have written: at which positions, which tokens, style or content."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from untax import models, probes
from untax.diagnostics import shifts
from untax.diagnostics.common import RESAMPLES, Estimate, Numbers, mean, share
from untax.diagnostics.shifts import FUNCTION_WORDS, Concentration, Moved, Point, Table, TokenShift
from untax.types import UserError

__all__ = ["token_shift"]


def token_shift(
    base: Any | None,
    tuned: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    *,
    max_new_tokens: int = 64,  # of each answer
    stop: Sequence[str] = (),  # what ends an answer
    words: Iterable[str] | None = None,  # words of the attribute, as `untax.data.words.forms` gives them
    base_prompts: Sequence[str] | None = None,  # what the base reads instead, e.g. without the tokens of a chat
    base_tokenizer: Any | None = None,  # of the base, where it was loaded on its own
    batch_size: int = 64,  # answers of one pass, at most
    resamples: int = RESAMPLES,  # draws of every bootstrap, over prompts
    seed: int = 0,  # of those draws
) -> TokenShift:
    """What did tuning change: the tuned model's own greedy answers, read again by its base, position by position.

    The answer is written once and never tokenised again; template, end and stop tokens are not counted. Known weakness: it says that
    the model writes otherwise, not whether better; another prompt for the base moves the first positions most.

    Paper: Lin et al. 2023, arXiv 2312.01552 (unshifted, marginal, shifted)
    Differs: ranks by id over the whole vocabulary, ties broken by id; both divergences over the whole vocabulary; tokens are ordered
        by summed KL; concentration on the attribute's words and on function words is ours
    Shapes: prompts -> `TokenShift`; every share and mean with a 95 % interval over prompts, n counts positions
    Raises: UserError for two tokenizers, no base, no prompt, or answers that the model itself reads otherwise than it wrote them
    """
    if not prompts:
        raise UserError("Token shift needs prompts that the tuned model answers; none were given.")
    owns = probes.own_answers(
        base, tuned, tokenizer, prompts, max_new_tokens=max_new_tokens, stop=stop, batch_size=batch_size,
        base_tokenizer=base_tokenizer, base_prompts=base_prompts,
    )  # fmt: skip
    table = Table.of([own.positions for own in owns], probes.SHIFTED_FROM)

    def figure(values: Numbers, keep: Any = None) -> Estimate:
        keep = np.isfinite(values) if keep is None else keep & np.isfinite(values)
        return mean(values[keep], clusters=table.owners[keep].tolist(), resamples=resamples, seed=seed)

    def part(flags: Numbers, keep: Any = None) -> Estimate:
        keep = np.isfinite(flags) if keep is None else keep & np.isfinite(flags)
        return share(flags[keep], clusters=table.owners[keep].tolist(), resamples=resamples, seed=seed)

    def points(places: Numbers) -> tuple[Point, ...]:
        there = [(float(at), places == at) for at in np.unique(places)]
        return tuple(
            Point(at, part(table.shifted, keep), part(table.marginal, keep), figure(table.kl, keep))
            for at, keep in there
        )

    def concentration(some: Iterable[str]) -> Concentration:
        inside = np.concatenate([_inside(tokenizer, own.positions.ids, some) for own in owns])
        return shifts.concentration(table, inside, resamples=resamples, seed=seed)

    return TokenShift(
        unshifted=part(table.unshifted), marginal=part(table.marginal), shifted=part(table.shifted),
        kl_tuned_base=figure(table.kl), kl_base_tuned=figure(table.kl_base), drop=figure(table.drop),
        base_probability=figure(np.exp(table.base_logprobs)), new=float(np.isnan(table.ranks).mean()) if table.size else math.nan,
        by_position=points(table.at), by_share=points(table.tenth), tokens=_tokens(table, tokenizer),
        words=None if words is None else concentration(tuple(words)), function_words=concentration(FUNCTION_WORDS),
        answers=len(owns), empty=sum(not own.positions.ids for own in owns), positions=table.size,
        base_prompt="the same text" if base_prompts is None else "its own prompts",
    )  # fmt: skip


def _tokens(table: Table, tokenizer: Any) -> tuple[Moved, ...]:
    """Every token that was written, the one with the largest summed KL first."""
    total = float(table.kl.sum())
    found = []
    for token in np.unique(table.ids):
        mine = table.ids == token
        kl = float(table.kl[mine].sum())
        found.append(
            Moved(
                int(token), models.decoded(tokenizer, [int(token)]), int(mine.sum()),
                int(np.nansum(table.shifted[mine])), kl, kl / total if total else 0.0,
            )
        )  # fmt: skip
    return tuple(sorted(found, key=lambda moved: (-moved.kl, moved.token)))


def _inside(tokenizer: Any, ids: Sequence[int], words: Iterable[str]) -> Numbers:
    """1 for each token that has a character of one of the words, whole words only, upper case or lower."""
    listed = sorted({word for word in words if word}, key=lambda word: (-len(word), word))
    if not listed or not ids:
        return np.zeros(len(ids))
    ends = [len(models.decoded(tokenizer, ids[: count + 1])) for count in range(len(ids))]
    pattern = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, listed))})(?!\w)", re.IGNORECASE)
    spans = [found.span() for found in pattern.finditer(models.decoded(tokenizer, ids))]
    starts = [0, *ends[:-1]]
    return np.array(
        [any(start < stop and end > begin for begin, stop in spans) for start, end in zip(starts, ends, strict=True)],
        dtype=np.float64,
    )
