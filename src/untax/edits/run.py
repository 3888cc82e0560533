"""Carries edits out on a trained model in a folder: read, edit in order, write the edited model and its audit, find finished work again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from untax import files, methods, models, scorers
from untax.data import words
from untax.edits import projection
from untax.edits.common import Edited, blocks_of, check_ratio, depth_of, not_linear
from untax.edits.projection import LAST, Projection
from untax.references import References
from untax.types import RecipeError, UserError

__all__ = ["apply", "check"]

T = TypeVar("T")

#: options that this module fills
GIVEN = ("model", "references", "adapter", "tokenizer", "texts")

#: how PEFT can begin an adapter so that the base under it is no longer the base
MOVES_THE_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")

RESULT = "edit.json"

#: where a projection of an inner layer stands: weights cannot hold it
PROJECTION = "projection.safetensors"

#: an edit with this option projects the hidden states of one layer
OF_A_LAYER = "layer"

#: options of which less makes no sense in any edit that has them
AT_LEAST = {
    "blocks": 1,
    "steps": 1,
    "batch_size": 1,
    "eps": 0,
    "learning_rate": 0,
    "layer": LAST,
    "rounds": 1,
    "per_class": 50,
    "components": 1,
    "max_texts": 20,
    "seed": 0,
}


def check(edits: Sequence[Mapping[str, Any]], *, where: str = "edits", names: Sequence[str] = ()) -> None:
    """Refuse edits and options that do not exist, and numbers out of range, before any work.

    Projections come last and are of one layer: no edit of weights knows what was taken out of them, and what two layers lose
    together is no projection. `names` are those of the model's tensors: with them more blocks than layers, and layers that do not
    exist, are refused, too.
    Raises: RecipeError that says which edit, what is wrong and what exists.
    """
    layers: list[int] = []
    for number, edit in enumerate(edits, start=1):
        here = f"{where}, edit {number}"
        if not isinstance(edit, Mapping) or "name" not in edit:
            raise RecipeError(f"{here} has no name. Write e.g. {{name: interpolate, towards_base: 0.2}}.")
        name, options, _ = _split(edit)
        methods.check_options("edits", name, options, where=here, given=GIVEN)
        if "towards_base" in options:
            check_ratio(f"{here}: towards_base", options["towards_base"])
        blocks = options.get("per_block")
        if blocks is not None and (not isinstance(blocks, list | tuple) or not blocks):
            raise RecipeError(f"{here}: per_block is {blocks!r}; it must be a list with one share for each block.")
        for share in blocks or []:
            check_ratio(f"{here}: per_block", share)
        for option, least in AT_LEAST.items():
            if option in options and options[option] < least:
                raise RecipeError(f"{here}: {option} is {options[option]}; it must be at least {least}.")
        if not 0 < options.get("max_share", 1) <= 1:
            raise RecipeError(f"{here}: max_share is {options['max_share']}; it must be above 0 and at most 1.")
        layers += _check_order(name, options, layers, here, names)
        for count in (len(blocks or []), options.get("blocks", 0)):
            if names and count:
                try:
                    blocks_of(names, count)
                except UserError as error:
                    raise RecipeError(f"{here}: {error}") from error


def _check_order(
    name: str, options: Mapping[str, Any], before: Sequence[int], here: str, names: Sequence[str]
) -> list[int]:
    """The layer that an edit projects, if it does. Raises: RecipeError where it cannot follow the projections before it."""
    if OF_A_LAYER not in _options(name):
        if before:
            raise RecipeError(
                f"{here}: '{name}' changes weights and follows a projection, which it would undo or rest on. Put projections last."
            )
        return []
    layer = options.get(OF_A_LAYER, LAST)
    if before and before[0] != layer:
        raise RecipeError(
            f"{here}: '{name}' projects layer {layer} and the projection before it layer {before[0]}; give all of them one layer."
        )
    depth = depth_of(names)
    if names and layer >= depth:
        raise RecipeError(
            f"{here}: layer {layer} does not exist: the model's blocks are 0 to {depth - 1} (-1: after the last norm)."
        )
    return [layer]


def _options(name: str) -> set[str]:
    return {option.name for option in methods.get("edits", name).options}


def apply(
    edits: Sequence[Mapping[str, Any]],
    *,
    base: Any,
    tuned_dir: str | Path,
    out: str | Path,
    references: Mapping[str, References] | None = None,
    texts: Mapping[str, Sequence[str]] | None = None,
    tokenizer: Any = None,
    dtype: str = "float32",
    device: str = "cpu",
    trust_remote_code: bool = False,
) -> dict[str, Any]:
    """Edit the model in `tuned_dir` and write it to `out/model`, in the same form, with the audits in `out/edit.json`.

    An edit may name some of the `references` as its own (`references: [general]`); otherwise it gets all. `texts` are the plain
    texts of sets by the same names, and `tokenizer` is the tuned model's own unless another is given.
    `base` is the loaded base model; it is left as it was, and may be None where the tuned model is an adapter that every edit can
    scale (DoRA, whole modules beside the factors, an initialisation that moves the base, and what an edit can only do to whole
    weights are merged instead, and the result is a whole model). Projections are joined: of the last hidden state they are folded
    into the output matrix; of an inner layer they stand in `out/projection.safetensors` beside a model that does without them.
    Finished work is known by its edits and by the fingerprints of base, tuned model and texts; anything else is
    made again. Returns `model_dir` (a path), `adapter` (whether it is one), `audits` (one per edit) and `projection` (the path of what
    has to be applied while the model is used, or None).
    Raises: RecipeError as `check`; UserError for models that do not belong together, or a folder that holds something else.
    """
    check(edits)
    out, tuned_dir = Path(out), Path(tuned_dir)
    identity: dict[str, Any] = {
        "edits": json.loads(json.dumps([dict(edit) for edit in edits])),
        "base": None if base is None else models.fingerprint(base),
        "tuned": _hash_folder(tuned_dir),
        "references": {name: _hash_rows(one) for name, one in (references or {}).items()},
        "dtype": dtype,
    }
    if any("texts" in _options(str(edit["name"])) for edit in edits):
        identity["texts"] = {name: _hash_texts(one) for name, one in (texts or {}).items()}
        identity["words"] = [words.identity(attribute) for attribute in words.ATTRIBUTES]
        identity["tokenizer"] = None if tokenizer is None else models.tokenizer_fingerprint(tokenizer)
    done = _finished(out, identity)
    if done is None:
        (out / RESULT).unlink(missing_ok=True)
        (out / PROJECTION).unlink(missing_ok=True)
        whole = not all("adapter" in _options(str(edit["name"])) for edit in edits)
        tuned = _load(tuned_dir, base, dtype, device, trust_remote_code, whole)
        audits, projections = [], []
        for edit in edits:
            edited = _one(edit, tuned, references or {}, texts or {}, tokenizer)
            audits.append({"name": edit["name"], **edited.audit})
            if edited.projection is None:
                _put(tuned.model, edited.state)
            else:
                projections.append(edited.projection)
        kept = _project(tuned.model, projections, audits)
        with models.no_loading_bar():
            models.save(tuned.model, tuned.tokenizer, out / "model")
        if kept is not None:
            kept.save(out / PROJECTION)
        done = {"adapter": tuned.adapter, "audits": audits, **_made(out, kept is not None)}
        files.write_json(out / RESULT, {**identity, **done})
    return {
        "model_dir": out / "model",
        "adapter": done["adapter"],
        "audits": done["audits"],
        "projection": out / PROJECTION if done.get("projection") else None,
    }


def _project(model: Any, projections: Sequence[Projection], audits: Sequence[dict[str, Any]]) -> Projection | None:
    """Fold what the output matrix can hold into it; what is left has to be applied while the model is used."""
    if not projections:
        return None
    joined = projection.union(projections)
    if joined.layer != LAST:
        return joined
    audits[-1]["left_on_rounding"] = joined.fold(model)
    audits[-1]["removed_in_all"] = joined.rank
    return None


def _split(edit: Mapping[str, Any]) -> tuple[str, dict[str, Any], Sequence[str] | None]:
    """Name, options, and the names of the reference sets that it gets (None: all)."""
    options = {key: value for key, value in edit.items() if key not in ("name", "references")}
    return str(edit["name"]), options, edit.get("references")


def _chosen(name: str, references: Mapping[str, T], chosen: Sequence[str] | None) -> Mapping[str, T]:
    for one in chosen or ():
        if one not in references:
            raise RecipeError(
                f"edit '{name}' names references '{one}'.{methods.did_you_mean(one, references)} "
                f"There are: {', '.join(references) or 'none'}."
            )
    return references if chosen is None else {one: references[one] for one in chosen}


@dataclass(frozen=True)
class _Tuned:
    """The tuned model, the base's state in the same names, and whether what is edited are an adapter's factors."""

    model: Any
    tokenizer: Any
    base: Mapping[str, Tensor]
    adapter: bool

    def state(self) -> dict[str, Tensor]:
        """What an edit gets: every tensor of the model, or the factors of its adapter."""
        if self.adapter:
            return {name: p.detach() for name, p in self.model.named_parameters() if "lora_" in name}
        return {name: tensor.detach() for name, tensor in self.model.state_dict().items()}


def _load(folder: Path, base: Any, dtype: str, device: str, trust_remote_code: bool, whole: bool) -> _Tuned:
    model, tokenizer = models.load(folder, dtype=dtype, device=device, trust_remote_code=trust_remote_code)
    if models.has_adapter(model):
        why = _not_exact(folder) or ("the edit is one of whole weights" if whole else "")
        if not why:
            return _Tuned(model, tokenizer, {}, True)
        if base is None:
            raise UserError(
                f"{folder}: this adapter has to be merged before it can be edited ({why}): give the base model."
            )
        model = model.merge_and_unload()
    if base is None:
        raise UserError(f"{folder} is a whole model: an edit of it needs the base model.")
    if models.has_adapter(base):
        raise UserError("edits of a whole model need a base that is one, too; merge the base's adapter into it first.")
    return _Tuned(model, tokenizer, {name: tensor.detach() for name, tensor in base.state_dict().items()}, False)


def _not_exact(folder: Path) -> str:
    """Why scaling the factors of the adapter in a folder is not averaging with its base; empty where it is."""
    from safetensors import safe_open

    settings = json.loads((folder / "adapter_config.json").read_bytes())
    if settings.get("peft_type") != "LORA":
        return f"it is a {settings.get('peft_type')} adapter"
    begun = str(settings.get("init_lora_weights")).lower()
    if begun.startswith(MOVES_THE_BASE):
        return f"it began as '{begun}', which moves the base"
    with safe_open(folder / "adapter_model.safetensors", framework="pt") as opened:
        return not_linear(opened.keys())


def _one(
    edit: Mapping[str, Any],
    tuned: _Tuned,
    references: Mapping[str, References],
    texts: Mapping[str, Sequence[str]],
    tokenizer: Any,
) -> Edited:
    name, options, chosen = _split(edit)
    wanted = _options(name)
    given: dict[str, Any] = {
        "model": tuned.model,
        "adapter": tuned.adapter,
        "tokenizer": tuned.tokenizer if tokenizer is None else tokenizer,
    }
    if "references" in wanted or "texts" not in wanted:
        given["references"] = _chosen(name, references, chosen)
    if "texts" in wanted:
        given["texts"] = _chosen(name, texts, chosen)
    for kind in ("references", "texts"):
        if kind in wanted and not given[kind]:
            raise UserError(f"edit '{name}' needs reference texts, and there are none: name some under references.")
    made = methods.find("edits", name)(
        tuned.base, tuned.state(), **options, **{key: value for key, value in given.items() if key in wanted}
    )
    if not isinstance(made, Edited):
        raise TypeError(f"edit '{name}' returned a {type(made).__name__}, not an Edited")
    return made


@torch.no_grad()
def _put(model: Any, state: Mapping[str, Tensor]) -> None:
    """The edited tensors in the place of the model's own; tied ones are written twice with one value."""
    own = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
    for name, tensor in state.items():
        own[name].copy_(tensor)


# --------------------------------------------------------------------------- finding finished work


def _finished(out: Path, identity: Mapping[str, Any]) -> dict[str, Any] | None:
    """What an earlier call left, if it was of the same edits and models and its model is still what was written."""
    path = out / RESULT
    if not path.is_file() or not (out / "model").is_dir():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return None  # a damaged note of finished work: it is made again
    if not isinstance(found, dict) or any(found.get(key) != value for key, value in identity.items()):
        return None
    there = _made(out, (out / PROJECTION).is_file())
    return found if all(found.get(key) == there.get(key) for key in ("model", "projection")) else None


def _made(out: Path, projects: bool) -> dict[str, str]:
    """What was written, in short."""
    made = {"model": _hash_folder(out / "model")}
    return {**made, "projection": scorers.hash_files([out / PROJECTION])} if projects else made


def _hash_folder(folder: Path) -> str:
    """What the weights and settings in a model's folder are, in short."""
    kept = [path for path in folder.glob("*") if path.suffix in (".safetensors", ".json") and path.is_file()]
    return scorers.hash_files(kept)


def _hash_rows(references: References) -> str:
    told = json.dumps([[row.start, row.ids] for row in references.rows])
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def _hash_texts(texts: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps(list(texts)).encode()).hexdigest()[:16]
