"""Trains a model with one objective: the only place that touches the Trainer of transformers.

A run lives in one folder and can be killed at any moment: called again with the same arguments it goes on from its
last whole checkpoint and ends with the same weights, bit for bit, as if nothing had happened.
"""

from __future__ import annotations

import copy
import functools
import inspect
import json
import logging
import math
import shutil
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.data import DataLoader, SequentialSampler
from tqdm import tqdm
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments, set_seed

from untax import files, methods, models, scorers, spans
from untax.marks import digest
from untax.prefix import Batch, Counts, Decoder, Pass, collate, decoder
from untax.references import References
from untax.train.encode import Pool, Schedule, encode, records_hash
from untax.types import ContrastiveRecord, Loss, RecipeError, UserError

__all__ = [
    "ARGUMENTS",
    "OWN_ARGUMENTS",
    "Plugged",
    "Replay",
    "TrainResult",
    "check_arguments",
    "check_objective",
    "check_plugged",
    "train",
]

log = logging.getLogger(__name__)

#: Hugging Face training arguments that are passed on, and our defaults (LoRA; None: the library's own)
ARGUMENTS: dict[str, Any] = {
    "learning_rate": 2e-4,  # 2e-5 when all weights are trained
    "num_train_epochs": 2.0,
    "max_steps": -1,
    "per_device_train_batch_size": 8,  # sources
    "gradient_accumulation_steps": 1,
    "warmup_steps": 0.03,  # below 1: a share of all steps
    "lr_scheduler_type": "linear",
    "lr_scheduler_kwargs": None,
    "max_grad_norm": 1.0,
    "weight_decay": 0.0,
    "optim": "adamw_torch",
    "optim_args": None,
    "adam_beta1": None,
    "adam_beta2": None,
    "adam_epsilon": None,
    "bf16": None,
    "fp16": None,
    "use_cpu": None,
    "gradient_checkpointing": False,
    "save_steps": 100,
    "save_total_limit": 1,
}

#: arguments that stand beside them and are ours
OWN_ARGUMENTS: dict[str, Any] = {
    "max_length": None,  # tokens of prompt and target together; None: the model's context
    "max_negatives": 5,  # per source and epoch
    "finder": "rules",  # what selects the spans: rules, spacy:NAME_OR_DIR, hf:DIR
    "shuffle": True,
}

#: what the numbers among them may not fall below, those that may not even equal it, and what is true or false
WHOLE_NUMBERS = {
    "max_steps": -1, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 1, "save_steps": 1,
    "save_total_limit": 1, "max_length": 2, "max_negatives": 0,
}  # fmt: skip
FLOATS = {
    "learning_rate": 0, "num_train_epochs": 0, "warmup_steps": 0, "max_grad_norm": 0, "weight_decay": 0,
    "adam_beta1": 0, "adam_beta2": 0, "adam_epsilon": 0,
}  # fmt: skip
ABOVE = ("learning_rate", "num_train_epochs")
SWITCHES = ("bf16", "fp16", "use_cpu", "gradient_checkpointing", "shuffle")

LORA: dict[str, Any] = {"r": 16, "lora_alpha": 32, "lora_dropout": 0.0, "target_modules": "all-linear"}

WHOLE = "complete"  # the file that says a checkpoint was written to its end, and holds the hash of the others
TENSORS = "trained.safetensors"


@dataclass(frozen=True)
class Plugged:
    """A method of `gradients/` or `penalties/`: its name, its options, and the reference rows that it gets."""

    name: str
    options: Mapping[str, Any]
    references: Mapping[str, References]

    def identity(self) -> dict[str, Any]:
        """What decides what it does."""
        rows = {name: digest([(row.ids, row.start) for row in held.rows]) for name, held in self.references.items()}
        return {"name": self.name, "options": dict(self.options), "references": rows}


@dataclass(frozen=True)
class Replay:
    """Records that fill a share of every epoch, drawn anew each time: general data beside the training data."""

    name: str
    records: Sequence[ContrastiveRecord]
    share: float


@dataclass(frozen=True)
class TrainResult:
    """Where the trained model (or adapter) lies, one row of figures a step, and what the records turned out to be."""

    model_dir: Path
    log: list[dict[str, float]]
    summary: dict[str, Any]
    adapter: bool
    resumed_from: int = 0


def train(
    model: Any,
    tokenizer: Any,
    records: Sequence[ContrastiveRecord],
    *,
    objective: str,
    prompt: str,
    out: str | Path,
    objective_options: Mapping[str, Any] | None = None,
    seed: int = 0,
    arguments: Mapping[str, Any] | None = None,
    lora: Mapping[str, Any] | None = None,
    reference_model: Any = None,
    gradients: Plugged | None = None,
    penalties: Sequence[Plugged] = (),
    replay: Sequence[Replay] = (),
    callbacks: Sequence[TrainerCallback] = (),
    progress: bool = True,
) -> TrainResult:
    """Train `model` on `records` with a method of `objectives/`, and save it in `out/model`.

    `gradients` changes what the optimiser does with the gradient, `penalties` are added to the loss once a step, `replay` records are
    shown among the others. Without `lora` all weights of `model` are changed in place; with it (an empty mapping takes the defaults) an adapter is
    trained and taken off again. A finished run in `out` is returned as it is, an unfinished one is resumed.
    Raises: RecipeError for an unknown objective, option, or argument; UserError for data that cannot be trained on, a run of
    other arguments in `out`, or a loss that is not finite.
    """
    out = Path(out)
    ours, theirs = _arguments(arguments or {}, lora=lora is not None)
    adapter = None if lora is None else _checked({**LORA, **lora}, _lora_names(), "LoRA argument")
    method, wants = _objective(objective, objective_options or {})
    identity = {
        "objective": objective,
        "options": dict(objective_options or {}),
        "prompt": prompt,
        "seed": seed,
        "arguments": {**ours, **theirs},
        "lora": adapter,
        "records": records_hash(records),
        "model": models.fingerprint(model),
        "reference_model": None if reference_model is None else models.fingerprint(reference_model),
        "tokenizer": models.tokenizer_fingerprint(tokenizer),
        "gradients": None if gradients is None else gradients.identity(),
        "penalties": [one.identity() for one in penalties] or None,
        "replay": [(part.name, part.share, records_hash(part.records)) for part in replay] or None,
    }
    done = _claim(out, identity)
    if done is not None:
        return TrainResult(out / "model", _read_log(out), done["summary"], adapter is not None)
    find_all = functools.partial(spans.find_all, finder=ours["finder"]) if wants.spans else None
    room = _room(model, ours["max_length"])
    encoding = functools.partial(encode, tokenizer=tokenizer, prompt=prompt, max_length=room, find_all=find_all)
    encoded, summary = encoding(records)
    _say(summary, objective, wants)
    pools = _pools(replay, len(records), encoding)
    _say_idle(replay, pools, objective, wants)
    summary["replay"] = {part.name: pool.count for part, pool in zip(replay, pools, strict=True)}
    hooks, held = _made(gradients, penalties)
    settings = _settings(out, theirs, seed)
    data = _schedule(encoded, pools, settings, ours, seed)
    with _prepared(model, adapter, theirs, settings.device, seed) as policy:
        shape = decoder(policy)
        loss = _loss(method, wants, shape, tokenizer, objective_options or {}, reference_model, seed)
        for hook in hooks:
            hook.watch(policy)
        with _holding(held, policy):
            summary |= {"penalties": {name: penalty.told() for name, penalty in held.items()}} if held else {}
            trainer = _Trainer(
                _Trained(policy, loss, shape), settings, data, out=out, hooks=hooks, penalties=held, callbacks=callbacks,
                limit=theirs["save_total_limit"],
            )  # fmt: skip
            start = trainer.run(label=f"{objective} seed {seed}", progress=progress)
        policy.eval()
        with models.no_loading_bar():
            models.save(policy, tokenizer, out / "model")
    summary |= _stopped_early(out, trainer.state.global_step, settings.max_steps)
    files.write_json(out / "result.json", {"summary": summary, "steps": trainer.state.global_step})
    shutil.rmtree(out / "checkpoints", ignore_errors=True)
    return TrainResult(out / "model", _read_log(out), summary, adapter is not None, start)


# --------------------------------------------------------------------------- arguments


def check_arguments(given: Mapping[str, Any], lora: Mapping[str, Any] | None) -> None:
    """Refuse training and LoRA arguments that cannot be used, before any work is done.

    Raises: RecipeError that names the argument and what exists.
    """
    _, theirs = _arguments(given, lora=lora is not None)
    _settings(Path("unused"), theirs, seed=0)
    if lora is None:
        return
    _checked(lora, _lora_names(), "LoRA argument")
    for name, least in (("r", 1), ("lora_alpha", 1), ("lora_dropout", 0)):
        value = lora.get(name, LORA[name])
        kinds = int if name == "r" else (int, float)
        most = 1 if name == "lora_dropout" else math.inf
        if not isinstance(value, kinds) or isinstance(value, bool) or not least <= value <= most:
            bounds = f"from {least}" + (f" to {most}" if most == 1 else "")
            raise RecipeError(
                f"LoRA argument '{name}' must be a {'whole ' if name == 'r' else ''}number {bounds}, not {value!r}."
            )


def check_objective(name: str, options: Mapping[str, Any]) -> None:
    """Refuse an objective or options of it that cannot be used, before any work is done.

    Raises: RecipeError that names the option and what it may be.
    """
    method, _ = _objective(name, options)
    if isinstance(method, type):
        method(1, **options)  # one with parameters of its own looks at its options when it is made


def check_plugged(folder: str, plugged: Plugged) -> None:
    """Refuse options of a gradient method or a penalty that cannot be used, before any training.

    Raises: RecipeError that names the option and what it may be.
    """
    try:
        methods.find(folder, plugged.name)(plugged.references, **plugged.options)
    except RecipeError:
        raise
    except UserError as error:
        raise RecipeError(f"{plugged.name}: {error}") from error


def _stopped_early(out: Path, taken: int, planned: int) -> dict[str, int]:
    """What the summary says of a training that a callback ended, a budget for example."""
    if taken >= planned:
        return {}
    log.warning("%s stopped after %d of %d steps", out.name, taken, planned)
    return {"stopped_after": taken}


def _made(gradients: Plugged | None, penalties: Sequence[Plugged]) -> tuple[list[Any], dict[str, Any]]:
    """The callbacks that change gradients, and the penalties by name."""
    hooks = [methods.find("gradients", one.name)(one.references, **one.options) for one in (gradients,) if one]
    names = _apart([one.name for one in penalties])
    made = [methods.find("penalties", one.name)(one.references, **one.options) for one in penalties]
    return hooks, dict(zip(names, made, strict=True))


def _apart(names: Sequence[str]) -> list[str]:
    """The names, the second of one name with a 2 behind it and so on: two anchors are two."""
    count = [names[: place + 1].count(name) for place, name in enumerate(names)]
    return [name if number == 1 else f"{name}_{number}" for name, number in zip(names, count, strict=True)]


def _schedule(
    encoded: Sequence[Any], pools: Sequence[Pool], settings: TrainingArguments, ours: Mapping[str, Any], seed: int
) -> Schedule:
    """What training sees, in order; `settings.max_steps` becomes the number of steps that this takes."""
    batch_size = settings.per_device_train_batch_size * settings.gradient_accumulation_steps
    length = len(encoded) + sum(pool.count for pool in pools)
    total = math.ceil(settings.num_train_epochs * length)
    if settings.max_steps > 0:
        total = settings.max_steps * batch_size
    settings.max_steps = math.ceil(total / batch_size)
    return Schedule(
        encoded, total=total, seed=seed, shuffle=ours["shuffle"], max_negatives=ours["max_negatives"], pools=pools
    )


def _pools(
    replay: Sequence[Replay], count: int, encoding: Callable[..., tuple[list[Any], dict[str, Any]]]
) -> list[Pool]:
    """How many rows of each part an epoch of `count` records shows, so that the shares are as asked."""
    rest = 1 - sum(part.share for part in replay)
    return [Pool(encoding(part.records)[0], max(1, round(count * part.share / rest))) for part in replay]


def _arguments(given: Mapping[str, Any], *, lora: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """Ours and Hugging Face's, with defaults filled in."""
    names = [*ARGUMENTS, *OWN_ARGUMENTS]
    if "warmup_ratio" in given:
        raise RecipeError(
            "training argument 'warmup_ratio' is gone: write warmup_steps with a fraction of all steps, e.g. 0.03."
        )
    _checked(given, names, "training argument")
    known = {f.name for f in fields(TrainingArguments)}
    theirs = {k: v for k, v in ARGUMENTS.items() if v is not None and k in known} | {
        k: v for k, v in given.items() if k in ARGUMENTS
    }
    if not lora:
        theirs["learning_rate"] = given.get("learning_rate", 2e-5)
    for name, value in theirs.items():
        default = ARGUMENTS[name]
        if isinstance(value, str) and isinstance(default, (int, float)):
            try:
                theirs[name] = float(value) if isinstance(default, float) else int(value)
            except ValueError as error:
                raise RecipeError(f"training argument '{name}' must be a number, not {value!r}.") from error
    ours = {k: given.get(k, v) for k, v in OWN_ARGUMENTS.items()}
    _check_numbers({**ours, **theirs})
    return ours, theirs


def _check_numbers(arguments: Mapping[str, Any]) -> None:
    """Refuse a number that the library would stumble over late, or would silently read as something else."""
    for name, least in (*WHOLE_NUMBERS.items(), *FLOATS.items()):
        value = arguments.get(name)
        if value is None:
            continue
        whole = name in WHOLE_NUMBERS
        number = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
        if not number or not math.isfinite(value) or value < least or (name in ABOVE and value == least):
            kind = "whole number" if whole else "number"
            bound = f"above {least}" if name in ABOVE else f"from {least}"
            raise RecipeError(f"training argument '{name}' must be a {kind} {bound}, not {value!r}.")
    if arguments["max_steps"] == 0:
        raise RecipeError("training argument 'max_steps' must be 1 or more, or -1 to go by num_train_epochs, not 0.")
    for name in SWITCHES:
        if not isinstance(arguments.get(name), bool | None):
            raise RecipeError(f"training argument '{name}' is true or false, not {arguments[name]!r}.")


def _checked(given: Mapping[str, Any], known: Sequence[str], what: str) -> dict[str, Any]:
    for name in given:
        if name not in known:
            raise RecipeError(
                f"unknown {what} '{name}'.{methods.did_you_mean(name, known)} There are: {', '.join(known)}."
            )
    return dict(given)


def _lora_names() -> list[str]:
    from peft import LoraConfig

    return [f.name for f in fields(LoraConfig) if f.name not in ("task_type", "peft_type", "inference_mode")]


def _settings(out: Path, theirs: Mapping[str, Any], seed: int) -> TrainingArguments:
    passed = {k: v for k, v in theirs.items() if k not in ("gradient_checkpointing", "save_total_limit")}
    try:
        settings = TrainingArguments(
            output_dir=str(out / "checkpoints"),
            seed=seed,
            report_to="none",
            disable_tqdm=True,
            logging_strategy="steps",
            logging_steps=1,
            logging_nan_inf_filter=False,
            save_strategy="steps",
            remove_unused_columns=False,
            dataloader_pin_memory=False,
            **passed,
        )
        devices = max(settings.n_gpu, settings.world_size)
    except (ValueError, TypeError, ImportError) as error:
        raise RecipeError(f"training arguments: {error}") from error
    if devices > 1:
        raise UserError(
            f"training on {devices} devices at once is not supported: the step's normalisation would be wrong. "
            "Show the program one (CUDA_VISIBLE_DEVICES=0), and start it without a launcher."
        )
    return settings


def _room(model: Any, max_length: int | None) -> int | None:
    context = models.context_length(model)
    if max_length is None or (context is not None and max_length > context):
        if max_length is not None:
            raise UserError(f"max_length {max_length} is more than the model's context of {context} tokens.")
        return context
    return max_length


# --------------------------------------------------------------------------- the objective


@dataclass(frozen=True)
class _Wants:
    """What an objective asks for, read from its signature: spans to pool over, a frozen reference model, negatives, pairs."""

    spans: bool
    reference: bool
    tokenizer: bool
    negatives: bool
    pairs: bool
    alone: bool  # whether a source without negatives counts


def _objective(name: str, options: Mapping[str, Any]) -> tuple[Callable[..., Any], _Wants]:
    """The method and what it wants.

    `pool` "entity" wants spans, arguments `reference` and `tokenizer` a frozen model and the tokenizer, `alpha` negatives, a `form`
    other than "cda" sources with two positives.
    """
    method = methods.find("objectives", name)
    methods.check_options("objectives", name, options, where="objective", given=("tokenizer",))
    parameters = inspect.signature(method).parameters

    def option(key: str) -> Any:
        return options.get(key, parameters[key].default) if key in parameters else None

    reference = "reference" in parameters
    return method, _Wants(
        spans=option("pool") == "entity" and option("alpha") != 0,
        reference=reference,
        tokenizer="tokenizer" in parameters,
        negatives=reference or bool(option("alpha")),
        pairs=option("form") not in (None, "cda"),
        alone=not reference or bool(option("replay_weight")),
    )


def _loss(
    method: Callable[..., Any],
    wants: _Wants,
    shape: Decoder,
    tokenizer: Any,
    options: Mapping[str, Any],
    reference_model: Any,
    seed: int,
) -> Callable[[Pass], Loss]:
    """The objective as a function of the pass alone; one with parameters of its own gets them from the seed."""
    if isinstance(method, type):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            made: Callable[[Pass], Loss] = method(shape.body.config.get_text_config().hidden_size, **options)
        return made
    if wants.tokenizer:
        method = functools.partial(method, tokenizer=tokenizer)
    if wants.reference:
        return functools.partial(method, reference=_frozen(shape, reference_model), **options)
    return functools.partial(method, **options)


def _frozen(shape: Decoder, reference_model: Any) -> Callable[[Batch], torch.Tensor]:
    """Log-probabilities of the model that training began with: the base under the adapter, a given model, or a copy."""
    if reference_model is None and models.has_adapter(shape.model):

        def without_adapter(batch: Batch) -> torch.Tensor:
            # the start is asked as it is used, whatever training adds to the policy's forward pass
            with models.asking(shape.model), models.adapter_off(shape.model):
                logps_NT = Pass(shape, batch).logps()
            return logps_NT.clone()  # a tensor of inference mode cannot take part in a backward pass

        return without_adapter
    kept = copy.deepcopy(shape.model) if reference_model is None else reference_model
    frozen = decoder(kept.to(shape.body.device).eval().requires_grad_(False))

    @torch.no_grad()
    def of_copy(batch: Batch) -> torch.Tensor:
        return Pass(frozen, batch).logps()

    return of_copy


def _say_idle(replay: Sequence[Replay], pools: Sequence[Pool], objective: str, wants: _Wants) -> None:
    for part, pool in zip(replay, pools, strict=True):
        if not wants.alone and not any(one.negatives for one in pool.encoded):
            log.warning(
                "replay '%s': its rows have no negatives, so they do nothing under '%s'; give the objective a replay_weight",
                part.name,
                objective,
            )


def _say(summary: Mapping[str, Any], objective: str, wants: _Wants) -> None:
    if wants.negatives and not summary["negatives"]:
        raise UserError(
            f"objective '{objective}' needs negatives, and no record has one. Augment the data, or train with 'sft'."
        )
    if wants.pairs and not summary["paired"]:
        raise UserError(
            f"objective '{objective}' compares two versions of a text, and no record has two positives that differ. Make them with "
            "the data kind 'counterfactual', or train with form 'cda'."
        )
    if summary["truncated"]:
        log.warning("%d of %d records were too long; their prompts were cut", summary["truncated"], summary["records"])
    if summary["negatives_equal_to_a_positive"]:
        log.warning("%d negatives equal a positive and were left out", summary["negatives_equal_to_a_positive"])


# --------------------------------------------------------------------------- the model


@contextmanager
def _prepared(
    model: Any, adapter: Mapping[str, Any] | None, theirs: Mapping[str, Any], device: torch.device, seed: int
) -> Iterator[Any]:
    """The model ready to train: on its device, dropout off, with a fresh adapter if wanted; put back afterwards."""
    set_seed(seed)
    model.to(device)
    dropouts = [(m, m.p) for m in model.modules() if isinstance(m, nn.Dropout)]
    for module, _ in dropouts:
        module.p = 0.0
    policy = model
    if adapter is not None:
        from peft import LoraConfig, get_peft_model

        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # PEFT calls transformers by an old name
                warnings.filterwarnings("ignore", message="fan_in_fan_out")  # it sets what GPT-2 needs by itself
                policy = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **adapter))
        except (ValueError, TypeError) as error:
            raise RecipeError(f"lora: {error}") from error
    if theirs["gradient_checkpointing"]:
        _checkpoint_activations(model, True)
    try:
        if not any(p.requires_grad for p in policy.parameters()):
            raise UserError("no weight of the model can be trained: all are frozen.")
        yield policy
    finally:
        if theirs["gradient_checkpointing"]:
            _checkpoint_activations(model, False)
        if adapter is not None:
            policy.unload()
        for module, p in dropouts:
            module.p = p


def _checkpoint_activations(model: Any, on: bool) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the name changes within our range of versions
        if on:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        else:
            model.gradient_checkpointing_disable()


@contextmanager
def _holding(penalties: Mapping[str, Any], policy: Any) -> Iterator[None]:
    """The penalties at work; whatever they changed in the model is put back afterwards, the last one's first."""
    prepared = []
    try:
        for penalty in penalties.values():
            prepared.append(penalty)
            penalty.prepare(policy)
        yield
    finally:
        for penalty in reversed(prepared):
            penalty.release()


class _Trained(nn.Module):
    """The model with the objective's own parameters: one module for the Trainer; only the model is exported."""

    def __init__(self, policy: nn.Module, loss: Callable[[Pass], Loss], shape: Decoder) -> None:
        super().__init__()
        self.policy, self.loss, self.shape = policy, loss, shape

    def forward(self, batch: Batch) -> Loss:
        return self.loss(Pass(self.shape, batch))

    def trained(self) -> dict[str, torch.Tensor]:
        """Every tensor that training changes, by name; tied weights once."""
        return {name: p for name, p in self.named_parameters() if p.requires_grad}


# --------------------------------------------------------------------------- the loop


class _Trainer(Trainer):
    """Hugging Face's loop, with the step's own normalisation, whole checkpoints, and a log of every step."""

    loss_is_scaled_for_ga = True
    control: Any

    def __init__(
        self,
        model: _Trained,
        settings: TrainingArguments,
        data: Schedule,
        *,
        out: Path,
        hooks: Sequence[TrainerCallback],
        penalties: Mapping[str, Any],
        callbacks: Sequence[TrainerCallback],
        limit: int,
    ) -> None:
        super().__init__(
            model=model, args=settings, train_dataset=data, data_collator=_as_inputs, callbacks=[*hooks, *callbacks]
        )
        self.remove_callback(PrinterCallback)
        self.model_accepts_loss_kwargs = True
        self.out, self.limit = out, limit
        self.hooks, self.penalties = hooks, penalties
        self.sums: Counter[str] = Counter()
        self.bar: Any = None

    def run(self, *, label: str, progress: bool) -> int:
        """Train to the end; returns the step that it went on from."""
        folder = Path(self.args.output_dir)
        finished = _checkpoints(folder)
        whole = [path for path in finished if (path / WHOLE).read_text(encoding="utf-8") == _hash(path)]
        for path in folder.glob("checkpoint-*"):
            if path not in whole:
                if path in finished:
                    log.warning("%s is damaged; training goes on from the one before it, or from the start", path)
                shutil.rmtree(path)
        start = _step(whole[-1]) if whole else 0
        _cut_log(self.out, start)
        self.bar = tqdm(total=self.args.max_steps, initial=start, desc=label, disable=not progress, unit="step")
        try:
            self.train(resume_from_checkpoint=str(whole[-1]) if whole else None)
        except ImportError as error:  # an optimiser of a package that is not installed
            raise RecipeError(f"training arguments: {error}") from error
        finally:
            self.bar.close()
        return start

    def get_train_dataloader(self) -> DataLoader:
        data = self.train_dataset
        return DataLoader(
            data,
            batch_size=self.args.per_device_train_batch_size,
            sampler=SequentialSampler(data),
            collate_fn=_as_inputs,
        )

    def get_batch_samples(self, epoch_iterator: Iterator, num_batches: int, device: Any) -> tuple[list, int]:
        batches = [inputs["batch"] for _, inputs in zip(range(num_batches), epoch_iterator, strict=False)]
        step = sum((batch.step for batch in batches), Counts())
        # a penalty is of the step: its first batch carries it
        return [{"batch": replace(b, step=step), "first": not i} for i, b in enumerate(batches)], step.reference_tokens

    def compute_loss(
        self, model: nn.Module, inputs: dict, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        loss = model(inputs["batch"].to(self.args.device))
        if not torch.isfinite(loss.value):
            self._stop(self.state.global_step + 1, f"the loss is {loss.value.item()}")
        self.sums.update(loss.logs)
        total = loss.value
        for name, penalty in self.penalties.items() if inputs["first"] else ():
            added = penalty.penalty(model.policy, self.state.global_step)
            if not torch.isfinite(added):
                self._stop(self.state.global_step + 1, f"the penalty {name} is {added.item()}")
            self.sums.update({f"penalty_{name}": added.item()})
            total = total + added
        return total

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" not in logs:
            return
        if not math.isfinite(logs.get("grad_norm", 0.0)):
            self._stop(self.state.global_step, f"the gradient's norm is {logs['grad_norm']}")
        step = self.state.global_step
        seen = min(
            step * self.args.per_device_train_batch_size * self.args.gradient_accumulation_steps,
            len(self.train_dataset),
        )
        self.state.log_history.append({**logs, "step": step})
        self.control = self.callback_handler.on_log(self.args, self.state, self.control, logs)
        row = {"step": step, "epoch": seen / self.train_dataset.epoch_length, **logs, **self.sums}
        self.sums.clear()
        with (self.out / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        self.bar.update(step - self.bar.n)
        self.bar.set_postfix(loss=f"{logs['loss']:.3f}")

    def _stop(self, step: int, what: str) -> None:
        raise UserError(
            f"training stopped at step {step}: {what}. Lower learning_rate (now {self._get_learning_rate():.3g}) or max_grad_norm, "
            "or look for broken records; nothing of this step was saved."
        )

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: p.detach().contiguous() for name, p in self.model.trained().items()}, folder / TENSORS)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        saved = load_file(Path(resume_from_checkpoint) / TENSORS)
        with torch.no_grad():
            for name, parameter in self.model.trained().items():
                parameter.copy_(saved[name])

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        folder = Path(self.args.output_dir)
        try:
            super()._save_checkpoint(model, trial)
        except (SafetensorError, RuntimeError, OSError) as error:
            raise UserError(
                f"the checkpoint of step {self.state.global_step} cannot be written to {folder}: "
                f"{str(error).splitlines()[0]} ({_free(folder)}). The same command goes on from the one before."
            ) from error
        written = folder / f"checkpoint-{self.state.global_step}"
        for hook in self.hooks:  # what they keep belongs to the checkpoint, and to its hash
            hook.on_save(self.args, self.state, self.control)
        files.write(written / WHOLE, _hash(written))
        for old in _checkpoints(folder)[: -self.limit]:
            (old / WHOLE).unlink()
            shutil.rmtree(old)


def _as_inputs(examples: Sequence[Any]) -> dict[str, Batch]:
    return {"batch": collate(examples)}


def _checkpoints(folder: Path) -> list[Path]:
    """The checkpoints that were written to their end, oldest first."""
    return sorted((p.parent for p in folder.glob(f"checkpoint-*/{WHOLE}")), key=_step)


def _free(folder: Path) -> str:
    return f"{shutil.disk_usage(folder).free / 2**20:.1f} MiB are free there"


def _hash(checkpoint: Path) -> str:
    """What the files of a checkpoint hold, in short: how a damaged one is known before a library stumbles over it."""
    return scorers.hash_files([path for path in checkpoint.iterdir() if path.is_file() and path.name != WHOLE])


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


# --------------------------------------------------------------------------- the run's folder


def _claim(out: Path, identity: dict[str, Any]) -> dict[str, Any] | None:
    """Make the folder this run's, or find that it is; the result if the run is finished."""
    marker = out / "run.json"
    wanted = json.loads(json.dumps(identity, default=str))
    if not marker.is_file():
        out.mkdir(parents=True, exist_ok=True)
        files.write_json(marker, wanted)
        return None
    found = _read(marker)
    other = [key for key in wanted if found.get(key) != wanted[key]]
    if other:
        told = "; ".join(f"{key}: {_short(found.get(key))} there, {_short(wanted[key])} now" for key in other)
        raise UserError(f"{out} holds a run of other arguments ({told}). Give another folder, or remove that one.")
    result = out / "result.json"
    if result.is_file() and (out / "model").is_dir():
        done = _read(result)
        if "summary" not in done:
            raise UserError(f"{result} is damaged. Remove {out} to train again, or give another folder.")
        return done
    return None


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(
            f"{path} is damaged: {error}. Remove {path.parent} to train again, or give another folder."
        ) from error
    if not isinstance(found, dict):
        raise UserError(f"{path} holds no object. Remove {path.parent} to train again, or give another folder.")
    return found


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _read_log(out: Path) -> list[dict[str, float]]:
    path = out / "log.jsonl"
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            row = json.loads(line)
        except ValueError:
            break  # the last line of a run that was killed while it wrote
        if not isinstance(row, dict) or "step" not in row:
            break
        rows.append(row)
    return rows


def _cut_log(out: Path, step: int) -> None:
    """Forget the steps after the checkpoint: they will be taken again."""
    rows = [row for row in _read_log(out) if row["step"] <= step]
    files.write(out / "log.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
