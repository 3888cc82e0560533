"""Mixes sets of records in given proportions; replay of general data is such a mix."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace

from untax.types import ContrastiveRecord, UserError

__all__ = ["mix"]


def mix(
    parts: Mapping[str, Sequence[ContrastiveRecord]],
    proportions: Mapping[str, float],
    *,
    seed: int,
    total: int | None = None,  # how many records in all; the most that needs no repetition, when not given
) -> list[ContrastiveRecord]:
    """Draw from each part without repetition so that the shares are as asked, and shuffle; `extra["mix"]` names the part.

    An id that stands in two parts is written "part/id" in the later one.

    Raises: UserError when names or shares do not fit, or a part is too small for `total`.
    """
    if set(parts) != set(proportions):
        raise UserError(
            f"mix: the parts are {sorted(parts)}, the proportions are for {sorted(proportions)}; they must be the same."
        )
    for name, share in proportions.items():
        if not math.isfinite(share) or share <= 0:
            raise UserError(f"mix: the proportion of '{name}' is {share}; it must be above 0.")
        if not parts[name]:
            raise UserError(f"mix: '{name}' holds no record.")
    whole = sum(proportions.values())
    shares = {name: share / whole for name, share in proportions.items()}
    most = min(math.floor(len(parts[name]) / share + 1e-9) for name, share in shares.items())
    total = most if total is None else total
    if total < 1:
        raise UserError(f"mix: total must be at least 1, it is {total}.")
    counts = _counts(shares, total)
    drawn: list[ContrastiveRecord] = []
    used: set[str] = set()
    for name, records in parts.items():
        if counts[name] > len(records):
            raise UserError(
                f"mix: {total} records at a share of {shares[name]:.3g} need {counts[name]} of '{name}', which holds {len(records)}. "
                f"The most without repetition is total={most}."
            )
        # the draw of one part does not depend on which other parts there are
        for record in random.Random(f"{seed} {name}").sample(list(records), counts[name]):
            identifier = f"{name}/{record.id}" if record.id in used else record.id
            used.add(identifier)
            drawn.append(replace(record, id=identifier, extra={**record.extra, "mix": name}))
    random.Random(seed).shuffle(drawn)
    return drawn


def _counts(shares: Mapping[str, float], total: int) -> dict[str, int]:
    """Whole numbers that add up to `total` and are nearest to the shares (largest remainder)."""
    exact = {name: share * total for name, share in shares.items()}
    counts = {name: math.floor(value) for name, value in exact.items()}
    by_remainder = sorted(exact, key=lambda name: (counts[name] - exact[name], name))
    for name in by_remainder[: total - sum(counts.values())]:
        counts[name] += 1
    return counts
