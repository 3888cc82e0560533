"""A-GEM: the published formula by hand, then in a trainer."""

from collections import Counter

import pytest
import torch
from short_training import ARGS, REFERENCES, TRAINED, Given, Vectors, resumes, same, state, step, train

import tiny
from untax import references
from untax.gradients.agem import AveragedMemory
from untax.gradients.common import Parameters
from untax.gradients.memory import Memory
from untax.gradients.subspace import Subspace
from untax.types import UnsupportedTrainer, UserError


def by_hand(model, *reference, **options):
    """A callback whose reference gradient is given; what it made of the model's gradient, and its meters."""
    callback = AveragedMemory(REFERENCES, **options)
    view = Parameters(model, granularity="global")
    callback.memory, callback.subspace = Given(view, *reference), Subspace(view, [1], side="one")
    logs = step(callback)
    return model.gradients(), logs


def test_a_conflict_is_taken_away_and_agreement_is_left():
    """g = (3, 4). g_ref = (-1, 0): -3 < 0, g~ = g + 3 (-1, 0) = (0, 4), 9/25 of the energy gone. g_ref = (1, 0): as it was."""
    bent, logs = by_hand(Vectors([3.0, 4.0]), [-1.0, 0.0])
    assert bent == [[0.0, 4.0]]
    assert logs["removed_energy"] == pytest.approx(9 / 25)
    assert logs["conflict_rate"] == 1
    left, logs = by_hand(Vectors([3.0, 4.0]), [1.0, 0.0])
    assert left == [[3.0, 4.0]]
    assert logs["removed_energy"] == logs["conflict_rate"] == 0


def test_the_length_of_the_reference_gradient_does_not_matter():
    """g_ref = (-10, 0) or (-0.1, 0) take the same part away."""
    for length in (10.0, 0.1):
        assert by_hand(Vectors([3.0, 4.0]), [-length, 0.0])[0] == [pytest.approx([0, 4], abs=1e-6)]


def test_all_tensors_are_one_vector():
    """g = (1 | 2), g_ref = (-2 | 1): 0, no conflict, though the first tensor alone has one. g_ref = (-2 | -1): -4/5 times it."""
    assert by_hand(Vectors([1.0], [2.0]), [-2.0], [1.0])[0] == [[1.0], [2.0]]
    bent, _ = by_hand(Vectors([1.0], [2.0]), [-2.0], [-1.0])
    assert bent == [[pytest.approx(1 - 1.6)], [pytest.approx(2 - 0.8)]]
    assert -2 * bent[0][0] - bent[1][0] == pytest.approx(0, abs=1e-6)


def test_a_part_of_the_correction():
    assert by_hand(Vectors([3.0, 4.0]), [-1.0, 0.0], strength=0.5)[0] == [[1.5, 4.0]]


def memory(seed=0, rows=4, count=30, model=None):
    texts = {"a": [f"text {i}" for i in range(count)], "b": [f"other {i}" for i in range(count)]}
    model = model or tiny.llama()
    sets = {name: references.read(name, given, tiny.tokenizer()) for name, given in texts.items()}
    return Memory(model, Parameters(model), sets, rows=rows, seed=seed)


def test_rows_are_drawn_by_step_and_seed_and_from_all_sets():
    one, same_seed, other = memory(), memory(), memory(seed=1)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    assert one.draw(3) == same_seed.draw(3)
    assert one.draw(3) != one.draw(4)
    assert one.draw(3) != other.draw(3)
    assert torch.equal(torch.get_rng_state(), before), "the global generator is left alone"
    drawn = Counter(row for i in range(200) for row in one.draw(i).rows)
    assert len(drawn) == 60, "every row of both sets is drawn at some step"
    assert max(drawn.values()) < 40, "13 times each on average"
    assert all(len(set(one.draw(i).rows)) == 4 for i in range(20)), "no row twice in a step"
    assert len(memory(rows=100).draw(0).rows) == 60


def test_the_loss_that_is_told_is_that_of_the_rows():
    kept = memory(rows=3)
    losses = []
    for i in range(2):
        kept.gradient(i)
        loss, tokens = references.nll(kept.model, kept.draw(i).rows)
        losses.append(loss.item() / tokens)
    assert kept.told()["reference_loss"] == pytest.approx(sum(losses) / 2, rel=1e-5)
    assert kept.told() == {}


def test_strength_0_is_plain_training_bit_for_bit(tmp_path):
    """What the reference passes touch is nothing: no .grad, no random number."""
    plain, measured = tiny.llama(), tiny.llama()
    train(plain, None, tmp_path / "a")
    trainer = train(measured, AveragedMemory(REFERENCES, strength=0), tmp_path / "b")
    assert same(plain, measured)
    assert all(row["reference_loss"] > 0 for row in trainer.state.log_history if "loss" in row)


def test_training_on_the_references_themselves_is_left_alone(tmp_path):
    """Every step agrees with them: plain training, bit for bit. A two-sided projection would take it all away."""
    plain, bent = tiny.llama(), tiny.llama()
    train(plain, None, tmp_path / "a")
    history = train(bent, AveragedMemory({"same": TRAINED}), tmp_path / "b").state.log_history
    assert same(plain, bent)
    assert all(row["conflict_rate"] == row["removed_energy"] == 0 for row in history if "loss" in row)


def test_a_step_in_conflict_does_not_raise_the_loss_of_the_rows_it_was_held_to(tmp_path):
    """Trained to unlearn the references (their own loss, downhill the wrong way): plain SGD raises it, A-GEM to first order does not."""

    def risen(strength):
        model = tiny.llama(spread=0.1)
        sets = {"general": references.read("general", ["a red fox"], tiny.tokenizer())}
        callback = AveragedMemory(sets, strength=strength, rows=4)
        callback.on_train_begin(ARGS, state(), None, model=model, optimizer=None, processing_class=None)
        before, tokens = references.nll(model, sets["general"].rows)
        (-before / tokens).backward()
        first = before.item()
        callback.on_step_begin(ARGS, state(), None)
        callback.on_pre_optimizer_step(ARGS, state(), None)
        with torch.no_grad():
            for p in model.parameters():
                p -= 1e-3 * p.grad
        return references.nll(model, sets["general"].rows)[0].item() - first

    assert risen(0) > 1e-2
    assert abs(risen(1)) < 1e-3 * risen(0)


def test_resuming_goes_on_as_if_nothing_had_happened(tmp_path):
    assert resumes(tiny.llama, lambda: AveragedMemory(REFERENCES, rows=2), tmp_path)


def test_what_cannot_be_used_is_refused(tmp_path):
    for options in ({"rows": 0}, {"strength": -1}, {"batch_size": 0}):
        with pytest.raises(UserError, match="at least"):
            AveragedMemory(REFERENCES, **options)
    with pytest.raises(UserError, match="at least one is needed"):
        train(tiny.llama(), AveragedMemory({}), tmp_path)
    with pytest.raises(UserError, match="constructor"):
        AveragedMemory(REFERENCES).on_step_begin(ARGS, state(), None)
    layerwise = type(ARGS)(**{**vars(ARGS), "optim": "galore_adamw_layerwise"})
    with pytest.raises(UnsupportedTrainer, match="layer-wise"):
        AveragedMemory(REFERENCES).on_train_begin(
            layerwise, state(), None, model=tiny.llama(), optimizer=None, processing_class=tiny.tokenizer()
        )


def test_a_wrapper_around_the_model_is_watched(tmp_path):
    """Without `watch` the wrapper would be asked for logits, which it does not give."""
    inner = tiny.llama()

    class Wrapper(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = inner

        def forward(self, input_ids, labels):
            return {"loss": self.inner(input_ids=input_ids, labels=labels).loss}

    callback = AveragedMemory(REFERENCES, rows=2)
    callback.watch(inner)
    trainer = train(Wrapper(), callback, tmp_path, steps=2, remove_unused_columns=False)
    assert "removed_energy" in trainer.state.log_history[0]
