"""The first paper's claims: its Table 3, its two phases, forgetting, distances and collapsed text."""

from collections.abc import Sequence
from dataclasses import replace

import polars as pl

from errata.studies.reproduce import collapse_measures as fallen
from errata.studies.reproduce import measures as m
from errata.studies.reproduce.claims import Claim
from errata.studies.reproduce.first_edits import disables_more, disabling, distance_ratio
from errata.studies.reproduce.gupta2024_table3 import (
    APART,
    EFFICACY,
    ITEMS,
    MAJORITY,
    NEIGHBORS,
    RETEST,
    ROMES,
    TABLE3,
    named,
)
from errata.studies.reproduce.results import Results
from errata.studies.reproduce.work import Exhibit

__all__ = ["BARE", "CLAIMS", "collapsed_texts"]

BARE = "rome-without-C"
"""ROME's second form, whose rows the tally leaves out where the first has one."""
KINDS = ("ft-c", *ROMES, "memit", "mend")
REPEATS = 0.6
"""Entropy of generated words below which a model repeats itself (2403.07175)."""

PHASES = "Gradual, then abrupt"
FORGETTING = "What is forgotten"
DISTANCE = "Distance and disabling edits"
TEXT = "A collapsed model's text"
TWIN = "Where keys at a text's beginning lie apart"
_ABOVE_0 = "holds when the whole interval lies above 0"


def _others() -> list[Claim]:
    return [
        *(
            Claim(
                f"phases-{kind}",
                PHASES,
                f"A model edited with {named(kind)} first declines gradually, then breaks at once.",
                "two phases in every sample (§3.2 to 3.4, Figs. 1 and 2; read off the plots)",
                fallen.phases_seen(kind, rule=f"a decline before the collapse, as errata report finds it; {MAJORITY}"),
                (f"{kind}/*",),
                (EFFICACY, *RETEST, *ITEMS, "unrelated.exact", "perplexity"),
                counted=kind != BARE,
            )
            for kind in (*ROMES, "memit")
        ),
        Claim(
            "collapse-varies",
            PHASES,
            "At how many edits ROME (here: without C) breaks depends on which edits are made.",
            "edits 80 to 980 in four samples, a factor of 12 (Figs. 13 to 20)",
            fallen.steps_vary(
                "rome-without-C", rule="holds when the intervals of the earliest and the latest collapse are apart"
            ),
            ("rome-without-C/*",),
            (EFFICACY, *RETEST, *ITEMS),
        ),
        *(
            Claim(
                f"forgets-more-{kind}",
                FORGETTING,
                f"{named(kind)} forgets more of its edits than MEMIT does of the same.",
                "almost three times as many (§4, Fig. 4)",
                m.forgets_more(kind, "memit", rule=f"at the end of the run; {_ABOVE_0}"),
                (f"{kind}/*", "memit/*"),
                RETEST,
                counted=kind != BARE,
            )
            for kind in ROMES
        ),
        *(
            Claim(
                f"locality-order-{kind}",
                FORGETTING,
                f"MEMIT leaves neighbors alone better than {named(kind)}, edit by edit.",
                "very high against high (Table 3; §4)",
                m.differs("memit", kind, NEIGHBORS, rule=_ABOVE_0),
                (f"{kind}/*", "memit/*"),
                (NEIGHBORS,),
                counted=kind != BARE,
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
                f"Where {named(kind)} collapses, the weights move much further than usual.",
                "single steps of 3.0e-5 and 8.1e-5 at edits 560 and 900 of Sample 1 (§3.4, Fig. 2d)",
                fallen.spikes_at_collapse(kind, rule="holds when p < 0.05 against windows before the collapse"),
                (f"{kind}/*",),
                ("journal: relative",),
                counted=kind != BARE,
            )
            for kind in ROMES
        ),
        *(
            Claim(
                f"distance-{kind}",
                DISTANCE,
                f"{named(kind)}'s disabling edits move the weights by orders of magnitude more than its others.",
                "3.339e-4 against 8.156e-7, a factor of 409 (Table 2)",
                distance_ratio(kind, at_least=100.0, rule="holds from a factor of 100 on"),
                (f"first/{kind}",),
                ("drift.mean_abs", "unrelated.exact", "perplexity"),
                counted=kind != BARE,
            )
            for kind in ROMES
        ),
        Claim(
            "disabling-r-rome",
            DISTANCE,
            "With one key throughout (r-ROME) no single edit disables the model.",
            "none; distances near 1e-6 (2403.07175, which explains Table 2)",
            disabling("r-rome", expected=False),
            ("first/r-rome",),
            ("unrelated.exact", "perplexity"),
        ),
        Claim(
            "collapsed-text",
            TEXT,
            "A collapsed model repeats a single token.",
            '"CBS CBS CBS", "Finnish Finnish" (Table 8)',
            fallen.entropy_at_end(
                KINDS, at_most=REPEATS, rule=f"the runs that collapse; holds below {REPEATS} (2403.07175)"
            ),
            tuple(f"{kind}/*" for kind in KINDS),
            ("entropy",),
        ),
    ]


def _twin() -> list[Claim]:
    """List what the paper sees of disabling edits, on the twin that was trained to have them."""
    rome, memit, r_rome = (f"{method}{APART}" for method in ("rome", "memit", "r-rome"))
    judged, fell = ("unrelated.exact", "perplexity"), (EFFICACY, *RETEST, *ITEMS)
    more = f"of the same facts, each as the first edit; {_ABOVE_0}"
    found = [
        Claim(
            f"disabling-{rome}",
            TWIN,
            "Single edits of ROME disable the model.",
            "yes (Tables 2 and 3)",
            disabling(rome, expected=True),
            (f"first/{rome}",),
            judged,
        ),
        *(
            Claim(
                f"disabling-{kind}",
                TWIN,
                f"Fewer of the same facts, or none, disable with {what}.",
                f"none does ({where})",
                disables_more(rome, kind, rule=more),
                (f"first/{rome}", f"first/{kind}"),
                judged,
            )
            for kind, what, where in (
                (memit, "MEMIT", "Table 2"),
                (r_rome, "one key throughout (r-ROME)", "2403.07175"),
            )
        ),
        Claim(
            f"distance-{rome}",
            TWIN,
            "ROME's disabling edits move the weights by orders of magnitude more than its others.",
            "3.339e-4 against 8.156e-7, a factor of 409 (Table 2)",
            distance_ratio(rome, at_least=100.0, rule="holds from a factor of 100 on"),
            (f"first/{rome}",),
            ("drift.mean_abs", *judged),
        ),
        Claim(
            f"duration-{rome}",
            TWIN,
            "ROME collapses after a short time.",
            "short (Table 3): after 560, 980, 80 and 200 edits (Figs. 13 to 20)",
            fallen.collapses(rome, expected=True, by=980, rule=MAJORITY),
            (f"{rome}/*",),
            fell,
        ),
        *(
            Claim(
                f"duration-{kind}",
                TWIN,
                f"{what} lasts longer than ROME.",
                figure,
                fallen.outlasts(kind, rome, rule=f"in the same sample; {MAJORITY}"),
                (f"{kind}/*", f"{rome}/*"),
                fell,
            )
            for kind, what, figure in (
                (memit, "MEMIT", "long (Table 3): 1,200 to 1,400 edits (GPT-J), about 4,000 (GPT2-XL)"),
                (r_rome, "r-ROME", "no collapse in sequence (2403.07175)"),
            )
        ),
    ]
    return [replace(claim, counted=False) for claim in found]


CLAIMS: tuple[Claim, ...] = (*TABLE3, *_others(), *_twin())
"""All of them, in the order of the page."""


def collapsed_texts(results: Results) -> Sequence[Exhibit]:
    """Quote what the models say at the end of the first sample's runs, for the first three edits."""
    found = []
    shown = [name for kind in (*KINDS, f"rome{APART}") for name in results.names(f"{kind}/0")]
    for name in shown:
        run = results.run(name)
        prompts = {fact["id"]: fact["prompt"].replace("{}", fact["subject"]) for fact in run.facts}
        said = run.metric("text@end").filter(pl.col("edit_id").is_in([f["id"] for f in run.facts[:3]]))
        told = run.metric("entropy").filter(pl.col("step") == pl.col("step").max()).head(2)
        lines = [(prompts[edit], text) for edit, text in said.select("edit_id", "text").iter_rows()]
        lines += list(told.select("prompt_id", "text").iter_rows())
        if lines:
            source = f"runs/{name}: text@end, and entropy at step {run.n_edits}"
            found.append(Exhibit(f"{named(name.partition('/')[0])} after {run.n_edits} edits", source, tuple(lines)))
    return found
