"""The command line: one way in. Commands import what they need when they run, so `untax --help` needs no torch.

Exit codes: 0 done, 1 something could not be used or failed while running, 2 an ability was lost and --gate was given, 3 usage.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.exceptions import Abort, Exit, TyperException

from untax.types import GateFailed, RecipeError, UserError

if TYPE_CHECKING:
    from untax.run import Outcome

__all__ = ["app", "main"]

OK, FAILED, GATE, USAGE = 0, 1, 2, 3
STOPPED = "stopped; the same command goes on where it stood"

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Align language models with methods that pay less alignment tax, measure both sides, hand over the receipt.",
)
lab_app = typer.Typer(no_args_is_help=True, help="The embedded world and its small model.")
app.add_typer(lab_app, name="lab")

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")]
Network = Annotated[
    bool, typer.Option("--allow-network", help="Let names of models and datasets be fetched from a hub.")
]

Gate = Annotated[
    bool,
    typer.Option(
        "--gate", help="Exit with 2 when an ability was paid beyond its margin, or a guard withheld its verdict."
    ),
]
Margins = Annotated[
    list[str] | None, typer.Option(help="METRIC=SIZE: how much of it you would give away, in its own units.")
]
DtypeMismatch = Annotated[
    bool, typer.Option("--allow-dtype-mismatch", help="Compare across dtypes; the receipt says so.")
]

# what is measured, and how
Base = Annotated[
    str | None, typer.Argument(help="The model before: a directory, 'lab', a hub name, or http://HOST:PORT/v1#MODEL.")
]
Tuned = Annotated[
    str | None, typer.Argument(help="The model after: the same, or the directory of a LoRA adapter of the base.")
]
SuiteName = Annotated[
    str, typer.Option(help="A suite's name (`untax list suites`), a YAML file, or 'none' with --tasks.")
]
DataFolder = Annotated[str, typer.Option(help="Folder with the suite's data; 'lab' writes the embedded world.")]
Dtype = Annotated[str, typer.Option(help="float32, bfloat16, float16: the same for both; or auto: as stored.")]
NoiseFloor = Annotated[
    bool, typer.Option("--noise-floor", help="Measure the base twice: what differs between the two is noise.")
]
TrainingData = Annotated[
    list[Path] | None,
    typer.Option(help="What the tuned model was trained on (JSONL or text): its overlap with the suite is reported."),
]
ApiKeyEnv = Annotated[str | None, typer.Option(help="Addresses: the environment variable that holds the key.")]
RemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run the code that comes with a model. Read it first.")
]


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"untax {version('untax')}")
        raise Exit(OK)


@app.callback()
def _first(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """Align language models with methods that pay less alignment tax, measure both sides, hand over the receipt."""


def main() -> None:
    """Run the command line and turn every error a user can cause into one plain message and its exit code."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        code = app(standalone_mode=False)
    except RecipeError as error:
        code = _complain(error, USAGE)
    except GateFailed as error:
        code = _complain(error, GATE)
    except UserError as error:
        code = _complain(error, FAILED)
    except Exit as stop:
        # typer turns an interrupt into this exit code before it is seen here
        code = _complain(STOPPED, 130) if stop.exit_code == 130 else stop.exit_code
    except Abort:
        code = _complain("stopped", FAILED)
    except TyperException as error:
        code = _complain(f"{error.format_message()}\nSee `untax --help`.", USAGE)
    except KeyboardInterrupt:
        code = _complain(STOPPED, 130)
    except BrokenPipeError:
        # the reader closed the pipe (`untax list | head`): nothing is wrong
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = OK
    except OSError as error:
        code = _complain(f"{error.strerror or error}: {error.filename}" if error.filename else str(error), FAILED)
    sys.exit(code if isinstance(code, int) else OK)


def _tell(outcome: Outcome, *, gate: bool) -> None:
    """Table, verdicts and the page of a receipt; the gate comes last, so that nothing of it is lost."""
    print(outcome.table)
    for system, verdict in outcome.verdicts.items():
        print(f"{system}: {verdict}")
    if outcome.front is not None:
        print(f"Comparison: {outcome.front}")
    print(f"Receipt: {outcome.page}")
    if gate:
        outcome.gate()


def _complain(message: object, code: int) -> int:
    print(f"untax: {message}", file=sys.stderr)
    return code


@app.command()
def run(
    recipe: Annotated[Path, typer.Argument(help="A recipe (YAML); recipes/ holds some.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="section.key=value, as often as you like.")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Run folder [runs/NAME].")] = None,
    gate: Gate = False,
    quiet: Quiet = False,
) -> None:
    """Carry a recipe out: augment, train, measure, receipt. Killed, the same command goes on where it stood."""
    from untax import recipe as recipes

    checked, notes = recipes.load(recipe, overrides or [])
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    from untax import run as runs

    outcome = runs.run(checked, out or Path("runs") / checked.name, command=_command(), progress=not quiet)
    _tell(outcome, gate=gate)


@app.command()
def measure(
    base: Base = None,
    tuned: Tuned = None,
    suite: SuiteName = "lab",
    data: DataFolder = "lab",
    out: Annotated[Path, typer.Option("--out", "-o", help="Where the scores and the receipt go.")] = Path(
        "runs/measure"
    ),
    tasks: Annotated[str | None, typer.Option(help="lm-eval tasks beside the suite, with commas.")] = None,
    num_fewshot: Annotated[int | None, typer.Option(min=0, help="Examples before each question of --tasks.")] = None,
    include_path: Annotated[Path | None, typer.Option(help="Folder with lm-eval tasks of your own.")] = None,
    margin: Margins = None,
    max_items: Annotated[int | None, typer.Option(min=1, help="At most so many items of each metric.")] = None,
    batch_size: Annotated[int, typer.Option(min=1)] = 64,
    dtype: Dtype = "float32",
    allow_dtype_mismatch: DtypeMismatch = False,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps …")] = "cpu",
    noise_floor: NoiseFloor = False,
    training_data: TrainingData = None,
    engine: Annotated[
        str, typer.Option(help="transformers, or vllm (a GPU; not yet verified on one).")
    ] = "transformers",
    chat: Annotated[bool, typer.Option("--chat", help="Addresses: ask through chat instead of completions.")] = False,
    api_key_env: ApiKeyEnv = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Addresses: questions under way at once.")] = 8,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the bootstrap.")] = 0,
    gate: Gate = False,
    explain: Annotated[str | None, typer.Option(help="Say why a guard of the receipt exists, and stop.")] = None,
    trust_remote_code: RemoteCode = False,
    allow_network: Network = False,
    quiet: Quiet = False,
) -> None:
    """Measure two models on the same items, prompts and budget, and write the receipt of what changed."""
    if explain is not None:
        from untax import explain as explaining

        print(explaining.text(explain))
        return
    if base is None or tuned is None:
        raise RecipeError("untax measure BASE TUNED: two models are needed, the one before and the one after.")
    if tasks is None and (num_fewshot is not None or include_path is not None):
        raise RecipeError("--num-fewshot and --include-path belong to --tasks.")
    named = [task.strip() for task in (tasks or "").split(",") if task.strip()]
    if tasks is not None and not named:
        raise RecipeError("--tasks names no task. `lm-eval ls tasks` prints those that lm-eval knows.")
    from untax import compare
    from untax.suites.read import LmEval

    outcome = compare.compare_two(
        base, tuned, suite=suite, data=data, out=out,
        tasks=LmEval(tuple(named), num_fewshot, max_items, include_path) if named else None,
        max_items=max_items, batch_size=batch_size, dtype=dtype, device=device, margins=_sizes(margin),
        allow_dtype_mismatch=allow_dtype_mismatch, noise_floor=noise_floor, training_data=training_data or (),
        addresses=compare.Addresses(chat, api_key_env, concurrency), engine=engine, seed=seed, trust_remote_code=trust_remote_code,
        allow_network=allow_network, command=_command(), progress=not quiet,
    )  # fmt: skip
    _tell(outcome, gate=gate)


@app.command()
def receipt(
    base: Annotated[Path, typer.Option(help="Results of the model before: a folder of lm_eval, Inspect or untax.")],
    tuned: Annotated[
        list[Path], typer.Option(help="Results of the model after; again for each further training seed.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Where the receipt goes.")] = Path("runs/receipt"),
    margin: Margins = None,
    side: Annotated[list[str] | None, typer.Option(help="TASK=SIDE: safety, ability or watch.")] = None,
    better: Annotated[
        list[str] | None, typer.Option(help="TASK=higher or TASK=lower, where the logs do not say.")
    ] = None,
    only: Annotated[list[str] | None, typer.Option(help="Compare this task alone; again for more of them.")] = None,
    allow_dtype_mismatch: DtypeMismatch = False,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the bootstrap.")] = 0,
    gate: Gate = False,
) -> None:
    """Compare results that exist already (lm_eval --log_samples, Inspect logs) and write the receipt; needs no model."""
    from untax import run as runs

    outcome = runs.receipt_of_folders(
        base, tuned, out=out, margins=_sizes(margin), sides=_pairs(side, "--side"), better=_pairs(better, "--better"),
        only=only or (), allow_dtype_mismatch=allow_dtype_mismatch, seed=seed, command=_command(),
    )  # fmt: skip
    _tell(outcome, gate=gate)


@app.command()
def compare(
    folders: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Run folders, or a folder that holds several of them.")
    ],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Where the page goes [the folder, if one is given].")
    ] = None,
    safety: Annotated[str | None, typer.Option(help="The line that counts as safety [the suite's first].")] = None,
    ability: Annotated[
        list[str] | None, typer.Option(help="Lines whose tax is read, with commas [all abilities].")
    ] = None,
    at: Annotated[
        list[str] | None,
        typer.Option(
            help="Level of safety: 80% of the reference's largest gain, or a gain in the line's unit; again for more."
        ),
    ] = None,
    reference: Annotated[str | None, typer.Option(help="The family that others are compared with [the first].")] = None,
    resamples: Annotated[int, typer.Option(min=100, help="Resamples of items and seeds.")] = 2_000,
) -> None:
    """Many systems on one page: the front of safety against ability, and tax at equal safety. Reads saved scores only."""
    from untax import frontier
    from untax.report import frontier as page

    if out is None and len(folders) > 1:
        raise RecipeError("Several folders are compared: say with --out where the page goes.")
    place = out or folders[0]
    if place.exists() and not place.is_dir():
        raise RecipeError(f"{place} is a file; give the folder for the page with --out.")
    named = [name.strip() for text in ability or [] for name in text.split(",") if name.strip()]
    made = frontier.compare(
        folders, safety=safety, ability=named, at=at or (), reference=reference, resamples=resamples
    )
    print(page.table_of(made))
    print(made.sentence)
    for name, why in made.left_out:
        print(f"left out: {name}: {why}")
    print(f"Page: {page.write(made, place)}")


@app.command()
def diagnose(
    base: Annotated[
        str | None,
        typer.Argument(help="The model before: a directory, 'lab', a hub name; with --before-training also a recipe."),
    ] = None,
    tuned: Annotated[
        str | None, typer.Argument(help="The model after: the same, or the directory of a LoRA adapter of the base.")
    ] = None,
    suite: SuiteName = "lab",
    data: DataFolder = "lab",
    out: Annotated[Path, typer.Option("--out", "-o", help="Where the pages and the scores go.")] = Path(
        "runs/diagnose"
    ),
    max_items: Annotated[int | None, typer.Option(min=1, help="At most so many items of each metric.")] = None,
    batch_size: Annotated[int, typer.Option(min=1)] = 64,
    before_training: Annotated[
        bool, typer.Option("--before-training", help="Foretell the cost of training BASE on --safety; no TUNED.")
    ] = False,
    safety: Annotated[
        Path | None, typer.Option(help="Before training: the rows to train on (JSONL, JSON, CSV, Parquet).")
    ] = None,
    references: Annotated[
        list[Path] | None, typer.Option(help="Before training: rows that must not be lost; again for more sets.")
    ] = None,
    column: Annotated[
        list[str] | None, typer.Option(help="Before training: FIELD=COLUMN, where a field of --safety stands.")
    ] = None,
    prompt: Annotated[str, typer.Option(help="Before training: what a 'source' of --safety stands in.")] = "{source}",
    learning_rate: Annotated[
        float | None, typer.Option(min=0, help="Before training: of the training to come [2e-5].")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Before training: how many there will be [100].")] = None,
    dtype: Dtype = "float32",
    allow_dtype_mismatch: DtypeMismatch = False,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps …")] = "cpu",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the bootstrap, and of the rows that are drawn.")] = 0,
    trust_remote_code: RemoteCode = False,
    allow_network: Network = False,
    quiet: Quiet = False,
) -> None:
    """Say what a training has cost and where (BASE TUNED), or what one will cost before it is paid (--before-training)."""
    if base is None:
        raise RecipeError(
            "untax diagnose BASE TUNED: give the model before and the one after, or one model (or a recipe) with --before-training."
        )
    if before_training:
        if tuned is not None:
            raise RecipeError("--before-training looks at one model: leave out the second one, or the flag.")
        from untax import diagnose as diagnosing

        foretold = diagnosing.before(
            base, safety=safety, references=references or (), columns=_pairs(column, "--column"), prompt=prompt,
            learning_rate=learning_rate, steps=steps, data=data, out=out, dtype=dtype, device=device, seed=seed,
            trust_remote_code=trust_remote_code, allow_network=allow_network, command=_command(),
        )  # fmt: skip
        print(f"{foretold.text}\nPage: {foretold.page}")
        return
    if tuned is None:
        raise RecipeError(
            "untax diagnose BASE TUNED: the model after is missing. To look at a training before it is done, add --before-training."
        )
    if safety is not None or references or column or learning_rate is not None or steps is not None:
        raise RecipeError("--safety, --references, --column, --learning-rate and --steps belong to --before-training.")
    from untax import diagnose as diagnosing

    found = diagnosing.after(
        base, tuned, suite=suite, data=data, out=out, max_items=max_items, batch_size=batch_size, dtype=dtype,
        allow_dtype_mismatch=allow_dtype_mismatch, device=device, seed=seed, trust_remote_code=trust_remote_code,
        allow_network=allow_network, command=_command(), progress=not quiet,
    )  # fmt: skip
    print(f"{found.text}\nPage: {found.page}")


@app.command()
def card(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="A folder with receipt.json.")],
    model_dir: Annotated[
        Path | None,
        typer.Option(help="The model's folder: its README.md gets the section, .eval_results/ the entries."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write the section alone to this file.")] = None,
    system: Annotated[str | None, typer.Option(help="Which system the card is of, when the run has several.")] = None,
    dataset: Annotated[
        list[str] | None,
        typer.Option(help="LINE=ORG/DATASET:TASK: what a line was measured on, by its name on the hub."),
    ] = None,
) -> None:
    """Write the model card's section that names the cost, and the results that a hub can read. Uploads nothing."""
    if model_dir is not None and out is not None:
        raise RecipeError("Give --model-dir or --out, not both.")
    from untax import files
    from untax.report import card as cards

    made, environment = cards.choose(run_folder, system)
    datasets = cards.datasets_of(dataset or [], made)
    if model_dir is not None:
        for path in cards.write(made, model_dir, environment=environment, datasets=datasets):
            print(f"Wrote {path}")
        return
    part = cards.section(made, environment=environment, datasets=datasets)
    if out is None:
        print(part)
        return
    files.write(out, part + "\n")
    print(f"Wrote {out}")


@app.command()
def augment(
    source: Annotated[
        Path,
        typer.Argument(
            help="Records with a source and a reference, or plain texts (--rows text): JSONL, JSON, CSV or Parquet."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Where the contrastive records go (JSONL).")],
    kinds: Annotated[
        str, typer.Option(help="Kinds, with commas; `untax list augment` shows them.")
    ] = "reference,backtranslate,swap_ent,mask_ent,mask_rel,regen_ent",
    scorer: Annotated[
        str | None, typer.Option(help="Building scorer: words:FILE, ngram:FILE, fit:FILE, hf:DIR, detoxify:FILE.")
    ] = None,
    lexicon: Annotated[
        Path | None, typer.Option(help="Licensed word list for the kind 'toxic' by rules, one word a line.")
    ] = None,
    finder: Annotated[str, typer.Option(help="How spans are found: rules, spacy:NAME or hf:DIR.")] = "rules",
    generator: Annotated[list[str] | None, typer.Option(help="KIND=MODEL_DIR: a neural generator for a kind.")] = None,
    rows: Annotated[
        str, typer.Option(help="What the rows are: contrastive, text, pairs, prompt-completion, preference.")
    ] = "contrastive",
    option: Annotated[
        list[str] | None, typer.Option(help="KIND.NAME=VALUE: an option of a kind, as counterfactual.attribute=race.")
    ] = None,
    column: Annotated[list[str] | None, typer.Option(help="FIELD=COLUMN: where a field stands in your file.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many records.")] = None,
    on_error: Annotated[str, typer.Option(help="raise: stop at a bad row; skip: count and list it.")] = "raise",
    seed: Annotated[int, typer.Option(min=0)] = 0,
    quiet: Quiet = False,
) -> None:
    """Make positives and negatives of records; prints what was made, what was rejected and why."""
    from untax import run as runs

    if not any(kind.strip() for kind in kinds.split(",")):
        raise RecipeError("--kinds names no kind. `untax list augment` shows them.")
    if on_error not in ("raise", "skip"):
        raise RecipeError(f"--on-error {on_error}: it is 'raise' or 'skip'.")
    report = runs.augment_file(
        source, out, kinds=[kind.strip() for kind in kinds.split(",") if kind.strip()], scorer=scorer, lexicon=lexicon,
        finder=finder, generators=_pairs(generator, "--generator"), columns=_pairs(column, "--column"), limit=limit,
        on_error="skip" if on_error == "skip" else "raise", seed=seed, progress=not quiet, rows=rows,
        options=_options_of_kinds(option),
    )  # fmt: skip
    print(report)


def _options_of_kinds(given: list[str] | None) -> dict[str, dict[str, Any]]:
    """KIND.NAME=VALUE, the value read as YAML reads it."""
    import yaml

    options: dict[str, dict[str, Any]] = {}
    for key, value in _pairs(given, "--option").items():
        kind, dot, name = key.partition(".")
        if not dot or not kind or not name:
            raise RecipeError(f"--option {key}={value}: write it as KIND.NAME=VALUE.")
        try:
            options.setdefault(kind, {})[name] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise RecipeError(f"--option {key}={value}: the value cannot be read.") from None
    return options


@app.command("list")
def list_methods(
    folder: Annotated[
        str | None, typer.Argument(help="objectives, metrics, augment, suites …; all when left out.")
    ] = None,
) -> None:
    """List the methods, one line each, with their papers."""
    from untax import methods

    folders = list(methods.FOLDERS) if folder is None else [_folder(folder)]
    for name in folders:
        if name == "suites":
            continue
        found = methods.listing(name)
        if not found and folder is None:
            continue
        print(f"{name}: {methods.FOLDERS[name]}")
        for method in found:
            mark = "" if method.checked else "  [not yet checked against its paper]"
            print(f"  {method.name:<16} {method.summary}{mark}")
            if method.paper and method.paper.rstrip(".").lower() not in ("none", ""):
                print(f"  {'':<16} {method.paper}")
    if folder is None or folder == "suites":
        print("suites: which metrics on which data, and on which side of the ledger")
        import yaml

        for path in sorted((Path(__file__).parent / "suites").glob("*.yaml")):
            note = " ".join(str(yaml.safe_load(path.read_text(encoding="utf-8")).get("note", "")).split())
            print(f"  {path.stem:<16} {note.partition('. ')[0].rstrip('.')}.")


@app.command()
def show(
    method: Annotated[str, typer.Argument(help="A method's name, folder/name, or a suite.")],
    data: Annotated[
        str, typer.Option(help="For a suite: the folder with its data; 'lab' writes the embedded world.")
    ] = "lab",
) -> None:
    """Show a method (what it does, its paper, its options), or a suite (its lines, items, and what they can detect)."""
    from untax import methods

    folder, _, name = method.rpartition("/")
    suites = {path.stem: path for path in sorted((Path(__file__).parent / "suites").glob("*.yaml"))}
    if (folder in ("", "suites") and name in suites) or Path(method).suffix in (".yaml", ".yml"):
        _show_suite(name if name in suites else method, data)
        return
    folders = [_folder(folder)] if folder else list(methods.FOLDERS)
    found = [m for f in folders for m in methods.listing(f) if m.name == name]
    if not found:
        known = [*(m.name for f in methods.FOLDERS for m in methods.listing(f)), *suites]
        raise RecipeError(f"There is no method '{method}'.{methods.did_you_mean(name, known)} `untax list` shows all.")
    for entry in found:
        print(f"{entry.folder}/{entry.name}\n")
        print(entry.docstring)
        if entry.options:
            print("\nOptions:")
        for option in entry.options:
            default = "required" if option.default is None else f"= {option.default}"
            print(f"  {option.name}: {option.type} {default}" + (f"   # {option.comment}" if option.comment else ""))


def _show_suite(name: str, data: str) -> None:
    import tempfile

    from untax import run as runs
    from untax.suites.describe import describe

    with tempfile.TemporaryDirectory() as place:
        folder = runs.data_dir(data, Path(place))
        try:
            print(describe(name, data_dir=folder))
        except UserError as error:
            if data != "lab":
                raise
            # the embedded world lies in a folder that is gone by now: its path would tell nobody anything
            told = str(error).replace(str(folder), "lab")
            raise UserError(
                f"{told} Where the suite needs data of its own, give their folder with --data (`--data english`: the sentences that come with untax)."
            ) from error


@app.command()
def doctor() -> None:
    """Say what is installed, what is missing and what untax can do here."""
    from untax import run as runs

    facts, problems = runs.examine()
    for key, value in facts.items():
        print(f"{key:<22} {value}")
    for problem in problems:
        print(f"problem: {problem}")
    if problems:
        raise Exit(FAILED)


@lab_app.command("build")
def lab_build(
    out: Annotated[Path, typer.Option("--out", "-o", help="Where the model goes.")] = Path("runs/lab-base"),
    seed: Annotated[int, typer.Option(min=0)] = 0,
    quiet: Quiet = False,
) -> None:
    """Train the lab's base model again from its seed (at most 40 minutes on 2 cores) and print its floors."""
    from untax.lab import build

    print(json.dumps(build.build(out, seed=seed, progress=not quiet), indent=2))


@lab_app.command("write")
def lab_write(
    out: Annotated[Path, typer.Argument(help="Folder for the world's files.")],
    seed: Annotated[int, typer.Option(min=0)] = 0,
    english: Annotated[bool, typer.Option("--english", help="The embedded English sentences instead.")] = False,
) -> None:
    """Write the lab's training, validation and test files, to look at or to train on elsewhere."""
    from untax.lab import english as sentences
    from untax.lab import world

    if english:
        sentences.write(out, seed=seed)
    else:
        world.write(out, seed=seed)
    print(f"Wrote {', '.join(sorted(p.name for p in out.iterdir()))} to {out}")


def _folder(name: str) -> str:
    from untax import methods

    name = "data/augment" if name == "augment" else name
    known = [*methods.FOLDERS, "augment", "suites"]
    if name not in known:
        raise RecipeError(
            f"There is no folder of methods called '{name}'.{methods.did_you_mean(name, known)} There are: {', '.join(known)}."
        )
    return name


def _pairs(given: list[str] | None, flag: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for text in given or []:
        key, equals, value = text.partition("=")
        if not equals or not key or not value:
            raise RecipeError(f"{flag} {text}: write it as NAME=VALUE.")
        if key in pairs:
            raise RecipeError(f"{flag}: '{key}' is given twice, as {pairs[key]} and as {value}.")
        pairs[key] = value
    return pairs


def _sizes(given: list[str] | None) -> dict[str, float]:
    sizes = {}
    for name, value in _pairs(given, "--margin").items():
        try:
            sizes[name] = float(value)
        except ValueError as error:
            raise RecipeError(f"--margin {name}={value}: {value!r} is no number.") from error
        if not 0 < sizes[name] < float("inf"):
            raise RecipeError(f"--margin {name}={value}: a margin is a number above 0, in the metric's own units.")
    return sizes


def _command() -> str:
    import shlex

    return shlex.join(["untax", *sys.argv[1:]])
