"""Prefixed streams: a model is asked what it would say if other words stood before the text, and answers by that.

For the length of a `with` block the innermost model's `forward` is another one. Everything that asks the model meets it (generation of
any kind, log-probabilities, drift), and when the block is left, also by an exception, the model is what it was, bit for bit.

A prefix goes behind the token that opens a text (BOS, or EOS where a tokenizer has no BOS): opening, prefix, rest. A row that does not
begin with it has the prefix first. What comes out stands where it stood: the logits behind the prefix's last token are those of the
opening token's place. With an opening of several tokens, those of the places before its last are of no use.

All prefixes of all rows are run in one batch. Where a model can share a prompt (`untax.prefix.decoder` tries it), the keys and values of
the prefixes are computed once, when the block is entered, and repeated for every batch; else each batch reads them anew.

Shapes: B rows asked, T their columns, K prefixes, L columns of a prefixed row that are behind it or new, P tokens of the longest prefix
with its opening, R = B K rows run.
"""

from __future__ import annotations

import copy
import functools
import inspect
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from untax import models, prefix
from untax.types import UserError

__all__ = ["Applied", "next_logits", "patched"]

#: the prefixed logits (B, k, T, V) of some streams after another, and those of the plain stream (B, T, V), to the ones that are given back
Mix = Callable[[Tensor, Iterator[Tensor]], Tensor]

#: what `forward` may be given; any other tensor belongs to the rows in a way that is not known here
KNOWN = frozenset(("input_ids", "attention_mask", "position_ids", "past_key_values", "use_cache", "logits_to_keep", "cache_position"))  # fmt: skip
#: layers whose memory is keys and values, one of each a token
CACHED_LAYERS = frozenset(("full_attention", "sliding_attention", "chunked_attention"))
#: prompts that are asked together by `next_logits` and `Applied.asked`
ROWS_AT_ONCE = 16

_ACTIVE: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()


# --------------------------------------------------------------------------- what a block gives


@dataclass(frozen=True)
class Applied:
    """A decoding method at work on a model.

    `prefixes` are the token ids of each prefix, `prefix_ids` those of the instruction that every prompt must begin with (empty for a
    method without one), `opening` the token that a prefix goes behind. `reserved` tokens of the context are taken by the longest prefix.
    `plain` is the same model, the same weights, asked without the method: what drift and effect are measured from.
    """

    name: str
    options: Mapping[str, Any]
    prefixes: tuple[tuple[int, ...], ...]
    prefix_ids: tuple[int, ...]
    opening: tuple[int, ...]
    plain: Any = field(repr=False, compare=False)
    _model: Any = field(repr=False, compare=False)
    _streams: _Streams = field(repr=False, compare=False)

    @property
    def reserved(self) -> int:
        """Context tokens that the longest prefix takes."""
        return max(map(len, self.prefixes), default=0)

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the answers beside the model, as JSON: answers kept under other settings are not these."""
        told = {"method": self.name, "options": dict(self.options)}
        return {**told, "prefixes": [list(ids) for ids in self.prefixes], "opening": list(self.opening)}

    @property
    def cost(self) -> dict[str, Any]:
        """What the method has cost so far, padding counted.

        `streams` prefixed sequences are run for each one asked, beside the plain one or (`plain` False) in its place. `calls` of forward,
        `asked` tokens, `run` tokens; `extra_tokens_per_call` is the mean of run - asked. `prefix_tokens` are read once (`read_once`) or by
        every batch.
        """
        return self._streams.cost()

    def asked(self, rows: Sequence[Sequence[int]], *, stream: int = 0) -> list[list[int]]:
        """The ids that the model is really given for each row of ids, recorded from the tensors that went into it.

        `stream` says which prefix. A model that is asked without the method, as after the block, is given the rows themselves.
        """
        told: list[list[int]] = []
        for part in range(0, len(rows), ROWS_AT_ONCE):
            chosen = rows[part : part + ROWS_AT_ONCE]
            with self._streams.listening() as heard:
                _last_logits(self._model, chosen)
            told += [ids[stream] for ids in heard] if heard else [list(row) for row in chosen]
        return told


def next_logits(model: Any, tokenizer: Any, prompts: Sequence[str]) -> NDArray[np.float32]:
    """The logits (N, V) behind each prompt, of the model as it is asked now: inside a block those of the method."""
    rows = [models.prompt_ids(tokenizer, prompt) for prompt in prompts]
    parts = [_last_logits(model, rows[i : i + ROWS_AT_ONCE]) for i in range(0, len(rows), ROWS_AT_ONCE)]
    found: NDArray[np.float32] = torch.cat(parts).numpy() if parts else np.zeros((0, 0), dtype=np.float32)
    return found


def _last_logits(model: Any, rows: Sequence[Sequence[int]]) -> Tensor:
    ids_BT = torch.nn.utils.rnn.pad_sequence([torch.tensor(list(row)) for row in rows], batch_first=True)
    sizes_B = torch.tensor([len(row) for row in rows])
    mask_BT = (torch.arange(ids_BT.shape[1]) < sizes_B[:, None]).long()
    with models.asking(model):
        out = model(input_ids=ids_BT.to(model.device), attention_mask=mask_BT.to(model.device), use_cache=False)
        return out.logits[torch.arange(len(rows)), sizes_B - 1].float().cpu().clone()


# --------------------------------------------------------------------------- the block


@contextmanager
def patched(
    model: Any,
    tokenizer: Any,
    *,
    name: str,
    options: Mapping[str, Any],
    prefixes: Sequence[str],
    mix: Mix | None,
    instruction: bool = False,
) -> Iterator[Applied]:
    """Put the prefixed streams into the model's forward. `mix` None: the one prefixed stream takes the plain one's place.

    Weights, adapters and hooks must stand as they shall stay before the block is entered: what the prefixes mean to the model is read
    then. An adapter that is switched off inside leaves the base, asked as it is, without the method. No gradients flow.
    Raises: UserError for a model that trains, has such a block already, or cannot be asked with a prefix.
    """
    inner = model.get_base_model() if models.has_adapter(model) else model
    if inner in _ACTIVE:
        raise UserError(
            f"{name}: the model is under '{_ACTIVE[inner]}' already; one decoding method at a time. Leave its block first."
        )
    if inner.training:
        raise UserError(f"{name}: a decoding method is for a model in evaluation mode; call model.eval() before it.")
    ids = [tuple(models.target_ids(tokenizer, text)) for text in prefixes]
    streams = _Streams(name, model, inner, ids, _opening(tokenizer), mix)
    plain = copy.copy(inner)
    before = inner.__dict__.get("forward")
    inner.forward = streams.as_forward()
    _ACTIVE[inner] = name
    applied = Applied(
        name=name,
        options=options,
        prefixes=tuple(ids),
        prefix_ids=ids[0] if instruction else (),
        opening=streams.opening,
        plain=plain,
        _model=model,
        _streams=streams,
    )
    try:
        with models.reserving(inner, applied.reserved):
            yield applied
    finally:
        del _ACTIVE[inner]
        if before is None:
            del inner.forward
        else:
            inner.forward = before


def _opening(tokenizer: Any) -> tuple[int, ...]:
    ids = models.opening_ids(tokenizer)
    if not ids and (tokenizer.bos_token_id is not None or tokenizer.eos_token_id is not None):
        ids = models.prompt_ids(tokenizer, "")
    return tuple(ids)


# --------------------------------------------------------------------------- the streams


class _Room:
    """Keys and values (R, H, C, D) of which the first `filled` of the C places are taken."""

    def __init__(self, keys: Tensor, values: Tensor, filled: int) -> None:
        self.keys, self.values, self.filled = keys, values, filled

    def ends(self, keys: Tensor, more: int) -> bool:
        """Whether `keys` are what fills the room to its last token, nothing selected or cropped since, and `more` may follow in place."""
        same = keys.data_ptr() == self.keys.data_ptr() and len(keys) == len(self.keys)
        fits = keys.shape[-2] == self.filled and self.filled + more <= self.keys.shape[-2]
        return same and fits and (torch.is_inference_mode_enabled() or not self.keys.is_inference())


class _Growing(DynamicLayer):
    """A cache layer with room behind its tokens: of 6 streams, three quarters of the time would go into copying what is known already."""

    def __init__(self, keys: Tensor | None = None, values: Tensor | None = None, room: _Room | None = None) -> None:
        super().__init__()
        self.room = room
        if keys is not None and values is not None:
            self.lazy_initialization(keys, values)
            self.keys, self.values = keys, values

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.keys, self.values = key_states[..., :0, :], value_states[..., :0, :]
        old, more = self.keys.shape[-2], key_states.shape[-2]
        if self.room is None or not self.room.ends(self.keys, more):
            places = (0, 0, 0, more + max(32, old // 2))
            pad = torch.nn.functional.pad
            self.room = _Room(pad(self.keys, places), pad(self.values, places), old)
        new = self.room.filled = old + more
        self.room.keys[..., old:new, :] = key_states
        self.room.values[..., old:new, :] = value_states
        self.keys, self.values = self.room.keys[..., :new, :], self.room.values[..., :new, :]
        return self.keys, self.values


class _Held(DynamicLayer):
    """What the prefixed streams remember of the rows (B, K, …, L, D), kept in the caller's cache as a layer that no layer of the model reads.

    So whatever is done to the rows of that cache (some selected, repeated, reordered by a beam search, cropped by assisted decoding) is
    done to the streams.
    """

    def __init__(self, owner: object, keys: Tensor, values: Tensor, room: _Room | None = None) -> None:
        super().__init__()
        self.lazy_initialization(keys, values)
        self.keys, self.values, self.owner, self.room = keys, values, owner, room


@dataclass(frozen=True)
class _Columns:
    """Prefixed rows as they go into the model. `mask_BKL` also covers what `layers` (keys and values of (R, H, L - W, D)) hold."""

    ids_BKW: Tensor
    mask_BKL: Tensor
    positions_BKL: Tensor
    behind_BKL: Tensor  # the ids whose keys and values are in `layers`
    layers: list[_Growing]


class _Streams:
    """The forward of a model with K prefixed streams."""

    def __init__(self, name: str, model: Any, inner: Any, prefixes: Sequence[tuple[int, ...]], opening: tuple[int, ...], mix: Mix | None) -> None:  # fmt: skip
        self.name, self.inner, self.opening, self.mix = name, inner, opening, mix
        self.original = inner.forward
        self.names = list(inspect.signature(type(inner).forward).parameters)[1:]
        self.limit = models.context_length(inner)
        self.vocabulary = inner.config.get_text_config().vocab_size
        self.caches = bool(inner.config.get_text_config().to_dict().get("use_cache"))
        self.adapter = _adapter_layer(model)
        self.adapter_was = _adapter_state(self.adapter)
        self.calls = self.tokens_asked = self.tokens_run = 0
        self.heard: list[list[list[int]]] | None = None
        self.k = len(prefixes)
        self.prefix_tokens = sum(map(len, prefixes))
        longest = max(map(len, prefixes), default=0)
        if self.limit is not None and longest + len(opening) >= self.limit:
            raise UserError(
                f"{name}: a prefix of {longest} tokens leaves no room in the model's context of {self.limit}. Use a shorter one."
            )
        whole = functools.partial(torch.tensor, dtype=torch.long, device=inner.get_input_embeddings().weight.device)
        self.sizes_K = whole([len(ids) for ids in prefixes])
        # what stands before a row, without [0] and with [1] the opening; of the latter the last token takes the opening's own place
        heads = [list(prefixes), [(*opening, *ids)[:-1] for ids in prefixes]]
        self.last_K = whole([(*opening, *ids)[-1] if opening else 0 for ids in prefixes])
        self.head_sizes_2K = whole([[len(ids) for ids in side] for side in heads])
        self.width = max((len(ids) for side in heads for ids in side), default=0)
        padded = [[[*ids, *[0] * (self.width - len(ids))] for ids in side] for side in heads]
        self.heads_2KP = whole(padded).view(2, self.k, self.width)
        found = prefix.decoder(model)
        self.window = found.window
        self.uncachable = self._why_uncachable()
        self.head_layers = self._read_heads() if self.width and not found.separate_because else []

    def _why_uncachable(self) -> str:
        if "past_key_values" not in self.names:
            return "its forward takes no past_key_values"
        kinds = set(self.inner.config.get_text_config().to_dict().get("layer_types") or ()) - CACHED_LAYERS
        return f"it has layers of kind {', '.join(sorted(kinds))}" if kinds else ""

    @torch.no_grad()
    def _read_heads(self) -> list[tuple[Tensor, Tensor]]:
        """Keys and values (2, K, H, P, D) of every prefix, a layer each. Padded on the right: nothing looks at what comes behind it."""
        ids_RP = self.heads_2KP.flatten(0, 1)
        cache, sides = DynamicCache(), (2, self.k)
        extra = {"logits_to_keep": 1} if "logits_to_keep" in self.names else {}
        ones_RP = torch.ones_like(ids_RP)
        self.original(input_ids=ids_RP, attention_mask=ones_RP, past_key_values=cache, use_cache=True, **extra)
        self.tokens_run += ids_RP.numel()
        return [(layer.keys.unflatten(0, sides), layer.values.unflatten(0, sides)) for layer in cache.layers]

    def cost(self) -> dict[str, Any]:
        extra = (self.tokens_run - self.tokens_asked) / self.calls if self.calls else 0.0
        return {
            "streams": self.k,
            "plain": self.mix is not None,
            "prefix_tokens": self.prefix_tokens,
            "read_once": bool(self.head_layers),
            "calls": self.calls,
            "asked": self.tokens_asked,
            "run": self.tokens_run,
            "extra_tokens_per_call": extra,
        }

    @contextmanager
    def listening(self) -> Iterator[list[list[list[int]]]]:
        """Collect, for every row asked from now on, the ids that each of its streams was given."""
        self.heard = []
        try:
            yield self.heard
        finally:
            self.heard = None

    def as_forward(self) -> Callable[..., Any]:
        # HF's generate reads the signature to learn what it may pass
        @functools.wraps(self.original)
        def forward(*args: Any, **kwargs: Any) -> Any:
            given = {**dict(zip(self.names, args, strict=False)), **kwargs}
            return self.original(**given) if self._steps_aside() else self._forward(given)

        return forward

    def _steps_aside(self) -> bool:
        now = _adapter_state(self.adapter)
        if now == self.adapter_was:
            return False
        if now is None:  # switched off: the base is asked
            return True
        raise UserError(
            f"{self.name}: the model's adapter changed inside the block; what the prefixes mean to it was read before. "
            "Switch adapters outside of it."
        )

    # ------------------------------------------------------------------ one call

    @torch.no_grad()
    def _forward(self, given: dict[str, Any]) -> Any:
        self._refuse(given)
        self.calls += 1
        self.tokens_asked += given["input_ids"].numel()
        if not self.k:
            self.tokens_run += given["input_ids"].numel()
            return self.original(**given)
        rows, cache, wanted = len(given["input_ids"]), given.get("past_key_values"), given.get("use_cache")
        caching = cache is not None or bool(self.caches if wanted is None else wanted)
        if caching and self.uncachable:
            raise UserError(
                f"{self.name}: the streams of {type(self.inner).__name__} cannot be remembered between calls ({self.uncachable}). "
                "Ask with use_cache=False, or use another model."
            )
        held = self._held(cache, rows)
        columns = self._later(given, held) if held else self._first(given, caching)
        self._check_room(columns)
        as_tuple = given.pop("return_dict", None) is False
        out = self._replaced(given, columns, caching) if self.mix is None else self._mixed(given, columns, caching)
        return out.to_tuple() if as_tuple else out

    def _replaced(self, given: Mapping[str, Any], columns: _Columns, caching: bool) -> Any:
        """The one prefixed stream in place of the plain one."""
        out = self._run(given, columns, range(1), caching)
        width = given["input_ids"].shape[1]
        fields = {key: value for key, value in out.items() if key != "past_key_values"}
        if "hidden_states" in fields:
            fields["hidden_states"] = tuple(states[:, -width:] for states in fields["hidden_states"])
        if "attentions" in fields:
            fields["attentions"] = tuple(
                each if each is None else each[:, :, -width:, self.width :] for each in fields["attentions"]
            )
        if caching:
            cache = DynamicCache() if given.get("past_key_values") is None else given["past_key_values"]
            # this layer counts the tokens that were asked, as the caller's own cache would
            asked = columns.mask_BKL[:, :, self.width :, None]
            cache.layers[:] = [_Held(self, asked, asked), *self._memory(columns, out.past_key_values)]
            fields["past_key_values"] = cache
        return type(out)(**fields)

    def _mixed(self, given: Mapping[str, Any], columns: _Columns, caching: bool) -> Any:
        """The plain stream, its logits changed by those of the prefixed ones."""
        out = self.original(**{**given, "return_dict": True})
        self.tokens_run += given["input_ids"].numel()
        memory: list[_Held] = []

        def prefixed() -> Iterator[Tensor]:
            for ks in [range(self.k)] if caching else self._groups(given):
                each = self._run(given, columns, ks, caching)
                if caching:
                    memory.extend(self._memory(columns, each.past_key_values))
                yield each.logits.unflatten(0, (-1, len(ks)))

        if self.mix is not None:
            out.logits = self.mix(out.logits, prefixed())
            if caching:
                cache = out.past_key_values
                cache.layers[:] = [layer for layer in cache.layers if not isinstance(layer, _Held)] + memory
        return out

    def _memory(self, columns: _Columns, streams: Any) -> list[_Held]:
        """The streams' mask and positions, then their keys and values, as layers of the caller's cache."""
        shape = (len(columns.ids_BKW), self.k)
        known = _Held(self, columns.mask_BKL[:, :, None, :, None], columns.positions_BKL[:, :, None, :, None])
        return [known] + [
            _Held(self, layer.keys.unflatten(0, shape), layer.values.unflatten(0, shape), layer.room)
            for layer in streams.layers
        ]

    def _refuse(self, given: Mapping[str, Any]) -> None:
        if self.inner.training:
            raise UserError(
                f"{self.name}: a decoding method is for a model in evaluation mode; call model.eval(), or train outside the block."
            )
        ids, mask = given.get("input_ids"), given.get("attention_mask")
        if ids is None:
            raise UserError(f"{self.name}: the model must be asked with input_ids; embeddings have no opening token.")
        if mask is not None and not (isinstance(mask, Tensor) and mask.dim() == 2):
            raise UserError(
                f"{self.name}: the attention mask must be one of rows and columns. A cache of fixed size makes another: "
                "leave cache_implementation out."
            )
        if given.get("labels") is not None:
            raise UserError(
                f"{self.name}: a loss cannot be had from a decoding method; ask for logits, without labels."
            )
        other = sorted(key for key, value in given.items() if key not in KNOWN and isinstance(value, Tensor))
        if other:
            raise UserError(f"{self.name}: what {', '.join(other)} would be for prefixed rows is not known; ask with text only.")  # fmt: skip

    def _held(self, cache: Any, rows: int) -> list[_Held]:
        """What was remembered of these rows, or nothing where they begin."""
        if cache is None:
            return []
        if not isinstance(cache, Cache):
            raise UserError(
                f"{self.name}: past_key_values is a {type(cache).__name__}; a transformers Cache is needed."
            )
        held = [layer for layer in cache.layers if isinstance(layer, _Held)]
        if not held and cache.get_seq_length() == 0:
            return []
        if not held or any(layer.owner is not self for layer in held):
            raise UserError(
                f"{self.name}: this cache was begun outside of the block, so the streams with a prefix have not read it. "
                "Begin with an empty cache."
            )
        if len(held[0].keys) != rows:
            raise UserError(f"{self.name}: the cache is one of {len(held[0].keys)} rows, and {rows} are asked.")
        return held

    def _check_room(self, columns: _Columns) -> None:
        if self.limit is None:
            return
        longest = int((columns.positions_BKL * columns.mask_BKL).max()) + 1
        if longest > self.limit:
            raise UserError(
                f"{self.name}: with its prefix a text has {longest} tokens; the model's context is {self.limit}. "
                f"Ask with texts of at most {self.limit - int(self.sizes_K.max())} tokens, or use a shorter prefix."
            )

    # ------------------------------------------------------------------ columns

    def _first(self, given: Mapping[str, Any], caching: bool) -> _Columns:
        """The prefixed rows from their beginning."""
        ids_BT = given["input_ids"]
        rows, width = ids_BT.shape
        mask_BT = given.get("attention_mask")
        mask_BT = torch.ones_like(ids_BT) if mask_BT is None else mask_BT.long()
        if caching and not bool(mask_BT.any(1).all()):
            raise UserError(
                f"{self.name}: a row begins with nothing but padding, so the prefix has no place yet; leave prefill_chunk_size out."
            )
        at_T = torch.arange(width, device=ids_BT.device)
        start_B1 = mask_BT.argmax(1, keepdim=True)
        opens_B = self._opens(ids_BT, start_B1)
        # where the prefix goes: the place of the opening's last token, or that of the first token
        seat_B1 = start_B1 + (len(self.opening) - 1) * opens_B[:, None]
        positions_BT = _positions(given, mask_BT)[:, None] + self.sizes_K[:, None]
        body_BT = mask_BT * (at_T >= seat_B1)
        replaced_BT = (at_T == seat_B1) & opens_B[:, None]
        ids_BKT = torch.where(replaced_BT[:, None], self.last_K[:, None], ids_BT[:, None])
        side_B = opens_B.long()
        heads_BKP, head_sizes_BK1 = self.heads_2KP[side_B], self.head_sizes_2K[side_B][..., None]
        longest = self.width
        body_BKT = body_BT[:, None].expand(rows, self.k, width)
        if self.head_layers and (self.window is None or (not caching and longest + width <= self.window)):
            at_P = torch.arange(longest, device=ids_BT.device)
            return _Columns(
                ids_BKW=ids_BKT,
                mask_BKL=torch.cat([(at_P < head_sizes_BK1).long(), body_BKT], -1),
                positions_BKL=torch.cat([at_P.expand_as(heads_BKP), positions_BT], -1),
                behind_BKL=heads_BKP,
                layers=[
                    _Growing(keys[side_B].flatten(0, 1), values[side_B].flatten(0, 1))
                    for keys, values in self.head_layers
                ],
            )
        # close up: every row is one piece, as if it had been asked alone
        at_L = torch.arange(longest + width, device=ids_BT.device)
        in_head_BKL = at_L - (longest + seat_B1[:, None] - head_sizes_BK1)
        inside_BKL = (in_head_BKL >= 0) & (in_head_BKL < head_sizes_BK1)
        in_head_BKL = in_head_BKL.clamp(0, max(longest - 1, 0))
        pad = (longest, 0)
        padded = [torch.nn.functional.pad(each, pad) for each in (ids_BKT, body_BKT, positions_BT)]
        if longest:
            ids_of_head, ones = heads_BKP.gather(-1, in_head_BKL), torch.ones_like(in_head_BKL)
            padded = [
                torch.where(inside_BKL, a, b) for a, b in zip((ids_of_head, ones, in_head_BKL), padded, strict=True)
            ]
        return _Columns(padded[0], padded[1], padded[2], heads_BKP[..., :0], [])

    def _opens(self, ids_BT: Tensor, start_B1: Tensor) -> Tensor:
        """Which rows begin with the opening."""
        many, width = len(self.opening), ids_BT.shape[1]
        if not many:
            return torch.zeros(len(ids_BT), dtype=torch.bool, device=ids_BT.device)
        at_BM = start_B1 + torch.arange(many, device=ids_BT.device)
        opening_M = torch.tensor(self.opening, device=ids_BT.device)
        same_BM = ids_BT.gather(1, at_BM.clamp(max=width - 1)) == opening_M
        return (same_BM & (at_BM < width)).all(1)

    def _later(self, given: Mapping[str, Any], held: Sequence[_Held]) -> _Columns:
        """New columns behind what is remembered."""
        ids_BT, mask = given["input_ids"], given.get("attention_mask")
        rows, width = ids_BT.shape
        mask_BT = torch.ones_like(ids_BT) if mask is None else mask[:, -width:].long()
        known, *layers = [layer for layer in held if layer.keys.dim() == 5]
        before_BKL, were_BKL = known.keys[..., 0, :, 0], known.values[..., 0, :, 0]
        if given.get("position_ids") is None:
            last_BK1 = (before_BKL * (were_BKL + 1)).amax(-1, keepdim=True) - 1
            positions_BKT = (last_BK1 + mask_BT.cumsum(1)[:, None]).clamp(min=0)
        else:
            positions_BKT = _positions(given, mask_BT)[:, None] + self.sizes_K[:, None]
        shape = (rows, self.k, width)
        return _Columns(
            ids_BKW=ids_BT[:, None].expand(shape),
            mask_BKL=torch.cat([before_BKL, mask_BT[:, None].expand(shape)], -1),
            positions_BKL=torch.cat([were_BKL, positions_BKT], -1),
            behind_BKL=torch.zeros_like(before_BKL),
            layers=[_Growing(layer.keys.flatten(0, 1), layer.values.flatten(0, 1), layer.room) for layer in layers],
        )

    # ------------------------------------------------------------------ running

    def _groups(self, given: Mapping[str, Any]) -> list[range]:
        """Streams that are run together: all, unless their block of logits would be too large."""
        keep = given.get("logits_to_keep", 0)
        rows, width = given["input_ids"].shape
        kept = width if not isinstance(keep, int) or keep == 0 else min(keep, width)
        size = min(max(1, models.LOGITS_AT_ONCE // (rows * kept * self.vocabulary)), self.k)
        return [range(k, min(k + size, self.k)) for k in range(0, self.k, size)]

    def _run(self, given: Mapping[str, Any], columns: _Columns, ks: range, caching: bool) -> Any:
        """Some streams of all rows as one batch; logits of the columns that were asked."""
        rows, here = len(columns.ids_BKW), slice(ks.start, ks.stop)
        ids_RW = columns.ids_BKW[:, here].flatten(0, 1)
        width, new = given["input_ids"].shape[1], ids_RW.shape[1]
        cache: Any = None
        if caching or columns.layers:
            cache = DynamicCache()
            cache.layers, cache.layer_class_to_replicate = list(columns.layers), _Growing
        if cache is not None and len(ks) < self.k:
            part = [(layer.keys.unflatten(0, (rows, self.k)), layer.values.unflatten(0, (rows, self.k))) for layer in columns.layers]  # fmt: skip
            cache.layers = [
                _Growing(keys[:, here].flatten(0, 1), values[:, here].flatten(0, 1)) for keys, values in part
            ]
        asked: dict[str, Any] = {
            "input_ids": ids_RW,
            "attention_mask": columns.mask_BKL[:, here].flatten(0, 1),
            "position_ids": columns.positions_BKL[:, here, -new:].flatten(0, 1),
            "past_key_values": cache,
            "use_cache": cache is not None,
        }
        keep = given.get("logits_to_keep", 0)
        asked["logits_to_keep"] = keep + (new - width) if isinstance(keep, Tensor) else keep or width
        asked = {key: value for key, value in asked.items() if key in self.names}
        if self.mix is None:
            asked |= {key: given[key] for key in ("output_attentions", "output_hidden_states") if given.get(key)}
        self._hear(columns, here)
        self.tokens_run += ids_RW.numel()
        out = self.original(**asked, return_dict=True)
        if "logits_to_keep" not in self.names:
            out.logits = out.logits[:, -width:]
        return out

    def _hear(self, columns: _Columns, here: slice) -> None:
        if self.heard is None:
            return
        ids_BKL = torch.cat([columns.behind_BKL[:, here], columns.ids_BKW[:, here]], -1)
        rows = [
            [ids[mask].tolist() for ids, mask in zip(ids_KL, mask_KL, strict=True)]
            for ids_KL, mask_KL in zip(ids_BKL, columns.mask_BKL[:, here].bool(), strict=True)
        ]
        if here.start == 0:
            self.heard.extend(rows)
        else:
            for known, more in zip(self.heard[-len(rows) :], rows, strict=True):
                known.extend(more)


def _positions(given: Mapping[str, Any], mask_BT: Tensor) -> Tensor:
    positions = given.get("position_ids")
    if positions is None:
        return (mask_BT.cumsum(1) - 1).clamp(min=0)
    expanded: Tensor = positions.to(mask_BT.device).expand(mask_BT.shape)
    return expanded


def _adapter_layer(model: Any) -> Any:
    """A layer that shows whether the model's adapter is on; None without one."""
    if not models.has_adapter(model):
        return None
    from peft.tuners.tuners_utils import BaseTunerLayer

    found = next((module for module in model.modules() if isinstance(module, BaseTunerLayer)), None)
    if found is None:
        raise UserError(
            "This adapter changes no layer but what the model reads; decoding methods know LoRA and its like."
        )
    return found


def _adapter_state(layer: Any) -> tuple[str, ...] | None:
    """The adapters at work; None where there is none, or where they are switched off."""
    return None if layer is None or layer.disable_adapters else tuple(layer.active_adapters)
