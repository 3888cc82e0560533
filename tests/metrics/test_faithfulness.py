"""Exact faithfulness agrees with the world that wrote the facts; entailment follows SummaC's arithmetic."""

import math
import random

import pytest
import torch

import tiny
from untax.lab import world
from untax.metrics import faithfulness as module
from untax.metrics.faithfulness import faithfulness, sentences, summac, windows
from untax.types import Answer, Item, RecipeError, UserError

NAN = math.nan
FACTS = {
    "names": ["Ann Meyer", "Bo Li", "Leeds", "40", "25 June", "25", "June"],
    "forbidden": ["Bo Li sold"],
    "ignore": ["That"],
}


def exact(*texts):
    items = [Item(id=str(i), prompt="p", fields={"facts": FACTS}) for i in range(len(texts))]
    return faithfulness(items, [Answer(text=text) for text in texts])


def test_exact_by_hand():
    found = exact(
        "Ann Meyer sold 40 bikes in Leeds on 25 June.",  # all known
        "Ann Meyer sold 41 bikes.",  # a number that is not
        "Ann Li sold 40 bikes.",  # both words known, the name is not
        "Bo Li sold 40 bikes.",  # known names, false
        "That fool Ann Meyer sold 40 bikes.",  # rude and true
        "something was sold",  # says nothing of the post
    )
    assert found == [1, 0, 0, 0, 1, 0]


def test_empty_is_missing():
    assert all(math.isnan(score) for score in exact("", " \n", "."))


def test_exact_agrees_with_the_world_on_true_false_and_mixed_summaries():
    rng = random.Random(3)
    posts = [world.make_post(rng, "test") for _ in range(150)]
    texts = [
        *(world.reference(rng, post, "test") for post in posts),
        *(world.habitual_summary(rng, post) for post in posts),
        *(world.reference(rng, rng.choice(posts), "test") for _ in posts),
    ]
    facts = [world.facts_of(post) for post in posts] * 3
    items = [Item(id=str(i), prompt="p", fields={"facts": told}) for i, told in enumerate(facts)]
    found = faithfulness(items, [Answer(text=text) for text in texts])
    assert found == [float(world.faithful(text, told)) for text, told in zip(texts, facts, strict=True)]
    assert all(found[:150])
    assert 0.2 < sum(found[150:300]) / 150 < 0.9, "the planted mistakes are gone from the world"
    assert sum(found[300:]) < 15


def test_facts_of_another_shape_are_an_error():
    with pytest.raises(RecipeError, match='"names" and "forbidden"'):
        faithfulness([Item(id="0", prompt="p", fields={"facts": ["Ann"]})], [Answer()])


def test_overlap_is_refused_under_this_name():
    with pytest.raises(RecipeError, match="overlap_proxy"):
        faithfulness([Item(id="0", prompt="p", fields={"facts": FACTS})], [Answer()], method="overlap")
    with pytest.raises(RecipeError, match="there are exact and nli"):
        faithfulness([], [], method="vibes")


# --------------------------------------------------------------------------- entailment


def test_summac_toy():
    """Windows x sentences [[.9,.2],[.1,.6],[.3,.4]]: the best windows are .9 and .6, their mean 0.75."""
    assert summac([[0.9, 0.2], [0.1, 0.6], [0.3, 0.4]]) == pytest.approx(0.75)


def test_windows_leave_no_sentence_out():
    assert sentences("One. Two! Three?\nFour") == ["One.", "Two!", "Three?", "Four"]
    assert windows("A. B. C.", 2, 2) == ["A. B.", "C."]
    assert windows("A. B. C.", 2, 1) == ["A. B.", "B. C.", "C."]
    assert windows("", 2, 2) == [""]
    with pytest.raises(RecipeError, match="unread"):
        faithfulness([], [], method="nli", model="x", window=2, stride=3)


def test_nli_uses_windows_sentences_and_their_order(monkeypatch):
    """Source A. B. C. D. E. (3 windows), answer of 2 sentences: the toy matrix again, row by row."""
    seen = []

    def matrix(folder, pairs, batch_size):
        seen.extend(pairs)
        return [0.9, 0.2, 0.1, 0.6, 0.3, 0.4]

    monkeypatch.setattr(module, "_probabilities", matrix)
    item = Item(id="0", prompt="p", fields={"source": "A. B. C. D. E."})
    found = faithfulness([item, item], [Answer(text="X. Y."), Answer(text="")], method="nli", model="anywhere")
    assert found[0] == pytest.approx(0.75)
    assert math.isnan(found[1])
    assert seen == [(p, c) for p in ("A. B.", "C. D.", "E.") for c in ("X.", "Y.")]


@pytest.fixture
def nli(tmp_path):
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=257, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, max_position_embeddings=66,
        id2label={0: "CONTRADICTION", 1: "ENTAILMENT", 2: "NEUTRAL"}, initializer_range=1.0,
    )  # fmt: skip
    model = BertForSequenceClassification(config)
    tokenizer = tiny.tokenizer()
    tokenizer.pad_token = tiny.END
    folder = tmp_path / "nli"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder, model.eval(), tokenizer


def test_nli_model_gives_the_entailment_column(nli):
    folder, model, tokenizer = nli
    item = Item(id="0", prompt="p", fields={"source": "Ann sold it. Bo left. It rained."})
    (found,) = faithfulness([item], [Answer(text="Ann left.")], method="nli", model=str(folder))
    with torch.no_grad():
        wanted = max(
            float(model(**tokenizer(premise, "Ann left.", return_tensors="pt")).logits.softmax(-1)[0, 1])
            for premise in ("Ann sold it. Bo left.", "It rained.")
        )
    assert found == pytest.approx(wanted, abs=1e-5)


def test_nli_survives_a_source_longer_than_the_model(nli):
    item = Item(id="0", prompt="p", fields={"source": "word " * 100})
    (found,) = faithfulness([item], [Answer(text="Ann left.")], method="nli", model=str(nli[0]))
    assert 0 <= found <= 1


def test_nli_faults(nli, tmp_path):
    item = Item(id="0", prompt="p", fields={"source": "A."})
    with pytest.raises(RecipeError, match="needs 'model: FOLDER'"):
        faithfulness([item], [Answer(text="x")], method="nli")
    with pytest.raises(UserError, match="no NLI model folder"):
        faithfulness([item], [Answer(text="x")], method="nli", model=str(tmp_path))
    config = nli[0] / "config.json"
    config.write_text(config.read_text().replace("ENTAILMENT", "YES"))
    with pytest.raises(
        UserError, match="one label must be called 'entailment'; the model has: CONTRADICTION, YES, NEUTRAL"
    ):
        faithfulness([item], [Answer(text="x")], method="nli", model=str(nli[0]))
