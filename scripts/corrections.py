"""Correct real models by hand-written files with `errata edit` as it comes, and write docs/results/corrections.md.

    python scripts/corrections.py run --model smollm2-135m --method memit --file people
    python scripts/corrections.py page

`run` starts the command in a process of its own, with no setting of any kind, and measures the run directory that it
leaves: the facts, rewordings that it never saw, and prompts that nobody edited. The figures are appended to a file as
they come; the page is made of that file alone.
"""

import argparse
import json
import math
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any

import torch

from errata.analysis.correction import correction
from errata.analysis.frames import load_run
from errata.analysis.intervals import wilson
from errata.edits import Fact
from errata.models import EditableModel, load
from errata.models.writing import written
from errata.probes.answers import normalised
from errata.probes.generation import generate
from errata.probes.scoring import score, score_tokens
from errata.studies.correct import read_facts
from errata.studies.edited import open_edited

ROOT = Path(__file__).resolve().parents[1]
CORRECTIONS = ROOT / "benchmarks" / "corrections"
RESULTS = ROOT / "docs" / "results" / "corrections.jsonl"
SAID = 8  # tokens that are written after a fact or a rewording
WORDS = 5  # of an answer that are compared after another prompt
ANSWER = 12  # tokens that hold so many words
ROWS, TOKENS = 32, 64  # of the text that the unedited model writes itself
SEED = 15


@dataclass(frozen=True)
class HeldOut:
    """What `errata edit` is not shown: rewordings, each with its object, and prompts that no fact edits.

    Args:
        rewordings: prompt and object.
        near: prompts of an edited relation or about the same kind of subject.
        far: prompts about anything else.
    """

    rewordings: list[tuple[str, str]]
    near: list[str]
    far: list[str]


def main() -> None:
    """Correct one file, or write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run")
    running.add_argument("--model", required=True)
    running.add_argument("--method", required=True)
    running.add_argument("--file", required=True, choices=sorted(f.stem for f in CORRECTIONS.glob("*.jsonl")))
    running.add_argument("--out", type=Path, help="where the run directory is to stay")
    commands.add_parser("page")
    args = parser.parse_args()
    if args.command == "page":
        RESULTS.with_suffix(".md").write_text(page(), encoding="utf-8")
        return
    with TemporaryDirectory() as folder:
        record = run(args.model, args.method, args.file, args.out or Path(folder) / "corrected")
    with RESULTS.open("a", encoding="utf-8") as out:
        out.write(json.dumps(record, ensure_ascii=False) + "\n")


def run(name: str, method: str, file: str, out: Path) -> dict[str, Any]:
    """Correct a file, and return what became of it."""
    facts = read_facts(CORRECTIONS / f"{file}.jsonl")
    asked = held_out(file, facts)
    seconds = corrected(CORRECTIONS / f"{file}.jsonl", name, method, out)
    model = load(name)
    rows = written(model, ROWS, TOKENS, torch.Generator().manual_seed(SEED))
    before = measured(model, facts, asked, rows)
    with open_edited(out, model=model) as edited:
        after = measured(edited.model, facts, asked, rows)
    frames = load_run(out)
    verdict = correction(frames)
    taught = {text for fact in frames.facts for text in fact.get("teaching_prompts", ())}
    others = {
        kind: [kept(*answers) for answers in zip(before[kind], after[kind], strict=True)] for kind in ("near", "far")
    }
    return {
        "model": name,
        "method": method,
        "file": file,
        "seconds": round(seconds),
        "took": [int(found.took is True) for found in verdict.facts],
        "reasons": {found.subject: found.reason or found.cause for found in verdict.facts if not found.took},
        **{key: after[key] for key in ("exact", "said", "rewording_exact", "rewording_said")},
        "rewording_said_before": before["rewording_said"],
        "rewording_taught": [int(prompt in taught) for prompt, _ in asked.rewordings],
        "first_word": {kind: [first for first, _ in found] for kind, found in others.items()},
        "five_words": {kind: [five for _, five in found] for kind, found in others.items()},
        "perplexity": [before["perplexity"], after["perplexity"]],
        "answers": {
            prompt: [old, new]
            for kind, prompts in (("facts", [f.text for f in facts]), ("near", asked.near), ("far", asked.far))
            for prompt, old, new in zip(prompts, before[kind], after[kind], strict=True)
        },
        "rewordings": {p: new for (p, _), new in zip(asked.rewordings, after["rewordings"], strict=True)},
    }


def held_out(file: str, facts: Sequence[Fact]) -> HeldOut:
    """Read what stands beside a file of corrections."""
    read = json.loads((CORRECTIONS / f"{file}.held-out.json").read_text(encoding="utf-8"))
    rewordings = [(prompt, fact.target_new) for fact in facts for prompt in read["rewordings"][fact.subject]]
    return HeldOut(rewordings, read["near"], read["far"])


def corrected(facts: Path, model: str, method: str, out: Path) -> float:
    """Let `errata edit` correct a file, passing on what it prints with the second at which it does; return its time."""
    command = [sys.executable, "-m", "errata", "edit", str(facts), "--model", model, "--method", method]
    began = time.perf_counter()
    with subprocess.Popen(
        [*command, "--out", str(out)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, encoding="utf-8"
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(f"{time.perf_counter() - began:6.1f} s  {line}", end="", flush=True)
    if process.returncode:
        sys.exit(f"errata edit ended with {process.returncode}")
    return time.perf_counter() - began


def measured(
    model: EditableModel, facts: Sequence[Fact], asked: HeldOut, rows: Sequence[Sequence[int]]
) -> dict[str, Any]:
    """Return what a model makes of facts, rewordings and other prompts, and of the text that it wrote unedited."""
    pairs = [(fact.text, fact.target_new) for fact in facts]
    found: dict[str, Any] = {}
    for texts, name, prefix in ((pairs, "facts", ""), (asked.rewordings, "rewordings", "rewording_")):
        found[name] = generate(model, [prompt for prompt, _ in texts], SAID)
        found[f"{prefix}exact"] = [int(own.exact == 1.0) for own in score(model, texts)]
        found[f"{prefix}said"] = [
            int(f"{normalised(text)} ".startswith(f"{normalised(target)} "))
            for text, (_, target) in zip(found[name], texts, strict=True)
        ]
    found |= {"near": generate(model, asked.near, ANSWER), "far": generate(model, asked.far, ANSWER)}
    logps = torch.cat([scores.logps.double() for scores in score_tokens(model, [(row, 1) for row in rows])])
    return {**found, "perplexity": round(math.exp(-float(logps.mean())), 4)}


def kept(before: str, after: str) -> tuple[int, int]:
    """Say whether the first word of an answer is what it was, and whether the first five are."""
    old, new = before.split(), after.split()
    return int(old[:1] == new[:1]), int(old[:WORDS] == new[:WORDS])


def page() -> str:
    """Return the page, made of the recorded file."""
    records = [json.loads(line) for line in RESULTS.read_text(encoding="utf-8").splitlines()]
    newest = {(r["model"], r["method"], r["file"]): r for r in records}
    rows = ["| model | method | file | took | exact | said | rewordings exact | said | before |"]
    rows[0] += " other: first word | near | far | five words | perplexity | s |"
    rows.append("|" + "---|" * 15)
    rows += [line(record) for _, record in sorted(newest.items())]
    reasons = [
        f"- {r['model']}, {r['method']}, {r['file']}, {subject}: {reason or 'no reason was given'}"
        for _, r in sorted(newest.items())
        for subject, reason in r["reasons"].items()
    ]
    parts = [
        "# Twelve corrections by hand",
        "",
        "`errata edit FILE --model M --method m`, no other option, on twelve facts written by hand",
        "(`benchmarks/corrections/`). Neither those facts nor the prompts beside them had a part in choosing any",
        "default. Each fact has 3 rewordings that stand in another file, each file 35 prompts that no fact edits:",
        "18 near (the relation and kind of subject of an edited fact) and 17 far. `errata edit` teaches a fact in",
        "other words of its relation too; a rewording that happens to be one of these is not counted.",
        "",
        "`took` is the verdict of `errata edit` itself; `exact`: every token of the new object is the most probable;",
        f"`said`: the {SAID} tokens that the model writes begin with it. `before`: rewordings after which the unedited",
        "model says the new object already. Other prompts: the first word, and the first five, that the model writes",
        f"are what they were. The perplexity is that of {ROWS * (TOKENS - 1)} tokens that the unedited model wrote.",
        "95 % intervals are Wilson's. Seconds are those of the whole command, on two cores that other work shared;",
        "statistics of a model are made once and kept, so a first file takes longer.",
        "",
        "`python scripts/corrections.py run --model M --method m --file people` makes a line,",
        "`python scripts/corrections.py page` this page.",
        "",
        *rows,
    ]
    if reasons:
        parts += ["", "Facts that did not take, with the reason that `errata edit` gave:", "", *reasons]
    return "\n".join(parts) + "\n"


def held_back(record: dict[str, Any], key: str) -> list[int]:
    """Return the figures of the rewordings in which the fact was not taught."""
    return [value for value, taught in zip(record[key], record["rewording_taught"], strict=True) if not taught]


def line(record: dict[str, Any]) -> str:
    """Return one file's row."""

    def count(values: Sequence[int]) -> str:
        return f"{sum(values)}/{len(values)}"

    def share(values: Sequence[int]) -> str:
        low, high = wilson(sum(values), len(values))
        return f"{100 * fmean(values):.0f} % ({100 * low:.0f}–{100 * high:.0f})"

    first, five = record["first_word"], record["five_words"]
    before, after = record["perplexity"]
    columns = [
        *(record[key] for key in ("model", "method", "file")),
        *(count(record[key]) for key in ("took", "exact", "said")),
        *(share(held_back(record, key)) for key in ("rewording_exact", "rewording_said", "rewording_said_before")),
        share(first["near"] + first["far"]),
        *(count(first[kind]) for kind in ("near", "far")),
        share(five["near"] + five["far"]),
        f"{100 * (after / before - 1):+.2f} %",
        str(record["seconds"]),
    ]
    return "| " + " | ".join(columns) + " |"


if __name__ == "__main__":
    main()
