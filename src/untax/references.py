"""Reference rows: a few hundred texts that show what must not be lost. Tokenised once, cut once, batched alike in every process.

Projections take their gradients, penalties hold the model to what it said of them, replay trains on them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from untax import models
from untax.types import ContrastiveRecord, UserError

__all__ = ["References", "Row", "Start", "nll", "of_records", "read", "still", "target_logits"]

log = logging.getLogger(__name__)

#: columns that hold a prompt, and those that may hold the text that follows it; CE is taken on the latter
PROMPTS = ("prompt", "question", "source")
TARGETS = ("completion", "chosen", "answer", "reference")
#: columns that say beside `input_ids` which tokens count; -100 or 0 is no
MARKS = ("labels", "completion_mask", "assistant_masks")

#: bytes of remembered log-probabilities from which on somebody should be told
MANY_BYTES = 4 * 2**30


@dataclass(frozen=True)
class Row:
    """One reference text: ids, and where the part begins that counts (never 0: the first token has no context)."""

    ids: tuple[int, ...]
    start: int

    @property
    def tokens(self) -> int:
        """How many tokens count."""
        return len(self.ids) - self.start


@dataclass(frozen=True)
class References:
    """A named set of reference rows; `cut` of them were too long and lost the end of their text or the start of their prompt."""

    name: str
    rows: tuple[Row, ...]
    cut: int = 0

    @property
    def tokens(self) -> int:
        """How many tokens count, over all rows."""
        return sum(row.tokens for row in self.rows)

    def parts(self, count: int) -> list[References]:
        """The rows dealt out to `count` sets, one each in turn; fewer sets where there are fewer rows."""
        if count < 1:
            raise UserError(f"references '{self.name}': cannot be dealt out to {count} sets; at least 1.")
        count = min(count, len(self.rows))
        return [References(self.name, self.rows[i::count], 0) for i in range(count)]

    def batches(self, size: int, *, rank: int = 0, world: int = 1) -> list[tuple[Row, ...]]:
        """This process's batches of up to `size` rows, the longest first; as many in every process, some of them empty."""
        if size < 1 or not 0 <= rank < world:
            raise UserError(f"references '{self.name}': batches of {size} rows for process {rank} of {world}.")
        # sharded models need every process in every forward pass
        ordered = sorted(self.rows, key=lambda row: -len(row.ids))
        count = -(-len(ordered) // (size * world))
        mine = ordered[rank::world]
        return [tuple(mine[i * size : (i + 1) * size]) for i in range(count)]


def read(name: str, rows: Iterable[Any], tokenizer: Any, *, max_length: int | None = None) -> References:
    """Tokenise the rows of a dataset, or of any iterable; finished references are taken as they are.

    A row is a text; a mapping with `text`, with `messages`, or with a prompt (`prompt`, `question`, `source`) and a text that
    follows it (`completion`, `chosen`, `answer`, `reference`; a rejected text is not read), both as texts or both as messages;
    or already tokenised: `input_ids` with `labels`, `completion_mask` or `assistant_masks`, or `prompt_ids` with `chosen_ids`.
    After a prompt only the text behind it counts, of a conversation the last answer; EOS closes a text unless its row has
    `ended: false`. Rows without a text are left out. What is longer than `max_length` loses the end of its text, but a text
    behind a long prompt keeps at least half of the room: then the prompt loses its beginning.
    Raises: UserError for no rows, or a row that is none of these, with its number (from 0) and what it holds.
    """
    if isinstance(rows, References):
        return replace(rows, name=name)
    # a table of pandas would give the names of its columns
    if not isinstance(rows, Iterable) or isinstance(rows, str | bytes | Mapping) or type(rows).__name__ == "DataFrame":
        raise UserError(f"references '{name}': give a dataset or a list of rows, not a {type(rows).__name__}.")
    if max_length is not None and max_length < 2:
        raise UserError(f"references '{name}': max_length is {max_length}; it must be at least 2.")
    found, cut = [], 0
    for number, row in enumerate(rows):
        ids, start = _ids(row, tokenizer, f"references '{name}', row {number}")
        if len(ids) <= start:
            continue
        if max_length is not None and len(ids) > max_length:
            cut += 1
            told = min(len(ids) - start, max(max_length - start, max_length - max_length // 2))
            kept = min(start, max_length - told)
            ids, start = ids[start - kept : start + told], kept
        found.append(Row(tuple(ids), start))
    if not found:
        raise UserError(f"references '{name}': there is no row with a text; at least one is needed.")
    return References(name, tuple(found), cut)


def of_records(
    name: str, records: Sequence[ContrastiveRecord], tokenizer: Any, *, prompt: str, max_length: int | None = None
) -> References:
    """The reference texts of contrastive records, each behind its own prompt or the one that `prompt` makes of its source."""
    rows = [
        {
            # a plain text has no source, and no template stands before it in training either
            "prompt": record.extra.get("prompt", prompt.replace("{source}", record.source) if record.source else ""),
            "completion": record.reference,
        }
        for record in records
    ]
    return read(name, rows, tokenizer, max_length=max_length)


def _ids(row: Any, tokenizer: Any, where: str) -> tuple[list[int], int]:
    """The ids of a row and where the part begins that counts; nothing counts where the row has no text."""
    if isinstance(row, str):
        row = {"text": row}
    if not isinstance(row, Mapping):
        raise UserError(f"{where} is a {type(row).__name__}; a text or a mapping of columns is needed.")
    row = {key: value for key, value in row.items() if value is not None}  # a table has every column in every row
    if "input_ids" in row or ("prompt_ids" in row and "chosen_ids" in row):
        return _tokenised(row, tokenizer, where)
    prompts = [key for key in PROMPTS if key in row]
    targets = [key for key in TARGETS if key in row]
    ended = bool(row.get("ended", True))
    if prompts and targets:
        return _joined(row[prompts[0]], row[targets[0]], tokenizer, where, ended)
    if "messages" in row:
        return _conversation(row["messages"], tokenizer, where)
    for key in ("text", *targets):
        if key in row:
            return _joined([] if isinstance(row[key], list) else "", row[key], tokenizer, where, ended)
    raise UserError(
        f"{where} has the columns {', '.join(map(str, row)) or 'of nothing'}; 'text', 'messages', or 'prompt' with "
        "'completion' (or 'chosen') is needed."
    )


def _tokenised(row: Mapping[str, Any], tokenizer: Any, where: str) -> tuple[list[int], int]:
    """Of tokens that are marked the last run counts; what stands before it is its context."""
    marks = [key for key in MARKS if key in row]
    try:
        if "input_ids" in row:
            ids = [int(i) for i in row["input_ids"]]
            flags = (
                [int(mark) not in ((-100,) if marks[0] == "labels" else (0,)) for mark in row[marks[0]]]
                if marks
                else None
            )
        else:
            ids = [int(i) for part in ("prompt_ids", "chosen_ids") for i in row[part]]
            flags = [i >= len(row["prompt_ids"]) for i in range(len(ids))]
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: its ids or marks are not a list of whole numbers ({error}).") from error
    flags = [True] * len(ids) if flags is None else flags
    if len(flags) != len(ids):
        raise UserError(f"{where} has {len(ids)} input_ids and {len(flags)} {marks[0]}; they must be as many.")
    wrong = [i for i in ids if not 0 <= i < len(tokenizer)]
    if wrong:
        raise UserError(f"{where} holds the id {wrong[0]}; the tokenizer has those from 0 to {len(tokenizer) - 1}.")
    counted = [t for t in range(1, len(ids)) if flags[t]]
    if not counted:
        return ids, len(ids)
    start = end = counted[-1]
    while start > 1 and flags[start - 1]:
        start -= 1
    return ids[: end + 1], start


def _joined(prompt: Any, text: Any, tokenizer: Any, where: str, ended: bool) -> tuple[list[int], int]:
    if isinstance(prompt, list) and isinstance(text, list):
        return _conversation([*prompt, *text], tokenizer, where)
    if not isinstance(prompt, str) or not isinstance(text, str):
        raise UserError(
            f"{where}: prompt and text must both be texts, or both lists of messages, not a {type(prompt).__name__} "
            f"and a {type(text).__name__}."
        )
    if not text.strip():
        return [], 0
    special = tokenizer.bos_token_id is not None or tokenizer.eos_token_id is not None
    opening = models.prompt_ids(tokenizer, prompt) if prompt or special else []
    spaced = text if not prompt or prompt[-1].isspace() or text[:1].isspace() else " " + text
    ids = [*opening, *models.target_ids(tokenizer, spaced)]
    if ended and tokenizer.eos_token_id is not None and ids[-1] != tokenizer.eos_token_id:
        ids.append(int(tokenizer.eos_token_id))
    return ids, max(1, len(opening))


def _conversation(messages: Any, tokenizer: Any, where: str) -> tuple[list[int], int]:
    """The last answer of a conversation counts, as the tokenizer's chat template writes it."""
    if not tokenizer.chat_template:
        raise UserError(f"{where} holds messages, and the tokenizer has no chat template: give texts instead.")
    if not isinstance(messages, list | tuple) or not all(isinstance(one, Mapping) for one in messages):
        raise UserError(f"{where}: messages must be a list of mappings with 'role' and 'content'.")
    if not messages or messages[-1].get("role") != "assistant":
        raise UserError(f"{where}: the messages must end with the assistant's.")
    content = messages[-1].get("content")
    if not content or (isinstance(content, str) and not content.strip()):
        return [], 0

    def told(part: Sequence[Any], more: bool) -> list[int]:
        try:
            text = tokenizer.apply_chat_template(list(part), tokenize=False, add_generation_prompt=more)
        except Exception as error:  # a template is a program: it raises what it likes
            raise UserError(f"{where}: the chat template refuses the messages: {error}") from error
        return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    whole = told(messages, False)
    before = told(messages[:-1], True) if messages[1:] else []
    # where the template writes a finished answer otherwise than it opens one, what differs counts
    same = next((i for i, (one, other) in enumerate(zip(whole, before, strict=False)) if one != other), len(before))
    return whole, max(1, min(same, len(whole)))


# --------------------------------------------------------------------------- losses on rows


@contextmanager
def still(model: nn.Module) -> Iterator[None]:
    """The model as it is used, not as it is trained: no dropout, no noise; activations are checkpointed as before.

    A backward pass after the block is still too: layers that are run again for it are run without dropout again.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    before = {module: module.training for module in model.modules()}
    checkpointed = {
        layer: layer._gradient_checkpointing_func
        for layer in before
        if isinstance(layer, GradientCheckpointingLayer) and layer.gradient_checkpointing and layer.training
    }
    model.eval()
    for layer, function in checkpointed.items():
        layer.training = True  # it checkpoints only while it trains
        layer._gradient_checkpointing_func = partial(_checkpointed, layer, function)
    try:
        yield
    finally:
        for module, training in before.items():
            module.training = training
        for layer, function in checkpointed.items():
            layer._gradient_checkpointing_func = function


def _checkpointed(layer: nn.Module, function: Callable[..., Any], forward: Callable[..., Any], *given: Any) -> Any:
    def evaluated(*inputs: Any) -> Any:
        before = {module: module.training for module in layer.modules()}
        layer.eval()
        try:
            return forward(*inputs)
        finally:
            for module, training in before.items():
                module.training = training

    return function(evaluated, *given)


def target_logits(model: Any, rows: Sequence[Row]) -> tuple[Tensor, Tensor]:
    """Logits (T, V) in float32 that predict the tokens that count, row after row, and those tokens (T).

    No rows give logits that count nothing and still run the model, as a sharded one needs.
    """
    used = rows or (Row((0, 0), 2),)
    width = max(len(row.ids) for row in used)
    device = next(model.parameters()).device
    ids_BT = torch.tensor([[*row.ids, *[0] * (width - len(row.ids))] for row in used], device=device)
    mask_BT = torch.tensor([[1] * len(row.ids) + [0] * (width - len(row.ids)) for row in used], device=device)
    logits_BTV = model(input_ids=ids_BT, attention_mask=mask_BT, use_cache=False).logits
    counted_BT = torch.tensor(
        [[row.start <= t + 1 < len(row.ids) for t in range(width)] for row in used], device=device
    )
    return logits_BTV[counted_BT].float(), ids_BT.roll(-1, 1)[counted_BT]


def nll(model: Any, rows: Sequence[Row]) -> tuple[Tensor, int]:
    """Sum over the tokens that count of -log p(token), in nats, and their number."""
    logits_TV, ids_T = target_logits(model, rows)
    return F.cross_entropy(logits_TV, ids_T, reduction="sum"), int(ids_T.numel())


class Start:
    """What the model said of reference rows when training began, and how far it has moved from that.

    Under an adapter the start is the model with its adapter switched off, asked each time. Otherwise `remember` keeps the log-probabilities
    of every token that counts, on the CPU: all of them, or with `k` the k largest and their ids.
    Paper: Baichuan Alignment 2024, arXiv 2410.14940 (top-k); one more bin holds all other tokens (`lump`), so that the estimate never
    exceeds the exact KL and mass that leaves the k is seen.
    """

    def __init__(self, *, k: int | None = None, lump: bool = True) -> None:
        if k is not None and k < 1:
            raise UserError(f"k is {k}; it must be at least 1, or None for the exact KL.")
        self.k, self.lump = k, lump
        self.kept: dict[Row, tuple[Tensor, Tensor | None]] = {}

    @torch.no_grad()
    def remember(self, model: Any, rows: Sequence[Row]) -> None:
        """Keep what the model says of these rows now; nothing to do under an adapter."""
        if models.has_adapter(model):
            return
        with still(model):
            for row in dict.fromkeys(rows):
                if row not in self.kept:
                    ids_TK, logps_TB = self._picked(target_logits(model, (row,))[0])
                    if not self.kept:
                        self._say(logps_TB.shape[-1] * (1 if ids_TK is None else 2), rows)
                    self.kept[row] = (logps_TB.cpu(), None if ids_TK is None else ids_TK.int().cpu())

    def _say(self, numbers: int, rows: Sequence[Row]) -> None:
        needed = 4 * numbers * sum(row.tokens for row in rows)
        if needed > MANY_BYTES:
            log.warning(
                "the start's log-probabilities of %d reference rows take %.1f GB; k=500 keeps the 500 largest a token only",
                len(rows),
                needed / 1e9,
            )

    def _picked(self, logits_TV: Tensor) -> tuple[Tensor | None, Tensor]:
        """The k likeliest tokens (none where all are meant), and the log-probabilities of the bins."""
        if self.k is None or self.k >= logits_TV.shape[-1]:
            return None, self._bins(logits_TV, None)
        ids_TK = logits_TV.topk(self.k, dim=-1).indices
        return ids_TK, self._bins(logits_TV, ids_TK)

    def _bins(self, logits_TV: Tensor, ids_TK: Tensor | None) -> Tensor:
        """Log-probabilities of all tokens, or of those picked and all others together, or of those picked alone."""
        if ids_TK is None:
            return logits_TV.log_softmax(-1)
        picked_TK = logits_TV.gather(-1, ids_TK)
        if not self.lump:
            return picked_TK.log_softmax(-1)
        rest_TV = logits_TV.scatter(-1, ids_TK, -torch.inf)
        none_T = (rest_TV == -torch.inf).all(-1)  # where nothing is left the logarithm has no gradient
        rest_T = rest_TV.masked_fill(none_T[:, None], 0.0).logsumexp(-1).masked_fill(none_T, -torch.inf)
        return torch.cat([picked_TK, rest_T[:, None]], dim=-1) - logits_TV.logsumexp(-1, keepdim=True)

    def kl(self, model: Any, rows: Sequence[Row]) -> tuple[Tensor, int]:
        """Sum over the tokens that count of KL(model || start), in nats, and their number; 0 for no rows.

        Raises: UserError for a row that was not remembered.
        """
        ids_TK, old_TB = self._start_of(model, rows)
        logits_TV, _ = target_logits(model, rows)
        if not rows:
            return logits_TV.sum(), 0
        old_TB = old_TB.to(logits_TV.device)
        new_TB = self._bins(logits_TV, None if ids_TK is None else ids_TK.to(logits_TV.device).long())
        return _divergence(new_TB, old_TB), len(new_TB)

    def _start_of(self, model: Any, rows: Sequence[Row]) -> tuple[Tensor | None, Tensor]:
        if models.has_adapter(model):
            with torch.no_grad(), models.adapter_off(model):
                return self._picked(target_logits(model, rows)[0])
        missing = [row for row in rows if row not in self.kept]
        if missing:
            raise UserError(f"{len(missing)} reference rows were not remembered when training began.")
        kept = [self.kept[row] for row in rows]
        ids = [ids_TK for _, ids_TK in kept if ids_TK is not None]
        logps = torch.cat([logps_TB for logps_TB, _ in kept]) if kept else torch.empty(0)
        return torch.cat(ids) if ids else None, logps


def _divergence(new_TB: Tensor, old_TB: Tensor) -> Tensor:
    """Sum over rows of KL(new || old) of log-probabilities; what the new one never says adds nothing, whatever the old one did."""
    never = new_TB == -torch.inf
    new_TB = new_TB.masked_fill(never, 0.0)
    terms_TB = new_TB.exp() * (new_TB - old_TB.masked_fill(never, 0.0))
    return terms_TB.masked_fill(never, 0.0).sum()
