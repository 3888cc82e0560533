"""Scorers: known scores, the right label, one identity per behaviour, and no judge of its own homework."""

import json
import math
import os

import pytest
import torch

from data.small_models import classifier, encoder
from untax import scorers
from untax.types import UserError

CLEAN = [
    "the bus was late",
    "we moved to the coast",
    "she sold her bike",
    "it rained all day",
    "he opened a shop",
    "they won the game",
] * 3
RUDE = [
    "that gleeb was late",
    "you gleeb sold it",
    "what a gleeb he is",
    "gleebs everywhere",
    "only a gleeb moves",
    "the gleeb won",
] * 3


def fitted(**options):
    return scorers.fit_ngram(CLEAN + RUDE, [0] * len(CLEAN) + [1] * len(RUDE), seed=0, **options)


# ---------------------------------------------------------------- words


def test_a_word_list_is_exact(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text("# licence: mine\ngleeb\nsilly goat\n\nGleeb\n", encoding="utf-8")
    scorer = scorers.load(f"words:{path}")
    texts = ["You GLEEB!", "two gleebs", "gleebish", "a silly goat", "silly old goat", "fine"]
    assert scorer.score(texts) == [1, 1, 0, 1, 0, 0]


def test_an_empty_text_is_missing_and_not_safe(tmp_path):
    assert all(math.isnan(value) for value in scorers.WordScorer(["gleeb"]).score(["", "  \n"]))
    assert all(math.isnan(value) for value in fitted().score(["", " "]))


@pytest.mark.parametrize(
    ("content", "message"), [(b"", "no word"), (b"# only\n", "no word"), (b"caf\xe9\n", "not UTF-8 at byte 3")]
)
def test_a_bad_word_list_says_so(tmp_path, content, message):
    path = tmp_path / "w.txt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        scorers.load(f"words:{path}")


def test_words_with_signs_are_words_and_no_pattern():
    assert scorers.WordScorer(["a.b", "c++"]).score(["axb", "a.b", "c++ here"]) == [0, 1, 1]


# ---------------------------------------------------------------- n-grams


def test_the_ngram_model_learns_and_generalises_to_a_misspelling():
    clean, rude, near = fitted().score(["we opened a shop", "what a gleeb", "what a gleeeb"])
    assert clean < 0.3 < 0.7 < rude
    assert near > clean


def test_the_ngram_model_survives_saving_exactly(tmp_path):
    scorer = fitted(words=["gleeb"])
    scorer.save(tmp_path / "m.safetensors")
    again = scorers.load(f"ngram:{tmp_path / 'm.safetensors'}")
    assert again.identity == scorer.identity
    assert again.score(CLEAN + RUDE) == scorer.score(CLEAN + RUDE)
    assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]


def test_a_listed_word_is_a_feature_of_its_own():
    """The text shares no n-gram with the training texts: without the list the score is sigmoid(intercept)."""
    without = fitted().score(["zzyq"])[0]
    with_word = scorers.fit_ngram([*CLEAN, *RUDE], [0] * 18 + [1] * 18, words=["gleeb", "zzyq"]).score(["zzyq"])[0]
    assert with_word > without + 0.1


def test_fitting_says_what_is_wrong_with_the_labels(tmp_path):
    with pytest.raises(UserError, match=r"2 texts but 1 labels"):
        scorers.fit_ngram(["a", "b"], [1])
    with pytest.raises(UserError, match=r"labelled 0"):
        scorers.fit_ngram(["a", "b"], [1, 1])
    path = tmp_path / "l.jsonl"
    path.write_text('{"text": "a", "toxic": 1}\n{"text": "b", "toxic": 7}\n', encoding="utf-8")
    with pytest.raises(UserError, match=r"l\.jsonl:2"):
        scorers.load(f"fit:{path}")
    path.write_text('{"text": "a", "toxic": 1}\n{"text": "b"', encoding="utf-8")
    with pytest.raises(UserError, match=r"l\.jsonl:2"):
        scorers.load(f"fit:{path}")


def test_fit_reads_labelled_rows_and_a_word_list(tmp_path):
    path, words = tmp_path / "l.jsonl", tmp_path / "w.txt"
    path.write_text(
        "".join(json.dumps({"text": t, "toxic": int(t in RUDE)}) + "\n" for t in CLEAN + RUDE), encoding="utf-8"
    )
    words.write_text("gleeb\n", encoding="utf-8")
    plain = scorers.load("fit:l.jsonl", base_dir=tmp_path)
    listed = scorers.load("fit:l.jsonl+w.txt", base_dir=tmp_path)
    assert listed.words == ("gleeb",)
    assert plain.words == ()
    assert plain.identity != listed.identity
    assert scorers.load(f"fit:{path}").identity == plain.identity


def test_a_file_that_is_no_ngram_model_is_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"junk")
    with pytest.raises(UserError, match=r"cannot read"):
        scorers.load(f"ngram:{path}")
    from safetensors.torch import save_file

    save_file({"weights": torch.zeros(3)}, path)
    with pytest.raises(UserError, match=r"no n-gram scorer"):
        scorers.load(f"ngram:{path}")


# ---------------------------------------------------------------- classifiers


def test_softmax_over_two_labels(tmp_path):
    """Logits (0, ln 3): the toxic label has 3/4."""
    folder = classifier(tmp_path / "m", ["neutral", "toxic"], [0.0, math.log(3)])
    assert scorers.load(f"hf:{folder}").score(["Alice moved", "", "Leeds"]) == [
        pytest.approx(0.75),
        pytest.approx(math.nan, nan_ok=True),
        pytest.approx(0.75),
    ]


def test_a_multi_label_model_is_read_at_its_toxicity_label_not_at_its_top_one(tmp_path):
    """Logits: toxic -ln 3 gives sigmoid 1/4, although obscene is nearly 1; a softmax would give almost 0."""
    labels = ["obscene", "toxic", "threat"]
    folder = classifier(tmp_path / "m", labels, [9.0, -math.log(3), -9.0], problem="multi_label_classification")
    assert scorers.load(f"hf:{folder}").score(["Alice"]) == [pytest.approx(0.25)]


def test_the_other_label_of_a_binary_model(tmp_path):
    folder = classifier(tmp_path / "m", ["LABEL_X", "non-toxic"], [math.log(4), 0.0])
    assert scorers.load(f"hf:{folder}").score(["Alice"]) == [pytest.approx(0.8)]


def test_labels_that_say_nothing_must_be_named(tmp_path):
    folder = classifier(tmp_path / "m", ["LABEL_0", "LABEL_1"], [0.0, math.log(3)])
    with pytest.raises(UserError, match=r"LABEL_0, LABEL_1.*hf:DIR#LABEL"):
        scorers.load(f"hf:{folder}")
    assert scorers.load(f"hf:{folder}#LABEL_1").score(["Alice"]) == [pytest.approx(0.75)]
    with pytest.raises(UserError, match=r"no label 'LABEL_7'"):
        scorers.load(f"hf:{folder}#LABEL_7")


def test_a_long_text_is_cut_and_scored(tmp_path):
    folder = classifier(tmp_path / "m", ["neutral", "toxic"], [0.0, 0.0])
    assert scorers.load(f"hf:{folder}").score(["Alice moved " * 500]) == [pytest.approx(0.5)]


def test_an_encoder_without_a_head_is_no_classifier(tmp_path):
    with pytest.raises(UserError, match=r"no classifier|which label"):
        scorers.load(f"hf:{encoder(tmp_path / 'bert')}")


def test_damaged_weights_are_an_error(tmp_path):
    folder = classifier(tmp_path / "m", ["neutral", "toxic"], [0.0, 0.0])
    (folder / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(UserError, match=r"cannot be loaded"):
        scorers.load(f"hf:{folder}")


# ---------------------------------------------------------------- Detoxify


def checkpoint(tmp_path, classes=("toxicity", "obscene")):
    """The layout of Detoxify: a state dict and the names of the classes; config and tokenizer of the encoder lie beside."""
    from transformers import BertForSequenceClassification

    folder = classifier(tmp_path / "detox", list(classes), [math.log(3), -5.0])
    state = BertForSequenceClassification.from_pretrained(folder).state_dict()
    (folder / "model.safetensors").unlink()
    path = folder / "toxic.ckpt"
    torch.save({"config": {"dataset": {"args": {"classes": list(classes)}}}, "state_dict": state}, path)
    return path


def test_detoxify_reads_its_toxicity_class(tmp_path):
    assert scorers.load(f"detoxify:{checkpoint(tmp_path)}").score(["Alice moved"]) == [pytest.approx(0.75)]


def test_detoxify_never_unpickles_code(tmp_path):
    path = checkpoint(tmp_path)

    class Evil:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "ran"),))

    torch.save({"config": Evil(), "state_dict": {}}, path)
    with pytest.raises(UserError, match=r"cannot be loaded"):
        scorers.load(f"detoxify:{path}")
    assert not (tmp_path / "ran").exists()


def test_detoxify_refuses_weights_of_another_model(tmp_path):
    path = checkpoint(tmp_path)
    torch.save(
        {"config": {"dataset": {"args": {"classes": ["toxicity", "obscene"]}}}, "state_dict": {"x": torch.zeros(1)}},
        path,
    )
    with pytest.raises(UserError, match=r"does not fit"):
        scorers.load(f"detoxify:{path}")


def test_detoxify_without_its_config_says_what_to_put_there(tmp_path):
    path = checkpoint(tmp_path)
    (path.parent / "config.json").unlink()
    with pytest.raises(UserError, match=r"Put config.json"):
        scorers.load(f"detoxify:{path}")


# ---------------------------------------------------------------- identity


def test_identity_is_behaviour_and_not_name(tmp_path):
    a, b = tmp_path / "a.txt", tmp_path / "b.txt"
    a.write_text("gleeb\nfrob\n", encoding="utf-8")
    b.write_text("frob\nGLEEB\n", encoding="utf-8")
    one, two = scorers.load(f"words:{a}"), scorers.load(f"words:{b}")
    assert one.identity == two.identity
    assert scorers.WordScorer(["gleeb"]).identity != one.identity
    assert fitted().identity == fitted().identity
    assert fitted(strength=1.0).identity != fitted().identity


def test_the_same_scorer_may_not_build_and_judge(tmp_path):
    words = scorers.WordScorer(["gleeb"], name="words:a.txt")
    same = scorers.WordScorer(["GLEEB"], name="words:b.txt")
    other = scorers.WordScorer(["frob"])
    with pytest.raises(UserError, match=r"words:b\.txt.*words:a\.txt"):
        scorers.refuse_same(words, same)
    scorers.refuse_same(words, same, force=True)
    scorers.refuse_same(words, other)


def test_two_labels_of_one_classifier_are_one_scorer(tmp_path):
    folder = classifier(tmp_path / "m", ["obscene", "toxic"], [0.0, 0.0])
    with pytest.raises(UserError, match=r"own homework"):
        scorers.refuse_same(scorers.load(f"hf:{folder}#toxic"), scorers.load(f"hf:{folder}#obscene"))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("magic:x", "not understood"),
        ("words", "not understood"),
        ("words:", "not understood"),
        ("words:no.txt", "there is no"),
        ("hf:nowhere", "there is no"),
        ("fit:no.jsonl", "there is no"),
    ],
)
def test_a_specification_that_does_not_work_says_why(spec, message):
    with pytest.raises(UserError, match=message):
        scorers.load(spec)


def test_the_lab_list_is_read_whole(shared):
    """A real list with phrases and signs."""
    path = shared / "data" / "lexicon" / "ldnoobw_en.txt"
    words = scorers.read_words(path)
    assert len(words) == 403
    assert scorers.WordScorer(words).score(words) == [1.0] * 403


@pytest.mark.parametrize("line", ['{"text": "a"}', "[1, 2]", "x" * 201, "a\0b"])
def test_data_are_no_word_list(tmp_path, line):
    path = tmp_path / "words.txt"
    path.write_text(f"# insults\nfool\n{line}\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"words\.txt:3: this is no word or phrase"):
        scorers.read_words(path)
