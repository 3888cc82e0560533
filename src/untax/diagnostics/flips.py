"""Which items a tuned model lost and won, with the prompt and both answers. Reads score tables, imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from untax import methods
from untax.diagnostics.scored import paired
from untax.types import ScoreRow, Scores, UserError

__all__ = ["flips", "Flip", "Flips"]  # noqa: RUF022 (the method first)


@dataclass(frozen=True)
class Flip:
    """One item that changed sides: `share` of the seeds in which it did, and the answer of the first seed that did."""

    item_id: str
    cluster: str
    prompt: str
    before: str
    after: str
    share: float
    seeds: int


@dataclass(frozen=True)
class Flips:
    """The items of one line that were lost and won, those that most seeds changed first.

    Of `items` answered by the base and by at least one seed; `missing` have no score that could be compared. `lost_share` and
    `won_share` are means over seeds of the shares of scored items.
    """

    metric: str
    lost: tuple[Flip, ...]
    won: tuple[Flip, ...]
    items: int
    missing: int
    seeds: int
    lost_share: float
    won_share: float


def flips(base: Scores, tuned: Scores | Sequence[Scores], metric: str) -> Flips:
    """The items that the base got right and the tuned model gets wrong, and the other way round, so that a person can read them.

    `metric` is the name of a line with scores of 0 and 1. Right is 1, or 0 where lower is better. An item without a score in a
    seed is left out for that seed.

    Paper: Harmon et al. 2025, arXiv 2510.17776 (counts of 1 to 0 and 0 to 1; guessing is taken out in `common.transitions`)
    Differs: the items themselves, not their counts; over several seeds, sorted by the share of seeds
    Shapes: a table of the base, one for each seed -> one `Flips`
    Raises: UserError for a line that is not there, or whose scores are not 0 and 1
    """
    tables = [tuned] if isinstance(tuned, Scores) else list(tuned)
    named = {spec.name: spec for spec in base.specs}
    binary = [name for name, spec in named.items() if spec.binary]
    if metric not in named or not tables:
        raise UserError(
            f"There is no line '{metric}' in the scores of '{base.system}'.{methods.did_you_mean(metric, binary)} "
            f"Lines with scores of 0 and 1: {', '.join(binary) or 'none'}."
        )
    rows = paired(base, tables, metric)
    old_I, new_KI = rows.base_I, rows.tuned_KI.reshape(len(tables), -1)
    if not all(np.isin(side[np.isfinite(side)], (0, 1)).all() for side in (old_I, new_KI)):
        raise UserError(
            f"'{metric}' has scores other than 0 and 1, so no item is simply lost or won. "
            f"Lines with scores of 0 and 1: {', '.join(binary) or 'none'}."
        )
    scored_KI = np.isfinite(old_I) & np.isfinite(new_KI)
    change_KI = np.where(scored_KI, new_KI - old_I, 0.0) * (1 if named[metric].better == "higher" else -1)
    kept_I, shares = scored_KI.any(axis=0), []
    found: list[list[Flip]] = []
    for changed_KI in (change_KI < 0, change_KI > 0):
        sides = (rows.base, rows.tuned)
        some = [
            _flip(sides, int(at), changed_KI[:, at], scored_KI[:, at]) for at in np.flatnonzero(changed_KI.any(axis=0))
        ]
        found.append(sorted(some, key=lambda flip: (-flip.share, -flip.seeds)))
        shares.append(float((changed_KI.sum(axis=1) / np.maximum(scored_KI.sum(axis=1), 1)).mean()))
    return Flips(
        metric=metric, lost=tuple(found[0]), won=tuple(found[1]), items=int(kept_I.sum()),
        missing=rows.missing + int((~kept_I).sum()), seeds=len(tables), lost_share=shares[0], won_share=shares[1],
    )  # fmt: skip


def _flip(
    sides: tuple[tuple[ScoreRow, ...], tuple[tuple[ScoreRow, ...], ...]],
    at: int,
    changed_K: np.ndarray,
    scored_K: np.ndarray,
) -> Flip:
    base, tuned = sides
    first = int(np.flatnonzero(changed_K)[0])
    return Flip(
        item_id=base[at].item_id, cluster=base[at].cluster, prompt=base[at].prompt, before=base[at].answer,
        after=tuned[first][at].answer, share=float(changed_K.sum() / scored_K.sum()), seeds=int(changed_K.sum()),
    )  # fmt: skip
