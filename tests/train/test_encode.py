"""What becomes of a record: which tokens are selected, what is cut, which negatives an epoch sees."""

from dataclasses import dataclass, replace

import pytest
import training
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

import tiny
from untax.train import encode
from untax.types import Candidate, ContrastiveRecord, RecipeError, UserError


@dataclass(frozen=True)
class Span:
    start: int
    end: int


def capitals(texts):
    """Selects every capital letter: a finder that can be counted by eye."""
    return [[Span(i, i + 1) for i, letter in enumerate(text) if letter.isupper()] for text in texts]


def encoded(*records, prompt="{source}:", max_length=None, find_all=capitals):
    return encode.encode(records, tiny.tokenizer(), prompt=prompt, max_length=max_length, find_all=find_all)


def record(positives, negatives=(), source="post", **extra):
    good = tuple(Candidate(text, "reference") for text in positives)
    bad = tuple(c if isinstance(c, Candidate) else Candidate(c, "swap_ent") for c in negatives)
    return ContrastiveRecord("r", source, good, bad, extra)


def read(ids) -> str:
    return tiny.tokenizer().decode(list(ids))


def test_prompt_and_target_are_joined_with_one_space_and_end():
    (one,), _ = encoded(record(["A b"]))
    assert read(one.prompt) == "post:"
    assert read(one.positives[0].ids) == " A b<end>"
    # bytes: space, A, space, b, end
    assert one.positives[0].spans == (False, True, False, False, False)


def test_a_prompt_that_ends_in_white_space_gets_no_second():
    (one,), _ = encoded(record(["A b"]), prompt="{source}\n")
    assert read(one.positives[0].ids) == "A b<end>"
    assert one.positives[0].spans == (True, False, False, False)


def test_a_tokenizer_that_adds_its_own_space_gets_no_other():
    inner = Tokenizer(WordLevel({"<end>": 0, "▁a": 1, "▁b": 2, "▁": 3, "▁post:": 4}, unk_token="▁"))
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<end>")
    (one,), _ = encode.encode([record(["a b"])], tokenizer, prompt="{source}:", max_length=None)
    assert one.positives[0].ids == (1, 2, 0)


def test_a_record_may_bring_its_own_prompt():
    (one,), _ = encoded(record(["Plain text."], prompt=""))
    assert one.prompt == (0,)
    assert read(one.positives[0].ids) == "Plain text.<end>"


def test_the_mask_of_a_text_does_not_change_with_its_label():
    (one,), _ = encoded(record(["Ann is x", "Bob is x"], ["Cy is x"]))
    (other,), _ = encoded(
        record(["Ann is x", "Cy is x"], [Candidate("Bob is x", "toxic", edits=((0, 3),), toxicity=1.0)])
    )
    assert one.positives[1].spans == other.negatives[0].spans
    assert one.negatives[0].spans == other.positives[1].spans


def test_blind_is_what_has_seen_no_difference():
    (one,), summary = encoded(
        record(["Ann ran", "A p"], ["Ann fell", "Ann ran to Bo", "Bob ran", Candidate("no", "mask_rel")])
    )
    # "Ann fell" selects the A only and differs behind it; "... to Bo" selects a token that the reference does not have
    assert [t.blind for t in one.negatives] == [True, False, False, False]
    assert summary["share_blind"] == {"swap_ent": 1 / 3, "mask_rel": 0.0}
    assert summary["share_without_span"] == pytest.approx(1 / 6)


def test_edited_tokens_and_toxicity():
    marked = Candidate("Bad x", "toxic", edits=((0, 3),))
    (one,), _ = encoded(record(["A x", "A y"], [marked, "C x", Candidate("D x", "toxic", toxicity=0.25)]))
    assert one.negatives[0].edited == (False, True, True, True, False, False, False)
    assert one.negatives[1].edited == (True,) * 4 + (False,)  # no edits were recorded: all of it, but EOS
    assert [t.toxicity for t in one.negatives] == [1.0, 0.0, 0.25]
    assert [t.toxic for t in one.negatives] == [True, False, True]


def test_a_negative_that_equals_a_positive_is_left_out_and_counted():
    (one,), summary = encoded(record(["A x", "A y"], ["A y", "B x"]))
    assert len(one.negatives) == 1
    assert summary["negatives_equal_to_a_positive"] == 1


def test_a_long_record_loses_the_end_of_its_source():
    """Source 10 letters, prompt "{source}:" 11 tokens, target " A x" + EOS 5: at 12 tokens the prompt has room for 7."""
    (one,), summary = encoded(record(["A x"], source="abcdefghij"), max_length=12)
    assert read(one.prompt) == "abcdef:"
    assert read(one.positives[0].ids) == " A x<end>"
    assert summary["truncated"] == 1
    (whole,), summary = encoded(record(["A x"], source="abcdefghij"), max_length=16)
    assert read(whole.prompt) == "abcdefghij:"
    assert summary["truncated"] == 0


def test_the_longest_target_decides_for_all():
    (one,), _ = encoded(record(["A x"], ["A long one"], source="abcdefghij"), max_length=16)
    assert len(one.prompt) + max(len(t.ids) for t in (*one.positives, *one.negatives)) == 16


def test_an_own_prompt_loses_its_beginning():
    (one,), _ = encoded(record(["A x"], prompt="0123456789"), max_length=9)
    assert read(one.prompt) == "6789"


def test_a_beginning_token_is_kept_when_a_prompt_is_cut():
    tokenizer = tiny.tokenizer(adds_end_in_front=True)
    for extra in ({}, {"prompt": "abcdefghij"}):
        cut = record(["A x"], source="abcdefghij", **extra)
        (one,), _ = encode.encode([cut], tokenizer, prompt="{source}:", max_length=10)
        assert one.prompt[0] == 0
        assert len(one.prompt) == 5


def test_a_target_that_does_not_fit_is_an_error():
    with pytest.raises(UserError, match=r"12 tokens leaves no room.*never cut"):
        encoded(record(["A far long"]), max_length=12)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (record([" "]), "empty"),
        (record([]), "no positive"),
        (record(["A"], [Candidate("B", "toxic", toxicity=7.0)]), "outside"),
        (record(["A"], prompt=7), "not a text"),
    ],
)
def test_records_that_cannot_be_trained_on(bad, message):
    with pytest.raises(UserError, match=message):
        encoded(bad)


def test_no_records_and_no_place_for_the_source():
    with pytest.raises(UserError, match="no records"):
        encoded()
    with pytest.raises(RecipeError, match=r"\{source\}"):
        encoded(record(["A"]), prompt="Summary:")


def test_negatives_take_turns():
    """Kinds a (3), b (1), c (2), two an epoch: the turns run a b | c a | b c | a ..., each kind through its own list."""
    kinds = ["a", "a", "a", "b", "c", "c"]
    assert [encode.rotate(kinds, 2, epoch) for epoch in range(4)] == [[0, 3], [4, 1], [3, 5], [2, 3]]
    assert encode.rotate(kinds, 6, 3) == [0, 1, 2, 3, 4, 5]
    assert encode.rotate(kinds, 0, 3) == []


def test_five_negatives_are_one_of_each_kind_first():
    kinds = ["swap_ent"] * 3 + ["mask_ent"] * 3 + ["toxic"]
    chosen = encode.rotate(kinds, 5, 0)
    assert len(set(chosen)) == 5
    assert {kinds[i] for i in chosen[:3]} == {"swap_ent", "mask_ent", "toxic"}
    seen = {i for epoch in range(6) for i in encode.rotate(kinds, 5, epoch)}
    assert seen == set(range(7))


def schedule(total, seed=0, shuffle=True):
    rows = [record([f"A {i}", f"A {i}{i}"], [f"B {i}"]) for i in range(5)]
    data, _ = encoded(*rows)
    made = encode.Schedule(data, total=total, seed=seed, shuffle=shuffle, max_negatives=5)
    return [read(made[i].targets[0].ids) for i in range(len(made))]


def test_every_epoch_sees_every_source_once_in_an_order_of_its_own():
    order = schedule(10)
    assert sorted(order[:5]) == sorted(order[5:]) == [f" A {i}<end>" for i in range(5)]
    assert order[:5] != order[5:]
    assert schedule(7) == order[:7]
    assert schedule(10, seed=1) != order
    assert schedule(5, shuffle=False) == [f" A {i}<end>" for i in range(5)]


def test_the_hash_sees_what_training_sees():
    one = training.records(3)
    assert encode.records_hash(one) == encode.records_hash(training.records(3))
    other = [*one[:2], replace(one[2], extra={"prompt": "x"})]
    assert encode.records_hash(one) != encode.records_hash(other)
    assert encode.records_hash(one) == encode.records_hash([*one[:2], replace(one[2], extra={"page": 3})])
