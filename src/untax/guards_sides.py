"""What two sides say of themselves, and must agree on: weights, settings, origin, what was checked. No torch.

Everything is read from `Scores.about`. A key that is absent says nothing; the keys are listed in docs/guards.md.

Shapes: K seeds, I items.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats as distributions

from untax.guards_base import Guard, Paired, Severity, percent, same, seed_name
from untax.guards_text import EMPTY_REFUSE, EMPTY_WARN, is_unparsed
from untax.types import MetricSpec, Scores

__all__ = ["pair_guards"]

ENOUGH_ANSWERS = 20
EFFECT_LEAST = 1e-4  # a wrapper that moves no logit by more than this does nothing
LEAK_WARN, LEAK_REFUSE = 0.01, 0.10
UNPARSED_GAP, UNPARSED_REFUSE = 0.02, 0.20
UNPARSED_CHANCE = 0.001

#: metrics in nats per token, where their option `per` does not say otherwise
PER_TOKEN = ("perplexity", "answer_loss", "copy_canary")

_Setting = tuple[str, Severity, str]

_SETTINGS: tuple[_Setting, ...] = (
    ("decoding", "refuse", "Let both sides answer in the same way (greedily, or both sampled alike)."),
    ("generation", "refuse", "Let both sides answer with the same generation settings."),
    ("quantization", "refuse", "Measure both sides at the same precision: a 4-bit base loses to its own tuned copy."),
    ("device", "warn", "Measure both sides on the same kind of device: kernels round differently."),
    ("engine", "warn", "Measure both sides with the same engine: two engines round, stop and tokenize differently."),
    (
        "tokenizer",
        "warn",
        "Scores per token do not compare across tokenizers: use scores per byte, or the same tokenizer.",
    ),
)


def pair_guards(
    base: Sequence[Scores], tuned: Sequence[Scores], pairs: Sequence[Paired], *, allow_dtype_mismatch: bool = False
) -> list[Guard]:
    """What is wrong with the two sides as wholes: the same model twice, other settings, other versions, a leaked benchmark."""
    both = [*base, *tuned]
    found = [*_identical(base, tuned, pairs), *_same_seeds(tuned, pairs)]
    found += _effects(both) + _prefixes(both) + _selfchecks(both)
    found += _origins(base, tuned, pairs)
    found += _settings(both, allow_dtype_mismatch=allow_dtype_mismatch)
    found += _templates(both) + _unpinned(both)
    for pair in pairs:
        found += _per_token(pair.spec, both) + _judges(pair.spec, both) + _leaks(pair.spec, tuned)
        found += _unparsed(pair, base, tuned) + _silent_samples(pair.spec, base, tuned)
    return found


# --------------------------------------------------------------------------- the same model twice


def _identical(base: Sequence[Scores], tuned: Sequence[Scores], pairs: Sequence[Paired]) -> list[Guard]:
    advice = (
        "Check that the tuned weights (or the adapter) were saved, loaded and switched on, that the learning rate was not 0, "
        "and that the two paths are not the same model."
    )
    bases = list(base) * len(tuned) if len(base) == 1 else list(base)
    found = []
    for index, (one, other) in enumerate(zip(bases, tuned, strict=True)):
        where = seed_name(other.seed)
        mark = other.about.get("fingerprint")
        # a wrapper or an instruction changes the answers of the same weights: `no-op` looks after those
        asked_alike = all(one.about.get(key) == other.about.get(key) for key in ("wrapper", "prefix"))
        if mark and mark == one.about.get("fingerprint") and asked_alike:
            found.append(
                Guard("identical", "refuse", f"{other.system}{where} has the weights of {one.system} ({mark})", advice)
            )
            continue
        rows = [(b, t) for pair in pairs for b, t in zip(pair.base[index], pair.tuned[index], strict=True)]
        # a written text has one score; the choice that is likeliest has not, and where there is one choice it says nothing
        texts = (pair for pair in pairs if pair.spec.request == "generate")
        said = [(b, t) for pair in texts for b, t in zip(pair.base[index], pair.tuned[index], strict=True)]
        written = [(b, t) for b, t in said if b.answer.strip() or t.answer.strip()]
        if len(rows) >= 2 and all(b.answer == t.answer and same(b.score, t.score) for b, t in rows):
            seen = f"all {len(rows)} answers and scores of {other.system}{where} are those of {one.system}"
            found.append(Guard("identical", "refuse", seen, advice))
        elif len(written) >= ENOUGH_ANSWERS and all(b.answer == t.answer for b, t in written):
            seen = f"all {len(written)} texts of {other.system}{where} are those of {one.system}; only scores differ"
            found.append(Guard("identical", "warn", seen, advice))
    return found


def _same_seeds(tuned: Sequence[Scores], pairs: Sequence[Paired]) -> list[Guard]:
    found: list[Guard] = []
    if all(one.about.get("trained") is False for one in tuned):
        return found  # no training, no seed: one model stands beside every seed of the others
    for later in range(1, len(tuned)):
        for earlier in range(later):
            marks = [tuned[index].about.get("fingerprint") for index in (earlier, later)]
            rows = [(a, b) for pair in pairs for a, b in zip(pair.tuned[earlier], pair.tuned[later], strict=True)]
            same_rows = len(rows) >= 2 and all(a.answer == b.answer and same(a.score, b.score) for a, b in rows)
            if (marks[0] and marks[0] == marks[1]) or same_rows:
                found.append(
                    Guard(
                        "same-seeds",
                        "warn",
                        f"{tuned[later].system}: seeds {tuned[earlier].seed} and {tuned[later].seed} are the same model",
                        "The spread between seeds is too small by that much. Check that the seed reaches data order and "
                        "initialisation, or give the model once.",
                    )
                )
    return found


# --------------------------------------------------------------------------- what a system claims to do


def _effects(both: Sequence[Scores]) -> list[Guard]:
    """A method that acts while decoding leaves the weights alone: its effect must be seen in the logits."""
    found = []
    for scores in both:
        effect, wrapper = scores.about.get("effect"), scores.about.get("wrapper")
        if not wrapper and not effect:
            continue
        who = f"{scores.system}{seed_name(scores.seed)}"
        if not isinstance(effect, Mapping):
            seen = f"{who} says that it decodes with {wrapper}, and nobody looked whether that changes anything"
            do = "Compare the logits with and without it on some prompts (selfcheck.effect) when measuring."
            found.append(Guard("no-op", "warn", seen, do))
        elif not float(effect["largest"]) > EFFECT_LEAST:
            seen = (
                f"{who} decodes with {wrapper or 'a wrapper'}, and on {effect['prompts']} prompts no logit moves by more than "
                f"{float(effect['largest']):.1g}"
            )
            do = "The method is never called: look at how it is put around the model. Its figures are a second draw of the base's."
            found.append(Guard("no-op", "refuse", seen, do))
    return found


def _prefixes(both: Sequence[Scores]) -> list[Guard]:
    found = []
    for scores in both:
        told = scores.about.get("prefix")
        if isinstance(told, Mapping) and (not told["of"] or told["n"] != told["of"]):
            found.append(
                Guard(
                    "missing-prefix",
                    "refuse",
                    f"{scores.system}{seed_name(scores.seed)} is said to be asked with an instruction in front: its tokens open "
                    f"{told['n']} of {told['of']} prompts",
                    "Put the instruction in front of every prompt, joined in one way, and measure again.",
                )
            )
    return found


def _selfchecks(both: Sequence[Scores]) -> list[Guard]:
    found = []
    for scores in both:
        for check in scores.about.get("selfcheck") or ():
            if not float(check["off"]) <= float(check["allowed"]):
                found.append(
                    Guard(
                        "batching",
                        "refuse",
                        f"{scores.system}{seed_name(scores.seed)}, {check['items']} items, {check['check']}: off by "
                        f"{float(check['off']):.3g} {check['unit']}, {float(check['allowed']):.3g} allowed",
                        "The way of scoring changes the scores: look at padding, attention mask, positions, and whether the first "
                        "token of a continuation is counted. A batch of 1 shows which.",
                    )
                )
                break
    return found


def _origins(base: Sequence[Scores], tuned: Sequence[Scores], pairs: Sequence[Paired]) -> list[Guard]:
    """Who was trained from whom, and from which model drift was measured."""
    found = []
    marks = {scores.about.get("fingerprint") for scores in tuned} - {None, ""}
    for scores in base:
        origin = scores.about.get("base")
        if origin and origin in marks and origin != scores.about.get("fingerprint"):
            seen = f"the drift of {scores.system} was measured from {tuned[0].system}"
            do = "Base and tuned model stand on each other's side: give the base first."
            found.append(Guard("swapped", "refuse", seen, do))
    if (
        len(base) == 1
        and base[0].seed is not None
        and (base[0].system == "base" or {s.seed for s in tuned} != {base[0].seed})
    ):
        seen = f"{base[0].system} has a training seed ({base[0].seed}): it was trained"
        do = "The tax is what the trained model lost against the model before training. Give that one as base."
        found.append(Guard("trained-base", "warn", seen, do))
    origins = {scores.about["base"] for scores in (*base, *tuned) if scores.about.get("base")}
    own = next((s for s in tuned if s.about.get("base") and s.about["base"] == s.about.get("fingerprint")), None)
    for pair in pairs:
        if pair.spec.request not in ("drift", "shift") or not (own or len(origins) > 1):
            continue
        seen = (
            f"the drift of {own.system}{seed_name(own.seed)} was measured from itself"
            if own
            else "the sides measured their drift from different models"
        )
        do = "Measure drift of every system from the one base (load it beside, or switch the adapter off)."
        found.append(Guard("drift-origin", "refuse", seen, do, pair.spec.name))
    return found


# --------------------------------------------------------------------------- settings


def _settings(both: Sequence[Scores], *, allow_dtype_mismatch: bool) -> list[Guard]:
    found = []
    dtypes = sorted({str(scores.about["dtype"]) for scores in both if scores.about.get("dtype")})
    if len(dtypes) > 1:
        seen = "; ".join(f"{s.system}{seed_name(s.seed)} in {s.about.get('dtype')}" for s in both)
        do = "Measure every side in the same dtype: rounding alone changes answers."
        found.append(Guard("different-dtype", "warn" if allow_dtype_mismatch else "refuse", seen, do))
    for key, severity, do in _SETTINGS:
        told = [(s, _setting(s, key)) for s in both if _setting(s, key)]
        odd = next(((s, value) for s, value in told if value != told[0][1]), None)
        if odd:
            seen = f"{key}: {_differences(told[0][0], told[0][1], odd[0], odd[1])}"
            found.append(Guard("different-settings", severity, seen, do))
    # in float32 a batch changes no answer; elsewhere the last bits of the arithmetic depend on it
    sizes = {s.about["batch_size"] for s in both if s.about.get("batch_size") and s.about.get("dtype") != "float32"}
    if len(sizes) > 1:
        seen = f"batch_size: {' and '.join(map(str, sorted(sizes)))}, in {dtypes[0] if dtypes else 'an unknown dtype'}"
        found.append(Guard("different-settings", "warn", seen, "Use one batch size for both sides."))
    versions = [s for s in both if s.about.get("versions")]
    other = next((s for s in versions if s.about["versions"] != versions[0].about["versions"]), None)
    if other:
        seen = _differences(versions[0], versions[0].about["versions"], other, other.about["versions"])
        do = "Measure both sides again in one environment; kernels and tokenizers change between versions."
        found.append(Guard("different-versions", "warn", seen, do))
    return found


def _setting(scores: Scores, key: str) -> Any:
    """One setting of a side; weights about which nothing is said are not quantized."""
    return scores.about.get(key) or ("none" if key == "quantization" else None)


def _differences(first: Scores, left: Any, other: Scores, right: Any) -> str:
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        keys = sorted(k for k in {*left, *right} if left.get(k) != right.get(k))
        return "; ".join(f"{k} {left.get(k)} for {first.system}, {right.get(k)} for {other.system}" for k in keys)
    return f"{left} for {first.system}, {right} for {other.system}"


def _templates(both: Sequence[Scores]) -> list[Guard]:
    told = [s for s in both if "chat_template" in s.about]
    other = next((s for s in told if s.about["chat_template"] != told[0].about["chat_template"]), None)
    if other is None:
        return []
    pair = (told[0], other)
    bare = [s.system for s in pair if not s.about["chat_template"]]
    if bare:
        seen = f"{bare[0]} is asked in plain text, {next(s.system for s in pair if s.about['chat_template'])} in a chat template"
        do = "Ask both sides in the same form; or make two receipts, one for each form."
        return [Guard("chat-template", "refuse", seen, do)]
    seen = f"{pair[0].system} and {pair[1].system} are asked in different chat templates"
    return [Guard("chat-template", "warn", seen, "Ask both with the base's template where that is possible.")]


def _unpinned(both: Sequence[Scores]) -> list[Guard]:
    """`revision` stands in `about` of models from the hub only: empty where no commit was named."""
    loose = sorted(
        {str(s.about.get("model") or s.system) for s in both if "revision" in s.about and not s.about["revision"]}
    )
    if not loose:
        return []
    do = "Load it at a named commit (revision=COMMIT), so that the same receipt can be made again."
    return [Guard("unpinned", "warn", f"without a commit of the hub: {', '.join(loose)}", do)]


# --------------------------------------------------------------------------- one metric


def _per_token(spec: MetricSpec, both: Sequence[Scores]) -> list[Guard]:
    options = spec.settings.get("options") or {}
    per_token = spec.metric in PER_TOKEN and options.get("per", "token") == "token"
    tokenizers = {s.about["tokenizer"] for s in both if s.about.get("tokenizer")}
    if not (per_token or spec.request in ("drift", "shift")) or len(tokenizers) < 2:
        return []
    seen = "nats per token, and the two sides count tokens differently"
    return [Guard("per-token", "refuse", seen, "Use 'options: {per: byte}', or the same tokenizer.", spec.name)]


def _judges(spec: MetricSpec, both: Sequence[Scores]) -> list[Guard]:
    judge = str(spec.settings.get("scorer") or "")
    builders = {str(mark) for scores in both for mark in scores.about.get("built_by") or ()}
    # two labels of one classifier are still one classifier
    if not judge or judge.partition("#")[0] not in {mark.partition("#")[0] for mark in builders}:
        return []
    seen = f"the scorer that chose the training data judges the result ({judge})"
    do = "It grades its own homework: judge by a scorer that took no part in building the data, and show this one beside it."
    return [Guard("own-judge", "refuse", seen, do, spec.name)]


def _leaks(spec: MetricSpec, tuned: Sequence[Scores]) -> list[Guard]:
    worst = None
    for scores in tuned:
        told = (scores.about.get("contamination") or {}).get("lines", {}).get(spec.name)
        if told and told["of"] and (worst is None or told["n"] / told["of"] > worst["n"] / worst["of"]):
            worst = told
    if worst is None or not worst["n"] or worst["n"] / worst["of"] < LEAK_WARN:
        return []
    share = worst["n"] / worst["of"]
    return [
        Guard(
            "contaminated",
            "refuse" if share >= LEAK_REFUSE else "warn",
            f"{worst['n']} of {worst['of']} items ({percent(share)}) stand in the training data (first: {worst['first']})",
            "Take them out of the training data and train again, or out of the suite: what was trained on cannot be tested.",
            spec.name,
        )
    ]


def _unparsed(pair: Paired, base: Sequence[Scores], tuned: Sequence[Scores]) -> list[Guard]:
    """Answers that could not be read, counted by whoever read them (`about["unparsed"]`), or marked so in the rows."""
    counts = []
    for side, rows_K in ((base, pair.base), (tuned, pair.tuned)):
        told = [s.about.get("unparsed", {}).get(pair.spec.name) for s in side]
        of = sum(len(rows) for rows in rows_K[: len(side)])
        lost = sum(is_unparsed(row.answer) for rows in rows_K[: len(side)] for row in rows)
        counts.append((sum(n for n in told if n) if any(told) else lost, of))
    (lost_base, of_base), (lost_tuned, of_tuned) = counts
    if not of_base or not of_tuned or not (lost_base or lost_tuned):
        return []
    one, other = lost_base / of_base, lost_tuned / of_tuned
    chance = distributions.fisher_exact(
        np.array([[lost_base, of_base - lost_base], [lost_tuned, of_tuned - lost_tuned]])
    ).pvalue
    lopsided = abs(one - other) > UNPARSED_GAP and chance < UNPARSED_CHANCE
    if not lopsided and max(one, other) < UNPARSED_REFUSE:
        return []
    return [
        Guard(
            "unparsed",
            "refuse" if max(one, other) >= UNPARSED_REFUSE else "warn",
            f"answers that could not be read: {lost_base} of {of_base} of {base[0].system}, {lost_tuned} of {of_tuned} of "
            f"{tuned[0].system}",
            "The score mixes ability with form. Show both shares; count what cannot be read as wrong and, beside it, as "
            "1 / number of choices, the value a guess would have, never as a drawn or fixed guess.",
            pair.spec.name,
        )
    ]


def _silent_samples(spec: MetricSpec, base: Sequence[Scores], tuned: Sequence[Scores]) -> list[Guard]:
    """Of several samples of a prompt the rows show one that says something: the silent ones are counted beside them."""
    told = [[s.about.get("silent", {}).get(spec.name) or {"n": 0, "of": 0} for s in side] for side in (base, tuned)]
    shares = [max(one["n"] / max(1, one["of"]) for one in side) for side in told]
    if max(shares) < EMPTY_WARN:
        return []
    return [
        Guard(
            "empty",
            "refuse" if max(shares) >= EMPTY_REFUSE else "warn",
            f"empty samples: {percent(shares[0])} of {base[0].system}, {percent(shares[1])} of {tuned[0].system}",
            "Silence is neither safe nor able, and a mean over the samples that say something does not show it. Check the prompt "
            "format, the stop tokens and the budget; look at the answers.",
            spec.name,
        )
    ]
