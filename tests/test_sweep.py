"""A sweep: many systems from one recipe, each trained once, killed and finished without doing anything twice, and one page of them all."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from untax import run, tables
from untax.making import LAB_BASE

RECIPE = """
name: swept
seeds: [0, 1]
data: {train: private_train.jsonl, kind: preference, prompt: "{source}", limit: 64}
references:
  general: {data: general_train.jsonl, limit: 12}
  own: {self_replay: {count: 6, max_new_tokens: 12, scorer: "words:toxic_words.txt"}}
train: {objective: sft, max_steps: 16, per_device_train_batch_size: 8, learning_rate: 4.0e-3, save_steps: 8}
sweep: {train.learning_rate: [2.0e-3, 4.0e-3]}
controls:
  mixed: {edits: [interpolate], sweep: {edits.0.towards_base: [0.5, 1.0]}}
  adapter:
    train: {lora: {r: 4}}
    edits: [{name: interpolate, towards_base: 0.5}]
    sweep: {}
  held:
    train: {gradients: {name: ogpsa, references: [own], refresh_every: 2}, penalties: [{name: kl_anchor, references: [general]}]}
    sweep: {}
  replayed: {data: {mix: [{references: general, share: 0.25}]}, sweep: {}}
  later: {train: {start: sft@0.004, objective: dpo}, sweep: {}}
measure: {suite: lab-refusal, max_items: 12}
report: {resamples: 300, front: {resamples: 300}}
"""
SYSTEMS = ("sft@0.002", "sft@0.004", "mixed@0.5", "mixed@1", "adapter", "held", "replayed", "later")


def start(folder: Path) -> subprocess.Popen:
    command = [
        sys.executable,
        "-m",
        "untax",
        "run",
        str(folder / "swept.yaml"),
        "--out",
        str(folder / "run"),
        "--quiet",
    ]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def results(folder: Path) -> dict[str, int]:
    """When each training ended, by the folder of its system."""
    return {
        path.parent.name: path.stat().st_mtime_ns for path in (folder / "run" / "models").glob("*-seed*/result.json")
    }


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """The sweep, killed when half of its systems are trained, and started again; what was trained when it was killed."""
    folder = tmp_path_factory.mktemp("sweep")
    (folder / "swept.yaml").write_text(RECIPE, encoding="utf-8")
    process, deadline = start(folder), time.monotonic() + 300
    while len(results(folder)) < 6 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    before_death = process.communicate()[0]
    before = results(folder)
    assert len(before) >= 6, before_death
    process = start(folder)
    said = process.communicate(timeout=600)[0]
    assert process.returncode == 0, said
    return folder, before, said


@pytest.mark.slow
def test_a_killed_sweep_is_finished_without_training_anything_twice(swept):
    folder, before, said = swept
    after = results(folder)
    assert {name: after[name] for name in before} == before
    # 6 systems are trained, 2 seeds each: what is only edited is trained with its family
    assert set(after) == {f"{name}-seed{seed}" for name in SYSTEMS if "mixed" not in name for seed in (0, 1)}
    assert "[36/36] receipt" in said


def test_progress_says_what_is_left_from_the_steps_that_did_work(tmp_path, monkeypatch, capsys):
    """3 systems: one trained in 20 s and measured in 10 s, one found again at once, so one is left: 30 s."""
    clock = iter([0.0, 0.0, 1.5, 21.5, 31.5, 31.6, 31.7])
    monkeypatch.setattr(run.time, "monotonic", lambda: next(clock))
    journal = run._Journal(tmp_path / "log.jsonl", 8)
    for text in ("data: read", "a: train", "a: measure", "b: train", "b: measure", "c: train"):
        journal.step(text)
    lines = capsys.readouterr().err.splitlines()
    assert lines[2].endswith("(22 s so far)")  # nothing was measured yet
    assert lines[5] == "[6/8] c: train  (32 s so far, about 30 s left)"


@pytest.mark.slow
def test_every_system_is_measured_and_knows_its_family_and_strength(swept):
    folder, _, _ = swept
    found = {(s.system, s.seed): s for s in (tables.read(path) for path in (folder / "run" / "scores").iterdir())}
    assert set(found) == {("base", None), *((name, seed) for name in SYSTEMS for seed in (0, 1))}
    one = found["mixed@0.5", 1].about
    assert (one["family"], one["strength"]) == ("mixed", {"edits.0.towards_base": 0.5})
    assert "own" in found["held", 0].about["contamination"]["files"]


@pytest.mark.slow
def test_edits_start_and_replay_do_what_they_say(swept):
    folder, _, _ = swept
    models = folder / "run" / "models"

    def weights(path: Path) -> dict[str, torch.Tensor]:
        return {name: tensor.float() for name, tensor in load_file(path / "model.safetensors").items()}

    base, tuned = weights(LAB_BASE), weights(models / "sft@0.004-seed0" / "model")
    half = weights(models / "mixed@0.5-seed0" / "edited" / "model")
    assert all(torch.allclose(half[name], (base[name] + tuned[name]) / 2, atol=1e-7) for name in base)
    back = weights(models / "mixed@1-seed0" / "edited" / "model")
    assert all(torch.equal(back[name], base[name]) for name in base)
    # an adapter stays one: the same A, half of B
    adapter = load_file(models / "adapter-seed0" / "model" / "adapter_model.safetensors")
    edited = load_file(models / "adapter-seed0" / "edited" / "model" / "adapter_model.safetensors")
    assert all(torch.allclose(edited[n], adapter[n] * (0.5 if "lora_B" in n else 1.0), atol=1e-8) for n in adapter)
    # DPO begins at what SFT ended with: its first margin is 0, and its weights are nearer to it than to the base
    later = weights(models / "later-seed0" / "model")
    first = json.loads((models / "later-seed0" / "log.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert abs(first["rewards_margins"]) < 1e-6
    assert _distance(later, tuned) < _distance(later, base)
    replayed = json.loads((models / "replayed-seed0" / "result.json").read_text(encoding="utf-8"))
    assert replayed["summary"]["replay"] == {"general": 21}
    rows = [json.loads(line) for line in (models / "held-seed0" / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {"reference_loss", "removed_energy"} <= {name for row in rows for name in row}
    assert "penalty_kl_anchor" in rows[-1]


def _distance(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    return sum(float((one[name] - other[name]).square().sum()) for name in one) ** 0.5


@pytest.mark.slow
def test_the_comparison_is_written_again_from_the_folder_alone(swept, tmp_path):
    folder, _, _ = swept
    written = {name: (folder / "run" / f"compare.{name}").read_bytes() for name in ("html", "json", "md")}
    command = [
        sys.executable,
        "-m",
        "untax",
        "compare",
        str(folder / "run"),
        "--out",
        str(tmp_path / "again"),
        "--resamples",
        "300",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    for name in ("json", "md"):
        assert (tmp_path / "again" / f"compare.{name}").read_bytes() == written[name]
    assert b"mixed" in written["html"]
