"""The second paper's claims: capability after 1, 10, 20 and 100 edits, two scores, and what changes the damage.

The paper gives figures; the words *kept*, *damaged* and *destroyed* stand for them by the bounds below, so that its own
figures get the words that its rows have here.
"""

from errata.studies.reproduce import lin2024_measures as m
from errata.studies.reproduce.claims import Claim

__all__ = ["CLAIMS", "STEPS"]

STEPS = (1, 10, 20, 100)
"""Numbers of edits after which Table 1 measures."""
HARM, RUIN = 0.1, 0.5
"""Relative loss of capability from which a model is damaged, and destroyed."""
MOST, FEW = 0.8, 0.25
"""Shares that are "most" and "few": individual scores are 93 (ROME), 88 (MEMIT) and 14 % (MEND)."""
SAME = 0.05
"""Scores, and losses, that differ by less are the same."""

TABLE1 = "Capability after 1, 10, 20 and 100 edits (Table 1)"
TABLE2 = "Sequential against individual score (Table 2)"
SIZE = "Model size (Fig. 3)"
CHAT = "Instruction tuning (Fig. 3)"
CONSTRAINT = "The constraint of ROME (Fig. 4)"
LAYERS = "Layers to edit, one and several (Fig. 4)"
BATCH = "Batch size at an equal number of facts"
SETS = "Disjoint sets of edits"

ITEMS = ("downstream.*.item", m.FACTS)
SCORES = ("efficacy.exact@now", "efficacy.exact@retest")
AGAIN = ("efficacy.exact@retest", "paraphrase.exact@retest")
BARE = "rome-without-C"
_KEPT = f"holds when less than {HARM:.0%} is lost"
_SOME = f"holds from {HARM:.0%} lost on to {RUIN:.0%}"
_HARMED = f"holds from {HARM:.0%} lost on"
_RUINED = f"holds from {RUIN:.0%} lost on"
_MORE = f"holds from a difference of {SAME:.0%} on"
_NAMES = {"mend": "MEND", "rome": "ROME", "memit": "MEMIT", "grace": "GRACE", BARE: "ROME without C"}

_AVERAGE = {
    "mend": (33.3, 23.8, 12.7, 3.2),
    "rome": (32.5, 32.6, 26.8, 18.3),
    "memit": (32.8, 32.6, 20.3, 3.1),
    "grace": (None, None, None, 32.7),
}
"""Table 1's last column, the mean of its eight sets, for Llama-2-7b, which has 32.7 unedited. Only GRACE's last row is
told here; its others cannot be lower, since nothing that it stores is ever taken out."""
_UNEDITED = 32.7


def _table1() -> list[Claim]:
    made = []
    for kind, averages in _AVERAGE.items():
        for step, average in zip(STEPS, averages, strict=True):
            loss = 1 - (average or _UNEDITED) / _UNEDITED
            if loss < HARM:
                says, measure = "keeps what it can do", m.lost(kind, step, at_most=HARM, rule=_KEPT)
            elif loss < RUIN:
                says, measure = "has lost some of it", m.lost(kind, step, at_least=HARM, at_most=RUIN, rule=_SOME)
            else:
                says, measure = "has lost most of it", m.lost(kind, step, at_least=RUIN, rule=_RUINED)
            edits = "1 edit" if step == 1 else f"{step} edits"
            figure = (
                f"average {average} of {_UNEDITED} (Table 1)" if average else "no figure told; after 100 in Table 1"
            )
            sentence = f"After {edits} with {_NAMES[kind]} the model {says}."
            name = f"capability-{kind}-{step}"
            counted = average is not None
            made.append(Claim(name, TABLE1, sentence, figure, measure, (f"{kind}/*",), ITEMS, counted=counted))
    bare = Claim(
        f"capability-{BARE}-100",
        TABLE1,
        f"After 100 edits with {_NAMES[BARE]} the model has lost most of what it can do.",
        "CommonsenseQA 0 of 50 after 100 edits of layer 5 (Fig. 4)",
        m.lost(BARE, STEPS[-1], at_least=RUIN, rule=_RUINED),
        (f"{BARE}/*",),
        ITEMS,
        counted=False,
    )
    return [*made, bare]


def _table2() -> list[Claim]:
    sequential = {
        "rome": ("66.7 after 10, 53.3 after 20, 52.3 against 93.3 after 100", "has forgotten edits that it took"),
        "memit": ("87 after 10, 22.4 after 20, 0.07 against 87.7 after 100", "has forgotten edits that it took"),
    }
    individual = {"mend": 13.6, "rome": 93.3, "memit": 87.7, "grace": 99.8}
    made = [
        Claim(
            f"individual-{kind}",
            TABLE2,
            f"{'Few' if kind == 'mend' else 'Most'} edits with {_NAMES[kind]} are there right after they are made.",
            f"reliability {score} over 100 edits (Table 2)",
            m.taken(kind, at_most=FEW, rule=f"few is at most {FEW:.0%}")
            if kind == "mend"
            else m.taken(kind, at_least=MOST, rule=f"most is at least {MOST:.0%}"),
            (f"{kind}/*",),
            SCORES[:1],
        )
        for kind, score in individual.items()
    ]
    made += [
        Claim(
            f"sequential-{kind}",
            TABLE2,
            f"After 100 edits {_NAMES[kind]} {says}: the sequential score is below the individual one.",
            figures if kind == BARE else f"{figures} (Table 2)",
            m.score_gap(kind, STEPS[1:], at_least=SAME, rule=_MORE),
            (f"{kind}/*",),
            SCORES,
            counted=kind != BARE,
        )
        for kind, (figures, says) in [
            *sequential.items(),
            (BARE, ("no figure without C", "has forgotten edits that it took")),
        ]
    ]
    return [
        *made,
        Claim(
            "sequential-mend",
            TABLE2,
            "After 100 edits with MEND none of them is there.",
            "sequential score 0.0, individual 13.6 after 100 (Table 2)",
            m.found_again("mend", at_most=SAME, rule=f"holds when at most {SAME:.0%} are"),
            ("mend/*",),
            SCORES[1:],
        ),
        Claim(
            "sequential-grace",
            TABLE2,
            "GRACE forgets nothing: the two scores are the same.",
            "99.8 and 99.8 after 100 (Table 2)",
            m.score_gap("grace", STEPS[1:], at_most=SAME, rule=f"holds when they differ by less than {SAME:.0%}"),
            ("grace/*",),
            SCORES,
        ),
        Claim(
            "generalization-grace",
            TABLE2,
            "GRACE's edits do not carry over to other phrasings.",
            "generalization 30.2 against reliability 99.8 (Table 2)",
            m.carried_over("grace", at_most=0.5, rule="of the recalled edits' paraphrases; holds below a half"),
            ("grace/*",),
            AGAIN,
        ),
        Claim(
            "generalization-rome",
            TABLE2,
            "What ROME still recalls after 100 edits it mostly recalls in other phrasings too.",
            "generalization 49.5, reliability 52.3 (Table 2)",
            m.carried_over("rome", at_least=0.5, rule="of the recalled edits' paraphrases; holds from a half on"),
            ("rome/*",),
            AGAIN,
        ),
    ]


_WORDS = "in words; figures not found"


def _compared(name: str, section: str, sentence: str, paper: str, worse: str, better: str) -> Claim:
    """Claim that the runs of one kind lose more than those of another."""
    measure = m.loses_more(worse, better, at_least=SAME, rule=f"{worse} less {better}, after the last edit; {_MORE}")
    needs = (f"{worse}/*", f"{better}/*")
    return Claim(name, section, sentence, paper, measure, needs, ITEMS, counted=paper != _WORDS)


_SIZES = (f"{BARE}-small", BARE, f"{BARE}-large")

CLAIMS: tuple[Claim, ...] = (
    *_table1(),
    *_table2(),
    Claim(
        "size-none-spared",
        SIZE,
        "Models of every size lose capability within 100 edits.",
        "ROME with C: MMLU of the 13b 55.5 to 25, of the 7b 47 to 25.5 (Fig. 3)",
        m.lost_by_each(_SIZES, at_least=HARM, rule=_HARMED),
        tuple(f"{kind}/*" for kind in _SIZES),
        ITEMS,
    ),
    _compared(
        "size-larger-keeps-more",
        SIZE,
        "A larger model keeps more.",
        "ROME with C: MBPP 20 of 27.5 (13b), 2.8 of 18.2 (7b), TyDiQA alike; not MMLU nor CommonsenseQA (Fig. 3)",
        f"{BARE}-small",
        f"{BARE}-large",
    ),
    Claim(
        "chat-not-spared",
        CHAT,
        "An instruction-tuned model loses capability too.",
        "ROME with C: MMLU of 7b-chat 48 to 28, MBPP to 2 (Fig. 3)",
        m.lost(f"{BARE}-chat", at_least=HARM, rule=_HARMED),
        (f"{BARE}-chat/*",),
        ITEMS,
    ),
    _compared(
        "chat-keeps-more",
        CHAT,
        "An instruction-tuned model keeps more than its base.",
        "ROME with C: CommonsenseQA 40 of 58 (7b-chat), 20 of 50 (7b), MMLU alike; not MBPP (Fig. 3)",
        BARE,
        f"{BARE}-chat",
    ),
    _compared(
        "constraint-helps",
        CONSTRAINT,
        "Without the constraint C a model loses more.",
        "CommonsenseQA after 100 edits 0 without, 19 with C, of 50 (layer 5, Fig. 4)",
        BARE,
        "rome",
    ),
    Claim(
        "constraint-not-enough",
        CONSTRAINT,
        "The constraint cannot avoid the damage.",
        "CommonsenseQA 19 of 50 after 100 edits with C (Fig. 4)",
        m.lost("rome", at_least=HARM, rule=_HARMED),
        ("rome/*",),
        ITEMS,
    ),
    _compared(
        "constraint-strength",
        CONSTRAINT,
        "A weaker constraint protects less.",
        _WORDS,
        "rome-weak-C",
        "rome",
    ),
    _compared(
        "layers-deeper-rome",
        LAYERS,
        "Edits of a deeper layer cost less than edits of an early one (ROME, one layer).",
        "with C: CommonsenseQA 19, 0, 0, 46, 44, 42 of 50 for layers 5, 10, 15, 20, 25, 30 of 32 (Fig. 4)",
        f"{BARE}-first-layer",
        f"{BARE}-late-layer",
    ),
    Claim(
        "layers-deep-edits-take",
        LAYERS,
        "Edits of the deeper layer are there right after they are made, so that little damage is no lack of edits.",
        "not told for single layers",
        m.taken(f"{BARE}-late-layer", at_least=MOST, rule=f"most is at least {MOST:.0%}"),
        (f"{BARE}-late-layer/*",),
        SCORES[:1],
        counted=False,
    ),
    _compared(
        "layers-deeper-memit",
        LAYERS,
        "Edits of deeper layers cost less (MEMIT, several layers).",
        "CommonsenseQA 0, 0, 9, 45 of 50 for layers 4–8, 11–15, 18–22, 25–29 (Fig. 4)",
        "memit",
        "memit-late-layers",
    ),
    _compared(
        "layers-several",
        LAYERS,
        "Five layers edited at once cost more than a few of them (on the model of six layers).",
        "MEMIT's five early layers 0, ROME's one 19 of 50 (Fig. 4)",
        "memit-large-five-layers",
        "memit-large",
    ),
    _compared(
        "batch-10",
        BATCH,
        "The same facts cost less in batches of ten than one at a time.",
        _WORDS,
        "memit",
        "memit-batches-of-10",
    ),
    _compared(
        "batch-all",
        BATCH,
        "The same facts cost least in one batch.",
        _WORDS,
        "memit",
        "memit-one-batch",
    ),
    Claim(
        "sets-all-collapse",
        SETS,
        "Whichever edits are made, the model is damaged after 100.",
        f"all three sets ({_WORDS})",
        m.lost_by_each((BARE,), at_least=HARM, rule=_HARMED, sets=True),
        (f"{BARE}/*",),
        ITEMS,
        counted=False,
    ),
    Claim(
        "sets-differ",
        SETS,
        "How fast it goes depends on the edits.",
        f"the curves' shapes differ ({_WORDS})",
        m.sets_apart(BARE, 50, at_least=SAME, rule=f"halfway, after 50 edits; {_MORE}"),
        (f"{BARE}/*",),
        ITEMS,
        counted=False,
    ),
)
"""All of them, in the order of the page."""
