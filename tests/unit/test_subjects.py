"""Subjects' keys in C: what they add, and that an edit then leaks less into other subjects."""

from pathlib import Path
from random import Random

import pytest
import torch

from errata.editors.registry import editor_class, resolve_settings
from errata.editors.solve import Factored
from errata.editors.statistics import SecondMoment, StatisticsStore
from errata.editors.subjects import subject_keys, subjects
from errata.edits.relations import relations
from tiny import tiny_facts, tiny_model, tiny_text_file


def test_keys_are_added_by_their_mean() -> None:
    keys = torch.tensor([[1.0, 3.0], [0.0, 2.0]])
    found = SecondMoment(torch.eye(2), 7).with_keys(keys, 0.5)
    assert found.matrix.tolist() == [[3.5, 1.5], [1.5, 2.0]]
    assert found.tokens == 7


def test_the_subjects_are_many_and_each_stands_once() -> None:
    found = subjects()
    assert len(found) > 300
    assert len(set(found)) == len(found)
    assert not any(subject.startswith("#") or not subject.strip() for subject in found)


def test_a_model_without_published_settings_counts_them_and_a_published_one_does_not() -> None:
    assert resolve_settings("memit", tiny_model("llama")).subjects == 1.0
    assert all(editor_class(name).Settings.model_fields["subjects"].default == 0.0 for name in ("memit", "rome"))


def test_an_edit_leaks_less_into_what_all_keys_have_in_common() -> None:
    """The change of a key k moves another by kᵀC⁻¹k' of what it moves k by kᵀC⁻¹k."""
    drawn = torch.Generator().manual_seed(0)
    common, apart = torch.randn(64, 1, generator=drawn), torch.randn(64, 300, generator=drawn)
    keys = (common + 0.7 * apart).double()
    edited, others, known = keys[:, :1], keys[:, 1:20], keys[:, 20:]
    leaks = []
    for weight in (0.0, 1.0):
        solved = Factored(SecondMoment(torch.eye(64), 999).with_keys(known, weight).ridged(0.0), "C").solve(edited)
        leaks.append(float((others.T @ solved).abs().mean() / (edited.T @ solved)))
    assert leaks[0] > 0.5
    assert leaks[1] < leaks[0] / 2


@pytest.mark.parametrize(("method", "layer"), [("memit", "layers"), ("r-rome", "layer"), ("alphaedit", "layers")])
def test_every_closed_form_solves_with_them(method: str, layer: str, tmp_path: Path) -> None:
    model = tiny_model("llama", torch.float64)
    updates = []
    for weight in (0.0, 1.0):
        chosen = {"statistics": {"source": str(tiny_text_file(tmp_path))}, "subjects": weight}
        editor = editor_class(method)(
            resolve_settings(method, model, chosen | {layer: [1] if layer == "layers" else 1})
        )
        editor.prepare(model, StatisticsStore(), Random(0))
        updates.append(editor.propose(model, tiny_facts(1)).changes[model.mlp_out(1)].right.double())
    cosine = torch.nn.functional.cosine_similarity(*updates, dim=-1)
    assert float(cosine) < 0.999


def test_keys_are_those_at_the_last_token_of_each_subject() -> None:
    model = tiny_model("gpt2")
    assert subject_keys(model, [0, 1], "subject_last")[model.mlp_out(1)].shape[1] == len(subjects())
    wordings = {wording for relation in relations() for wording in relation.wordings}
    assert not wordings & set(subjects())
