"""The memory table of docs/several-gpus.md is what the benchmark computes, and the computation is what a model really has."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest
import torch

import tiny
from untax.gradients.ogpsa import OrthogonalProjection

CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def benchmark():
    path = CHECKOUT / "benchmarks" / "projection_overhead.py"
    spec = importlib.util.spec_from_file_location("projection_overhead", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    sys.path.insert(0, str(path.parent))  # which it takes away again
    try:
        spec.loader.exec_module(module)
        yield module
    finally:
        del sys.modules[spec.name]


def test_the_page_shows_what_is_computed(benchmark):
    page = (CHECKOUT / "docs" / "several-gpus.md").read_text(encoding="utf-8")
    shown = re.search(r"<!-- memory:begin -->\n(.*?)\n<!-- memory:end -->", page, flags=re.S)[1]
    assert shown == benchmark.memory_table()


def test_a_line_by_hand(benchmark):
    """8 G numbers on 8 shards are 1 Gi/1.073741824 numbers each: 4 directions x 2 bytes = 7.45 GiB, snapshot 1.86, sum 3.73."""
    found = benchmark.memory(8_000_000_000, 4)
    assert {name: round(value, 2) for name, value in found.items()} == {"stored": 7.45, "snapshot": 1.86, "pass": 3.73}


def test_numbers_are_those_of_the_models(benchmark):
    """Counted on models without memory; 7 B is Llama 2's, 70 B Llama 3's shape. LoRA on a small one of the same form."""
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    def model(shape):
        heads = 4 if shape.hidden < 1024 else shape.hidden // 128
        config = LlamaConfig(
            vocab_size=shape.vocabulary, hidden_size=shape.hidden, intermediate_size=shape.inner, num_hidden_layers=shape.layers,
            num_attention_heads=heads, num_key_value_heads=heads * shape.keys // shape.hidden, tie_word_embeddings=False,
        )  # fmt: skip
        with torch.device("meta"):
            return LlamaForCausalLM(config)

    for shape in benchmark.LARGE.values():
        assert shape.full() == sum(p.numel() for p in model(shape).parameters())
    small = benchmark.Shape(64, 160, 3, 100, 32)
    adapted = get_peft_model(model(small), LoraConfig(task_type="CAUSAL_LM", r=16, target_modules="all-linear"))
    assert small.lora(16) == sum(p.numel() for p in adapted.parameters() if p.requires_grad)


def test_bytes_are_those_that_a_projection_holds(benchmark, tmp_path):
    """A tiny model in bf16, two sets of two directions: what is stored, and the snapshot after a step, on one shard."""
    from transformers import TrainerControl, TrainerState, TrainingArguments

    model = tiny.llama().to(torch.bfloat16)
    callback = OrthogonalProjection({"a": ["one", "two"], "b": ["three", "four"]}, directions_per_set=2)
    told = {"model": model, "optimizer": torch.optim.SGD(model.parameters()), "processing_class": tiny.tokenizer()}
    settings, state, control = TrainingArguments(str(tmp_path), use_cpu=True), TrainerState(), TrainerControl()
    for event in (callback.on_train_begin, callback.on_step_begin, callback.on_pre_optimizer_step):
        event(settings, state, control, **told)
    computed = benchmark.memory(sum(p.numel() for p in model.parameters()), 4, shards=1)
    assert sum(kept.nbytes for kept in callback.holding.subspace.kept) / 2**30 == pytest.approx(computed["stored"])
    assert sum(before.nbytes for before in callback.before) / 2**30 == pytest.approx(computed["snapshot"])
