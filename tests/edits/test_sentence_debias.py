"""SentenceDebias: the direction of a swap, by hand and planted; pairs and triples of real words; models that it changes."""

import numpy as np
import pytest
import torch
from people import FEMALE, MALE, NEITHER, logits, written

import tiny
from untax.edits.projection import Projection
from untax.edits.sentence_debias import _members, directions, sentence_debias
from untax.types import RecipeError, UserError


def run_on(model, texts=None, **options):
    given = {"a": written(MALE, FEMALE, NEITHER, count=200)} if texts is None else {"a": texts}
    state = model.state_dict()
    return sentence_debias(state, state, model=model, tokenizer=tiny.tokenizer(), texts=given, **options)


# --------------------------------------------------------------------------- the direction


def test_two_pairs_by_hand():
    """(.6, +-.8) has the mean (.6, 0) and leaves (0, +-.8), (.8, +-.6) leaves (0, +-.6): v = (0, 1), all of the variance; (2, 3) -> (2, 0)."""
    pairs = np.array([[[0.6, 0.8], [0.6, -0.8]], [[0.8, 0.6], [0.8, -0.6]]])
    for length in (1.0, 7.0):  # states are brought to length 1 first
        basis, explained = directions(length * pairs, 1)
        assert np.allclose(np.abs(basis), [[0, 1]], atol=1e-12)
        assert explained == pytest.approx([1, 0], abs=1e-12)
    moved = Projection(torch.from_numpy(basis)).of(torch.tensor([[2.0, 3.0]], dtype=torch.float64))
    assert torch.allclose(moved, torch.tensor([[2.0, 0.0]], dtype=torch.float64), atol=1e-12)


def test_length_one_comes_before_the_mean():
    """(1, 0) and (0, 10): of length 1 they differ along (1, -1); as they are, along (1, -10)."""
    basis, _ = directions(np.array([[[1.0, 0.0], [0.0, 10.0]]]), 1)
    assert np.allclose(np.abs(basis), [[0.5**0.5] * 2], atol=1e-12)
    assert basis[0, 0] * basis[0, 1] < 0


def test_a_planted_direction_is_found():
    """2,000 pairs x +- |g| u in 64 dimensions: |cos(v, u)| > .999; h . v = 0 afterwards, twice is once."""
    rng = np.random.default_rng(0)
    u = rng.normal(size=64)
    u /= np.linalg.norm(u)
    x, g = rng.normal(size=(2000, 64)), np.abs(rng.normal(size=(2000, 1)))
    basis, explained = directions(np.stack([x + g * u, x - g * u], 1), 1)
    assert abs(float(basis[0] @ u)) > 0.999
    assert explained[0] > 0.9
    made = Projection(torch.from_numpy(basis))
    h = torch.randn(50, 64, dtype=torch.float64)
    assert float((made.of(h) @ made.basis_RH.T).abs().max()) < 1e-13
    assert torch.allclose(made.of(made.of(h)), made.of(h), atol=1e-13)


def test_triples_span_two_directions():
    """Three corners of a triangle in the plane of a and b, off a common c: two components hold all, a third does not exist."""
    c = np.array([0, 0, 2.0])
    corners = np.array([[1, 0, 0], [-0.5, 0.75**0.5, 0], [-0.5, -(0.75**0.5), 0]]) + c
    basis, explained = directions(np.stack([corners, corners]), 2)
    assert np.allclose(basis[:, 2], 0, atol=1e-12)
    assert explained[:2] == pytest.approx([0.5, 0.5])
    with pytest.raises(UserError, match=r"3 components were asked for.*differ in 2 directions"):
        directions(np.stack([corners, corners]), 3)


def test_members_that_do_not_differ_or_have_no_direction_are_refused():
    same = np.ones((5, 2, 4))
    with pytest.raises(UserError, match="a swap changes nothing"):
        directions(same, 1)
    with pytest.raises(UserError, match="zero"):
        directions(0 * same, 1)


# --------------------------------------------------------------------------- members


def test_members_keep_everything_but_the_group():
    assert _members("She saw HIM.", "gender", 2)[0] == ("She saw HIM.", "He saw HER.")
    assert _members("The gate is open.", "gender", 2)[0] == ("The gate is open.",)
    text = "The Muslim family went to the mosque."
    members, _ = _members(text, "religion", 3)
    assert members[0] == text
    assert len(members) == 3
    assert {next(w for w in ("Muslim", "Christian", "Jewish") if w in one) for one in members} == {"Muslim", "Christian", "Jewish"}  # fmt: skip
    assert _members(text, "religion", 3)[0] == members


# --------------------------------------------------------------------------- in models


@pytest.mark.parametrize("make", [tiny.llama, tiny.gpt2])
def test_a_model_is_changed_in_its_output_matrix_alone(make):
    model = make()
    before, weights = logits(model), {name: tensor.clone() for name, tensor in model.state_dict().items()}
    edited = run_on(model)
    audit = edited.audit
    assert audit["removed"] == edited.projection.rank == 1
    assert audit["pairs"] > 100
    assert 0.1 < audit["explained"] == audit["explained_by"][0] < 1
    assert [name for name, tensor in edited.state.items() if not torch.equal(tensor, weights[name])] == [
        "lm_head.weight"
    ]
    assert torch.equal(logits(model), before)
    with edited.projection.applied(model):
        moved = (logits(model) - before).abs().flatten(1).max(1).values
    assert float(moved.min()) > 1e-4


def test_more_components_nest_and_the_seed_decides_what_is_read():
    model = tiny.llama()
    one, three = (run_on(model, components=k).projection.basis_RH for k in (1, 3))
    assert torch.allclose(three[:1], one)
    few = [run_on(model, max_texts=25, seed=seed) for seed in (0, 0, 1)]
    assert few[0].audit["pairs"] == 25
    assert torch.equal(few[0].projection.basis_RH, few[1].projection.basis_RH)
    assert not torch.equal(few[0].projection.basis_RH, few[2].projection.basis_RH)


def test_three_groups_and_an_inner_layer():
    texts = [
        f"The {who} family came to gate {i} at noon." for i in range(10) for who in ("Muslim", "Christian", "Jewish")
    ]
    edited = run_on(tiny.llama(), texts, attribute="religion", layer=1, components=2)
    assert (edited.projection.layer, edited.projection.rank) == (1, 2)
    assert (edited.audit["pairs"], edited.audit["members"]) == (30, 3)


def test_too_few_sentences_and_options_out_of_range():
    texts = [*written(NEITHER, count=60), "He came.", "The queen left."]
    with pytest.raises(UserError, match=r"gender\): 2 of 62 sentences name a group, and 2 of them.*at least 20"):
        run_on(tiny.llama(), texts)
    for wrong in ({"components": 0}, {"max_texts": 3}):
        with pytest.raises(RecipeError, match=r"components is .* and max_texts"):
            run_on(tiny.llama(), texts, **wrong)
