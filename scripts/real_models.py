"""Edit real models one fact at a time on the clean model, and write docs/results/real-models.md.

    python scripts/real_models.py run --model smollm2-135m --method memit --counterfact FILE --text FILE
    python scripts/real_models.py run --model smollm2-135m --method memit --counterfact FILE --text FILE --known --n 100
    python scripts/real_models.py run --model smollm2-135m --method memit --own --text FILE -o value.paraphrases=1
    python scripts/real_models.py page

Every record's figures are appended to a file as they come; called again, a run goes on where it was stopped. The page
is made of those files alone.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from random import Random
from statistics import fmean, median
from typing import Any

import numpy as np
import torch
import yaml

from errata.analysis.intervals import bootstrap_mean, wilson
from errata.editors.base import Editor
from errata.editors.registry import editor_class, resolve_settings
from errata.editors.statistics import StatisticsStore, default_cache
from errata.editors.strength import calibration_facts
from errata.edits import EditStream, Fact
from errata.edits.counterfact import read_counterfact
from errata.models import EditableModel, identity_of, load
from errata.probes.answers import contained
from errata.probes.generation import generate
from errata.probes.scoring import score, score_tokens
from errata.studies.session import taught_paraphrases
from errata.trajectory import Guard, Trajectory

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "results" / "real-models"
SEED = 15
TOKENS = 128  # of a line of held-out text
LINES = 4
KINDS = {
    "": "CounterFact records",
    "known": "CounterFact records that the model knows",
    "own": "well-known facts that come with Errata; one paraphrase may teach, the other is measured",
}
"""What the files' names say of the facts, and how the page calls them."""
SAID = 10  # tokens within which the object is to be said
EVERY = 4  # of how many facts one is followed by a reading of held-out text, which takes as long as all else


def main() -> None:
    """Run one method, or write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run")
    running.add_argument("--model", required=True)
    running.add_argument("--method", required=True, help='a method, or "unedited"')
    facts = running.add_mutually_exclusive_group(required=True)
    facts.add_argument("--counterfact", type=Path)
    facts.add_argument(
        "--own",
        action="store_true",
        help="well-known facts that come with Errata; of two paraphrases "
        "the second is measured, so that the first may teach",
    )
    running.add_argument("--text", type=Path, required=True, help="held-out text for perplexity")
    running.add_argument("--n", type=int, default=200)
    running.add_argument("--known", action="store_true", help="facts that the model says exactly before the edit")
    running.add_argument("-o", action="append", default=[], metavar="KEY=VALUE", help="a setting of the method")
    running.add_argument("--label", default="", help="what the page calls the method with these settings")
    commands.add_parser("page")
    args = parser.parse_args()
    if args.command == "page":
        (FOLDER.parent / "real-models.md").write_text(page(), encoding="utf-8")
        return
    run(args)


def run(args: argparse.Namespace) -> None:
    """Make each fact the first edit of the clean model, and record what became of it."""
    model = load(args.model)
    facts = calibration_facts()[: args.n] if args.own else chosen(model, args.counterfact, args.n, args.known)
    rows = held_out(model, args.text)
    name = "-".join(filter(None, (args.model, "known" * args.known, "own" * args.own, args.label or args.method)))
    file = FOLDER / f"{name}.jsonl"
    FOLDER.mkdir(parents=True, exist_ok=True)
    done = {record["id"] for record in read(file)}
    left = [(fact, rows if at % EVERY == 0 else []) for at, fact in enumerate(facts) if fact.id not in done]
    if not left:
        return
    settings = {key: yaml.safe_load(value) for key, _, value in (pair.partition("=") for pair in args.o)}
    check_settings(FOLDER / f"{name}.settings.json", model, args.method, nested(settings))
    with file.open("a", encoding="utf-8") as out:
        for record in (
            edited(model, args.method, settings, left)
            if args.method != "unedited"
            else ({"id": fact.id, **measured(model, held_back(fact), text)} for fact, text in left)
        ):
            out.write(json.dumps(record, ensure_ascii=False) + "\n")
            out.flush()


def check_settings(file: Path, model: EditableModel, method: str, chosen: dict[str, Any]) -> None:
    """Write down with what records are made, or refuse to add records that are made with something else."""
    resolved = resolve_settings(method, model, chosen).model_dump(mode="json") if method != "unedited" else {}
    wanted = {"model": str(identity_of(model)), "method": method, "settings": resolved}
    if file.exists() and (had := json.loads(file.read_text())) != wanted:
        differs = [key for key in wanted if had.get(key) != wanted[key]]
        sys.exit(f"{file.stem} was made with other {', '.join(differs)}; take it away, or give another --label.")
    file.write_text(json.dumps(wanted, indent=1) + "\n", encoding="utf-8")


def edited(
    model: EditableModel, method: str, settings: dict[str, Any], facts: Sequence[tuple[Fact, list[list[int]]]]
) -> Iterator[dict[str, Any]]:
    """Yield the figures of each fact's own edit by a method with these settings over its own."""
    return edits_of(model, editor_class(method)(resolve_settings(method, model, nested(settings))), facts)


def edits_of(
    model: EditableModel, editor: Editor, facts: Sequence[tuple[Fact, list[list[int]]]]
) -> Iterator[dict[str, Any]]:
    """Yield the figures of each fact's own edit; with each fact comes the held-out text to be read after it."""
    began = time.perf_counter()
    editor.prepare(model, StatisticsStore(default_cache()), Random(0))
    print(f"{model.name}, {editor.name}: prepared in {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
    clean = dict(editor.state_dict())
    stream = EditStream(tuple(fact for fact, _ in facts)).taught_by(taught_paraphrases(editor.settings))
    for fact, (_, text) in zip(stream.facts, facts, strict=True):
        with closing(Trajectory(model, editor, guard=Guard(policy="continue"))) as trajectory:
            (entry,) = trajectory.advance([fact])
            figures = {key: round(value, 6) for key, value in entry.diagnostics.items()}
            yield {
                "id": fact.id,
                "status": entry.status,
                "seconds": round(entry.seconds, 3),
                "relative": round(entry.relative, 5),
                "target_probability": figures.get("target_probability"),
                "strength": figures.get("covariance_weight"),
                **measured(model, held_back(fact), text),
            }
            if trajectory.journal.active_steps():
                trajectory.undo(last=1)
            editor.load_state_dict(clean)


def measured(model: EditableModel, fact: Fact, rows: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Return what the model makes of a fact, its paraphrases and its neighbors, and of held-out text."""
    others = [*fact.paraphrase_prompts, *fact.neighborhood_prompts]
    prompts = [fact.text, *others]
    scores = score(model, [(p, target) for p in prompts for target in (fact.target_new, fact.target_true)])
    pairs = list(zip(scores[::2], scores[1::2], strict=True))
    near = 1 + len(fact.paraphrase_prompts)
    (text,) = generate(model, [fact.text], SAID)
    return {
        "success": int(pairs[0][0].logp > pairs[0][1].logp),
        "exact": int(pairs[0][0].exact == 1.0),
        "p": round(math.exp(pairs[0][0].logp), 5),
        "paraphrase": [int(new.logp > true.logp) for new, true in pairs[1:near]],
        "paraphrase_exact": [int(new.exact == 1.0) for new, _ in pairs[1:near]],
        "neighborhood": [int(true.logp > new.logp) for new, true in pairs[near:]],
        "said": int(contained(text, [[fact.target_new]]) == 1.0),
        "text": text,
        "perplexity": round(perplexity(model, rows), 4) if rows else None,
    }


def held_back(fact: Fact) -> Fact:
    """Return the fact with its last paraphrase alone to measure: CounterFact's records have no other here."""
    return replace(fact, paraphrase_prompts=fact.paraphrase_prompts[-1:])


def perplexity(model: EditableModel, rows: Sequence[Sequence[int]]) -> float:
    """Return exp of the mean negative log-likelihood of token rows."""
    logps = torch.cat([found.logps.double() for found in score_tokens(model, [(row, 1) for row in rows])])
    return math.exp(-float(logps.mean()))


def chosen(model: EditableModel, file: Path, n: int, known: bool) -> list[Fact]:
    """Return the first facts of a seeded shuffle, no subject twice; with `known` those that the model says exactly."""
    facts = read_counterfact(str(file))
    Random(SEED).shuffle(facts)
    first = list({fact.subject.lower(): fact for fact in reversed(facts)}.values())[::-1]
    if not known:
        return first[:n]
    found: list[Fact] = []
    for start in range(0, len(first), 64):
        part = first[start : start + 64]
        scores = score(model, [(fact.text, fact.target_true) for fact in part])
        found += [fact for fact, own in zip(part, scores, strict=True) if own.exact == 1.0]
        if len(found) >= n:
            break
    return found[:n]


def held_out(model: EditableModel, file: Path, lines: int = LINES) -> list[list[int]]:
    """Return token rows from the last long lines of a text."""
    long = [line.strip() for line in file.read_text(encoding="utf-8").split("\n") if len(line.split()) > TOKENS]
    with model.bare():
        return [row[:TOKENS] for row in model.encode(long[-lines:])]


def nested(settings: dict[str, Any]) -> dict[str, Any]:
    """Return dotted keys as sections."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        here = found
        *sections, last = key.split(".")
        for section in sections:
            here = here.setdefault(section, {})
        here[last] = value
    return found


def read(file: Path) -> list[dict[str, Any]]:
    """Return a run's records; a last line that was cut short is left out."""
    if not file.exists():
        return []
    whole = file.read_bytes()
    if whole and not whole.endswith(b"\n"):
        whole = whole[: whole.rfind(b"\n") + 1]
        file.write_bytes(whole)
    return [json.loads(line) for line in whole.decode().splitlines()]


def page() -> str:
    """Return the page, made of the recorded files."""
    parts = [
        "# Real models: one fact at a time",
        "",
        "Each CounterFact record (no subject twice, seed 15) is the only edit of the clean model. `success`: the new",
        "object is more probable than the true one. `exact`: every token of it is the most probable. `said`: it stands",
        f"in the first {SAID} tokens that the model writes after the prompt. Paraphrase and neighborhood are `success`",
        "of the record's own prompts. 95 % intervals are Wilson's; of neighborhood a",
        f"bootstrap over records. The perplexity is that of 512 held-out tokens, read after every {EVERY}th edit.",
        "",
        "`python scripts/real_models.py page` makes this page from the records beside it.",
    ]
    for model in ("smollm2-135m", "gemma3-270m"):
        for kind in KINDS:
            parts += table(model, kind)
    return "\n".join(parts) + "\n"


def table(model: str, kind: str) -> list[str]:
    """Return one model's table on one kind of facts."""
    prefix = f"{model}-{kind}-" if kind else f"{model}-"
    others = tuple(f"{model}-{other}-" for other in KINDS if other and not kind)
    files = sorted(f for f in FOLDER.glob(f"{prefix}*.jsonl") if not f.stem.startswith(others))
    found = {file.stem.removeprefix(prefix): read(file) for file in files}
    unedited = {record["id"]: record for record in found.pop("unedited", [])}
    if not found:
        return []
    lines = [
        "",
        f"## {model}, {KINDS[kind]}",
        "",
        "| method | facts | success | exact | said | paraphrase | neighborhood | change | perplexity | s an edit |",
    ]
    lines.append("|---|---|---|---|---|---|---|---|---|---|")
    if unedited:
        lines.append(line("unedited", list(unedited.values()), unedited))
    return lines + [line(name, records, unedited) for name, records in found.items() if records]


def line(name: str, records: Sequence[dict[str, Any]], unedited: dict[str, dict[str, Any]]) -> str:
    """Return one method's row; what changed is against the unedited model on the same records."""

    def share(values: Sequence[int]) -> str:
        low, high = wilson(sum(values), len(values))
        return f"{100 * fmean(values):.1f} ({100 * low:.0f}–{100 * high:.0f})" if values else "–"

    flat = {key: [v for r in records for v in r[key]] for key in ("paraphrase", "neighborhood")}
    near = [fmean(r["neighborhood"]) for r in records if r["neighborhood"]]
    low, high = bootstrap_mean(np.array(near), np.random.default_rng(0))
    before = [unedited[r["id"]] for r in records if r["id"] in unedited]
    change = ratio = "–"
    if len(before) == len(records):
        change = f"{100 * (fmean(flat['neighborhood']) - fmean(v for r in before for v in r['neighborhood'])):+.1f}"
        logs = [
            math.log(r["perplexity"] / b["perplexity"])
            for r, b in zip(records, before, strict=True)
            if r["perplexity"] and b["perplexity"]
        ]
        ratio = f"{100 * (math.exp(fmean(logs)) - 1):+.2f} %"
    seconds = [r["seconds"] for r in records if "seconds" in r]
    columns = [
        name,
        str(len(records)),
        *(share([r[key] for r in records]) for key in ("success", "exact", "said")),
        share(flat["paraphrase"]),
        f"{100 * fmean(flat['neighborhood']):.1f} ({100 * low:.0f}–{100 * high:.0f})",
        change,
        ratio,
        f"{median(seconds):.1f}" if seconds else "–",
    ]
    return "| " + " | ".join(columns) + " |"


if __name__ == "__main__":
    main()
