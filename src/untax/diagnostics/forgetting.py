"""How much a training made a model forget, all in all and of one attribute: two models, held-out text and minimal pairs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from untax import models, probes
from untax.diagnostics import common
from untax.diagnostics.common import RESAMPLES, Document, Forgetting, Gap, Pair, Text
from untax.types import UserError

__all__ = ["forgetting", "Measured", "measured"]  # noqa: RUF022 (the method first)

Tick = Callable[[int], object]


def _no_tick(done: int) -> None:
    """Progress that nobody watches."""


@dataclass(frozen=True)
class Measured:
    """What both models said, one entry a document and a pair: enough for `common.of_tables`, and worth saving."""

    documents: tuple[Document, ...]
    pairs: tuple[Gap, ...]
    controls: tuple[Gap, ...]


def forgetting(
    before: Any | None,
    after: Any,
    tokenizer: Any,
    *,
    texts: Sequence[Text],  # held-out documents that no training has seen, with their domains; 200 or more
    pairs: Sequence[Pair] = (),  # minimal pairs of the attribute, the stereotyped sentence first
    controls: Sequence[Pair] = (),  # minimal pairs without a social attribute, for `net`
    before_tokenizer: Any | None = None,  # of the model before, where it was loaded on its own
    opening: bool = False,  # whether the first token of a text counts, before which nothing has been said
    batch_size: int = 32,  # rows of one pass, at most
    resamples: int = RESAMPLES,  # draws of every bootstrap
    seed: int = 0,  # of those draws
) -> Forgetting:
    """Tell general forgetting from wanted forgetting: drift on ordinary text, and how far the gaps of minimal pairs closed.

    `before=None` is the model after with its adapter switched off. OF is the mean over documents of the mean KL(p0 || p1) of
    their tokens, beside the change of the tokens' own likelihood. A pair's gap is the log-likelihood of the tokens that both
    sentences share after their first difference, aligned by id; a pair whose difference comes last has none and is counted as
    excluded. `sentences` is the second measure, on whole sentences. Known weakness: OF says that a model moved, not
    whether for the worse, and selectivity is a ratio: show the plane of OF and net.

    Paper: Liu et al. 2025, arXiv 2509.21456 (the two kinds of forgetting, on gender stereotypes)
    Differs: the formulas are ours, the paper's were not at hand; the first token of a text counts only with `opening`: it tells which
        kinds of text a model expects, and every training on one kind moves it far; control pairs and `net`, so that a flatter model gains nothing;
        decoder-only models; a document longer than the context is read in pieces that begin anew
    Shapes: two models of one tokenizer -> `Forgetting`, nats; every figure with a 95 % bootstrap interval and its n
    Raises: UserError for two tokenizers or vocabularies, no text, neither a base nor an adapter, or a pair beyond the context
    """
    found = measured(
        before, after, tokenizer, texts=texts, pairs=pairs, controls=controls, before_tokenizer=before_tokenizer,
        opening=opening, batch_size=batch_size,
    )  # fmt: skip
    return common.of_tables(found.documents, found.pairs, found.controls, resamples=resamples, seed=seed)


def measured(
    before: Any | None,
    after: Any,
    tokenizer: Any,
    *,
    texts: Sequence[Text],
    pairs: Sequence[Pair] = (),
    controls: Sequence[Pair] = (),
    before_tokenizer: Any | None = None,
    opening: bool = False,
    batch_size: int = 32,
    tick: Tick = _no_tick,
) -> Measured:
    """The numbers behind `forgetting`: one teacher-forced pass of each model over everything, nothing generated.

    `tick` hears how many rows (pieces of documents, and sentences) are done. Raises: UserError as `forgetting`.
    """
    _check(before, after, tokenizer, before_tokenizer)
    if not texts:
        raise UserError("Overall forgetting needs held-out texts that no training has seen; none were given.")
    pieces, owners = _pieces(after, tokenizer, [text.text for text in texts])
    start = models.prompt_ids(tokenizer, "")
    read = probes.read(before, after, [start] * len(pieces), pieces, batch_size=batch_size, tick=tick)
    by_text: list[list[probes.Positions]] = [[] for _ in texts]
    for owner, found in zip(owners, read, strict=True):
        by_text[owner].append(found)
    documents = tuple(_document(text, found, 0 if opening else 1) for text, found in zip(texts, by_text, strict=True))
    gaps = _gaps(before, after, tokenizer, [*pairs, *controls], batch_size, tick)
    return Measured(documents, gaps[: len(pairs)], gaps[len(pairs) :])


def _check(before: Any | None, after: Any, tokenizer: Any, before_tokenizer: Any | None) -> None:
    if before is None:
        if not models.has_adapter(after):
            raise UserError("Forgetting needs the model before: the one measured has no adapter to switch off.")
        return
    prints = {models.tokenizer_fingerprint(each) for each in (tokenizer, before_tokenizer or tokenizer)}
    if len(prints) > 1:
        raise UserError(
            "Forgetting needs one tokenizer: those of the two models differ in vocabulary, merges or special tokens, so their "
            "distributions are not over the same tokens."
        )
    sizes = [model.config.get_text_config().vocab_size for model in (before, after)]
    if sizes[0] != sizes[1]:
        raise UserError(f"The two models have {sizes[0]} and {sizes[1]} tokens: no divergence can be computed.")


def _pieces(model: Any, tokenizer: Any, texts: Sequence[str]) -> tuple[list[list[int]], list[int]]:
    """Each text's tokens in pieces that fit into the context behind its opening, and the text that each belongs to."""
    limit, opening = models.context_length(model), models.prompt_ids(tokenizer, "")
    pieces, owners = [], []
    for number, text in enumerate(texts):
        ids = models.target_ids(tokenizer, text)
        step = len(ids) if limit is None else limit - len(opening)
        for start in range(0, len(ids), max(step, 1)):
            pieces.append(ids[start : start + step])
            owners.append(number)
    return pieces, owners


def _document(text: Text, found: Sequence[probes.Positions], first: int) -> Document:
    """A document's means over its tokens, of every piece from the one numbered `first` on."""
    kl = np.concatenate([each.kl_base_tuned[first:] for each in found]) if found else np.empty(0)
    drop = np.concatenate([each.drop[first:] for each in found]) if found else np.empty(0)
    if not len(kl):
        return Document(text.domain, math.nan, math.nan, 0)
    # drop is log p1 - log p0; a model that reads itself has 0, not -0
    return Document(text.domain, float(kl.mean()), 0.0 - float(drop.mean()), len(kl))


def _gaps(
    before: Any | None, after: Any, tokenizer: Any, pairs: Sequence[Pair], batch_size: int, tick: Tick
) -> tuple[Gap, ...]:
    limit = models.context_length(after)
    prompts, sentences = [], []
    for number, pair in enumerate(pairs):
        for text in (pair.first, pair.second):
            prompts.append(models.prompt_ids(tokenizer, pair.prompt))
            sentences.append(models.target_ids(tokenizer, text))
            size = len(prompts[-1]) + len(sentences[-1])
            if limit is not None and size > limit:
                raise UserError(f"pair {number} has a sentence of {size} tokens; the model's context is {limit}.")
    if not pairs:
        return ()
    read = probes.read(before, after, prompts, sentences, batch_size=batch_size, tick=tick)
    return tuple(_gap(pair, *read[2 * at : 2 * at + 2]) for at, pair in enumerate(pairs))


def _gap(pair: Pair, first: probes.Positions, second: probes.Positions) -> Gap:
    """Both measures of one pair from what the models think of its two sentences."""
    old = [np.array(each.base_logprobs, dtype=np.float64) for each in (first, second)]
    new = [base + np.array(each.drop, dtype=np.float64) for base, each in zip(old, (first, second), strict=True)]
    shared = common.aligned(first.ids, second.ids)
    where = [list(side) for side in zip(*shared, strict=True)] or [[], []]

    def gap(logps: Sequence[common.Numbers]) -> float:
        return float(logps[0][where[0]].sum() - logps[1][where[1]].sum()) if shared else math.nan

    return Gap(
        gap(old), gap(new), float(old[0].sum() - old[1].sum()), float(new[0].sum() - new[1].sum()), len(shared),
        pair.cluster,
    )  # fmt: skip
