"""The first paper's claims: its Table 3 cell by cell, its two phases, forgetting, distances and collapsed text.

The paper gives Table 3 in words. The bounds that stand for them are read off its figures, so that its own methods get
its own words; they are those of `errata compare`, where that table is made for any runs.
"""

from collections.abc import Sequence

import polars as pl

from errata.report.words import share
from errata.studies.reproduce import measures as m
from errata.studies.reproduce.claims import Claim
from errata.studies.reproduce.results import Results
from errata.studies.reproduce.work import Exhibit

__all__ = ["CLAIMS", "collapsed_texts"]

FULL = 0.98
"""From here on an efficacy is "100 %": two in a hundred may fail."""
VERY_LOW, HIGH, VERY_HIGH = 0.4, 0.55, 0.75
"""Locality. FT-C has 0.30 to 0.35; ROME falls from 0.78 to 0.45 and MEMIT from 0.85 to 0.50, later."""
LOSS = 0.2
"""Relative loss of the tasks that is "high": FT-C and ROME lose half, MEMIT less than a tenth."""
LOW, FORGETFUL = 0.25, 0.6
"""Forgetting: "low" below the first, "very high" from the second on. FT-C forgets 0.85 to 0.90."""
REPEATS = 0.6
"""Entropy of generated words below which a model repeats itself (2403.07175)."""

TABLE3 = "Table 3, cell by cell"
PHASES = "Gradual, then abrupt"
FORGETTING = "What is forgotten"
DISTANCE = "Distance and disabling edits"
TEXT = "A collapsed model's text"

EFFICACY, NEIGHBORS = "efficacy.success@now", "neighborhood.success@now"
RETEST = ("efficacy.exact@now", "efficacy.exact@retest")
ITEMS = ("downstream.*.item",)
ROMES = ("rome", "rome-without-C")
ROWS = (
    "efficacy",
    "locality",
    "duration before collapse",
    "loss of downstream before collapse",
    "forgetting",
)
_MAJORITY = "holds when the interval of the share of runs lies above a half, which four of four do"
_ABOVE_0 = "holds when the whole interval lies above 0"


def _named(kind: str) -> str:
    return {"ft-c": "FT-C", "rome": "ROME", "rome-without-C": "ROME without C"}.get(kind, kind.upper())


def _cell(row: str, kind: str, sentence: str, paper: str, measure: m.Measure, *rows: str, and_: str = "") -> Claim:
    needs = (f"{kind}/*", *([f"{and_}/*"] if and_ else []))
    slug = row.split()[0] if row != ROWS[3] else "downstream"
    return Claim(f"{slug}-{kind}", TABLE3, sentence, paper, measure, needs, rows, (row, _named(kind)))


def _table3() -> list[Claim]:
    efficacy, locality, duration, downstream, forgetting = ROWS
    full, kept = f"holds from {share(FULL)} on", "before the collapse"
    made = [
        _cell(
            efficacy,
            "ft-c",
            "FT-C makes every edit.",
            "100 % (Table 3)",
            m.proficiency("ft-c", EFFICACY, at_least=FULL, rule=full),
            EFFICACY,
        ),
        *(
            _cell(
                efficacy,
                kind,
                f"{_named(kind)} makes every edit until it collapses.",
                "100 % until the collapse (Table 3)",
                m.proficiency(kind, EFFICACY, at_least=FULL, rule=f"{full}, {kept}"),
                EFFICACY,
            )
            for kind in ROMES
        ),
        _cell(
            efficacy,
            "memit",
            "MEMIT makes fewer than all edits, even before it collapses.",
            "below 100 % until the collapse (Table 3)",
            m.proficiency("memit", EFFICACY, at_most=FULL, rule=f"holds below {share(FULL)}, {kept}"),
            EFFICACY,
        ),
        _cell(
            efficacy,
            "mend",
            "MEND soon fails to make new edits.",
            "below 50 % before 100 edits (Figs. 9 to 20)",
            m.proficiency(
                "mend", EFFICACY, last=50, at_most=0.75, rule="holds below 75 % over the last 50 edits; chance is 50 %"
            ),
            EFFICACY,
        ),
        _cell(
            locality,
            "ft-c",
            "FT-C's locality is very low.",
            "very low (Table 3); 30 to 35 % (Figs. 9 to 20)",
            m.proficiency("ft-c", NEIGHBORS, at_most=VERY_LOW, rule=f"very low is below {share(VERY_LOW)}, {kept}"),
            NEIGHBORS,
        ),
        *(
            _cell(
                locality,
                kind,
                f"{_named(kind)}'s locality is high.",
                "high (Table 3); 78 falling to 45 % (Fig. 1c)",
                m.proficiency(kind, NEIGHBORS, at_least=HIGH, rule=f"high is from {share(HIGH)} on, {kept}"),
                NEIGHBORS,
            )
            for kind in ROMES
        ),
        _cell(
            locality,
            "memit",
            "MEMIT's locality is very high.",
            "very high (Table 3); 85 falling to 50 % at the collapse",
            m.proficiency(
                "memit", NEIGHBORS, at_least=VERY_HIGH, rule=f"very high is from {share(VERY_HIGH)} on, {kept}"
            ),
            NEIGHBORS,
        ),
        _cell(
            locality,
            "mend",
            "MEND's edits do not leave neighbors alone for long.",
            "no word (not in Table 3); with the model, before 100 edits (Figs. 9 to 20)",
            m.proficiency(
                "mend", NEIGHBORS, last=50, at_most=0.75, rule="holds below 75 % over the last 50 edits; chance is 50 %"
            ),
            NEIGHBORS,
        ),
        _cell(
            duration,
            "ft-c",
            "FT-C does not collapse.",
            "not observed (Table 3), 1,000 edits",
            m.collapses("ft-c", expected=False, rule="holds when the interval of the share lies below a half"),
            EFFICACY,
            *RETEST,
            *ITEMS,
        ),
        *(
            _cell(
                duration,
                kind,
                f"{_named(kind)} collapses after a short time.",
                "short (Table 3): after 560, 980, 80 and 200 edits (Figs. 13 to 20)",
                m.collapses(kind, expected=True, rule=_MAJORITY),
                EFFICACY,
                *RETEST,
                *ITEMS,
            )
            for kind in ROMES
        ),
        _cell(
            duration,
            "memit",
            "MEMIT lasts longer than ROME.",
            "long (Table 3): 1,200 to 1,400 edits (GPT-J), about 4,000 (GPT2-XL)",
            m.outlasts("memit", "rome-without-C", rule=f"against ROME without C in the same sample; {_MAJORITY}"),
            EFFICACY,
            *RETEST,
            *ITEMS,
            and_="rome-without-C",
        ),
        _cell(
            duration,
            "mend",
            "MEND collapses almost at once.",
            "before 100 edits (Figs. 9 to 20)",
            m.collapses("mend", expected=True, rule=_MAJORITY),
            EFFICACY,
            *RETEST,
            *ITEMS,
        ),
        _cell(
            downstream,
            "ft-c",
            "FT-C costs much of the downstream tasks.",
            "high (Table 3)",
            m.tasks_lost("ft-c", at_least=LOSS, rule=f"high is from {share(LOSS)} of the accuracy on, {kept}"),
            *ITEMS,
        ),
        *(
            _cell(
                downstream,
                kind,
                f"{_named(kind)} costs much of the downstream tasks before it collapses.",
                "high (Table 3): SST-2 from 92 to 45 % just before (Fig. 2c)",
                m.tasks_lost(kind, at_least=LOSS, rule=f"high is from {share(LOSS)} of the accuracy on, {kept}"),
                *ITEMS,
            )
            for kind in ROMES
        ),
        _cell(
            downstream,
            "memit",
            "MEMIT costs little of the downstream tasks before it collapses.",
            "low (Table 3): SST-2 about 92 % up to edit 1,250",
            m.tasks_lost("memit", at_most=LOSS, rule=f"low is below {share(LOSS)} of the accuracy, {kept}"),
            *ITEMS,
        ),
        _cell(
            downstream,
            "mend",
            "MEND loses every downstream task.",
            "every F1 is 0 before 100 edits (Figs. 21 to 28)",
            m.tasks_lost("mend", at_least=0.9, at_end=True, rule="holds from 90 % of the accuracy on, at the end"),
            *ITEMS,
        ),
        _cell(
            forgetting,
            "ft-c",
            "FT-C forgets almost everything.",
            "very high (Table 3): 85 to 90 % at 1,000 edits",
            m.forgotten_share("ft-c", at_least=FORGETFUL, rule=f"very high is from {share(FORGETFUL)} on, {kept}"),
            *RETEST,
        ),
        *(
            _cell(
                forgetting,
                kind,
                f"{_named(kind)} forgets much before it collapses.",
                "high (Table 3): 16, 47, 0 and 3 % just before the collapse (Figs. 13 to 16)",
                m.forgotten_share(kind, at_least=LOW, rule=f"high is from {share(LOW)} on, {kept}"),
                *RETEST,
            )
            for kind in ROMES
        ),
        _cell(
            forgetting,
            "memit",
            "MEMIT forgets little before it collapses.",
            "low (Table 3): 33 % at edit 1,200 of GPT-J",
            m.forgotten_share("memit", at_most=LOW, rule=f"low is below {share(LOW)}, {kept}"),
            *RETEST,
        ),
        _cell(
            forgetting,
            "mend",
            "MEND forgets everything.",
            "100 % before 100 edits (Figs. 9 to 20)",
            m.forgotten_share("mend", at_least=0.95, at_end=True, rule="holds from 95 % on, at the end"),
            *RETEST,
        ),
    ]
    return sorted(made, key=lambda claim: ROWS.index(claim.cell[0]) if claim.cell else len(ROWS))


def _others() -> list[Claim]:
    return [
        *(
            Claim(
                f"phases-{kind}",
                PHASES,
                f"A model edited with {_named(kind)} first declines gradually, then breaks at once.",
                "two phases in every sample (§3.2 to 3.4, Figs. 1 and 2; read off the plots)",
                m.phases_seen(kind, rule=f"a break and a decline before it, as errata report finds them; {_MAJORITY}"),
                (f"{kind}/*",),
                (EFFICACY, *RETEST, *ITEMS, "unrelated.exact", "perplexity"),
            )
            for kind in (*ROMES, "memit")
        ),
        Claim(
            "collapse-varies",
            PHASES,
            "At how many edits ROME breaks depends on which edits are made.",
            "edits 80 to 980 in four samples, a factor of 12 (Figs. 13 to 20)",
            m.steps_vary("rome-without-C", rule="holds when the intervals of earliest and latest collapse are apart"),
            ("rome-without-C/*",),
            (EFFICACY, *RETEST, *ITEMS),
        ),
        *(
            Claim(
                f"forgets-more-{kind}",
                FORGETTING,
                f"{_named(kind)} forgets more of its edits than MEMIT does of the same.",
                "almost three times as many (§4, Fig. 4)",
                m.forgets_more(kind, "memit", rule=f"at the end of the run; {_ABOVE_0}"),
                (f"{kind}/*", "memit/*"),
                RETEST,
            )
            for kind in ROMES
        ),
        *(
            Claim(
                f"locality-order-{kind}",
                FORGETTING,
                f"MEMIT leaves neighbors alone better than {_named(kind)}, edit by edit.",
                "very high against high (Table 3; §4)",
                m.differs("memit", kind, NEIGHBORS, rule=_ABOVE_0),
                (f"{kind}/*", "memit/*"),
                (NEIGHBORS,),
            )
            for kind in ROMES
        ),
        Claim(
            "locality-order-ft-c",
            FORGETTING,
            "ROME leaves neighbors alone better than FT-C, edit by edit.",
            "high against very low (Table 3)",
            m.differs("rome", "ft-c", NEIGHBORS, rule=_ABOVE_0),
            ("rome/*", "ft-c/*"),
            (NEIGHBORS,),
        ),
        *(
            Claim(
                f"spikes-{kind}",
                DISTANCE,
                f"Where {_named(kind)} collapses, the weights move much further than usual.",
                "single steps of 3.0e-5 and 8.1e-5 at edits 560 and 900 of Sample 1 (§3.4, Fig. 2d)",
                m.spikes_at_collapse(kind, rule="holds when p < 0.05 against windows at random places of the same run"),
                (f"{kind}/*",),
                ("drift.mean_abs",),
            )
            for kind in ROMES
        ),
        Claim(
            "collapsed-text",
            TEXT,
            "A collapsed model repeats a single token.",
            '"CBS CBS CBS", "Finnish Finnish" (Table 8)',
            m.entropy_at_end("rome-without-C", at_most=REPEATS, rule=f"holds below {REPEATS} (2403.07175)"),
            ("rome-without-C/*",),
            ("entropy",),
        ),
    ]


CLAIMS: tuple[Claim, ...] = (*_table3(), *_others())
"""All of them, in the order of the page."""


def collapsed_texts(results: Results) -> Sequence[Exhibit]:
    """Quote what the models say at the end of the first sample's runs, for the first three edits."""
    found = []
    for name in results.names("*/0"):
        run = results.run(name)
        prompts = {fact["id"]: fact["prompt"].replace("{}", fact["subject"]) for fact in run.facts}
        said = run.metric("text@end").filter(pl.col("edit_id").is_in([f["id"] for f in run.facts[:3]]))
        told = run.metric("entropy").filter(pl.col("step") == pl.col("step").max()).head(2)
        lines = [(prompts[edit], text) for edit, text in said.select("edit_id", "text").iter_rows()]
        lines += list(told.select("prompt_id", "text").iter_rows())
        if lines:
            source = f"runs/{name}: text@end, and entropy at step {run.n_edits}"
            found.append(Exhibit(f"{_named(name.partition('/')[0])} after {run.n_edits} edits", source, tuple(lines)))
    return found
