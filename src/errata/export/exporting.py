"""Export the edits of a run directory in one of three forms, with a card that says what they are and what they cost."""

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError

from errata.edits import Fact
from errata.errors import ConfigError, RunError
from errata.export.artefact import EDITS, write_artefact
from errata.export.card import card
from errata.export.factors import Factors
from errata.export.forms import Exported, Form, contents
from errata.export.lora import adapter, peft, served_rank, write_adapter
from errata.export.measure import Fidelity, fidelity, taking
from errata.export.suits import beside
from errata.export.weights import write_weights
from errata.files import folder_aside, write_aside
from errata.models import EditableModel
from errata.studies.edited import Edited, open_edited

__all__ = ["Exported", "Form", "export"]


def export(
    directory: Path | str,
    out: Path | str,
    form: Form = "lora",
    *,
    rank: int | None = None,
    model: EditableModel | None = None,
) -> Exported:
    """Write the edits of a run directory into a new directory, which is there whole or not at all.

    Args:
        directory: what `errata run` or `errata edit` made.
        out: the new directory; must not exist, or be empty.
        form: "full": the edited weights with their tokenizer, for transformers. "lora": an adapter in peft's format.
            "editor": what a method beside the weights remembers, for `errata.attach`.
        rank: of an adapter, how many singular values of each matrix's change are kept at most; all when None.
        model: the unedited base model, where it is loaded already; it is edited in place.

    Raises:
        ConfigError: when the form does not fit the method, or `out` is taken.
        RunError: when the run cannot be opened, or `out` cannot be written.

    Example:
        >>> from errata.export import export
        >>> export("runs/rome", "rome-adapter", "lora").ranks          # doctest: +SKIP
        {'transformer.h.1.mlp.c_proj': 12}
    """
    target = Path(out)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigError(f"{target} exists already and is not an empty directory. Name another --out, or remove it.")
    if rank is not None and (form != "lora" or rank < 1):
        raise ConfigError(f"--rank is {rank} with --as {form}; it is a number from 1 on, and only an adapter has one.")
    if form == "lora":
        peft()  # asked for before any work is done
    edited = open_edited(Path(directory), model=model)
    try:
        _check(edited, form, Path(directory))
        return _write(edited, form, rank, target)
    except (OSError, SafetensorError) as e:
        raise RunError(f"{target} could not be written ({e}). Nothing was left there; mend that and try again.") from e
    finally:
        edited.close()


def _check(edited: Edited, form: Form, directory: Path) -> None:
    """Refuse what makes no sense."""
    entries = edited.trajectory.journal.entries
    method = edited.recipe.method.name
    if not any(entry.applied for entry in entries):
        raise ConfigError(f"of the edits in {directory} ({len(entries)}) none is applied: there is nothing to export.")
    aside = beside(type(edited.trajectory.editor))
    if aside and form != "editor":
        what = "weights to write" if form == "full" else "change of a matrix to factorise"
        raise ConfigError(
            f"{method} keeps its edits beside the weights and leaves them as they are, so there is no {what}. Export "
            f"what it remembers: --as editor."
        )
    if form == "editor" and not aside:
        raise ConfigError(
            f"{method} writes its edits into the weights and answers by nothing else, so there is no editor to "
            f"attach. Export the weights (--as full) or an adapter (--as lora)."
        )


def _write(edited: Edited, form: Form, rank: int | None, target: Path) -> Exported:
    model, trajectory = edited.model, edited.trajectory
    entries = trajectory.journal.entries
    facts = {fact.id: fact for fact in edited.stream.facts}
    applied = [facts[entry.id] for entry in entries if entry.applied]
    stated = taking(model, applied)
    factors: dict[str, Factors] = {}
    found: Fidelity | None = None
    if form == "lora":
        factors = adapter(trajectory, rank)
        found = fidelity(trajectory, {path: f.change for path, f in factors.items()}, applied, stated)
        stated |= dict.fromkeys(found.lost, False)
    exported = Exported(
        target,
        form,
        len(entries),
        len(applied),
        sum(stated.values()),
        ranks={path: f.rank for path, f in factors.items()} or None,
        kept={path: f.kept for path, f in factors.items()} or None,
        max_lora_rank=served_rank(factors) if factors else None,
        fidelity=found,
    )
    with folder_aside(target) as folder:
        if form == "full":
            write_weights(model, folder)
        elif form == "lora":
            write_adapter(model, factors, folder)
        else:
            fingerprint = edited.store.description()["model_fingerprint"]
            write_artefact(trajectory.editor, model, fingerprint, folder)
        write_aside(folder / EDITS, _records(edited, facts).encode())
        dtype = str(model.dtype).removeprefix("torch.")
        told = contents(exported, model.name, dtype, entries, facts, stated)
        write_aside(folder / "README.md", card(edited.store.path, told).encode())
    return exported


def _records(edited: Edited, facts: Mapping[str, Fact]) -> str:
    lines = []
    for entry in edited.trajectory.journal.entries:
        fact = facts[entry.id]
        record = {k: getattr(fact, k) for k in ("id", "subject", "prompt", "target_new", "target_true")}
        record |= {"status": entry.status, "verdict": entry.verdict, "text": fact.sentence}
        lines.append(json.dumps(record, ensure_ascii=False) + "\n")
    return "".join(lines)
