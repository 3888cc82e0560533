"""One prompt, many continuations, one forward pass.

A source's prompt is run once; its keys and values are handed to every target of that source, and each target sees the
prompt and itself only. Prompts and targets are both padded on the right: a causal model never looks at what
comes after, so no row is ever masked completely, and the targets' attention mask hides the padding between the two.
Gradients flow back through the shared keys and values into the prompt.

Where a model cannot do this (no standard key/value cache, a sliding window shorter than the sequences, rotary
scaling that depends on the length, gradient checkpointing) each target gets its own pass: slower, never wrong. What a
model can do is not believed but tried, once, in `decoder`.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from untax import models
from untax.types import UserError

__all__ = [
    "Batch",
    "Counts",
    "Decoder",
    "Example",
    "Pass",
    "Target",
    "collate",
    "decoder",
    "score",
]


# --------------------------------------------------------------------------- batches


@dataclass(frozen=True)
class Target:
    """One continuation, as ids ending in EOS. `spans` and `edited` have one flag per id; the last (EOS) is False."""

    ids: tuple[int, ...]
    positive: bool
    spans: tuple[bool, ...] = ()
    edited: tuple[bool, ...] = ()
    blind: bool = False
    toxic: bool = False
    toxicity: float = 0.0


@dataclass(frozen=True)
class Example:
    """One source: the ids of its prompt and its targets, of which the first is the reference."""

    prompt: tuple[int, ...]
    targets: tuple[Target, ...]


@dataclass(frozen=True)
class Counts:
    """What a loss divides by. Of one batch, or (added up) of all the batches of one optimiser step.

    `contrasted` sources have two positives and one negative or more. `toxicity` is the highest of their negatives.
    `alone_tokens` are the reference tokens of sources without a negative. `pairs` are the further positives of a source
    whose ids are not those of its reference.
    """

    sources: int = 0
    reference_tokens: int = 0
    alone_tokens: int = 0
    positive_tokens: int = 0
    pairs: int = 0
    contrasted: int = 0
    negatives: int = 0
    negative_tokens: int = 0
    edited_tokens: int = 0
    toxicity: float = 0.0

    def __add__(self, other: Counts) -> Counts:
        sums = {name: number + vars(other)[name] for name, number in vars(self).items()}
        return Counts(**{**sums, "toxicity": max(self.toxicity, other.toxicity)})


@dataclass(frozen=True)
class Batch:
    """Sources with their targets as padded tensors (shapes: see `untax.types`); `step` counts the whole optimiser step."""

    prompts_SP: Tensor
    prompt_lengths_S: Tensor
    targets_NT: Tensor
    mask_NT: Tensor  # True on the tokens of a target, EOS included
    text_NT: Tensor  # the same without EOS
    spans_NT: Tensor  # tokens that overlap a selected span
    edited_NT: Tensor  # tokens that overlap an edit
    source_N: Tensor
    positive_N: Tensor
    reference_N: Tensor
    blind_N: Tensor
    toxic_N: Tensor  # made as a toxic negative
    toxicity_N: Tensor  # detector score
    contrasted_S: Tensor
    step: Counts

    @property
    def sources(self) -> int:
        """How many sources the batch has."""
        return len(self.prompts_SP)

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on a device."""
        moved: dict[str, Any] = {name: held.to(device) for name, held in vars(self).items() if isinstance(held, Tensor)}
        return replace(self, **moved)

    def only(self, rows_N: Tensor) -> Batch:
        """The batch with some of its targets; sources left without one go too. `step` stays as it was."""
        kept_S, source_N = torch.unique(self.source_N[rows_N], return_inverse=True)
        longest = int(self.mask_NT[rows_N].sum(1).max())
        width = int(self.prompt_lengths_S[kept_S].max())
        by_row: dict[str, Any] = {name: held[rows_N] for name, held in vars(self).items() if name.endswith("_N")}
        by_token = {name: held[rows_N, :longest] for name, held in vars(self).items() if name.endswith("_NT")}
        return replace(
            self,
            prompts_SP=self.prompts_SP[kept_S, :width],
            prompt_lengths_S=self.prompt_lengths_S[kept_S],
            contrasted_S=self.contrasted_S[kept_S],
            **{**by_row, **by_token, "source_N": source_N},
        )


def _pad(rows: Sequence[Sequence[int]], fill: int) -> Tensor:
    return nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=fill)


def collate(examples: Sequence[Example], *, pad_id: int = 0) -> Batch:
    """Examples as one padded batch. Raises ValueError where a prompt or a target has no token."""
    targets = [(s, t) for s, example in enumerate(examples) for t in example.targets]
    if any(not e.prompt or not e.targets for e in examples) or any(not t.ids for _, t in targets):
        raise ValueError("every example needs a prompt and a target, each of one token or more")
    lengths_N1 = torch.tensor([len(t.ids) for _, t in targets])[:, None]
    ids_NT = _pad([t.ids for _, t in targets], pad_id)
    at_T = torch.arange(ids_NT.shape[1])
    none = (False,)
    positive_N = torch.tensor([t.positive for _, t in targets])
    source_N = torch.tensor([s for s, _ in targets])
    contrasted = [sum(t.positive for t in e.targets) > 1 and not all(t.positive for t in e.targets) for e in examples]
    edited_NT = F.pad(_pad([t.edited or none for _, t in targets], False), (0, len(at_T)))[:, : len(at_T)]
    reference_N = torch.ones_like(positive_N)
    reference_N[1:] = source_N[1:] != source_N[:-1]
    negatives = [(s, t) for s, t in targets if not t.positive]
    counts = Counts(
        sources=len(examples),
        reference_tokens=sum(len(e.targets[0].ids) for e in examples),
        alone_tokens=sum(len(e.targets[0].ids) for e in examples if all(t.positive for t in e.targets)),
        positive_tokens=sum(len(t.ids) for _, t in targets if t.positive),
        pairs=sum(t.positive and t.ids != e.targets[0].ids for e in examples for t in e.targets),
        contrasted=sum(contrasted),
        negatives=len(negatives),
        negative_tokens=sum(len(t.ids) for _, t in negatives),
        edited_tokens=int(edited_NT[~positive_N].sum()),
        toxicity=max((t.toxicity for s, t in negatives if contrasted[s]), default=0.0),
    )
    return Batch(
        prompts_SP=_pad([e.prompt for e in examples], pad_id),
        prompt_lengths_S=torch.tensor([len(e.prompt) for e in examples]),
        targets_NT=ids_NT,
        mask_NT=at_T < lengths_N1,
        text_NT=at_T < lengths_N1 - 1,
        spans_NT=F.pad(_pad([t.spans or none for _, t in targets], False), (0, len(at_T)))[:, : len(at_T)],
        edited_NT=edited_NT,
        source_N=source_N,
        positive_N=positive_N,
        reference_N=reference_N,
        blind_N=torch.tensor([t.blind for _, t in targets]),
        toxic_N=torch.tensor([t.toxic for _, t in targets]),
        toxicity_N=torch.tensor([t.toxicity for _, t in targets]),
        contrasted_S=torch.tensor(contrasted),
        step=counts,
    )


# --------------------------------------------------------------------------- models


@dataclass(frozen=True)
class Decoder:
    """A causal language model and what it can do: its body, its output layer, and why a prompt cannot be shared.

    `head` is None when body and output layer together do not give the model's logits; the whole model is run then.
    `separate_because` is empty when prompts can be shared; `window` is the longest sequence for which they can.
    """

    model: Any
    body: Any
    head: Any
    separate_because: str = ""
    window: int | None = None


def decoder(model: Any) -> Decoder:
    """Find out, by trying it on a few tokens, how `model` (a causal LM, with or without a LoRA adapter) can be run."""
    inner = model.get_base_model() if models.has_adapter(model) else model
    if inner.config.is_encoder_decoder:
        raise UserError(f"{type(inner).__name__} is an encoder-decoder; a causal (decoder-only) model is needed.")
    config = inner.config.get_text_config()
    body, head = inner.base_model, None if _bends_logits(config) else inner.get_output_embeddings()
    window, reason = _limits(config, body)
    whole = Decoder(model, body, None, separate_because="its output layer is more than one linear map")
    separate = Decoder(model, body, head, separate_because=reason or "its keys and values cannot be shared")
    shared = Decoder(model, body, head, window=window)
    with torch.no_grad(), _evaluating(model):
        batch = _probe(inner.get_input_embeddings().weight)
        truth = Pass(whole, batch)
        if head is None or not _agree(Pass(separate, batch), truth):
            return whole
        if reason:
            return separate
        try:
            agree = _agree(Pass(shared, batch), truth)
        except (TypeError, ValueError, AttributeError, IndexError, RuntimeError):
            return separate  # the model's forward knows another kind of cache
    return shared if agree else separate


def _bends_logits(config: Any) -> bool:
    """Whether logits are more than the output layer: too little to see in the probe of an untrained model."""
    known = config.to_dict()
    return any(known.get(name) is not None for name in ("final_logit_softcapping", "logit_scale", "logits_scaling"))


def _limits(config: Any, body: Any) -> tuple[int | None, str]:
    """The longest sequence for which a shared prompt is right, and why none can be (from the configuration)."""
    known = config.to_dict()
    takes = inspect.signature(body.forward).parameters
    missing = [name for name in ("attention_mask", "position_ids", "past_key_values", "use_cache") if name not in takes]
    if missing:
        return None, f"its forward does not take {', '.join(missing)}"
    kinds = set(known.get("layer_types") or ())
    if kinds - {"full_attention", "sliding_attention"}:
        return None, f"it has layers of kind {', '.join(sorted(kinds - {'full_attention', 'sliding_attention'}))}"
    rope = known.get("rope_parameters") or {}
    if rope.get("rope_type") in ("dynamic", "longrope"):
        return None, "its rotary scaling depends on the length of the sequence"
    if known.get("sliding_window") and (not kinds or "sliding_attention" in kinds):
        return int(known["sliding_window"]), ""
    return None, ""


def _is_checkpointing(body: nn.Module) -> bool:
    """Whether layers forget their activations, and with them the cache that a shared prompt would stand in."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    return any(m.gradient_checkpointing for m in body.modules() if isinstance(m, GradientCheckpointingLayer))


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    training = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, was in training:
            module.training = was


def _probe(embeddings: Tensor) -> Batch:
    """Two sources of different length with two and three targets of different length."""
    vocabulary = embeddings.shape[0]

    def ids(seed: int, count: int) -> tuple[int, ...]:
        return tuple((seed + 7 * k * k + 3 * k) % vocabulary for k in range(count))

    short = tuple(Target(ids(seed, count), positive=True) for seed, count in ((1, 2), (2, 4)))
    long = tuple(Target(ids(seed, count), positive=True) for seed, count in ((3, 1), (4, 3), (5, 2)))
    return collate([Example(ids(6, 3), short), Example(ids(8, 6), long)]).to(embeddings.device)


def _agree(one: Pass, other: Pass) -> bool:
    mask = one.batch.mask_NT
    states, truth = one.states_NTH[mask], other.states_NTH[mask]
    # States are of order one after the final norm; wrong positions or masks move them by far more than rounding does.
    tolerance = 64 * torch.finfo(states.dtype).eps * max(1.0, float(truth.abs().max()))
    same = float((states - truth).abs().max()) < tolerance
    return same and float((one.logps() - other.logps()).abs().max()) < 4 * tolerance


class Pass:
    """One model on one batch. Nothing is computed before it is asked for, and the body runs at most once.

    An objective that needs fewer targets calls `only` first, so that the others cost nothing.
    """

    def __init__(self, decoder: Decoder, batch: Batch, *, share: bool = True) -> None:
        self.decoder = decoder
        self.batch = batch
        self.share = share

    def only(self, rows_N: Tensor) -> Pass:
        """A pass over some of the targets (a boolean per target)."""
        return Pass(self.decoder, self.batch.only(rows_N), share=self.share)

    @property
    def is_shared(self) -> bool:
        """Whether prompts are run once for all their targets here. With one target a source there is nothing to share."""
        decoder, batch = self.decoder, self.batch
        if not self.share or decoder.separate_because or len(batch.source_N) == batch.sources:
            return False
        longest = batch.prompts_SP.shape[1] + batch.targets_NT.shape[1]
        if decoder.window is not None and longest > decoder.window:
            return False
        return not (decoder.body.training and _is_checkpointing(decoder.body))

    @property
    def states_NTH(self) -> Tensor:
        """The last hidden state at every token of every target, after the final norm; padding holds arbitrary numbers."""
        return self._run[0][:, 1:]

    def logps(self, rows_N: Tensor | None = None) -> Tensor:
        """Log-probability of each token of the chosen targets (R, T), given the prompt and the tokens before; 0 on padding."""
        states_NLH, logits_NLV = self._run
        rows_N = torch.ones_like(self.batch.positive_N) if rows_N is None else rows_N
        mask_RT = self.batch.mask_NT[rows_N]
        if logits_NLV is not None:
            logits_MV = logits_NLV[rows_N, :-1][mask_RT]
        else:
            logits_MV = self.decoder.head(states_NLH[rows_N, :-1][mask_RT])
        ids_M = self.batch.targets_NT[rows_N][mask_RT]
        logps_M = -F.cross_entropy(logits_MV.float(), ids_M, reduction="none")
        return torch.zeros(mask_RT.shape, device=logps_M.device).masked_scatter(mask_RT, logps_M)

    def logits(self, rows_M: Tensor, places_M: Tensor) -> Tensor:
        """Logits (M, V) in float32 of what stands at a place (0: its first token) of a target, given all before it."""
        states_NLH, logits_NLV = self._run  # from the last prompt token on: place t is foretold at index t
        if logits_NLV is not None:
            return logits_NLV[rows_M, places_M].float()
        return self.decoder.head(states_NLH[rows_M, places_M]).float()

    @cached_property
    def _run(self) -> tuple[Tensor, Tensor | None]:
        """States at the last prompt token and at every target token (N, 1 + T, H), and the logits there if they had to be made."""
        return self._run_shared() if self.is_shared else self._run_separate()

    def _run_shared(self) -> tuple[Tensor, Tensor | None]:
        from transformers import DynamicCache

        batch, body = self.batch, self.decoder.body
        cache = DynamicCache()
        prompt_SPH = body(input_ids=batch.prompts_SP, past_key_values=cache, use_cache=True).last_hidden_state
        last_S = batch.prompt_lengths_S - 1
        last_SH = prompt_SPH[torch.arange(batch.sources, device=last_S.device), last_S]
        groups = _groups(batch.mask_NT.sum(1).tolist())
        parts = [self._run_targets(cache, torch.tensor(rows, device=last_S.device)) for rows in groups]
        width = batch.targets_NT.shape[1]
        states_NTH = torch.cat([F.pad(part, (0, 0, 0, width - part.shape[1])) for part in parts])
        back_N = torch.tensor([row for rows in groups for row in rows], device=last_S.device).argsort()
        return torch.cat([last_SH[batch.source_N, None], states_NTH[back_N]], dim=1), None

    def _run_targets(self, prompts: Any, rows_R: Tensor) -> Tensor:
        """States of some targets, each after the keys and values of its own prompt."""
        batch = self.batch
        mask_RT = batch.mask_NT[rows_R]
        mask_RT = mask_RT[:, : int(mask_RT.sum(1).max())]
        source_R = batch.source_N[rows_R]
        cache = copy.copy(prompts)
        cache.layers = [copy.copy(layer) for layer in prompts.layers]
        for layer in cache.layers:
            layer.keys = layer.keys.index_select(0, source_R)
            layer.values = layer.values.index_select(0, source_R)
        last_R1 = batch.prompt_lengths_S[source_R, None] - 1
        prompt_mask_RP = torch.arange(batch.prompts_SP.shape[1], device=rows_R.device) <= last_R1
        return self.decoder.body(
            input_ids=batch.targets_NT[rows_R, : mask_RT.shape[1]],
            attention_mask=torch.cat([prompt_mask_RP, mask_RT], dim=1).long(),
            # The count stands still on padding, which keeps positions inside the context.
            position_ids=last_R1 + mask_RT.long().cumsum(1),
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state

    def _run_separate(self) -> tuple[Tensor, Tensor | None]:
        batch, decoder = self.batch, self.decoder
        lengths_N = batch.prompt_lengths_S[batch.source_N]
        width = int((lengths_N + batch.mask_NT.sum(1)).max())
        at_L = torch.arange(width, device=lengths_N.device)
        prompts_NL = F.pad(batch.prompts_SP[batch.source_N], (0, width))[:, :width]
        # Rows end in a real token instead of the padding id, which some models warn about when they see it.
        ids_NL = torch.where(at_L < lengths_N[:, None], prompts_NL, batch.targets_NT[:, :1])
        at_NT = lengths_N[:, None] + torch.arange(batch.targets_NT.shape[1], device=lengths_N.device)
        rows_NT = torch.arange(len(lengths_N), device=lengths_N.device)[:, None].expand_as(at_NT)
        ids_NL[rows_NT[batch.mask_NT], at_NT[batch.mask_NT]] = batch.targets_NT[batch.mask_NT]
        # From the last prompt token on; beyond a row's end any index will do, since padding is never read.
        read_NL = torch.cat([at_NT[:, :1] - 1, at_NT], dim=1).clamp(max=width - 1)
        rows_NL = rows_NT[:, :1].expand_as(read_NL)
        if decoder.head is not None:
            return decoder.body(input_ids=ids_NL, use_cache=False).last_hidden_state[rows_NL, read_NL], None
        out = decoder.model(input_ids=ids_NL, use_cache=False, output_hidden_states=True)
        return out.hidden_states[-1][rows_NL, read_NL], out.logits[rows_NL, read_NL]


def _groups(lengths: Sequence[int], *, most: int = 4, worth: float = 0.1) -> list[list[int]]:
    """Rows in groups of similar length: a cut is made while it saves that share of all padded tokens."""
    groups = [sorted(range(len(lengths)), key=lengths.__getitem__)]
    least = worth * len(lengths) * max(lengths)
    while len(groups) < most:
        saving, which, at = max(
            (at * (lengths[rows[-1]] - lengths[rows[at - 1]]), which, at)
            for which, rows in enumerate(groups)
            for at in range(1, len(rows) + 1)
        )
        if saving < least or saving == 0:
            break
        groups[which : which + 1] = [groups[which][:at], groups[which][at:]]
    return groups


# --------------------------------------------------------------------------- scoring


@torch.no_grad()
def score(
    decoder: Decoder,
    prompts: Sequence[Sequence[int]],
    continuations: Sequence[Sequence[Sequence[int]]],
    *,
    batch_tokens: int = 16384,
) -> list[list[float]]:
    """Summed log-probability (nats) of every continuation of every prompt, the prompts being run once each.

    `batch_tokens` bounds prompt plus continuation tokens, padding included, of one pass.
    """
    examples = [
        Example(tuple(prompt), tuple(Target(tuple(ids), positive=True) for ids in many))
        for prompt, many in zip(prompts, continuations, strict=True)
    ]
    sizes = [(max(len(t.ids) for t in e.targets) + len(e.prompt)) * len(e.targets) for e in examples]
    order = sorted(range(len(examples)), key=sizes.__getitem__)
    scores: list[list[float]] = [[] for _ in examples]
    device = decoder.body.device
    with _evaluating(decoder.model):
        while order:
            fits = [k for k in range(1, len(order) + 1) if k * sizes[order[k - 1]] <= batch_tokens]
            take = max(fits, default=1)
            chosen, order = order[:take], order[take:]
            sums = iter(Pass(decoder, collate([examples[i] for i in chosen]).to(device)).logps().sum(1).tolist())
            for i in chosen:
                scores[i] = [next(sums) for _ in examples[i].targets]
    return scores
