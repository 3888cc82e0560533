"""The three lines of docs/penalties.md: a penalty in a plain SFTTrainer or DPOTrainer, whatever the accumulation."""

import copy

import pytest
import torch

import tiny
from untax import references
from untax.penalties.kl_anchor import KLAnchor
from untax.penalties.l2_sp import L2SP


def settings(kind, out, steps):
    return kind(
        output_dir=str(out), max_steps=3, per_device_train_batch_size=4 // steps, gradient_accumulation_steps=steps,
        learning_rate=0.1, optim="sgd", lr_scheduler_type="constant", max_grad_norm=1e9, save_strategy="no", report_to="none",
        use_cpu=True, bf16=False, disable_tqdm=True, seed=0, gradient_checkpointing=False,
    )  # fmt: skip


def trained(base, penalty, trainer, config, rows, scaled):
    """The model after three steps with a penalty; `scaled`: the trainer's loss is divided by the accumulation already."""
    model = copy.deepcopy(base)

    class Held(trainer):
        def compute_loss(self, model, *args, **kwargs):
            loss = super().compute_loss(model, *args, **kwargs)
            if not model.training:
                return loss
            added = penalty.penalty(self.accelerator.unwrap_model(model), self.state.global_step)
            return loss + added / (self.current_gradient_accumulation_steps if scaled else 1)

    tokenizer = tiny.tokenizer()
    tokenizer.pad_token = tiny.END
    given = {"ref_model": copy.deepcopy(base)} if not scaled else {}
    held = Held(model=model, args=config, train_dataset=rows, processing_class=tokenizer, **given)
    penalty.prepare(held.model)
    held.train()
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sft", "dpo"])
def test_accumulation_does_not_change_the_penalty(tmp_path, kind):
    """1 batch of 4 and 4 batches of 1 (2 of 2 for DPO) end at the same weights, and the penalty is felt."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

    base = tiny.llama()
    held = {"general": references.read("general", ["abc", "bcd", "cde"], tiny.tokenizer())}
    if kind == "sft":
        rows = Dataset.from_list([{"text": letters} for letters in ("abcd", "bcde", "cdef", "defg")])
        trainer, config, steps = SFTTrainer, SFTConfig, 4
    else:
        rows = Dataset.from_list([{"prompt": "a", "chosen": " bc", "rejected": f" {c}d"} for c in "efgh"])
        trainer, config, steps = DPOTrainer, DPOConfig, 2
    ends = {}
    for penalty in (L2SP({}, weight=3.0), KLAnchor(held, weight=3.0)):
        ends[penalty] = [
            trained(base, penalty, trainer, settings(config, tmp_path, n), rows, kind == "sft") for n in (1, steps)
        ]
        for name, weight in ends[penalty][0].items():
            assert torch.allclose(weight, ends[penalty][1][name], atol=2e-5), (penalty, name)
    free = trained(base, L2SP({}, weight=0.0), trainer, settings(config, tmp_path, 1), rows, kind == "sft")

    def moved(weights):
        start = dict(base.named_parameters())
        return sum((weight - start[name]).square().sum().item() for name, weight in weights.items())

    near, anchored = (one for one, _ in ends.values())
    assert moved(near) < 0.8 * moved(free)
    assert any(not torch.allclose(anchored[name], free[name], atol=1e-3) for name in free)
