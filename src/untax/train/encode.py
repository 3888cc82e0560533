"""Records become ids once, before training: what is cut, what is selected, and which negatives an epoch sees."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch.utils.data import Dataset

from untax import models
from untax.prefix import Example, Target
from untax.types import Candidate, ContrastiveRecord, RecipeError, UserError

__all__ = ["Encoded", "Pool", "Schedule", "encode", "records_hash", "rotate", "target_text"]

SOURCE = "{source}"


class SpanLike(Protocol):
    """What a span finder returns: the characters [start, end) of a text."""

    @property
    def start(self) -> int: ...
    @property
    def end(self) -> int: ...


FindAll = Callable[[Sequence[str]], Sequence[Sequence[SpanLike]]]


@dataclass(frozen=True)
class Encoded:
    """One record as ids: its prompt, its positives (the reference first), and all its negatives with their kinds."""

    prompt: tuple[int, ...]
    positives: tuple[Target, ...]
    negatives: tuple[Target, ...]
    kinds: tuple[str, ...]

    def example(self, epoch: int, max_negatives: int) -> Example:
        """The record as one epoch sees it."""
        chosen = rotate(self.kinds, max_negatives, epoch)
        return Example(self.prompt, self.positives + tuple(self.negatives[i] for i in chosen))


@dataclass(frozen=True)
class Pool:
    """Encoded rows of which every epoch shows `count`, going on where the last one stopped."""

    encoded: Sequence[Encoded]
    count: int


class Schedule(Dataset[Example]):
    """Every source that training will see, in order: each epoch is a permutation that depends on seed and epoch alone."""

    def __init__(
        self,
        encoded: Sequence[Encoded],
        *,
        total: int,
        seed: int,
        shuffle: bool,
        max_negatives: int,
        pools: Sequence[Pool] = (),
    ) -> None:
        self.encoded, self.total, self.seed, self.shuffle = encoded, total, seed, shuffle
        self.max_negatives, self.pools = max_negatives, pools
        self.order: tuple[int, list[Encoded]] = (-1, [])

    def __len__(self) -> int:
        return self.total

    @property
    def epoch_length(self) -> int:
        """How many sources one epoch shows."""
        return len(self.encoded) + sum(pool.count for pool in self.pools)

    def __getitem__(self, position: int) -> Example:
        epoch, place = divmod(position, self.epoch_length)
        if self.order[0] != epoch:
            self.order = (epoch, self._epoch(epoch))
        return self.order[1][place].example(epoch, self.max_negatives)

    def _epoch(self, epoch: int) -> list[Encoded]:
        shown = list(self.encoded)
        for number, pool in enumerate(self.pools):
            own = torch.Generator().manual_seed(self.seed * 1_000_003 + 500_000 + number)
            turn = torch.randperm(len(pool.encoded), generator=own).tolist()
            first = epoch * pool.count
            shown += [pool.encoded[turn[(first + i) % len(turn)]] for i in range(pool.count)]
        if not self.shuffle:
            return shown
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        return [shown[i] for i in torch.randperm(len(shown), generator=generator).tolist()]


def rotate(kinds: Sequence[str], limit: int, epoch: int) -> list[int]:
    """Which of the negatives an epoch sees: at most `limit`, one per kind in turn, going on where the last epoch stopped."""
    if len(kinds) <= limit:
        return list(range(len(kinds)))
    groups: dict[str, list[int]] = {}
    for index, kind in enumerate(kinds):
        groups.setdefault(kind, []).append(index)
    turns = list(groups.values())
    chosen: list[int] = []
    turn = epoch * limit
    while len(chosen) < limit:
        group = turns[turn % len(turns)]
        index = group[(turn // len(turns)) % len(group)]
        turn += 1
        if index not in chosen:
            chosen.append(index)
    return chosen


def records_hash(records: Sequence[ContrastiveRecord]) -> str:
    """A hash of everything in the records that training can see."""
    digest = hashlib.sha256()
    for record in records:
        candidates = [(c.text, c.kind, c.edits, c.toxicity) for c in record.positives + record.negatives]
        seen = [record.id, record.source, len(record.positives), candidates, record.extra.get("prompt")]
        digest.update(json.dumps(seen, sort_keys=True).encode())
    return digest.hexdigest()[:32]


def encode(
    records: Sequence[ContrastiveRecord],
    tokenizer: Any,
    *,
    prompt: str,
    max_length: int | None,
    find_all: FindAll | None = None,
) -> tuple[list[Encoded], dict[str, Any]]:
    """Ids of every record, and a summary of what was cut, dropped and found.

    Prompt and target are encoded apart and joined, so target ids do not depend on the source. A record that is too long
    loses the end of its source (or, with a prompt of its own, the beginning of that), never a token of a target. A record
    without a source is a plain text: its prompt is empty, whatever the template.
    Raises: UserError for no records, an empty text, a target that does not fit, a toxicity outside [0, 1];
    RecipeError for a prompt without {source}.
    """
    if SOURCE not in prompt:
        raise RecipeError(f"prompt {prompt!r} has no {SOURCE}: every record would get the same prompt.")
    if not records:
        raise UserError("there are no records to train on.")
    if tokenizer.eos_token_id is None:
        raise UserError("the tokenizer has no EOS token: the model could not learn where a text ends. Give it one.")
    prompts = [
        _own_prompt(r) if "prompt" in r.extra else prompt.replace(SOURCE, r.source) if r.source else "" for r in records
    ]
    texts = _Texts(records, prompts, tokenizer, find_all)
    summary: Counter[str] = Counter()
    blind: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    encoded = []
    for record, text, ids in zip(records, prompts, _prompt_ids(tokenizer, prompts), strict=True):
        positives = tuple(texts.target(c, record, text, positive=True) for c in record.positives)
        kept: list[tuple[str, Target]] = []
        for candidate in record.negatives:
            target = texts.target(candidate, record, text, positive=False, against=positives)
            if any(target.ids == positive.ids for positive in positives):
                summary["negatives_equal_to_a_positive"] += 1
                continue
            kept.append((candidate.kind, target))
            kinds[candidate.kind] += 1
            blind[candidate.kind] += target.blind
        longest = max(len(t.ids) for t in (*positives, *(t for _, t in kept)))
        if max_length is not None and len(ids) + longest > max_length:
            if longest >= max_length:
                raise UserError(
                    f"record {record.id!r}: a target of {longest} tokens leaves no room for a prompt within {max_length} tokens "
                    "(max_length, or the model's context). Targets are never cut: shorten it or leave the record out."
                )
            template = None if "prompt" in record.extra else (prompt, record.source)
            ids = _cut(ids, max_length - longest, tokenizer, text, template)
            summary["truncated"] += 1
        summary["contrasted"] += len(positives) > 1 and bool(kept)
        summary["paired"] += any(target.ids != positives[0].ids for target in positives)
        summary["targets"] += len(positives) + len(kept)
        summary["targets_without_span"] += sum(not any(t.spans) for t in (*positives, *(t for _, t in kept)))
        encoded.append(Encoded(tuple(ids), positives, tuple(t for _, t in kept), tuple(kind for kind, _ in kept)))
    return encoded, {
        "records": len(records),
        "contrasted": summary["contrasted"],
        "paired": summary["paired"],
        "likelihood_only": len(records) - summary["contrasted"],
        "truncated": summary["truncated"],
        "negatives": dict(kinds),
        "negatives_equal_to_a_positive": summary["negatives_equal_to_a_positive"],
        "share_without_span": summary["targets_without_span"] / summary["targets"] if find_all else None,
        "share_blind": {kind: blind[kind] / count for kind, count in kinds.items()} if find_all else None,
    }


def target_text(prompt: str, text: str) -> str:
    """What follows the prompt: one space apart, unless the prompt is empty or ends in white space."""
    return text if not prompt or prompt[-1].isspace() else " " + text


def _own_prompt(record: ContrastiveRecord) -> str:
    text = record.extra["prompt"]
    if not isinstance(text, str):
        raise UserError(f"record {record.id!r}: its own prompt is a {type(text).__name__}, not a text.")
    return text


def _prompt_ids(tokenizer: Any, prompts: Sequence[str]) -> list[list[int]]:
    """`models.prompt_ids` of many prompts in one call."""
    opening = models.opening_ids(tokenizer)
    plain = tokenizer(list(prompts), add_special_tokens=False, verbose=False)["input_ids"]
    return [[*opening, *ids] if opening or ids else models.prompt_ids(tokenizer, "") for ids in plain]


class _Texts:
    """All target texts, tokenised and searched for spans in one go each."""

    def __init__(
        self, records: Sequence[ContrastiveRecord], prompts: Sequence[str], tokenizer: Any, find_all: FindAll | None
    ) -> None:
        self.eos = int(tokenizer.eos_token_id)
        self.own_space = models.adds_space(tokenizer)
        wanted: dict[tuple[str, str], None] = {}
        for record, prompt in zip(records, prompts, strict=True):
            if not record.positives:
                raise UserError(f"record {record.id!r} has no positive: the reference text is missing.")
            for candidate in (*record.positives, *record.negatives):
                if not candidate.text.strip():
                    raise UserError(f"record {record.id!r}: a candidate of kind '{candidate.kind}' is empty.")
                wanted[self._shape(prompt, candidate.text), candidate.text] = None
        if find_all is not None and not tokenizer.is_fast:
            raise UserError(
                "this tokenizer does not say where its tokens stand in the text; pool 'all' or 'last' works without."
            )
        needs_offsets = tokenizer.is_fast
        coded = tokenizer(
            [joined for joined, _ in wanted],
            add_special_tokens=False,
            return_offsets_mapping=needs_offsets,
            verbose=False,
        )
        self.ids = {joined: tuple(ids) for (joined, _), ids in zip(wanted, coded["input_ids"], strict=True)}
        self.offsets = {}
        if needs_offsets:
            self.offsets = {
                joined: offsets for (joined, _), offsets in zip(wanted, coded["offset_mapping"], strict=True)
            }
        texts = list(dict.fromkeys(text for _, text in wanted))
        found = [] if find_all is None else find_all(texts)
        self.spans = {text: [(s.start, s.end) for s in spans] for text, spans in zip(texts, found, strict=False)}

    def _shape(self, prompt: str, text: str) -> str:
        joined = target_text(prompt, text)
        return joined[1:] if self.own_space and joined.startswith(" ") else joined

    def target(
        self,
        candidate: Candidate,
        record: ContrastiveRecord,
        prompt: str,
        *,
        positive: bool,
        against: Sequence[Target] = (),
    ) -> Target:
        """One candidate as ids with EOS, its flags per token, and whether it is blind to what sets it apart."""
        text, joined = candidate.text, self._shape(prompt, candidate.text)
        ids = self.ids[joined]
        if not ids:
            raise UserError(
                f"record {record.id!r}: the tokenizer makes no token of a candidate of kind '{candidate.kind}'."
            )
        toxicity = candidate.toxicity
        if toxicity is None:
            toxicity = float(candidate.kind == "toxic")
        if not 0 <= toxicity <= 1:
            raise UserError(
                f"record {record.id!r}: toxicity {toxicity} of a '{candidate.kind}' candidate is outside [0, 1]."
            )
        spans = self._flags(joined, text, self.spans.get(text, []))
        edited = self._flags(joined, text, candidate.edits)
        if not any(edited):
            edited = (True,) * len(ids)
        return Target(
            ids=(*ids, self.eos),
            positive=positive,
            spans=(*spans, False),
            edited=(*edited, False),
            blind=any(_is_blind(ids, spans, other) for other in against),
            toxic=candidate.kind == "toxic" and not positive,
            toxicity=toxicity,
        )

    def _flags(self, joined: str, text: str, ranges: Sequence[tuple[int, int]]) -> tuple[bool, ...]:
        """One flag per token: whether it overlaps one of the character ranges of `text`."""
        if not ranges or joined not in self.offsets:
            return (False,) * len(self.ids[joined])
        shift = len(joined) - len(text)
        inside = bytearray(len(joined))
        for start, end in ranges:
            inside[start + shift : end + shift] = b"\x01" * (
                min(end + shift, len(joined)) - min(start + shift, len(joined))
            )
        return tuple(any(inside[start:end]) for start, end in self.offsets[joined])


def _is_blind(ids: tuple[int, ...], spans: tuple[bool, ...], positive: Target) -> bool:
    """Whether the selected tokens are those of the positive and stand before the first token that differs from it.

    A causal state knows its left context only, so both texts then have the same vector, whatever the weights.
    """
    same = next((i for i, (one, other) in enumerate(zip(ids, positive.ids, strict=False)) if one != other), len(ids))
    mine = [i for i, flag in enumerate(spans) if flag]
    return bool(mine) and mine[-1] < same and mine == [i for i, flag in enumerate(positive.spans) if flag]


def _cut(ids: list[int], room: int, tokenizer: Any, text: str, template: tuple[str, str] | None) -> list[int]:
    """The prompt with `room` tokens: without the end of the source, or, where there is no template, without its beginning."""
    excess = len(ids) - room
    opening = len(models.opening_ids(tokenizer))
    if template is not None and tokenizer.is_fast:
        start = template[0].index(SOURCE)
        end = start + len(template[1])
        offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)[
            "offset_mapping"
        ]
        inside = [opening + i for i, (left, right) in enumerate(offsets) if left >= start and right <= end]
        if len(inside) >= excess:
            gone = set(inside[-excess:])
            return [token for i, token in enumerate(ids) if i not in gone]
    opening = min(opening, room - 1)
    return ids[:opening] + ids[len(ids) - (room - opening) :]
