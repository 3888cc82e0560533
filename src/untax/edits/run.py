"""Carries edits out on a trained model in a folder: read, edit in order, write the edited model and its audit, find finished work again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from untax import files, methods, models, scorers
from untax.edits.common import Edited, blocks_of, check_ratio, not_linear
from untax.references import References
from untax.types import RecipeError, UserError

__all__ = ["apply", "check"]

#: options that this module fills
GIVEN = ("model", "references", "adapter")

#: how PEFT can begin an adapter so that the base under it is no longer the base
MOVES_THE_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")

RESULT = "edit.json"

#: options of which less makes no sense in any edit that has them
AT_LEAST = {"blocks": 1, "steps": 1, "batch_size": 1, "eps": 0, "learning_rate": 0}


def check(edits: Sequence[Mapping[str, Any]], *, where: str = "edits", names: Sequence[str] = ()) -> None:
    """Refuse edits and options that do not exist, and numbers out of range, before any work.

    `names` are those of the model's tensors: with them more blocks than layers are refused, too.
    Raises: RecipeError that says which edit, what is wrong and what exists.
    """
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
        for count in (len(blocks or []), options.get("blocks", 0)):
            if names and count:
                try:
                    blocks_of(names, count)
                except UserError as error:
                    raise RecipeError(f"{here}: {error}") from error


def apply(
    edits: Sequence[Mapping[str, Any]],
    *,
    base: Any,
    tuned_dir: str | Path,
    out: str | Path,
    references: Mapping[str, References] | None = None,
    dtype: str = "float32",
    device: str = "cpu",
    trust_remote_code: bool = False,
) -> dict[str, Any]:
    """Edit the model in `tuned_dir` and write it to `out/model`, in the same form, with the audits in `out/edit.json`.

    An edit may name some of the `references` as its own (`references: [general]`); otherwise it gets all.
    `base` is the loaded base model; it is left as it was, and may be None where the tuned model is an adapter that every edit can
    scale (DoRA, whole modules beside the factors, and an initialisation that moves the base are merged instead, and the result is
    a whole model). Finished work is known by its edits and by the fingerprints of base, tuned model and texts; anything else is
    made again. Returns `model_dir` (a path), `adapter` (whether it is one) and `audits` (one per edit).
    Raises: RecipeError as `check`; UserError for models that do not belong together, or a folder that holds something else.
    """
    check(edits)
    out, tuned_dir = Path(out), Path(tuned_dir)
    identity = {
        "edits": json.loads(json.dumps([dict(edit) for edit in edits])),
        "base": None if base is None else models.fingerprint(base),
        "tuned": _hash_folder(tuned_dir),
        "references": {name: _hash_rows(one) for name, one in (references or {}).items()},
        "dtype": dtype,
    }
    done = _finished(out, identity)
    if done is None:
        (out / RESULT).unlink(missing_ok=True)
        tuned = _load(tuned_dir, base, dtype, device, trust_remote_code)
        audits = []
        for edit in edits:
            name, options, chosen = _split(edit)
            edited = _one(name, options, tuned, _chosen(name, references or {}, chosen))
            _put(tuned.model, edited.state)
            audits.append({"name": name, **edited.audit})
        with models.no_loading_bar():
            models.save(tuned.model, tuned.tokenizer, out / "model")
        done = {"adapter": tuned.adapter, "audits": audits, "model": _hash_folder(out / "model")}
        files.write_json(out / RESULT, {**identity, **done})
    return {"model_dir": out / "model", "adapter": done["adapter"], "audits": done["audits"]}


def _split(edit: Mapping[str, Any]) -> tuple[str, dict[str, Any], Sequence[str] | None]:
    """Name, options, and the names of the reference sets that it gets (None: all)."""
    options = {key: value for key, value in edit.items() if key not in ("name", "references")}
    return str(edit["name"]), options, edit.get("references")


def _chosen(name: str, references: Mapping[str, References], chosen: Sequence[str] | None) -> Mapping[str, References]:
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


def _load(folder: Path, base: Any, dtype: str, device: str, trust_remote_code: bool) -> _Tuned:
    model, tokenizer = models.load(folder, dtype=dtype, device=device, trust_remote_code=trust_remote_code)
    if models.has_adapter(model):
        why = _not_exact(folder)
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


def _one(name: str, options: Mapping[str, Any], tuned: _Tuned, references: Mapping[str, References]) -> Edited:
    wanted = {option.name for option in methods.get("edits", name).options}
    if "references" in wanted and not references:
        raise UserError(f"edit '{name}' needs reference texts, and there are none: name some under references.")
    given = {"model": tuned.model, "references": references, "adapter": tuned.adapter}
    if tuned.adapter and "adapter" not in wanted:
        raise UserError(f"edit '{name}' works on whole weights: merge the adapter into its base first.")
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
    same = isinstance(found, dict) and all(found.get(key) == value for key, value in identity.items())
    return found if same and found.get("model") == _hash_folder(out / "model") else None


def _hash_folder(folder: Path) -> str:
    """What the weights and settings in a model's folder are, in short."""
    kept = [path for path in folder.glob("*") if path.suffix in (".safetensors", ".json") and path.is_file()]
    return scorers.hash_files(kept)


def _hash_rows(references: References) -> str:
    told = json.dumps([[row.start, row.ids] for row in references.rows])
    return hashlib.sha256(told.encode()).hexdigest()[:16]
