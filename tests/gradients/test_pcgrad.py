"""PCGrad with two tasks: by hand, then in a trainer."""

import pytest
import torch
from short_training import ARGS, REFERENCES, Given, Vectors, resumes, same, state, step, train, weights

import tiny
from untax.gradients.common import Parameters
from untax.gradients.pcgrad import ProjectingConflicts
from untax.types import UnsupportedTrainer, UserError


def by_hand(model, *reference, **options):
    callback = ProjectingConflicts(REFERENCES, **options)
    callback.memory = Given(callback.view_of(model), *reference)
    logs = step(callback)
    return model.gradients(), logs


def test_both_gradients_lose_what_hurts_the_other():
    """s = (3, 4), r = (-1, 0): s.r = -3, s' = s - 3 (1, 0) = (0, 4), r' = r + 3/25 s = (-0.64, 0.48), the sum (-0.64, 4.48)."""
    made, logs = by_hand(Vectors([3.0, 4.0]), [-1.0, 0.0])
    assert made == [pytest.approx([-0.64, 4.48])]
    assert logs["removed_energy"] == pytest.approx(9 / 25)
    assert logs["conflict_rate"] == 1


def test_without_a_conflict_they_are_added():
    made, logs = by_hand(Vectors([3.0, 4.0]), [1.0, 0.0])
    assert made == [[4.0, 4.0]]
    assert logs["removed_energy"] == logs["conflict_rate"] == 0


def test_the_weight_scales_the_reference_gradient():
    """r = (-2, 0): s' = (0, 4) as before, r' = r + 6/25 s = (-1.28, 0.96): only the reference's own part grows."""
    assert by_hand(Vectors([3.0, 4.0]), [-1.0, 0.0], weight=2)[0] == [pytest.approx([-1.28, 4.96])]
    assert by_hand(Vectors([3.0, 4.0]), [-1.0, 0.0], weight=0)[0] == [[3.0, 4.0]]


def test_one_vector_or_every_tensor_by_itself():
    """s = (1 | 2), r = (-2 | 2): together s.r = 2, no conflict, sum (-1 | 4). Alone, the first is in conflict and cancels: (0 | 4)."""
    assert by_hand(Vectors([1.0], [2.0]), [-2.0], [2.0])[0] == [[-1.0], [4.0]]
    made, logs = by_hand(Vectors([1.0], [2.0]), [-2.0], [2.0], granularity="tensor")
    assert made == [[0.0], [4.0]]
    assert logs["conflict_rate"] == 0.5
    assert logs["removed_energy"] == pytest.approx(1 / 5)


def test_in_three_dimensions_neither_task_is_hurt():
    """s = (1, 2, 3), r = (1, -2, 0): s.r = -3; s' = (1.6, .8, 3), r' = (1.214286, -1.571429, .642857); s'.r = 0 and r'.s = 0."""
    made, _ = by_hand(Vectors([1.0, 2.0, 3.0]), [1.0, -2.0, 0.0])
    assert made == [pytest.approx([2.814286, -0.771429, 3.642857])]


def test_a_tensor_that_the_safety_loss_does_not_reach_gets_the_references():
    model = Vectors([1.0], [2.0])
    model.parts[1].grad = None
    assert by_hand(model, [1.0], [5.0])[0] == [[2.0], [5.0]]
    model = Vectors([1.0], [2.0])
    model.parts[1].grad = None
    callback = ProjectingConflicts(REFERENCES)
    callback.memory = Given(Parameters(model, granularity="global"), [1.0], [0.0])
    step(callback)
    assert model.parts[1].grad is None, "nobody reaches it: no decay begins"


def test_the_sum_is_clipped():
    """(4, 4) has the norm 5.656854; clipped to 1 it is (.707107, .707107)."""
    assert by_hand(Vectors([3.0, 4.0]), [1.0, 0.0], max_grad_norm=1.0)[0] == [pytest.approx([0.707107] * 2, abs=1e-6)]


def test_weight_0_is_plain_training_bit_for_bit(tmp_path):
    plain, measured = tiny.llama(), tiny.llama()
    train(plain, None, tmp_path / "a")
    train(measured, ProjectingConflicts(REFERENCES, weight=0), tmp_path / "b")
    assert same(plain, measured)


def test_it_learns_the_references_too(tmp_path):
    """Their loss falls below where plain training leaves it, and the line of the log has the meters."""

    def last(weight):
        model = tiny.llama(spread=0.1)
        history = train(model, ProjectingConflicts(REFERENCES, weight=weight), tmp_path, steps=12).state.log_history
        return [row for row in history if "loss" in row][-1]

    with_it, without = last(1.0), last(0.0)
    assert with_it["reference_loss"] < without["reference_loss"] - 0.1
    assert {"removed_energy", "conflict_rate", "reference_loss"} <= with_it.keys()


def test_accumulation_gives_the_same_step(tmp_path):
    """One batch of 4 against 4 batches of 1 that are accumulated: the safety gradient is projected once, whole."""
    one, four = tiny.llama(spread=0.1), tiny.llama(spread=0.1)
    train(one, ProjectingConflicts(REFERENCES), tmp_path / "a", optim="sgd")
    small = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4}
    train(four, ProjectingConflicts(REFERENCES), tmp_path / "b", optim="sgd", **small)
    first, second = weights(one), weights(four)
    assert max(float((first[name] - second[name]).abs().max()) for name in first) < 1e-6


def test_resuming_goes_on_as_if_nothing_had_happened(tmp_path):
    assert resumes(tiny.llama, lambda: ProjectingConflicts(REFERENCES, rows=2), tmp_path)


def test_what_cannot_be_used_is_refused(tmp_path):
    for options in ({"rows": 0}, {"weight": -1}, {"batch_size": 0}, {"granularity": "layer"}, {"max_grad_norm": 0}):
        with pytest.raises(UserError):
            ProjectingConflicts(REFERENCES, **options)
    with pytest.raises(UserError, match="clipped twice"):
        train(tiny.llama(), ProjectingConflicts(REFERENCES, max_grad_norm=1.0), tmp_path, max_grad_norm=1.0)
    with pytest.raises(UserError, match="constructor"):
        ProjectingConflicts(REFERENCES).on_step_begin(ARGS, state(), None)
    half = type(ARGS)(**{**vars(ARGS), "fp16": True})
    with pytest.raises(UnsupportedTrainer, match="bf16"):
        ProjectingConflicts(REFERENCES).on_train_begin(
            half, state(), None, model=torch.nn.Linear(1, 1), optimizer=None, processing_class=tiny.tokenizer()
        )
