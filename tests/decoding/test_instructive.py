"""Instructive debiasing: every prompt really begins with the instruction, the empty one is the base, the controls differ."""

import by_hand
import pytest
import torch

import tiny
from untax import models, selfcheck
from untax.decoding.common import next_logits
from untax.decoding.instructive import ADJECTIVES, instructive
from untax.types import RecipeError

TOK = tiny.tokenizer()
PROMPTS = ["She said that", "He", "", "the old man went to"]
MODELS = {
    "llama": tiny.llama,
    "gpt2": tiny.gpt2,
    "adapted": lambda: tiny.with_adapter(tiny.llama()),
}
SHORT = "Be kind."


@pytest.fixture(params=MODELS, scope="module")
def model(request):
    return MODELS[request.param]()


def test_every_prompt_begins_with_the_instruction(model):
    """Counted from the ids that went into the model, behind the opening token where a row has one: share 1 inside, 0 outside."""
    rows = [[0, *models.target_ids(TOK, prompt)] for prompt in PROMPTS]
    bare = [row[1:] for row in rows if row[1:]]
    with instructive(model, TOK) as applied:
        opened, others = applied.asked(rows), applied.asked(bare)
        assert selfcheck.prefix(opened, applied.prefix_ids, opening=1) == {"n": 4, "of": 4}
        assert selfcheck.prefix(others, applied.prefix_ids) == {"n": 3, "of": 3}
        assert opened == [[0, *applied.prefix_ids, *row[1:]] for row in rows]
        assert others == [[*applied.prefix_ids, *row] for row in bare]
    assert len(applied.prefix_ids) == applied.reserved > 20
    assert TOK.decode(applied.prefix_ids) == applied.options["text"] + "\n"
    assert selfcheck.prefix(applied.asked(rows), applied.prefix_ids, opening=1) == {"n": 0, "of": 4}


def test_texts_and_continuations_are_those_behind_the_instruction(model):
    with instructive(model, TOK, instruction=SHORT):
        texts = models.text_logprobs(model, TOK, [p for p in PROMPTS if p])
        batch = [answer.text for answer in models.generate(model, TOK, PROMPTS, max_new_tokens=12)]
        alone = [models.generate(model, TOK, [prompt], max_new_tokens=12)[0].text for prompt in PROMPTS]
    for prompt, answer in zip([p for p in PROMPTS if p], texts, strict=True):
        row = [0, *models.target_ids(TOK, prompt)]
        want = by_hand.total(by_hand.instructed(model, TOK, [SHORT + "\n"], row), row)
        assert answer.logprobs[0] == pytest.approx(want, abs=1e-4)
    slow = [
        by_hand.text_of(
            TOK,
            by_hand.greedy(
                lambda row: by_hand.instructed(model, TOK, [SHORT + "\n"], row), models.prompt_ids(TOK, prompt), 12
            ),
        )
        for prompt in PROMPTS
    ]
    assert batch == alone == slow
    assert batch != [answer.text for answer in models.generate(model, TOK, PROMPTS, max_new_tokens=12)]


def test_an_empty_instruction_is_the_base(model):
    with instructive(model, TOK, instruction="") as applied:
        inside, asked = models.generate(model, TOK, PROMPTS, max_new_tokens=10), next_logits(model, TOK, PROMPTS)
        plain = next_logits(applied.plain, TOK, PROMPTS)
    assert applied.prefix_ids == ()
    assert applied.reserved == 0
    assert abs(asked - plain).max() < 1e-5
    assert inside == models.generate(model, TOK, PROMPTS, max_new_tokens=10)


def test_it_is_at_work(model):
    before = next_logits(model, TOK, PROMPTS)
    with instructive(model, TOK) as applied:
        moved = selfcheck.effect(next_logits(applied.plain, TOK, PROMPTS), next_logits(model, TOK, PROMPTS))
    assert moved["largest"] > 0.1
    assert (next_logits(model, TOK, PROMPTS) == before).all()


def test_continuations_are_the_ids_behind_the_prompt():
    """HF's own generate: the prompt comes back as it was given, without the instruction, and behind it what untax's generate writes."""
    model = tiny.llama()
    ids = torch.tensor([models.prompt_ids(TOK, "the old man")])
    with instructive(model, TOK):
        out = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False, pad_token_id=0
        )
        ours = models.generate(model, TOK, ["the old man"], max_new_tokens=8)[0].text
    assert out[0, : ids.shape[1]].tolist() == ids[0].tolist()
    assert by_hand.text_of(TOK, out[0, ids.shape[1] :].tolist()) == ours


def test_the_price_is_the_instructions_tokens():
    """Nothing is run beside the stream with the instruction: 2 rows of 4 tokens asked, 8 run; the instruction is read once (both ways)."""
    model = tiny.llama()
    with instructive(model, TOK, instruction=SHORT) as applied:
        head = applied.cost["run"]
        models.text_logprobs(model, TOK, ["abc", "abd"])
    assert (applied.cost["asked"], applied.cost["run"] - head, applied.cost["calls"]) == (8, 8, 1)
    assert head == 2 * applied.reserved


def test_the_controls_change_the_adjectives_only():
    """Reversed, gibberish and empty: the same sentence around them, as many adjectives or none, other logits each."""
    model, seen = tiny.llama(), {}
    for control in ADJECTIVES:
        with instructive(model, TOK, control=control) as applied:
            told = applied.options["text"]
            seen[told] = next_logits(model, TOK, ["He said"])
            assert told.startswith("In all that follows, be ")
            assert told.endswith(".")
            assert ADJECTIVES[control].count(",") == (0 if control == "empty" else 6)
    assert len(seen) == 4
    found = list(seen.values())
    assert all(abs(a - b).max() > 1e-2 for i, a in enumerate(found) for b in found[:i])
    with instructive(model, TOK, instruction="Please: {adjectives}", control="reversed") as applied:
        assert applied.options["text"] == "Please: " + ADJECTIVES["reversed"]


def test_a_control_needs_a_place():
    model = tiny.llama()
    with pytest.raises(RecipeError, match=r"has no '\{adjectives\}'"), instructive(model, TOK, instruction=SHORT, control="reversed"):  # fmt: skip
        pass
    with pytest.raises(RecipeError, match="one of none, reversed"), instructive(model, TOK, control="upside"):
        pass
