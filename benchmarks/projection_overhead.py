"""What a projection costs: plain TRL fine-tuning beside the projected one, step by step in turns, with the same batches.

    python benchmarks/projection_overhead.py [--quick] [--threads 1] [--plot docs/projection-scaling.svg]
    python benchmarks/projection_overhead.py --memory

Two SFTTrainers train copies of one Llama; after each step the one waits while the other takes the same step, so that whatever else
the machine does falls on both. The quickest plain step counts, and the quickest of what the projection does, in processor seconds
(CPU); the ratio of wall-clock seconds stands beside it. Figures, as shares of a plain step:

    projection           what it does at every step: the two events around the optimiser's step (snapshot, projection)
    overhead             this and a refresh every K steps
    beyond reference     the same less what it takes to run the reference rows forward and backward, as a plain loop does

Peak memory is measured apart, each way in a process of its own, and the growth with the number of parameters on the two events
alone. `--memory` computes what large models need and measures nothing. The last line is one line of JSON.
"""

from __future__ import annotations

import sys

sys.path.pop(0)  # this folder, whose statistics.py hides the standard library's

import argparse
import gc
import json
import math
import os
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import torch
from datasets import disable_progress_bars
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, PrinterCallback, TrainerCallback

from untax.gradients.ogpsa import OrthogonalProjection
from untax.references import References, Row, nll, still

VOCABULARY = 2048
EVERY = (10, 30)  # refresh_every
REFERENCE_ROWS, REFERENCE_TOKENS = 200, 64  # in two sets


# --------------------------------------------------------------------------- the models, the rows, the trainers


def llama(hidden: int, layers: int, *, vocabulary: int = VOCABULARY) -> Any:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=hidden,
            intermediate_size=hidden * 8 // 3,
            num_hidden_layers=layers,
            num_attention_heads=max(2, hidden // 64),
            max_position_embeddings=1024,
            bos_token_id=0,
            eos_token_id=0,
        )
    )


def tokenizer() -> Any:
    from tokenizers import Tokenizer, models

    inner = Tokenizer(models.WordLevel({f"w{i}": i for i in range(VOCABULARY)}, unk_token="w1"))
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="w0", eos_token="w0", pad_token="w0")


def rows(count: int, tokens: int, seed: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(1, VOCABULARY, (count, tokens), generator=generator).tolist()


def references(count: int = REFERENCE_ROWS) -> dict[str, References]:
    """Two sets of half the rows each."""
    made = [tuple(Row(tuple(ids), 1) for ids in rows(count // 2, REFERENCE_TOKENS, seed)) for seed in (1, 2)]
    return {name: References(name, part) for name, part in zip(("general", "facts"), made, strict=True)}


def sft(
    options: argparse.Namespace, *, lora: bool, steps: int, callbacks: Sequence[TrainerCallback], folder: str
) -> Any:
    from datasets import Dataset
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    on_cpu = options.device == "cpu"
    settings = SFTConfig(
        output_dir=folder, max_steps=steps, per_device_train_batch_size=options.batch, learning_rate=1e-4, use_cpu=on_cpu,
        bf16=not on_cpu, report_to="none", save_strategy="no", logging_strategy="no", disable_tqdm=True, max_length=None,
        gradient_checkpointing=False, dataloader_pin_memory=not on_cpu, seed=0,
    )  # fmt: skip
    trainer = SFTTrainer(
        model=llama(options.hidden, options.layers),
        args=settings,
        train_dataset=Dataset.from_dict({"input_ids": rows(steps * options.batch, options.tokens, 3)}),
        processing_class=tokenizer(),
        callbacks=[*callbacks],
        peft_config=LoraConfig(task_type="CAUSAL_LM", r=16, target_modules="all-linear") if lora else None,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


# --------------------------------------------------------------------------- two trainers in turns


@dataclass
class Clock:
    """Wall-clock and processor seconds; on a GPU both wait for it first."""

    device: str

    def now(self) -> tuple[float, float]:
        if self.device != "cpu":
            torch.cuda.synchronize()
        return time.perf_counter(), time.process_time()


@dataclass
class Steps:
    """Seconds (wall-clock, processor) by kind of step."""

    found: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    refreshed: list[int] = field(default_factory=list)  # steps at which the references were asked

    def add(self, kind: str, begin: tuple[float, float], end: tuple[float, float]) -> None:
        self.found.setdefault(kind, []).append((end[0] - begin[0], end[1] - begin[1]))

    def best(self, kind: str, clock: int) -> float:
        """The quickest, by clock 0 (wall) or 1 (processor)."""
        return min(both[clock] for both in self.found[kind])

    def slower(self, clock: int) -> float:
        """How much longer a projected step takes than the plain one that was taken just before it: the median of the differences."""
        plain = [both[clock] for i, both in enumerate(self.found["plain"]) if i not in self.refreshed]
        pairs = zip(plain, (both[clock] for both in self.found["projected"]), strict=True)
        return statistics.median(theirs - mine for mine, theirs in pairs)


class Turns:
    """Lets two threads run one step each, in turns. A thread that has failed or ended no longer takes part."""

    def __init__(self, count: int) -> None:
        self.condition, self.turn, self.left = threading.Condition(), 0, set(range(count))

    def wait(self, mine: int) -> None:
        with self.condition:
            self.condition.wait_for(lambda: self.turn == mine or self.left == {mine})

    def pass_on(self, mine: int) -> None:
        with self.condition:
            others = sorted(self.left - {mine})
            self.turn = next((i for i in others if i > mine), others[0] if others else mine)
            self.condition.notify_all()

    def leave(self, mine: int) -> None:
        self.pass_on(mine)
        with self.condition:
            self.left.discard(mine)
            self.condition.notify_all()


class Timed(TrainerCallback):
    """Waits for its turn before a step and times it; stands first in the trainer's list, so that other callbacks are inside."""

    def __init__(self, steps: Steps, turns: Turns, mine: int, clock: Clock, kind: Callable[[], str]) -> None:
        self.steps, self.turns, self.mine, self.clock, self.kind = steps, turns, mine, clock, kind
        self.begin = (0.0, 0.0)

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.turns.pass_on(self.mine)
        self.turns.wait(self.mine)
        self.begin = self.clock.now()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.steps.add(self.kind(), self.begin, self.clock.now())


@contextmanager
def timed_events(projection: OrthogonalProjection, steps: Steps, clock: Clock) -> Iterator[None]:
    """Time the two events around the optimiser's step, as one sum a step, and each refresh."""
    before, after, opening = projection.on_pre_optimizer_step, projection.on_optimizer_step, projection.on_step_begin
    spent = [0.0, 0.0]

    def on_pre_optimizer_step(*args: Any, **kwargs: Any) -> None:
        begin = clock.now()
        before(*args, **kwargs)
        spent[:] = [b - a for a, b in zip(begin, clock.now(), strict=True)]

    def on_optimizer_step(*args: Any, **kwargs: Any) -> None:
        begin = clock.now()
        after(*args, **kwargs)
        end = clock.now()
        steps.add("projection", (0.0, 0.0), (spent[0] + end[0] - begin[0], spent[1] + end[1] - begin[1]))

    def on_step_begin(args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        begin = clock.now()
        opening(args, state, control, **kwargs)
        if projection.holding is not None and projection.holding.refreshed_at == state.global_step:
            steps.add("refresh", begin, clock.now())

    projection.on_pre_optimizer_step = on_pre_optimizer_step  # type: ignore[method-assign]
    projection.on_optimizer_step = on_optimizer_step  # type: ignore[method-assign]
    projection.on_step_begin = on_step_begin  # type: ignore[method-assign]
    yield


def in_turns(options: argparse.Namespace, *, lora: bool) -> tuple[Steps, int, int]:
    """Times of plain and projected steps; and how many parameters there are, and how many of them train."""
    steps, clock, turns = Steps(), Clock(options.device), Turns(2)
    projection = OrthogonalProjection(references(), refresh_every=options.refresh)

    def kind() -> str:
        held = projection.holding
        fresh = held is not None and held.refreshed_at not in steps.refreshed
        if fresh:
            steps.refreshed.append(held.refreshed_at)
        return "with refresh" if fresh else "projected"

    failures: list[BaseException] = []
    with tempfile.TemporaryDirectory() as folder, timed_events(projection, steps, clock):
        trainers = [
            sft(options, lora=lora, steps=options.steps, callbacks=[], folder=folder),
            sft(options, lora=lora, steps=options.steps, callbacks=[projection], folder=folder),
        ]
        kinds: list[Callable[[], str]] = [lambda: "plain", kind]
        for i, (trainer, name) in enumerate(zip(trainers, kinds, strict=True)):
            trainer.callback_handler.callbacks.insert(0, Timed(steps, turns, i, clock, name))
        model = trainers[0].model
        numbers = [p.numel() for p in model.parameters()], [p.numel() for p in model.parameters() if p.requires_grad]

        def train(i: int) -> None:
            try:
                torch.set_num_threads(options.threads)  # holds for the thread that says it
                turns.wait(i)
                trainers[i].train()
            except BaseException as error:
                failures.append(error)
            finally:
                turns.leave(i)

        threads = [threading.Thread(target=train, args=(i,)) for i in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    if failures:
        raise failures[0]
    reference_passes(options, trainers[0].model, steps, clock)
    return steps, sum(numbers[0]), sum(numbers[1])


def reference_passes(options: argparse.Namespace, model: Any, steps: Steps, clock: Clock, *, repeats: int = 3) -> None:
    """The reference rows forward and backward in a plain loop, batched as the projection batches them: what no method can avoid."""
    trained = [p for p in model.parameters() if p.requires_grad]
    sets = references()
    for _ in range(repeats):
        begin = clock.now()
        with still(model), torch.autocast("cuda", torch.bfloat16, enabled=options.device != "cpu"):
            for part in sets.values():
                for batch in part.batches(8):
                    torch.autograd.grad(nll(model, batch)[0] / part.tokens, trained)
        steps.add("reference", begin, clock.now())


def overheads(steps: Steps, clock: int) -> dict[str, float]:
    """All figures, as shares of a plain step."""
    plain = steps.best("plain", clock)
    found = {"projection": steps.best("projection", clock) / plain, "slower": steps.slower(clock) / plain}
    for every in EVERY:
        passes, refresh = (steps.best(kind, clock) / plain / every for kind in ("reference", "refresh"))
        found |= {f"overhead_{every}": found["projection"] + refresh, f"reference_{every}": passes}
        found[f"beyond_{every}"] = found[f"overhead_{every}"] - passes
    return found


# --------------------------------------------------------------------------- memory, measured


def memory_bytes(name: str) -> int:
    """What this process holds (VmRSS) or has held at most (VmHWM), where the system tells; its peak elsewhere."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage's figure is inherited from the parent
        line = next(line for line in status.read_text().splitlines() if line.startswith(name))
        return int(line.split()[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def measure(options: argparse.Namespace) -> None:
    """Train a few steps, plain or projected, and print what that added to the process's peak, in MiB."""
    lora, projected = json.loads(options.measure)
    callbacks = [OrthogonalProjection(references(), refresh_every=2)] if projected else []
    on_cpu = options.device == "cpu"
    with tempfile.TemporaryDirectory() as folder:
        tiny = argparse.Namespace(**{**vars(options), "hidden": 64, "layers": 1, "tokens": 8, "batch": 1})
        sft(tiny, lora=lora, steps=1, callbacks=[], folder=folder).train()  # brings in the libraries' own buffers
        gc.collect()
        if on_cpu:
            before = memory_bytes("VmRSS")
        else:
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
        sft(options, lora=lora, steps=3, callbacks=callbacks, folder=folder).train()
    after = memory_bytes("VmHWM") if on_cpu else torch.cuda.max_memory_allocated()
    print((after - before) / 2**20)


#: large tensors are given back at once, so that the peak is that of what is in use
MALLOC = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


def mebibytes(options: argparse.Namespace, *, lora: bool, projected: bool) -> float:
    command = [sys.executable, __file__, "--measure", json.dumps([lora, projected]), "--device", options.device]
    for name in ("hidden", "layers", "batch", "tokens", "threads"):
        command += [f"--{name}", str(getattr(options, name))]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env={**os.environ, **MALLOC})
    return float(done.stdout.split()[-1])


# --------------------------------------------------------------------------- growth with the number of parameters


def projecting(hidden: int, layers: int, device: str, repeats: int) -> tuple[int, float]:
    """Parameters of a Llama, and the seconds (processor; on a GPU wall-clock) of the two events around one step."""
    from transformers import TrainerControl, TrainerState, TrainingArguments

    model = llama(hidden, layers).to(device)
    projection = OrthogonalProjection(
        {name: References(name, part.rows[:1]) for name, part in references(2).items()}, refresh_every=10**6
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    clock = Clock(device)
    with tempfile.TemporaryDirectory() as folder:
        settings = TrainingArguments(folder, use_cpu=device == "cpu", report_to="none")
        state, control = TrainerState(), TrainerControl()
        told = {"model": model, "optimizer": optimizer, "processing_class": None}
        projection.on_train_begin(settings, state, control, **told)
        projection.on_step_begin(settings, state, control, **told)
        seconds = []
        for _ in range(repeats + 1):
            begin = clock.now()
            projection.on_pre_optimizer_step(settings, state, control, **told)
            projection.on_optimizer_step(settings, state, control, **told)
            seconds.append(clock.now()[int(device == "cpu")] - begin[int(device == "cpu")])
    return sum(p.numel() for p in model.parameters()), min(seconds[1:])


SIZES = ((128, 3), (192, 6), (256, 11), (512, 9), (768, 13))  # hidden, layers: 1 M to 100 M parameters


def growth(options: argparse.Namespace) -> tuple[list[tuple[int, float]], float]:
    """Parameters and seconds by size, and the exponent of a power law fitted to them."""
    found = [projecting(hidden, layers, options.device, 3 if options.quick else 7) for hidden, layers in SIZES]
    return found, steepness(found)


def steepness(found: list[tuple[int, float]]) -> float:
    logs = [(math.log(count), math.log(seconds)) for count, seconds in found]
    return statistics.linear_regression(*zip(*logs, strict=True)).slope


def straightness(found: list[tuple[int, float]]) -> float:
    """Correlation of seconds and parameters: 1 where time is a constant and so much for every parameter."""
    return statistics.correlation(*zip(*found, strict=True))


def plot(found: list[tuple[int, float]], exponent: float, path: str) -> None:
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(5, 3.4), layout="constrained")
    counts, seconds = zip(*found, strict=True)
    axes.loglog(counts, [1000 * s for s in seconds], "o-", color="#1f5a99", label=f"measured, exponent {exponent:.2f}")
    middle = len(found) // 2
    axes.loglog(
        counts,
        [1000 * seconds[middle] * count / counts[middle] for count in counts],
        "--",
        color="#888888",
        label="linear",
    )
    axes.set(xlabel="parameters", ylabel="projection per step, ms")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None})


# --------------------------------------------------------------------------- memory, computed


@dataclass(frozen=True)
class Shape:
    """What of a decoder's configuration decides how many numbers it has."""

    hidden: int
    inner: int
    layers: int
    vocabulary: int
    keys: int  # width of all keys together

    def linears(self) -> list[tuple[int, int]]:
        """Inputs and outputs of every linear layer of the body."""
        attention = [
            (self.hidden, self.hidden),
            (self.hidden, self.keys),
            (self.hidden, self.keys),
            (self.hidden, self.hidden),
        ]
        return [
            *attention,
            (self.hidden, self.inner),
            (self.hidden, self.inner),
            (self.inner, self.hidden),
        ] * self.layers

    def full(self) -> int:
        """All weights: linear layers, norms, embedding and output layer."""
        return (
            sum(a * b for a, b in self.linears())
            + (2 * self.layers + 1) * self.hidden
            + 2 * self.vocabulary * self.hidden
        )

    def lora(self, rank: int) -> int:
        """Both factors of every linear layer."""
        return sum(rank * (a + b) for a, b in self.linears())


LARGE = {"7 B": Shape(4096, 11008, 32, 32000, 4096), "70 B": Shape(8192, 28672, 80, 128256, 1024)}
SHARDS, RANK, BF16, FLOAT32 = 8, 16, 2, 4


def memory(trained: int, directions: int, *, shards: int = SHARDS) -> dict[str, float]:
    """GiB per device that a projection adds to training with bf16 weights, when `trained` numbers are spread over `shards` devices.

    stored: a bf16 number per direction and weight, all the time. snapshot: the weights before the step (target="update"), all the
    time from the first step on. pass: the float32 sum in which a reference gradient is collected, while references are asked; the
    gradient itself takes the room that the training gradient leaves free then.
    """
    each = trained / shards / 2**30
    return {"stored": directions * BF16 * each, "snapshot": BF16 * each, "pass": FLOAT32 * each}


def memory_table() -> str:
    """The table of docs/several-gpus.md, in Markdown."""
    lines = [
        "| model | what trains | numbers | stored gradients: 1 direction | 4 | 16 | snapshot | reference pass | training itself |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, shape in LARGE.items():
        for kind, trained in (("all weights", shape.full()), (f"LoRA, r = {RANK}", shape.lora(RANK))):
            # the weights once, and of what trains a gradient and AdamW's two moments
            held = shape.full() + (3 * trained if trained == shape.full() else 4 * trained)
            found = memory(trained, 1)
            figures = [memory(trained, directions)["stored"] for directions in (1, 4, 16)]
            figures += [found["snapshot"], found["pass"], held * BF16 / SHARDS / 2**30]
            lines.append(
                f"| {name} | {kind} | {trained / 1e6:,.0f} M | " + " | ".join(f"{x:.3g}" for x in figures) + " |"
            )
    return "\n".join(lines)


# --------------------------------------------------------------------------- the program


def report(name: str, options: argparse.Namespace, *, lora: bool) -> dict[str, float]:
    """Measure one way of training, print its lines, and return its figures."""
    steps, parameters, trained = in_turns(options, lora=lora)
    clock = 0 if options.device != "cpu" else 1
    found, wall = overheads(steps, clock), overheads(steps, 0)
    memory_plain, memory_projected = (mebibytes(options, lora=lora, projected=projected) for projected in (False, True))
    print(
        f"\n{name}: {trained / 1e6:.2f} M of {parameters / 1e6:.2f} M parameters train; a plain step takes "
        f"{steps.best('plain', 0):.3f} s, the reference rows {steps.best('reference', 0):.3f} s"
    )
    print(f"{'share of a plain step':38}{'CPU':>9}{'wall':>9}")
    lines = {"projection": "projection (snapshot, projection)", "slower": "whole step against whole step, median"}
    for every in EVERY:
        lines[f"overhead_{every}"] = f"overhead, refresh every {every}"
        lines[f"reference_{every}"] = "  of it reference passes"
        lines[f"beyond_{every}"] = "  beyond them"
    for key, text in lines.items():
        print(f"{text:38}{found[key]:9.2%}{wall[key]:9.2%}")
    print(
        f"the projection is below 1 % from {100 * found['projection'] * options.batch * options.tokens:.0f} tokens a step on"
    )
    print(f"peak memory: {memory_plain:.0f} MiB plain, {memory_projected:.0f} MiB projected "
          f"({(memory_projected - memory_plain) * 2**20 / trained:.1f} bytes a number that trains)")  # fmt: skip
    result = {
        f"projection_share_{name}": found["projection"],
        f"tokens_for_one_percent_{name}": round(found["projection"] * options.batch * options.tokens / 0.01),
        f"step_seconds_{name}": steps.best("plain", 0),
        f"memory_ratio_{name}": memory_projected / memory_plain,
        f"memory_bytes_per_parameter_{name}": (memory_projected - memory_plain) * 2**20 / trained,
        f"memory_mib_plain_{name}": memory_plain,
        f"memory_mib_projected_{name}": memory_projected,
    }
    for every in EVERY:
        result |= {
            f"overhead_{name}_{every}": found[f"overhead_{every}"],
            f"overhead_wall_{name}_{every}": wall[f"overhead_{every}"],
            f"overhead_beyond_reference_{name}_{every}": found[f"beyond_{every}"],
        }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--quick", action="store_true", help="a smaller model and fewer steps: under 5 minutes on 2 cores"
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="on a CPU; more only where nothing else runs")
    parser.add_argument("--hidden", type=int)
    parser.add_argument("--layers", type=int)
    parser.add_argument("--batch", type=int, default=8, help="rows a step")
    parser.add_argument("--tokens", type=int, default=256, help="tokens a row")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--refresh", type=int, help="steps between two measured refreshes")
    parser.add_argument("--only", choices=["full", "lora", "scaling"])
    parser.add_argument("--plot", help="write the growth with the number of parameters to this SVG file")
    parser.add_argument(
        "--memory", action="store_true", help="print the computed table of large models, and nothing else"
    )
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory:
        print(memory_table())
        return
    disable_progress_bars()
    torch.set_num_threads(options.threads)
    options.hidden = options.hidden or (192 if options.quick else 512)
    options.layers = options.layers or (4 if options.quick else 8)
    options.steps = options.steps or (9 if options.quick else 31)
    options.refresh = options.refresh or (4 if options.quick else 10)
    if options.measure:
        measure(options)
        return
    print(
        f"Llama of {options.hidden} x {options.layers}, {options.batch} x {options.tokens} tokens a step, {REFERENCE_ROWS} reference rows of "
        f"{REFERENCE_TOKENS} tokens in two sets, {options.device}, {options.threads} threads"
    )
    results: dict[str, Any] = {
        "benchmark": "projection_overhead", "device": options.device, "threads": options.threads, "hidden": options.hidden,
        "layers": options.layers, "tokens_per_step": options.batch * options.tokens,
    }  # fmt: skip
    for name in ("full", "lora"):
        if options.only in (None, name):
            results |= report(name, options, lora=name == "lora")
    if options.only in (None, "scaling"):
        found, exponent = growth(options)
        print("\nprojection alone, two directions, all weights")
        for count, seconds in found:
            print(
                f"{count / 1e6:9.2f} M parameters{1000 * seconds:10.2f} ms{seconds / count * 1e9:8.2f} ns a parameter"
            )
        print(
            f"time grows with parameters to the power of {exponent:.3f} (from 10 M on {steepness(found[2:]):.3f}; "
            f"correlation with a straight line {straightness(found):.4f})"
        )
        results |= {"scaling_exponent": exponent, "scaling_exponent_from_10M": steepness(found[2:])}
        results |= {"scaling_correlation": straightness(found), "scaling_parameters": [count for count, _ in found]}
        results["scaling_milliseconds"] = [1000 * seconds for _, seconds in found]
        if options.plot:
            plot(found, exponent, options.plot)
    if "projection_share_full" in results:
        results |= {"projection_share": results["projection_share_full"], "memory_ratio": results["memory_ratio_full"]}
    results = {key: round(value, 4) if isinstance(value, float) else value for key, value in results.items()}
    print(json.dumps(results))


if __name__ == "__main__":
    main()
