"""The models behind the kinds: translation and gap filling (encoder-decoder), masked words, continuation with probabilities."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from untax import models
from untax.data.augment.generators import GAP, MASK, Answer, Model, Request
from untax.scorers import hash_files
from untax.types import UserError

__all__ = ["CausalWriter", "MaskFiller", "SentenceEncoder", "Seq2SeqWriter", "load"]

#: tokens between two looks for a stop string: a look decodes every text
STOP_LOOK = 8
#: how many of the likeliest words are looked at first for a top-p set
TOP_P_LOOK = 128


def load(name: str, wants: str, *, device: str = "cpu", allow_network: bool = False) -> Model:
    """A model for what a kind wants: "translation", "masked", "continuing" (either architecture) or "causal".

    Raises: UserError when it cannot be loaded as that.
    """
    folder = Path(name).expanduser()
    if wants == "masked":
        return MaskFiller(name, device=device, allow_network=allow_network)
    if wants == "translation" or (wants == "continuing" and _is_encoder_decoder(name, folder, allow_network)):
        return Seq2SeqWriter(name, device=device, allow_network=allow_network)
    model, tokenizer = models.load(name, device=device, allow_network=allow_network)
    return CausalWriter(model, tokenizer, name=folder.name)


def _is_encoder_decoder(name: str, folder: Path, allow_network: bool) -> bool:
    from transformers import AutoConfig

    if not folder.is_dir() and not allow_network:
        return False  # models.load says what is missing
    try:
        return bool(AutoConfig.from_pretrained(name, local_files_only=not allow_network).is_encoder_decoder)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"generator {name}: its config.json cannot be read: {error}") from error


def _load_parts(name: str, auto_class: Any, what: str, device: str, allow_network: bool) -> tuple[Any, Any, str]:
    """Model, tokenizer and a hash of the weights."""
    from transformers import AutoTokenizer

    folder = Path(name).expanduser()
    local = folder.is_dir()
    if not local and not allow_network:
        raise UserError(
            f"generator: there is no model folder {folder}. Give a {what} directory (a hub name needs allow_network)."
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, local_files_only=not allow_network)
        model, info = auto_class.from_pretrained(
            name, local_files_only=not allow_network, use_safetensors=True, output_loading_info=True
        )
    except Exception as error:  # tokenizers and safetensors raise plain Exception for damaged files
        first = next(iter(str(error).splitlines()), "")
        raise UserError(f"generator {name}: cannot be loaded as a {what}: {first}") from error
    if info["missing_keys"]:
        missing = sorted(info["missing_keys"])
        raise UserError(
            f"generator {name}: it is no {what}: the weights lack {len(missing)} tensors, the first {missing[0]}."
        )
    files = [*folder.glob("*.safetensors"), folder / "config.json"] if local else []
    identity = hash_files(files) if local else f"{name}@{model.config._commit_hash}"
    return model.to(device).eval(), tokenizer, identity


# --------------------------------------------------------------------------- encoder-decoder


class Seq2SeqWriter:
    """Translates a text, or fills the gap of a text in the manner of T5 (sentinels); Marian, T5, BART and the like."""

    continues = False

    def __init__(self, name: str, *, device: str = "cpu", allow_network: bool = False) -> None:
        from transformers import AutoModelForSeq2SeqLM

        self._model, self._tokenizer, identity = _load_parts(
            name, AutoModelForSeq2SeqLM, "seq2seq model", device, allow_network
        )
        self.name = Path(name).name
        self.identity = f"seq2seq:{identity}"

    def run(self, requests: Sequence[Request], seed: int) -> list[Answer]:
        """One answer per request; the requests share their settings."""
        settings = requests[0]
        texts = [self._with_sentinel(request) for request in requests]
        places = _number(self._model.config, "max_position_embeddings", 10**6)
        longest = min(int(self._tokenizer.model_max_length), places, 512)
        inputs = self._tokenizer(texts, return_tensors="pt", padding=True, truncation=True, max_length=longest)
        inputs.pop("token_type_ids", None)
        options: dict[str, Any] = {
            "num_beams": settings.beams,
            "max_new_tokens": min(settings.max_new_tokens, places - 1),
            "max_length": None,
            "do_sample": settings.temperature > 0,
        }
        if settings.temperature > 0:
            options |= {"temperature": settings.temperature, "top_p": settings.top_p, "top_k": 0}
        with torch.random.fork_rng(), torch.inference_mode():
            torch.manual_seed(seed)
            out = self._model.generate(**inputs.to(self._model.device), num_return_sequences=settings.n, **options)
        written = self._tokenizer.batch_decode(out, skip_special_tokens=not settings.gap)
        if settings.gap:
            written = [self._inside_sentinels(text) for text in written]
        return [
            Answer(tuple(text.strip() for text in written[i : i + settings.n]))
            for i in range(0, len(written), settings.n)
        ]

    def _with_sentinel(self, request: Request) -> str:
        if not request.gap:
            return request.text
        if "<extra_id_0>" not in self._tokenizer.get_vocab():
            raise UserError(
                f"generator {self.name}: it has no sentinels (<extra_id_0>), so it cannot fill a gap. Use a T5 or a decoder."
            )
        return request.text.replace(GAP, "<extra_id_0>")

    def _inside_sentinels(self, text: str) -> str:
        found = re.search(r"<extra_id_0>(.*?)(?:<extra_id_1>|</s>|$)", text, re.S)
        inside = found.group(1) if found else text
        for special in self._tokenizer.all_special_tokens:
            inside = inside.replace(special, " ")
        return " ".join(re.sub(r"<extra_id_\d+>", " ", inside).split())


def _number(config: Any, name: str, default: int) -> int:
    """A number of a model configuration that not every architecture has."""
    value = config.to_dict().get(name)
    return default if value is None else int(value)


# --------------------------------------------------------------------------- masked words


class MaskFiller:
    """The likeliest words for each mask of a text, all masks read at once; BERT, RoBERTa and the like."""

    continues = False

    def __init__(self, name: str, *, device: str = "cpu", allow_network: bool = False) -> None:
        from transformers import AutoModelForMaskedLM

        self._model, self._tokenizer, identity = _load_parts(
            name, AutoModelForMaskedLM, "masked language model", device, allow_network
        )
        if self._tokenizer.mask_token is None:
            raise UserError(f"generator {name}: its tokenizer has no mask token: it is no masked language model.")
        self.name = Path(name).name
        self.identity = f"masked:{identity}"

    def run(self, requests: Sequence[Request], seed: int) -> list[Answer]:
        """For every mask the `top_k` best words; pieces of words and marks are left out."""
        texts = [request.text.replace(MASK, self._tokenizer.mask_token) for request in requests]
        longest = min(
            int(self._tokenizer.model_max_length), _number(self._model.config, "max_position_embeddings", 10**6) - 2
        )
        inputs = self._tokenizer(texts, return_tensors="pt", padding=True, truncation=True, max_length=longest)
        with torch.inference_mode():
            logits = self._model(**inputs.to(self._model.device)).logits
        answers = []
        for row, ids, request in zip(logits, inputs["input_ids"], requests, strict=True):
            places = (ids == self._tokenizer.mask_token_id).nonzero().flatten().tolist()
            answers.append(Answer(fills=tuple(self._words(row[place], request.top_k) for place in places)))
        return answers

    def _words(self, scores: torch.Tensor, top_k: int) -> tuple[str, ...]:
        words = []
        # look further than top_k, since pieces of words do not count
        for index in scores.topk(min(len(scores), 8 * top_k)).indices.tolist():
            word = self._tokenizer.decode([index]).strip()
            if word.isalnum() and index not in self._tokenizer.all_special_ids and word not in words:
                words.append(word)
        return tuple(words[:top_k])


# --------------------------------------------------------------------------- decoder


class CausalWriter:
    """Continues prompts by sampling: the prompt is read once for all its samples, and every token's probability is kept."""

    continues = True

    def __init__(self, model: Any, tokenizer: Any, *, name: str) -> None:
        self._model, self._tokenizer = model, tokenizer
        self.name = name
        self.identity = f"causal:{models.fingerprint(model)}:{models.tokenizer_fingerprint(tokenizer)}"

    def run(self, requests: Sequence[Request], seed: int) -> list[Answer]:
        """`n` continuations of every request; the requests share their settings."""
        settings = requests[0]
        room = (models.context_length(self._model) or 10**9) - settings.max_new_tokens
        if room < 8:
            raise UserError(
                f"generator {self.name}: its context leaves no room for a prompt and {settings.max_new_tokens} new tokens."
            )
        # the end of a long prompt holds the instruction: cut at the beginning
        prompts = [models.prompt_ids(self._tokenizer, request.text)[-room:] for request in requests]
        ids, probabilities = self._sample(prompts, settings, seed)
        answers = []
        for first in range(0, len(ids), settings.n):
            rows = range(first, first + settings.n)
            written = [self._written(ids[row], probabilities[row], settings.stop) for row in rows]
            answers.append(Answer(tuple(text for text, _ in written), tokens=tuple(tokens for _, tokens in written)))
        return answers

    def _written(
        self, ids: list[int], probabilities: list[float], stop: tuple[str, ...]
    ) -> tuple[str, tuple[tuple[int, float], ...]]:
        """The text up to a stop string, and where in it each token begins."""
        prefixes = self._tokenizer.batch_decode([ids[: k + 1] for k in range(len(ids))], skip_special_tokens=True)
        text = prefixes[-1] if prefixes else ""
        end = min([at for at in (text.find(s) for s in stop) if at >= 0], default=len(text))
        starts = [0, *(len(prefix) for prefix in prefixes[:-1])]
        lead = len(text[:end]) - len(text[:end].lstrip())
        tokens = tuple(
            (max(0, start - lead), round(p, 6)) for start, p in zip(starts, probabilities, strict=False) if start < end
        )
        return text[:end].strip(), tokens

    @torch.inference_mode()
    def _sample(
        self, prompts: list[list[int]], settings: Request, seed: int
    ) -> tuple[list[list[int]], list[list[float]]]:
        device = self._model.device
        source = torch.Generator(device=device).manual_seed(seed)
        ends = torch.tensor(sorted(_end_ids(self._model, self._tokenizer)), dtype=torch.long, device=device)
        cache, mask, logits = self._read_prompts(prompts, settings)
        ids: list[list[int]] = [[] for _ in range(len(mask))]
        probabilities: list[list[float]] = [[] for _ in range(len(mask))]
        alive = torch.arange(len(mask), device=device)
        for step in range(settings.max_new_tokens):
            shares = torch.softmax(logits.float(), dim=-1)
            chosen = _draw(logits.float(), settings, source)
            picked = shares.gather(1, chosen[:, None]).squeeze(1).tolist()
            going = ~torch.isin(chosen, ends)
            for row, token, p, goes_on in zip(alive.tolist(), chosen.tolist(), picked, going.tolist(), strict=True):
                if goes_on:
                    ids[row].append(token)
                    probabilities[row].append(p)
            if settings.stop and step % STOP_LOOK == STOP_LOOK - 1:
                texts = self._tokenizer.batch_decode([ids[row] for row in alive.tolist()], skip_special_tokens=True)
                going &= torch.tensor([not any(s in text for s in settings.stop) for text in texts], device=device)
            if not bool(going.any()) or step == settings.max_new_tokens - 1:
                break
            if not bool(going.all()):
                left = going.nonzero().flatten()
                _select(cache, left)
                alive, chosen, mask = alive[left], chosen[left], mask[left]
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
            where = _accepted(self._model, {"position_ids": mask.sum(1, keepdim=True) - 1})
            out = self._model(
                input_ids=chosen[:, None], attention_mask=mask, past_key_values=cache, use_cache=True, **where
            )
            cache, logits = out.past_key_values, out.logits[:, -1]
        return ids, probabilities

    def _read_prompts(self, prompts: list[list[int]], settings: Request) -> tuple[Any, torch.Tensor, torch.Tensor]:
        """Keys and values of each prompt, read once and repeated for its samples; the mask; the logits of the first token."""
        device = self._model.device
        longest = max(map(len, prompts))
        pad = models.prompt_ids(self._tokenizer, "")[0]
        ids = torch.tensor([[pad] * (longest - len(row)) + row for row in prompts], device=device)
        mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in prompts], device=device)
        places = (mask.cumsum(1) - 1).clamp(min=0)
        where = _accepted(self._model, {"position_ids": places, "logits_to_keep": 1})
        out = self._model(input_ids=ids, attention_mask=mask, use_cache=True, **where)
        cache = _repeated(out.past_key_values, settings.n, longest + settings.max_new_tokens, self._model.config)
        return cache, mask.repeat_interleave(settings.n, 0), out.logits[:, -1].repeat_interleave(settings.n, 0)


def _repeated(cache: Any, n: int, room: int, config: Any) -> Any:
    """The cache for `n` samples of each prompt, with room for what they write: growing it each step would copy it each step."""
    from transformers.cache_utils import DynamicLayer, StaticCache

    if any(type(layer) is not DynamicLayer for layer in cache.layers):
        cache.batch_repeat_interleave(n)
        return cache
    roomy = StaticCache(config=config, max_cache_len=room)
    for index, layer in enumerate(cache.layers):
        roomy.update(layer.keys.repeat_interleave(n, 0), layer.values.repeat_interleave(n, 0), index)
    return roomy


def _select(cache: Any, rows: torch.Tensor) -> None:
    """Drop the samples that are finished."""
    from transformers.cache_utils import StaticCache

    if not isinstance(cache, StaticCache):
        cache.batch_select_indices(rows)
        return
    for layer in cache.layers:
        layer.keys, layer.values = layer.keys[rows], layer.values[rows]


def _accepted(model: Any, given: dict[str, Any]) -> dict[str, Any]:
    """Those of the arguments that this architecture knows."""
    inner = model.get_base_model() if models.has_adapter(model) else model
    known = inspect.signature(type(inner).forward).parameters
    return {name: value for name, value in given.items() if name in known}


def _end_ids(model: Any, tokenizer: Any) -> set[int]:
    named = model.generation_config.eos_token_id if model.generation_config is not None else None
    ends = [*(named if isinstance(named, list | tuple) else [named]), tokenizer.eos_token_id]
    return {int(end) for end in ends if end is not None}


def _draw(logits: torch.Tensor, settings: Request, source: torch.Generator) -> torch.Tensor:
    """The next token of every row: the likeliest, or drawn from the smallest set that holds `top_p` of the probability."""
    if settings.temperature == 0:
        return logits.argmax(-1)
    shares = torch.softmax(logits / settings.temperature, dim=-1)
    if settings.top_p >= 1:
        return torch.multinomial(shares, 1, generator=source).squeeze(1)
    # sorting the whole vocabulary is slow, and the set mostly lies within its best words
    best, order = shares.topk(min(TOP_P_LOOK, shares.shape[1]), dim=-1)
    chosen = _from_top(best, order, settings.top_p, source)
    wide = (best.sum(-1) < settings.top_p).nonzero().flatten()
    if len(wide):
        chosen[wide] = _from_top(*shares[wide].sort(-1, descending=True), settings.top_p, source)
    return chosen


def _from_top(shares: torch.Tensor, order: torch.Tensor, top_p: float, source: torch.Generator) -> torch.Tensor:
    before = shares.cumsum(-1) - shares
    return order.gather(1, torch.multinomial(shares.masked_fill(before >= top_p, 0.0), 1, generator=source)).squeeze(1)


# --------------------------------------------------------------------------- sentence vectors


class SentenceEncoder:
    """Sentence vectors as the mean of an encoder's last states, for the relevance of a reference to its source."""

    def __init__(self, name: str, *, device: str = "cpu", allow_network: bool = False) -> None:
        from transformers import AutoModel

        self._model, self._tokenizer, self.identity = _load_parts(
            name, AutoModel, "sentence encoder", device, allow_network
        )

    def cosines(self, pairs: Sequence[tuple[str, str]], *, batch_size: int = 32) -> list[float]:
        """The cosine of both texts of every pair."""
        found: list[float] = []
        for first in range(0, len(pairs), batch_size):
            one, other = (self._vectors(list(texts)) for texts in zip(*pairs[first : first + batch_size], strict=True))
            found += torch.nn.functional.cosine_similarity(one, other).tolist()
        return found

    @torch.inference_mode()
    def _vectors(self, texts: list[str]) -> torch.Tensor:
        longest = min(
            int(self._tokenizer.model_max_length), _number(self._model.config, "max_position_embeddings", 512) - 2
        )
        inputs = self._tokenizer(texts, return_tensors="pt", padding=True, truncation=True, max_length=longest).to(
            self._model.device
        )
        states = self._model(**inputs).last_hidden_state
        mask = inputs["attention_mask"][:, :, None].to(states.dtype)
        return (states * mask).sum(1) / mask.sum(1)
