"""Recipes: what is accepted, and that everything else is refused in one plain message with exit code 3 or 1."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from untax import cli, recipe
from untax.types import RecipeError, UserError

QUICKSTART = (Path(__file__).resolve().parents[1] / "recipes" / "quickstart.yaml").read_text(encoding="utf-8")


def test_the_quickstart_names_two_systems():
    checked, notes = recipe.parse(QUICKSTART)
    assert [s.name for s in recipe.systems(checked)] == ["contrastive", "sft"]
    assert notes == []
    again, _ = recipe.parse(recipe.to_yaml(checked))
    assert again == checked


def test_a_control_differs_only_in_what_it_overrides():
    checked, _ = recipe.parse(QUICKSTART)
    main, sft = recipe.systems(checked)
    assert sft.train.objective.options == {}
    assert sft.train.arguments == main.train.arguments
    assert sft.data == main.data


def test_overrides_reach_into_sections_and_a_bare_objective():
    checked, _ = recipe.parse(
        "name: a\ntrain: {objective: contrastive}\n",
        ["train.objective.alpha=2", "train.learning_rate=2e-5", "seeds=[3, 4]"],
    )
    assert checked.train.objective.options == {"alpha": 2}
    assert checked.train.arguments == {"learning_rate": 2e-5}
    assert checked.seeds == [3, 4]


def test_a_float_that_yaml_reads_as_text_is_accepted_and_said():
    checked, notes = recipe.parse("name: a\ntrain: {objective: sft, learning_rate: 1e-5}\n")
    assert checked.train.arguments["learning_rate"] == 1e-5
    assert len(notes) == 1
    assert "train.learning_rate" in notes[0]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("name: a\ntrain: {objective: sft}\nsed: [0]\n", "Did you mean 'seeds'"),
        ("name: a\ntrain: {objective: sft}\ndata: {promt: '{source}'}\n", "Did you mean 'prompt'"),
        ("name: a\ntrain: {objective: contrastve}\n", "Did you mean 'contrastive'"),
        ("name: a\ntrain: {objective: {name: contrastive, alhpa: 1}}\n", "Did you mean 'alpha'"),
        (
            "name: a\ntrain: {objective: sft}\ndata: {augment: {kinds: [swap_entt], scorer: x}}\n",
            "Did you mean 'swap_ent'",
        ),
        ("name: a\ntrain: {objective: sft}\nseeds: [1, 1]\n", "same seed twice"),
        ("name: a\nname: b\ntrain: {objective: sft}\n", "stands twice"),
        ("name: a\ntrain: {objective: sft}\ndata: {prompt: Hello}\n", "{source}"),
        ("name: a\n", "'train' is missing"),
        ("", "empty"),
        ("- a\n- b\n", "holds a list"),
        ("name: a\n  train: x\n", "line 2"),
        ("name: ../a\ntrain: {objective: sft}\n", "name"),
        ("name: a\ntrain: {objective: sft}\ncontrols: {sft: {train: {objective: sft}}}\n", "already called"),
        ("name: a\ntrain: {objective: sft}\ncontrols: {b: {trian: {}}}\n", "unknown key 'trian'"),
        ("name: a\ntrain: {objective: sft}\ncontrols: {b: {}}\n", "controls.b: it is made exactly like 'sft'"),
        (
            "name: a\ntrain: {objective: sft}\ncontrols: {b: {train: {objective: {name: sft, alpha: 1}}}}\n",
            "controls.b: train.objective: 'sft' has no option 'alpha'",
        ),
        (
            "name: a\ntrain: {objective: sft}\ndata: {mix: [{data: x/main.jsonl, share: 0.5}]}\n",
            "none may be called 'main'",
        ),
        ("name: a\ntrain: {objective: {name: contrastive, alpha: much}}\n", "must be of type float"),
        ("name: a\ntrain: {objective: sft}\ncontrols: {b: {train: 3}}\n", "not a section"),
    ],
)
def test_a_wrong_recipe_says_what_is_wrong(text, says):
    with pytest.raises(RecipeError, match=re.escape(says)):
        recipe.parse(text)


def malformed() -> list[tuple[str, bytes]]:
    """A hundred and more recipes that cannot be used: wrong types, unknown keys, truncated files, wrong encodings."""
    good = QUICKSTART.encode()
    cases: list[tuple[str, bytes]] = []
    lines = QUICKSTART.splitlines()
    keyed = [(i, m) for i, line in enumerate(lines) if (m := re.match(r"^(\s*)([a-z_]+):", line))]
    for i, match in keyed:
        renamed = [*lines]
        if (
            not renamed[i]
            .strip()
            .startswith(("learning_rate", "num_train", "per_device", "warmup", "lr_sched", "sft:"))
        ):
            renamed[i] = renamed[i].replace(f"{match[2]}:", f"{match[2]}_x:", 1)
            cases.append((f"unknown key {match[2]}_x", "\n".join(renamed).encode()))
    wrong = {
        "seeds": ["zero", "{}", "[]", "[a]", "[1.5]", "[-1]", "[null]", "99999999999999999999", "[99999999999999999]"],
        "name": ["3", "[]", "''", "a/b", "null", "'a b'", "{a: 1}"],
        "model": ["lab", "3", "[lab]", "{base: 3}", "{base: lab, dtype: float8}", "{base: [a]}", "{device: 1}"],
        "data": ["lab", "[]", "{dir: 3}", "{limit: 0}", "{limit: -2}", "{limit: many}", "{on_error: ignore}", "{columns: [a]}",
                 "{augment: yes}", "{augment: {kinds: []}}", "{augment: {kinds: swap_ent, scorer: a}}", "{mix: 3}",
                 "{mix: [{data: a, share: 1.5}]}", "{mix: [{data: a, share: 0}]}", "{mix: [{data: a, share: 0.5}, {data: b, share: 0.5}]}", "{mix: [{share: 0.5}]}", "{prompt: 3}"],
        "train": ["sft", "[]", "{}", "{objective: 3}", "{objective: []}", "{objective: {alpha: 1}}", "{objective: sft, lora: 8}",
                  "{objective: {name: sft, alpha: 1}}", "{objective: {name: [sft]}}"],
        "controls": ["sft", "[sft]", "{sft: 3}", "{base: {train: {objective: sft}}}", "{'a b': {}}", "{x: {train: {objective: no}}}"],
        "measure": ["lab", "{suite: 3}", "{max_items: 0}", "{max_items: x}", "{batch_size: 0}", "{batch_size: big}", "{margins: 0.02}", "{margins: {facts: 0}}", "{margins: {facts: [1]}}", "{suites: lab}"],
        "report": ["x", "{resamples: 3}", "{resamples: many}", "{title: [a]}", "{colour: red}"],
        "allow_network": ["3", "sometimes", "[]"],
    }  # fmt: skip
    top = {"name": "a", "train": "{objective: sft}"}
    for key, values in wrong.items():
        for value in values:
            text = "".join(f"{k}: {v}\n" for k, v in {**top, key: value}.items())
            cases.append((f"{key}: {value}", text.encode()))
    for cut in range(1, 12):
        cases.append((f"truncated {cut}", good[: good.index(b"prompt:") + cut + 8]))
    cases += [
        ("utf-16", QUICKSTART.encode("utf-16")),
        ("latin-1", "name: caf\xe9\n".encode("latin-1")),
        ("nul", b"name: a\0\ntrain: {objective: sft}\n"),
        ("binary", bytes(range(256)) * 10),
        ("tabs", b"name: a\ntrain:\n\tobjective: sft\n"),
        ("python tag", b"name: !!python/object/apply:os.system ['true']\ntrain: {objective: sft}\n"),
        ("alias loop", b"name: a\ntrain: &a {objective: sft, lora: *a}\n"),
        ("two documents", b"name: a\n---\nname: b\n"),
        ("number key", b"name: a\n3: b\ntrain: {objective: sft}\n"),
        ("json cut", b'{"name": "a", "train": {"objective": "sft"'),
        ("only a comment", b"# nothing\n"),
        ("a word", b"hello\n"),
        ("deep", b"name: a\ntrain: " + b"[" * 3000),
    ]
    return cases


CASES = malformed()


def test_there_are_a_hundred_malformed_recipes():
    assert len(CASES) >= 100


@pytest.mark.parametrize(("label", "content"), CASES, ids=[label for label, _ in CASES])
def test_a_malformed_recipe_gives_a_clear_error(label, content, tmp_path):
    path = tmp_path / "broken.yaml"
    path.write_bytes(content)
    with pytest.raises((RecipeError, UserError)) as caught:
        recipe.load(path)
    assert len(str(caught.value)) > 20
    assert "Traceback" not in str(caught.value)


@pytest.mark.parametrize("label", ["unknown key data_x", "utf-16", "python tag", "truncated 3", "seeds: [a]"])
def test_the_command_line_exits_with_3_and_without_a_traceback(label, tmp_path):
    path = tmp_path / "broken.yaml"
    path.write_bytes(dict(CASES)[label])
    done = subprocess.run(
        [sys.executable, "-m", "untax", "run", str(path), "--out", str(tmp_path / "run")],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 3
    assert done.stderr.startswith("untax: ")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "arguments", [["runn"], ["run"], ["run", "a.yaml", "--nope"], ["show", "swap_entt"], ["list", "objectivs"]]
)
def test_usage_errors_exit_with_3(arguments):
    done = subprocess.run([sys.executable, "-m", "untax", *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == cli.USAGE
    assert "Traceback" not in done.stderr


# ------------------------------------------------------------------ references, plugs, edits, sweeps

SWEPT = """
name: a
references:
  general: {data: general_train.jsonl, limit: 200}
train: {objective: sft, learning_rate: 1.0e-3}
sweep: {train.learning_rate: [1.0e-4, 1.0e-3]}
controls:
  held:
    train: {penalties: [{name: l2_sp, weight: 0.1}]}
    sweep: {train.penalties.0.weight: [0.1, 1], train.learning_rate: [1.0e-3]}
  mixed:
    edits: [interpolate]
    sweep: {edits.0.towards_base: [0.5]}
  replayed:
    data: {mix: [{references: general, share: 0.12}]}
    sweep: {}
  later:
    train: {start: sft@0.001, objective: dpo}
    sweep: {}
"""


def test_a_sweep_makes_a_family_with_one_member_for_every_combination():
    checked, _ = recipe.parse(SWEPT)
    made = {system.name: system for system in recipe.systems(checked)}
    assert list(made) == [
        "sft@0.0001", "sft@0.001", "held@0.1-0.001", "held@1-0.001", "mixed@0.5", "replayed", "later",
    ]  # fmt: skip
    assert [made[name].family for name in ("sft@0.001", "mixed@0.5", "replayed")] == ["sft", "mixed", "replayed"]
    assert made["held@1-0.001"].strength == {"train.penalties.0.weight": 1, "train.learning_rate": 1e-3}
    assert made["held@1-0.001"].train.penalties[0].options == {"weight": 1}
    assert made["sft@0.0001"].train.arguments["learning_rate"] == 1e-4
    assert made["mixed@0.5"].edits[0].options == {"towards_base": 0.5}
    # trained like the main system before it is edited
    assert (made["mixed@0.5"].train, made["mixed@0.5"].data) == (made["sft@0.001"].train, made["sft@0.001"].data)
    assert made["replayed"].strength == {}
    again, _ = recipe.parse(recipe.to_yaml(checked))
    assert recipe.systems(again) == recipe.systems(checked)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("sft@0.001, obj", "sft@0.01, obj", "no system of that name stands before it. Did you mean 'sft@0.001'"),
        ("[0.1, 1]", "0.1", "give a list of values, not 0.1"),
        ("[0.1, 1]", "[]", "give a list of values"),
        ("[0.1, 1]", "[0.1, 0.1]", "names one value twice"),
        ("[1.0e-4, 1.0e-3]", "[1.0e-3, 1.0000001e-3]", "two systems are called 'sft@0.001'"),
        ("[0.1, 1]", "[much]", "option 'weight' of 'l2_sp' is 'much'"),
        ("train.penalties.0", "train.penalties.1", "there is no section '1'"),
        ("train.penalties.0", "trian.penalties.0", "a key begins with 'train.', 'data.', 'edits.' or 'decoding.'"),
        ("edits.0.towards_base", "edits.0.towards_bas", "'interpolate' has no option 'towards_bas'. Did you mean"),
        ("references: general", "references: generl", "names 'generl', which is no set of references. Did you mean 'general'"),
        ("{references: general, share", "{share", "give either 'data' (a file) or 'references'"),
        ("{data: general_train.jsonl, limit: 200}", "{limit: 3}", "give either 'data' (a file) or 'self_replay'"),
        ("[interpolate]", "[interpolat]", "edits has no method 'interpolat'. Did you mean 'interpolate'"),
        ("name: l2_sp", "name: l3_sp", "penalties has no method 'l3_sp'. Did you mean 'l2_sp'"),
        ("objective: sft, learn", "gradients: {name: ogpsa, sides: one}, objective: sft, learn", "Did you mean 'side'"),
        ("objective: sft, learn", "gradients: ogspa, objective: sft, learn", "Did you mean 'ogpsa'"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_sweep_a_plug_or_a_reference_is_said(old, new, says):
    assert old in SWEPT
    with pytest.raises(RecipeError, match=re.escape(says)):
        recipe.parse(SWEPT.replace(old, new))
