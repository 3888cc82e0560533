"""Edits on model folders: the same form comes out, finished work is found again, and what cannot be done is refused early."""

import json
import os

import pytest
import torch
from people import FEMALE, MALE, NEITHER, logits, written
from safetensors.torch import load_file

import tiny
from untax import models, references
from untax.edits import projection, run
from untax.types import RecipeError, UserError

HALF = [{"name": "interpolate", "towards_base": 0.5}]


@pytest.fixture
def whole(tmp_path):
    """A base in memory and a tuned model in a folder."""
    models.save(tiny.llama(1), tiny.tokenizer(), tmp_path / "tuned")
    return tiny.llama(0), tmp_path / "tuned"


def lora(tmp_path, **settings):
    """A base and an adapter over it, both in folders; the adapter names its base."""
    from peft import LoraConfig, get_peft_model

    models.save(tiny.llama(0), tiny.tokenizer(), tmp_path / "base")
    base, _ = models.load(tmp_path / "base")
    torch.manual_seed(2)
    wanted = LoraConfig(
        r=4, target_modules=["q_proj"], task_type="CAUSAL_LM", **({"init_lora_weights": False} | settings)
    )
    adapted = get_peft_model(base, wanted)
    adapted.peft_config["default"].base_model_name_or_path = str(tmp_path / "base")
    models.save(adapted, tiny.tokenizer(), tmp_path / "tuned")
    return adapted, tmp_path / "tuned"


def test_a_whole_model_is_edited_in_order(whole, tmp_path):
    """Half of the way twice leaves a quarter of the tuned model: .25 * tuned + .75 * base; embeddings stay tied."""
    base, tuned_dir = whole
    done = run.apply(HALF * 2, base=base, tuned_dir=tuned_dir, out=tmp_path / "out")
    assert not done["adapter"]
    model, _ = models.load(done["model_dir"])
    tuned, _ = models.load(tuned_dir)
    for name, tensor in model.state_dict().items():
        wanted = 0.25 * tuned.state_dict()[name] + 0.75 * tiny.llama(0).state_dict()[name]
        assert torch.allclose(tensor, wanted, atol=1e-6), name
    assert model.lm_head.weight is model.model.embed_tokens.weight
    told = json.loads((tmp_path / "out" / "edit.json").read_text())
    assert [audit["name"] for audit in told["audits"]] == ["interpolate"] * 2
    assert told["audits"][0]["relative_edit"] == pytest.approx(0.5)


def test_no_edit_gives_the_tuned_model(whole, tmp_path):
    base, tuned_dir = whole
    done = run.apply([], base=base, tuned_dir=tuned_dir, out=tmp_path / "out")
    before, after = load_file(tuned_dir / "model.safetensors"), load_file(done["model_dir"] / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_an_adapter_stays_an_adapter_and_means_the_same(tmp_path):
    """Scaled B laid over the base = the merged model averaged with the base; no base in memory is needed."""
    adapted, tuned_dir = lora(tmp_path)
    done = run.apply(HALF, base=None, tuned_dir=tuned_dir, out=tmp_path / "out")
    assert done["adapter"]
    assert (done["model_dir"] / "adapter_config.json").is_file()
    before, after = (load_file(folder / "adapter_model.safetensors") for folder in (tuned_dir, done["model_dir"]))
    for name in before:
        assert torch.equal(after[name], before[name] * (0.5 if "lora_B" in name else 1)), name
    edited, _ = models.load(done["model_dir"])
    got = edited.merge_and_unload().state_dict()
    merged, base = adapted.merge_and_unload().state_dict(), tiny.llama(0).state_dict()
    assert all(torch.allclose(got[name], 0.5 * merged[name] + 0.5 * base[name], atol=1e-6) for name in base)


@pytest.mark.parametrize(
    ("settings", "why"),
    [({"use_dora": True}, "DoRA"), ({"modules_to_save": ["lm_head"]}, "whole weights"),
     ({"init_lora_weights": "pissa"}, "moves the base")],
)  # fmt: skip
def test_an_adapter_that_is_more_is_merged(settings, why, tmp_path):
    """Half of the way between the base and what the adapter's model computes, as a whole model; without the base it is refused."""
    adapted, tuned_dir = lora(tmp_path, **settings)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name or "modules_to_save" in name:
                weight += 0.3
    models.save(adapted, tiny.tokenizer(), tuned_dir)
    with pytest.raises(UserError, match=why):
        run.apply(HALF, base=None, tuned_dir=tuned_dir, out=tmp_path / "out")
    wanted = models.load(tuned_dir)[0].merge_and_unload().state_dict()
    done = run.apply(HALF, base=tiny.llama(0), tuned_dir=tuned_dir, out=tmp_path / "out")
    assert not done["adapter"]
    got = models.load(done["model_dir"])[0].state_dict()
    for name, tensor in tiny.llama(0).state_dict().items():
        assert torch.allclose(got[name], 0.5 * tensor + 0.5 * wanted[name], atol=1e-6), name


def test_a_search_gets_the_model_and_the_texts(whole, tmp_path):
    base, tuned_dir = whole
    texts = {"proxy": references.read("proxy", ["some text", "another"], tiny.tokenizer())}
    edits = [{"name": "average_blocks", "blocks": 2, "steps": 3}]
    with pytest.raises(UserError, match="needs reference texts"):
        run.apply(edits, base=base, tuned_dir=tuned_dir, out=tmp_path / "out")
    done = run.apply(edits, base=base, tuned_dir=tuned_dir, out=tmp_path / "out", references=texts)
    assert sum(done["audits"][0]["per_block"]) / 2 == pytest.approx(0.2)
    texts["other"] = references.read("other", ["something else"], tiny.tokenizer())
    found = [
        run.apply(
            [{**edits[0], **names}], base=base, tuned_dir=tuned_dir, out=tmp_path / f"out{number}", references=texts
        )["audits"][0]["loss_equal"]
        for number, names in enumerate(({}, {"references": ["proxy"]}, {"references": ["other", "proxy"]}))
    ]
    assert found[1] == done["audits"][0]["loss_equal"]
    assert found[0] == pytest.approx(found[2])
    assert found[0] != found[1]
    with pytest.raises(RecipeError, match="Did you mean 'proxy'"):
        run.apply([{**edits[0], "references": ["prox"]}], base=base, tuned_dir=tuned_dir, out=tmp_path / "x", references=texts)  # fmt: skip


def test_finished_work_is_found_and_other_work_is_made_again(whole, tmp_path):
    base, tuned_dir = whole
    out = tmp_path / "out"
    weights, note = out / "model" / "model.safetensors", out / "edit.json"

    def made(edits=HALF, base=base):
        """Whether a model was written."""
        before = os.stat(weights).st_ino if weights.is_file() else None
        run.apply(edits, base=base, tuned_dir=tuned_dir, out=out)
        return os.stat(weights).st_ino != before

    other = [{"name": "interpolate", "towards_base": 0.4}]
    assert [made(), made(), made(other), made(other)] == [True, False, True, False]
    assert [made(base=one) for one in (base, tiny.llama(3), base)] == [True, True, True], "another base is other work"
    models.save(tiny.llama(5), tiny.tokenizer(), tuned_dir)
    assert [made(), made()] == [True, False], "another tuned model is other work"
    note.write_text(note.read_text()[:40])
    assert made(), "a damaged note is no finished work"
    weights.write_bytes(weights.read_bytes()[:-8] + b"\0" * 8)
    assert [made(), made()] == [True, False], "a damaged model is no finished work"


def test_a_note_never_stands_beside_a_model_that_it_does_not_describe(whole, tmp_path, monkeypatch):
    base, tuned_dir = whole
    run.apply(HALF, base=base, tuned_dir=tuned_dir, out=tmp_path / "out")

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(models, "save", stop)
    with pytest.raises(KeyboardInterrupt):
        run.apply(HALF * 2, base=base, tuned_dir=tuned_dir, out=tmp_path / "out")
    assert not (tmp_path / "out" / "edit.json").exists()


@pytest.mark.parametrize(
    ("edit", "said"),
    [({"name": "interpolte"}, "Did you mean 'interpolate'"), ({"towards_base": 0.2}, "has no name"),
     ({"name": "interpolate", "towards_bas": 0.2}, "Did you mean 'towards_base'"),
     ({"name": "interpolate", "towards_base": "half"}, "of type float"),
     ({"name": "interpolate", "towards_base": 1.5}, "from 0"),
     ({"name": "interpolate", "per_block": [0.1, 2]}, "per_block is 2"),
     ({"name": "interpolate", "adapter": True}, "no option 'adapter'"), ("interpolate", "has no name")],
)  # fmt: skip
def test_what_is_misspelt_is_refused_before_work(edit, said):
    with pytest.raises(RecipeError, match=said):
        run.check([HALF[0], edit])


def test_a_whole_model_needs_its_base(whole, tmp_path):
    with pytest.raises(UserError, match="needs the base model"):
        run.apply(HALF, base=None, tuned_dir=whole[1], out=tmp_path / "out")
    with pytest.raises(UserError, match="not of one architecture"):
        run.apply(HALF, base=tiny.llama(0, layers=3), tuned_dir=whole[1], out=tmp_path / "out")


# --------------------------------------------------------------------------- projections

TEXTS = {"people": written(MALE, FEMALE, NEITHER, count=400)}
DIRECTION = {"name": "sentence_debias"}


def saved(make, folder):
    models.save(make(), tiny.tokenizer(), folder)
    return models.load(folder)[0]


@pytest.mark.parametrize("make", [tiny.llama, tiny.gpt2])
@pytest.mark.parametrize("edit", [DIRECTION, {"name": "inlp", "max_share": 0.3}])
def test_a_projection_is_folded_into_an_untied_output_matrix(make, edit, tmp_path):
    """The base itself is edited; what is loaded again has two matrices, the old embedding, and other logits for all 32 prompts."""
    base = saved(make, tmp_path / "base")
    done = run.apply([edit], base=base, tuned_dir=tmp_path / "base", out=tmp_path / "out", texts=TEXTS)
    assert done["projection"] is None
    assert not (tmp_path / "out" / "projection.safetensors").exists()
    again, _ = models.load(done["model_dir"])
    assert not again.config.tie_word_embeddings
    assert torch.equal(again.get_input_embeddings().weight, base.get_input_embeddings().weight)
    assert float((logits(again) - logits(base)).abs().flatten(1).max(1).values.min()) > 1e-4
    stored = load_file(done["model_dir"] / "model.safetensors")
    assert sum(tensor.shape == (257, 32) for tensor in stored.values()) == 2
    audit = done["audits"][0]
    assert audit["removed_in_all"] == audit["removed"] > 0
    assert audit["left_on_rounding"] < 1e-6
    assert json.loads((tmp_path / "out" / "edit.json").read_text())["audits"] == [audit]


def test_a_projection_of_an_inner_layer_stands_beside_the_model(tmp_path):
    base = saved(tiny.llama, tmp_path / "base")
    done = run.apply(
        [{**DIRECTION, "layer": 0}], base=base, tuned_dir=tmp_path / "base", out=tmp_path / "out", texts=TEXTS
    )
    assert done["projection"] == tmp_path / "out" / "projection.safetensors"
    again, _ = models.load(done["model_dir"])
    assert torch.equal(logits(again), logits(base))
    loaded = projection.load(done["projection"])
    assert (loaded.layer, loaded.rank, loaded.about["edit"]) == (0, 1, "sentence_debias")
    with loaded.applied(again):
        assert float((logits(again) - logits(base)).abs().max()) > 1e-4
    # the same folder for another layer: nothing is left of the first
    done = run.apply([DIRECTION], base=base, tuned_dir=tmp_path / "base", out=tmp_path / "out", texts=TEXTS)
    assert done["projection"] is None
    assert not (tmp_path / "out" / "projection.safetensors").exists()


def test_two_projections_remove_what_both_span(tmp_path):
    """Not the product of the two: W has nothing along either's directions, which are not at right angles."""
    base = saved(tiny.llama, tmp_path / "base")
    texts = {"people": TEXTS["people"], "faith": [f"The {who} family came to gate {i}." for i in range(10) for who in ("Muslim", "Jewish", "Christian")]}  # fmt: skip
    edits = [{"name": "sentence_debias"}, {"name": "sentence_debias", "attribute": "religion", "references": ["faith"]}]
    both = [
        run.apply([{**edit, "layer": 1}], base=base, tuned_dir=tmp_path / "base", out=tmp_path / f"one{i}", texts=texts)
        for i, edit in enumerate(edits)
    ]
    inner = [projection.load(one["projection"]).basis_RH for one in both]
    assert float((inner[0] @ inner[1].T).abs()) > 1e-3
    done = run.apply(edits, base=base, tuned_dir=tmp_path / "base", out=tmp_path / "out", texts=texts)
    assert [audit["removed"] for audit in done["audits"]] == [1, 1]
    assert done["audits"][1]["removed_in_all"] == 2
    assert done["audits"][1]["pairs"] == 30
    weight = models.load(done["model_dir"])[0].get_output_embeddings().weight.detach()
    assert int(torch.linalg.matrix_rank(weight.double(), rtol=1e-5)) == 30


def test_weights_are_edited_before_states_are_read(whole, tmp_path):
    """The direction is that of the averaged model, not of the tuned one."""
    base, tuned_dir = whole
    done = run.apply(
        [*HALF, {**DIRECTION, "layer": 1}], base=base, tuned_dir=tuned_dir, out=tmp_path / "out", texts=TEXTS
    )
    averaged = run.apply(HALF, base=base, tuned_dir=tuned_dir, out=tmp_path / "half")["model_dir"]
    alone = [
        run.apply([{**DIRECTION, "layer": 1}], base=base, tuned_dir=folder, out=tmp_path / f"x{i}", texts=TEXTS)
        for i, folder in enumerate((averaged, tuned_dir))
    ]
    found, wanted, other = (projection.load(one["projection"]).basis_RH for one in (done, *alone))
    assert torch.allclose(found, wanted, atol=1e-6)
    assert float((found @ other.T).abs()) < 0.999


def test_a_projection_of_an_adapter_merges_it(tmp_path):
    """What comes out is a whole model: the merged one, projected."""
    adapted, tuned_dir = lora(tmp_path)
    done = run.apply([DIRECTION], base=tiny.llama(0), tuned_dir=tuned_dir, out=tmp_path / "out", texts=TEXTS)
    assert not done["adapter"]
    merged = adapted.merge_and_unload().state_dict()
    got = load_file(done["model_dir"] / "model.safetensors")
    assert all(
        torch.allclose(got[name], tensor, atol=1e-6) for name, tensor in merged.items() if name != "lm_head.weight"
    )
    assert not torch.allclose(got["lm_head.weight"], merged["lm_head.weight"], atol=1e-3)


def test_an_edit_gets_the_texts_that_it_names_and_the_tokenizer(tmp_path):
    base = saved(tiny.llama, tmp_path / "base")
    texts = {**TEXTS, "other": written(MALE, FEMALE, count=100, seed=7)}

    def made(number, texts=texts, names=None, **given):
        edit = DIRECTION if names is None else {**DIRECTION, "references": names}
        out = tmp_path / f"out{number}"
        done = run.apply([edit], base=base, tuned_dir=tmp_path / "base", out=out, texts=texts, **given)
        return done["audits"][0]["sentences"], load_file(out / "model" / "model.safetensors")["lm_head.weight"]

    assert made(1)[0] == len({*texts["people"], *texts["other"]})
    count, weight = made(2, names=["people"])
    assert count == 400
    with pytest.raises(RecipeError, match="Did you mean 'people'"):
        made(3, names=["peopel"])
    for none in (None, {}):
        with pytest.raises(UserError, match="needs reference texts"):
            made(4, none)
    _, other = made(5, names=["people"], tokenizer=tiny.tokenizer(adds_end_in_front=True))
    assert not torch.allclose(weight, other, atol=1e-5), "another tokenizer, other states"


def test_finished_projections_are_found_by_their_texts(tmp_path):
    base = saved(tiny.llama, tmp_path / "base")
    out = tmp_path / "out"

    def made(texts=TEXTS, edit=DIRECTION, **given):
        before = os.stat(out / "edit.json").st_ino if (out / "edit.json").is_file() else None
        run.apply([edit], base=base, tuned_dir=tmp_path / "base", out=out, texts=texts, **given)
        return os.stat(out / "edit.json").st_ino != before

    fewer = {"people": TEXTS["people"][:-1]}
    assert [made(), made(), made(fewer), made(fewer), made()] == [True, False, True, False, True]
    other = {"tokenizer": tiny.tokenizer(adds_end_in_front=True)}
    assert [made(**other), made(**other)] == [True, False], "another tokenizer is other work"
    inner = {**DIRECTION, "layer": 1}
    assert [made(edit=inner), made(edit=inner)] == [True, False]
    (out / "projection.safetensors").unlink()
    assert [made(edit=inner), made(edit=inner)] == [True, False], "a projection that is gone is no finished work"
    path = out / "projection.safetensors"
    path.write_bytes(path.read_bytes()[:-8] + b"\0" * 8)
    assert [made(edit=inner), made(edit=inner)] == [True, False], "nor is a damaged one"


@pytest.mark.parametrize(
    ("edits", "said"),
    [([DIRECTION, HALF[0]], "Put projections last"), ([{**DIRECTION, "layer": 0}, HALF[0]], "Put projections last"),
     ([{**DIRECTION, "layer": 0}, {"name": "inlp"}], "one layer"), ([{**DIRECTION, "layer": 2}], "blocks are 0 to 1"),
     ([{**DIRECTION, "layer": -2}], "at least -1"), ([{**DIRECTION, "components": 0}], "at least 1"),
     ([{**DIRECTION, "attribute": "age"}], "one of 'gender'"), ([{"name": "inlp", "max_share": 0.0}], "above 0"),
     ([{"name": "inlp", "max_share": 2}], "at most 1"), ([{"name": "inlp", "rounds": 0}], "at least 1"),
     ([{"name": "inlp", "stop": "soon"}], "one of 'chance'"), ([{"name": "inlp", "per_class": 10}], "at least 50"),
     ([{"name": "inlp", "texts": {}}], "no option 'texts'"), ([{**DIRECTION, "max_texts": 5}], "at least 20")],
)  # fmt: skip
def test_projections_that_cannot_be_carried_out_are_refused_before_work(edits, said):
    with pytest.raises(RecipeError, match=said):
        run.check(edits, names=list(tiny.llama().state_dict()))


def test_projections_of_one_layer_may_follow_edits_of_weights():
    run.check([*HALF, DIRECTION, {"name": "inlp"}], names=list(tiny.llama().state_dict()))
    run.check([{**DIRECTION, "layer": 1}], names=list(tiny.gpt2().state_dict()))
