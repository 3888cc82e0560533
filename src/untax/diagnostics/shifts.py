"""The numbers of a token-distribution shift: positions in, shares with intervals out. Needs no model and imports no torch."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from untax.diagnostics.common import RESAMPLES, Estimate, Numbers, joint, unit_columns

__all__ = ["FUNCTION_WORDS", "Concentration", "Moved", "Point", "Table", "TokenShift", "concentration"]

#: words that carry grammar rather than content
_GRAMMAR = """
    a an the and or but nor so yet if because although though while when where whether that which who whom whose what why how
    of to in on at by for with from as into onto over under about after before between through during without within against
    i you he she it we they me him her us them my your his its our their mine yours hers ours theirs this these those there here
    is are was were be been being am do does did have has had will would can could shall should may might must not no
    also just very too then than more most some any each every all both either neither such only own same
"""
FUNCTION_WORDS = tuple(_GRAMMAR.split())


@dataclass(frozen=True)
class Point:
    """The tokens at one place of the answers: the t-th (from 0), or the share t/T of the way (upper end of a tenth)."""

    at: float
    shifted: Estimate
    marginal: Estimate
    kl: Estimate


@dataclass(frozen=True)
class Moved:
    """One token: how often it was written, how often where the base has it third or lower, and its summed KL(tuned || base)."""

    token: int
    text: str
    count: int
    shifted: int
    kl: float
    share: float


@dataclass(frozen=True)
class Concentration:
    """Share of all KL(tuned || base) that lies on some words, their share of positions, and the one over the other."""

    kl_share: Estimate
    position_share: Estimate
    ratio: Estimate


@dataclass(frozen=True)
class TokenShift:
    """Shares of positions where the tuned model's token is the base's first choice (unshifted), second or third (marginal), or lower.

    KL in nats per position, both ways; `drop` is how much likelier the token is than under the base, `base_probability` what the base
    gives it; `new` is the share of tokens that the base does not have, which count in no class. `words` is None without words.
    """

    unshifted: Estimate
    marginal: Estimate
    shifted: Estimate
    kl_tuned_base: Estimate
    kl_base_tuned: Estimate
    drop: Estimate
    base_probability: Estimate
    new: float
    by_position: tuple[Point, ...]
    by_share: tuple[Point, ...]
    tokens: tuple[Moved, ...]
    words: Concentration | None
    function_words: Concentration
    answers: int
    empty: int
    positions: int
    base_prompt: str


@dataclass(frozen=True)
class Table:
    """All positions of all answers, one entry each: `owners` names the answer, `at` is its place, `tenth` the upper end of its tenth.

    Ranks are NaN for tokens that the base does not have; `kl` is KL(tuned || base), `kl_base` the other direction.
    """

    owners: Any
    ids: Any
    at: Numbers
    tenth: Numbers
    ranks: Numbers
    kl: Numbers
    kl_base: Numbers
    drop: Numbers
    base_logprobs: Numbers
    shifted_from: int

    @property
    def size(self) -> int:
        return len(self.kl)

    @property
    def unshifted(self) -> Numbers:
        return self._class(self.ranks == 0)

    @property
    def marginal(self) -> Numbers:
        return self._class((self.ranks > 0) & (self.ranks < self.shifted_from))

    @property
    def shifted(self) -> Numbers:
        return self._class(self.ranks >= self.shifted_from)

    def _class(self, flags: Any) -> Numbers:
        return np.where(np.isnan(self.ranks), np.nan, flags.astype(np.float64))

    @classmethod
    def of(cls, answers: Sequence[Any], shifted_from: int) -> Table:
        """One table of the `probes.Positions` of many answers; ranks from `shifted_from` on are shifted, 1 up to it marginal."""
        rows: dict[str, list[Any]] = defaultdict(list)
        for number, found in enumerate(answers):
            count = len(found.ids)
            rows["owners"] += [str(number)] * count
            rows["ids"] += found.ids
            rows["at"] += range(count)
            rows["tenth"] += [math.ceil(10 * (at + 1) / count) / 10 for at in range(count)]
            rows["ranks"] += [math.nan if rank is None else rank for rank in found.ranks]
            rows["kl"] += found.kl_tuned_base
            rows["kl_base"] += found.kl_base_tuned
            rows["drop"] += found.drop
            rows["base_logprobs"] += found.base_logprobs
        names = ("at", "tenth", "ranks", "kl", "kl_base", "drop", "base_logprobs")
        numbers = {name: np.array(rows[name], dtype=np.float64) for name in names}
        return cls(
            np.array(rows["owners"], dtype=object),
            np.array(rows["ids"], dtype=np.int64),
            **numbers,
            shifted_from=shifted_from,
        )


def concentration(table: Table, inside: Numbers, *, resamples: int = RESAMPLES, seed: int = 0) -> Concentration:
    """How much of the movement lies on some of the positions (`inside`, 1 or 0), with intervals over answers."""
    if not table.size:
        nothing = Estimate(math.nan, math.nan, math.nan, 0)
        return Concentration(nothing, nothing, nothing)
    columns = [table.kl * inside, table.kl, inside, np.ones(table.size)]

    def shares(sums: Sequence[Numbers]) -> Numbers:
        kl, positions = sums[0][..., 0] / sums[0][..., 1], sums[0][..., 2] / sums[0][..., 3]
        return np.stack([kl, positions, kl / positions], axis=-1)

    sample = unit_columns(columns, table.owners.tolist())
    return Concentration(*joint([sample], shares, n=table.size, resamples=resamples, seed=seed))
