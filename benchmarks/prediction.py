"""How well what is known before a training foretells what it costs: correlations over finished runs, whatever they are.

    python benchmarks/prediction.py runs/debias_table              # runs whose recipe names `report.predict`
    python benchmarks/prediction.py runs/debias_table --write      # and keep them for `untax diagnose --before-training`
    python benchmarks/prediction.py --quick                        # five short trainings on the lab, about two minutes on one core

One row per predictor: Spearman's correlation with the tax (mean ability lost against the base), its 95 % interval by drawing whole families, and
n. The last line is one JSON object: that of the first predictor, the cosine of the gradients, or of the one that --predictor names.
"""

from __future__ import annotations

import argparse
import datetime
import json
import shlex
import sys
import tempfile
from pathlib import Path
from typing import Any

from untax import diagnose, files, predictions
from untax.making import LAB_BASE
from untax.predictions import CALIBRATION, PREDICTORS
from untax.report.prediction import correlation_table

#: file and kind of the records, learning rate, steps
TRAININGS = {
    "refusals, slow": ("private_train.jsonl", "preference", "{source}", 1e-4, 20),
    "refusals": ("private_train.jsonl", "preference", "{source}", 2.4e-4, 40),
    "refusals, fast": ("private_train.jsonl", "preference", "{source}", 6e-4, 40),
    "summaries": ("train.jsonl", "contrastive", "{source}\nSummary:", 2.4e-4, 20),
    "summaries, fast": ("train.jsonl", "contrastive", "{source}\nSummary:", 1e-3, 20),
}
ITEMS = 60


def quick(folder: Path) -> list[dict[str, Any]]:
    """Rows of a few short trainings on the lab: each is foretold, done, and measured on facts, copying and counting."""
    from untax import measure, models, references
    from untax.data import convert, load
    from untax.diagnostics.conflict import predict
    from untax.lab import world
    from untax.train import loop

    world.write(folder / "lab")
    suite = measure.load_suite("lab", data_dir=folder / "lab", max_items=ITEMS)
    kept = tuple(line for line in suite.lines if line.spec.name in ("facts", "copying", "counting"))
    suite = measure.Suite("lab", kept)
    model, tokenizer = models.load(LAB_BASE)
    base = measure.measure(model, tokenizer, suite, system="base", base=model, check=False, progress=False)
    general = references.read("general", diagnose.rows_of(folder / "lab" / "general_train.jsonl"), tokenizer)
    rows = []
    for name, (data, kind, prompt, rate, steps) in TRAININGS.items():
        model, tokenizer = models.load(LAB_BASE)
        records = convert.as_records(load.load(folder / "lab" / data, kind=kind, limit=320).records, kind)
        safety = references.of_records("safety", records, tokenizer, prompt=prompt)
        foretold = predict(model, tokenizer, safety, general, learning_rate=rate, steps=steps)
        made = loop.train(
            model, tokenizer, records, objective="sft", objective_options={}, prompt=prompt, seed=0, out=folder / name.replace(", ", "-"),
            arguments={"learning_rate": rate, "max_steps": steps}, progress=False,
        )  # fmt: skip
        tuned, tokenizer = models.load(made.model_dir)
        scores = measure.measure(tuned, tokenizer, suite, system=name, check=False, progress=False)
        tax = diagnose.tax_of(base, scores)
        rows.append({"system": name, "seed": 0, "family": name, "predictors": foretold.predictors, "tax": tax})
        print(
            f"{name}: cosine {foretold.cosine:+.3f}, measured rise {foretold.measured_far:+.3f}, tax {tax:.1f} points",
            flush=True,
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path, help="run folders whose score tables carry predictions")
    parser.add_argument("--quick", action="store_true", help="make a few short runs on the lab instead")
    parser.add_argument(
        "--predictor", default=next(iter(PREDICTORS)), choices=list(PREDICTORS), help="whose figures the last line has"
    )
    parser.add_argument("--scope", default="", help="what the runs are, in a sentence: it stands beside the figures")
    parser.add_argument("--resamples", type=int, default=2_000)
    parser.add_argument("--write", action="store_true", help=f"write {CALIBRATION.name}, which the page prints")
    given = parser.parse_args()
    if given.quick == bool(given.runs):
        parser.error("give run folders, or --quick")
    if given.quick:
        with tempfile.TemporaryDirectory() as folder:
            rows = quick(Path(folder))
    else:
        rows = diagnose.read_rows(given.runs)
    if not rows:
        parser.error("no score table carries a prediction: name the references in report.predict of the recipe")
    families = len({row["family"] for row in rows})
    runs = "five short trainings on the lab" if given.quick else ", ".join(folder.name for folder in given.runs)
    made = predictions.correlations(
        rows, resamples=given.resamples, made=datetime.date.today().isoformat(), command=shlex.join(["python", *sys.argv]),
        scope=given.scope or f"{len(rows)} runs of {families} families: {runs}.",
    )  # fmt: skip
    if given.write:
        files.write_json(CALIBRATION, made)
    print(correlation_table(made))
    entry = next(entry for entry in made["entries"] if entry["predictor"] == given.predictor)
    print(json.dumps({key: entry[key] for key in ("predictor", "spearman", "low", "high", "n")}))


if __name__ == "__main__":
    main()
