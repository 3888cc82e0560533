"""Training: equal trajectories where they must be equal, and runs that survive being killed."""

import itertools
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError, safe_open
from training import QUICK, furthest, go, records, weights
from transformers import TrainerCallback

import tiny
from untax import models
from untax.prefix import Target
from untax.train import loop
from untax.train.encode import Encoded, Pool, Schedule
from untax.types import Candidate, ContrastiveRecord, RecipeError, UserError

HERE = Path(__file__).resolve().parent


def trajectory(result, key="loss"):
    return [row[key] for row in result.log]


# ------------------------------------------------------------------ limits and normalisation


def test_alpha_zero_is_sft_step_by_step(tmp_path):
    plain = go(tmp_path / "sft", objective="sft")
    none = go(tmp_path / "zero", objective_options={"alpha": 0.0})
    assert trajectory(plain) == trajectory(none)
    assert furthest(plain, none) == 0
    some = go(tmp_path / "one")
    assert furthest(plain, some) > 1e-3


def test_a_vanishing_alpha_is_sft_too(tmp_path):
    """All targets run through the shared pass, and the references learn what they learn alone."""
    plain = go(tmp_path / "sft", objective="sft")
    little = go(tmp_path / "little", objective_options={"alpha": 1e-9})
    assert trajectory(little) == pytest.approx(trajectory(plain), abs=1e-4)
    assert "L_cl" in little.log[0]


@pytest.mark.parametrize("objective", ["contrastive", "sft", "unlikelihood", "dpo"])
def test_accumulation_changes_nothing(tmp_path, objective):
    """Four sources at once, or one at a time: records differ in length, kinds and contrast."""
    data = records()
    data[1] = replace(data[1], positives=data[1].positives[:1], negatives=())
    data[4] = replace(data[4], negatives=data[4].negatives[:1])
    data[5] = replace(
        data[5], source=data[5].source * 2, positives=(Candidate("A much longer sentence, Sir Ed.", "reference"),)
    )
    once = go(tmp_path / "once", objective=objective, data=data)
    four = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4}
    parts = go(tmp_path / "four", objective=objective, data=data, arguments=four)
    assert once.log[0].keys() == parts.log[0].keys()
    for key in once.log[0]:
        assert trajectory(parts, key) == pytest.approx(trajectory(once, key), rel=1e-3, abs=1e-3), key
    assert trajectory(parts) == pytest.approx(trajectory(once), abs=1e-4)


def test_the_loss_is_its_parts(tmp_path):
    for row in go(tmp_path / "run", objective_options={"alpha": 0.5}).log:
        assert row["loss"] == pytest.approx(row["L_ce"] + 0.5 * row["L_cl"], abs=1e-5)
        assert row["bound_best"] < row["l_unscaled"]
        # every source has a toxic negative of 0.9: w = 1 + 0.5 * 0.9
        assert row["L_cl"] == pytest.approx(1.45 * row["l_unscaled"], abs=1e-4)


def test_dropout_is_off_while_training_and_back_afterwards(tmp_path):
    model = tiny.gpt2()
    before = model.transformer.h[0].mlp.dropout.p
    assert before > 0
    one = go(tmp_path / "one", model=model, objective="sft")
    other = go(tmp_path / "other", model=tiny.gpt2(), objective_options={"alpha": 1e-9})
    assert trajectory(one) == pytest.approx(trajectory(other), abs=1e-3)
    assert model.transformer.h[0].mlp.dropout.p == before


def test_gradient_checkpointing_changes_memory_only(tmp_path):
    plain = go(tmp_path / "plain")
    model = tiny.llama(spread=0.1)
    saved = go(tmp_path / "saved", model=model, arguments={"gradient_checkpointing": True})
    assert trajectory(saved) == pytest.approx(trajectory(plain), abs=1e-4)
    assert not model.is_activation_checkpointing


# ------------------------------------------------------------------ DPO beside TRL


def pairs(count=8):
    """One negative each, of the same length as the reference or not."""
    return [replace(r, negatives=(r.negatives[i % 3],)) for i, r in enumerate(records(count))]


def trl_losses(folder, data, arguments):
    """The losses of TRL's own trainer on the same pairs in the same order."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    rows = [
        {
            "prompt": f"{r.source}\nTL;DR:",
            "chosen": " " + r.reference,
            "rejected": " " + r.negatives[0].text,
        }
        for r in data
    ]
    settings = DPOConfig(
        output_dir=str(folder), report_to="none", logging_steps=1, bf16=False, gradient_checkpointing=False, disable_tqdm=True,
        train_sampling_strategy="sequential", save_strategy="no", beta=0.3, optim="adamw_torch", **arguments,
    )  # fmt: skip
    trainer = DPOTrainer(
        model=tiny.llama(spread=0.1), ref_model=tiny.llama(spread=0.1), args=settings, train_dataset=Dataset.from_list(rows),
        processing_class=tiny.tokenizer(),
    )  # fmt: skip
    trainer.train()
    return [row for row in trainer.state.log_history if "loss" in row]


@pytest.mark.parametrize("accumulation", [1, 2])
def test_dpo_is_trls(tmp_path, accumulation):
    arguments = {
        "learning_rate": 5e-4, "max_steps": 8, "per_device_train_batch_size": 4 // accumulation, "warmup_steps": 2,
        "gradient_accumulation_steps": accumulation, "lr_scheduler_type": "linear", "weight_decay": 0.01, "use_cpu": True,
        "max_grad_norm": 1.0,
    }  # fmt: skip
    data = pairs()
    theirs = trl_losses(tmp_path / "trl", data, arguments)
    ours = go(
        tmp_path / "ours",
        objective="dpo",
        objective_options={"beta": 0.3},
        data=data,
        arguments=arguments | {"shuffle": False},
    )
    assert len(ours.log) == 8
    assert theirs[-1]["loss"] < 0.6
    assert trajectory(ours) == pytest.approx([row["loss"] for row in theirs], abs=1e-4)
    assert trajectory(ours, "rewards_margins") == pytest.approx([row["rewards/margins"] for row in theirs], abs=1e-3)


def test_dpo_begins_at_log_two_with_any_reference(tmp_path):
    copied = go(tmp_path / "copy", objective="dpo", data=pairs())
    given = go(tmp_path / "given", objective="dpo", data=pairs(), reference_model=tiny.llama(spread=0.1))
    adapter = go(tmp_path / "adapter", objective="dpo", data=pairs(), lora={"r": 4})
    for result in (copied, given, adapter):
        assert result.log[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert trajectory(copied) == trajectory(given)
    assert adapter.log[-1]["loss"] < math.log(2) - 0.01
    other = go(tmp_path / "other", objective="dpo", data=pairs(), reference_model=tiny.llama(seed=5, spread=0.1))
    assert abs(other.log[0]["loss"] - math.log(2)) > 1e-3


# ------------------------------------------------------------------ what is saved


def test_the_exported_model_has_no_head_and_the_checkpoint_has(tmp_path):
    seen = []

    class Look(TrainerCallback):
        def on_save(self, args, state, control, **kwargs):
            with safe_open(
                Path(args.output_dir) / f"checkpoint-{state.global_step}" / "trained.safetensors", "pt"
            ) as file:
                seen.extend(file.keys())

    base = tiny.llama(spread=0.1)
    names = set(base.state_dict())
    result = go(tmp_path / "run", model=base, arguments={"save_steps": 3}, callbacks=[Look()])
    assert "loss.head.first.weight" in seen
    assert "policy.model.embed_tokens.weight" in seen
    assert set(weights(result)) == names - {"lm_head.weight"}  # tied to the embedding
    loaded, tokenizer = models.load(result.model_dir)
    assert models.fingerprint(loaded) == models.fingerprint(base)
    assert tokenizer("a")["input_ids"] == tiny.tokenizer()("a")["input_ids"]
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_lora_trains_an_adapter_and_leaves_the_base_alone(tmp_path):
    base = tiny.llama(spread=0.1)
    base.save_pretrained(tmp_path / "base")
    tiny.tokenizer().save_pretrained(tmp_path / "base")
    model, _ = models.load(tmp_path / "base")
    before = models.fingerprint(model)
    result = go(tmp_path / "run", model=model, lora={"r": 4})
    assert result.adapter
    assert models.fingerprint(model) == before
    assert not any("lora" in name for name, _ in model.named_parameters())
    names = set(weights(result))
    assert any("mlp.up_proj.lora_A" in name for name in names)
    assert any("self_attn.q_proj.lora_B" in name for name in names)
    assert not any("head" in name for name in names)
    tuned, _ = models.load(result.model_dir)
    assert models.fingerprint(tuned) != before
    assert result.log[-1]["loss"] < result.log[0]["loss"]


def test_lora_default_learning_rate_is_higher(tmp_path):
    plain = {k: v for k, v in QUICK.items() if k != "learning_rate"}
    assert go_with(plain, tmp_path / "full").log[-1]["learning_rate"] == pytest.approx(2e-5)
    assert go_with(plain, tmp_path / "lora", lora={}).log[-1]["learning_rate"] == pytest.approx(2e-4)


def go_with(arguments, out, **options):
    from training import PROMPT

    from untax.train import loop

    return loop.train(
        tiny.llama(spread=0.1), tiny.tokenizer(), records(), objective="sft", prompt=PROMPT, out=out, arguments=arguments,
        progress=False, **options,
    )  # fmt: skip


# ------------------------------------------------------------------ data of other kinds


def test_replayed_text_trains_the_likelihood_beside_the_contrast(tmp_path):
    text = ContrastiveRecord("t", "", (Candidate("It rained in May.", "reference"),), extra={"prompt": ""})
    mixed = go(tmp_path / "mixed", data=[*records(6), *[replace(text, id=f"t{i}") for i in range(6)]])
    assert mixed.summary["contrasted"] == 6
    assert mixed.summary["likelihood_only"] == 6
    assert mixed.log[-1]["loss"] < mixed.log[0]["loss"]


def test_replay_fills_its_share_of_every_epoch_and_goes_on_through_its_rows():
    """8 records with a share of 20 % beside them: 2 rows an epoch, of a pool of 5: five epochs show every row twice."""
    data = Schedule(
        [_encoded(i) for i in range(8)], total=50, seed=3, shuffle=True, max_negatives=0,
        pools=[Pool([_encoded(100 + i) for i in range(5)], 2)],
    )  # fmt: skip
    assert data.epoch_length == 10
    shown = [data[i].prompt[0] for i in range(50)]
    for epoch in range(5):
        assert sorted(i for i in shown[10 * epoch : 10 * epoch + 10] if i < 100) == list(range(8))
    assert Counter(i for i in shown if i >= 100) == dict.fromkeys(range(100, 105), 2)
    again = Schedule(
        data.encoded, total=50, seed=3, shuffle=True, max_negatives=0, pools=data.pools
    )  # fmt: skip
    assert [again[i].prompt[0] for i in range(49, -1, -1)] == shown[::-1]  # resumed anywhere, the order is the same


def _encoded(number: int) -> Encoded:
    return Encoded((number,), (Target((1, 0), positive=True),), (), ())


def test_replayed_rows_stand_in_the_share_that_was_asked_for(tmp_path):
    general = [
        ContrastiveRecord(f"g{i}", "", (Candidate(f"It rained {i} days.", "replay"),), extra={"prompt": ""})
        for i in range(9)
    ]
    one = go(tmp_path / "one", objective="sft", replay=[loop.Replay("general", general, 0.25)])
    assert one.summary["replay"] == {"general": 4}  # 12 records are three quarters
    other = go(tmp_path / "other", objective="sft", replay=[loop.Replay("general", general[:8], 0.25)])
    assert furthest(one, other) > 0
    with pytest.raises(UserError, match="other arguments"):
        go(tmp_path / "one", objective="sft")


def test_dpo_leaves_replayed_rows_alone_unless_they_weigh_something(tmp_path):
    general = [ContrastiveRecord("g", "", (Candidate("It rained.", "replay"),), extra={"prompt": ""})]
    replay = [loop.Replay("general", general, 0.25)]
    plain = go(tmp_path / "plain", objective="dpo", replay=replay)
    assert "L_replay" not in plain.log[0]
    weighed = go(tmp_path / "weighed", objective="dpo", replay=replay, objective_options={"replay_weight": 1.0})
    assert weighed.log[-1]["L_replay"] < weighed.log[0]["L_replay"]
    split = go(
        tmp_path / "split", objective="dpo", replay=replay, objective_options={"replay_weight": 1.0},
        arguments={"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2},
    )  # fmt: skip
    assert furthest(weighed, split) < 1e-6


def test_contrast_without_negatives_is_an_error_and_sft_is_not(tmp_path):
    bare = [replace(r, negatives=()) for r in records()]
    for objective in ("contrastive", "unlikelihood", "dpo"):
        with pytest.raises(UserError, match="needs negatives"):
            go(tmp_path / objective, objective=objective, data=bare)
    go(tmp_path / "sft", objective="sft", data=bare)
    go(tmp_path / "zero", objective_options={"alpha": 0}, data=bare)


def test_cut_prompts_are_counted_and_logged(tmp_path, caplog):
    result = go(tmp_path / "run", arguments={"max_length": 70})
    assert result.summary["truncated"] > 0
    assert "too long" in caplog.text
    with pytest.raises(UserError, match="context of 256"):
        go(tmp_path / "over", arguments={"max_length": 300})


def test_toxic_negatives_that_never_scale_stop_the_run(tmp_path):
    unscored = [replace(r, negatives=tuple(replace(c, toxicity=0.0) for c in r.negatives)) for r in records()]
    with pytest.raises(UserError, match="no loss was scaled"):
        go(tmp_path / "run", data=unscored)


def test_epochs_and_steps(tmp_path):
    """12 records, batches of 4 by 2: 1.5 epochs are 18 sources, 3 steps of 8, the last of 2."""
    arguments = {"max_steps": -1, "num_train_epochs": 1.5, "gradient_accumulation_steps": 2}
    result = go(tmp_path / "run", objective="sft", arguments=arguments)
    assert [row["step"] for row in result.log] == [1, 2, 3]
    assert [row["epoch"] for row in result.log] == pytest.approx([8 / 12, 16 / 12, 1.5])


# ------------------------------------------------------------------ arguments


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lerning_rate": 1e-3}, "lerning_rate.*Did you mean 'learning_rate'"),
        ({"warmup_ratio": 0.1}, "warmup_steps"),
        ({"report_to": "wandb"}, "report_to"),
        ({"learning_rate": "fast"}, "must be a number"),
        ({"per_device_train_batch_size": 0}, "whole number from 1"),
        ({"max_negatives": -1}, "whole number from 0"),
        ({"lr_scheduler_type": "zigzag"}, "zigzag"),
        ({"max_length": 1}, "whole number from 2"),
        ({"max_length": "long"}, "'max_length' must be a whole number"),
        ({"learning_rate": -1}, "'learning_rate' must be a number above 0, not -1"),
        ({"learning_rate": float("nan")}, "above 0, not nan"),
        ({"learning_rate": True}, "above 0, not True"),
        ({"learning_rate": [1]}, r"above 0, not \[1\]"),
        ({"num_train_epochs": 0}, "'num_train_epochs' must be a number above 0"),
        ({"num_train_epochs": float("inf")}, "above 0, not inf"),
        ({"max_steps": 0}, "-1 to go by num_train_epochs"),
        ({"max_steps": 1.5}, "whole number from -1, not 1.5"),
        ({"per_device_train_batch_size": True}, "whole number from 1, not True"),
        ({"max_grad_norm": -1}, "from 0, not -1"),
        ({"weight_decay": -5}, "number from 0, not -5"),
        ({"shuffle": 7}, "'shuffle' is true or false, not 7"),
    ],
)
def test_arguments_that_cannot_be_used(tmp_path, arguments, message):
    with pytest.raises(RecipeError, match=message):
        go(tmp_path / "run", arguments=arguments)


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        ({"r": 0}, "'r' must be a whole number from 1, not 0"),
        ({"r": "four"}, "'r' must be a whole number"),
        ({"r": True}, "not True"),
        ({"lora_alpha": -1}, "'lora_alpha' must be a number from 1"),
        ({"lora_dropout": 3}, "from 0 to 1, not 3"),
        ({"rank": 4}, "unknown LoRA argument 'rank'"),
    ],
)
def test_lora_that_cannot_be_used_is_found_before_any_work(lora, message):
    with pytest.raises(RecipeError, match=message):
        loop.check_arguments({}, lora)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": "much"}, "'alpha' of 'contrastive' is 'much'; it must be of type float"),
        ({"alpha": float("nan")}, "is nan"),
        ({"alpha": True}, "is True"),
        ({"use_head": 1}, "it must be of type bool"),
        ({"pool": "nope"}, "one of 'entity', 'all', 'last'"),
        ({"alpha": -1}, "alpha 0 or more"),
    ],
)
def test_options_of_an_objective_are_checked_before_any_work(options, message):
    with pytest.raises(RecipeError, match=message):
        loop.check_objective("contrastive", options)


def test_a_full_disk_is_one_sentence(tmp_path, monkeypatch):
    def refuse(*given, **named):
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(loop, "save_file", refuse)
    with pytest.raises(UserError, match=r"checkpoint of step \d+ cannot be written to .* MiB are free there"):
        go(tmp_path / "run")


@pytest.mark.parametrize("name", ["run.json", "result.json"])
@pytest.mark.parametrize("content", ["{", "[]"])
def test_a_damaged_file_of_a_run_says_what_to_remove(tmp_path, name, content):
    go(tmp_path / "run")
    (tmp_path / "run" / name).write_text(content)
    with pytest.raises(UserError, match=rf"{name} .*Remove .*run to train again"):
        go(tmp_path / "run")


def test_a_number_may_come_as_text(tmp_path):
    result = go(tmp_path / "run", objective="sft", arguments={"learning_rate": "1e-3"})
    assert result.log[-1]["learning_rate"] == 1e-3


def test_unknown_options_and_objectives(tmp_path):
    with pytest.raises(RecipeError, match="Did you mean 'alpha'"):
        go(tmp_path / "run", objective_options={"alphа": 1})
    with pytest.raises(RecipeError, match="contrastive"):
        go(tmp_path / "run", objective="contrastve")
    with pytest.raises(RecipeError, match="Did you mean 'lora_alpha'"):
        go(tmp_path / "run", lora={"lora_alfa": 3})


# ------------------------------------------------------------------ faults


def test_a_loss_that_is_not_finite_stops_with_the_step(tmp_path):
    class Poison(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **kwargs):
            if state.global_step == 3:
                with torch.no_grad():
                    model.policy.model.norm.weight[0] = float("nan")

    with pytest.raises(UserError, match="stopped at step 4: the loss is nan"):
        go(tmp_path / "run", arguments={"save_steps": 2}, callbacks=[Poison()])
    assert not (tmp_path / "run" / "model").exists()
    assert [row["step"] for row in read_log(tmp_path / "run")] == [1, 2, 3]


def read_log(out):
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


# ------------------------------------------------------------------ resuming

SCRIPT = """
import sys, time
sys.path[:0] = {paths!r}
from training import go
from transformers import TrainerCallback

class Slow(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        time.sleep(0.05)

go(sys.argv[1], arguments={arguments!r}, callbacks=[Slow()], **{options!r})
"""
LONG = {
    "max_steps": 40,
    "save_steps": 4,
    "gradient_accumulation_steps": 2,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 0.1,
}


def kill_when(out, ready, options):
    """Start training in another process and kill it as soon as `ready` says so."""
    script = SCRIPT.format(paths=[str(HERE), str(HERE.parent)], arguments=LONG, options=options)
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    process = subprocess.Popen([sys.executable, "-c", script, str(out)], env=environment, start_new_session=True)
    deadline = time.monotonic() + 120
    while not ready() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert process.poll() is None, "the run ended before it could be killed"
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.mark.parametrize("options", [{}, {"lora": {"r": 4}}], ids=["full", "lora"])
def test_a_killed_run_ends_where_the_uninterrupted_one_does(tmp_path, options):
    whole = go(tmp_path / "whole", arguments=LONG, **options)
    out = tmp_path / "killed"
    checkpoints = out / "checkpoints"
    kill_when(out, lambda: (checkpoints / "checkpoint-12" / "complete").exists(), options)
    assert not (out / "model").exists()
    assert not (checkpoints / "checkpoint-4").exists(), "old checkpoints are removed"
    torch.manual_seed(99)
    resumed = go(out, arguments=LONG, **options)
    assert resumed.resumed_from >= 12
    assert furthest(whole, resumed) == 0
    assert resumed.log == whole.log
    assert len(resumed.log) == 40


def half_written(checkpoint):
    (checkpoint / "complete").unlink()
    (checkpoint / "trained.safetensors").write_bytes(b"half")


def damaged(name):
    def spoil(checkpoint):
        path = checkpoint / name
        os.truncate(path, path.stat().st_size // 2)

    return spoil


@pytest.mark.parametrize(
    "spoil",
    [half_written, *map(damaged, ("trained.safetensors", "optimizer.pt", "trainer_state.json", "rng_state.pth"))],
    ids=["half written", "weights", "optimizer", "state", "random numbers"],
)
def test_a_checkpoint_that_is_not_whole_is_ignored(tmp_path, spoil):
    whole = go(tmp_path / "whole", arguments=LONG)

    class Stop(Exception):
        pass

    class Die(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 11:
                raise Stop

    out = tmp_path / "run"
    with pytest.raises(Stop):
        go(out, arguments=LONG | {"save_total_limit": 2}, callbacks=[Die()])
    folder = out / "checkpoints"
    assert sorted(p.name for p in folder.iterdir()) == ["checkpoint-4", "checkpoint-8"]
    spoil(folder / "checkpoint-8")
    resumed = go(out, arguments=LONG | {"save_total_limit": 2})
    assert resumed.resumed_from == 4
    assert furthest(whole, resumed) == 0
    assert resumed.log == whole.log


def test_a_finished_run_is_not_repeated(tmp_path):
    first = go(tmp_path / "run")
    stamp = first.model_dir.stat().st_mtime_ns
    again = go(tmp_path / "run")
    assert again.log == first.log
    assert again.summary == first.summary
    assert again.model_dir.stat().st_mtime_ns == stamp


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seed": 1}, "seed: 0 there, 1 now"),
        ({"arguments": {"learning_rate": 1e-3}}, "arguments"),
        ({"objective": "sft"}, "objective"),
        ({"data": records(11)}, "records"),
        ({"lora": {}}, "lora"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_folder_of_another_run_is_refused(tmp_path, change, named):
    go(tmp_path / "run")
    with pytest.raises(UserError, match=named):
        go(tmp_path / "run", **change)


def test_seeds_differ_and_repeat(tmp_path):
    runs = {(seed, k): go(tmp_path / f"{seed}{k}", seed=seed) for seed, k in itertools.product((0, 1), (0, 1))}
    assert furthest(runs[0, 0], runs[0, 1]) == 0
    assert furthest(runs[0, 0], runs[1, 0]) > 1e-4


def test_nothing_is_shown_when_nobody_watches(tmp_path, capfd):
    go(tmp_path / "run")
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err == ""
