"""Settings of the value optimisation."""

from typing import Literal

from pydantic import Field

from errata.editors.settings import EditorSettings

__all__ = ["FAST_PREFIXES", "ValueSettings"]

FAST_PREFIXES = 2
"""Under how many prefixes, beside the bare prompt, the fast mode optimises values."""
_FAST_STEPS_AFTER = 6  # a value that only just suffices answers fewer paraphrases (docs/performance.md)
_FAST_SETTLED = 0.05  # where it acts on the lab nothing is lost by it (docs/performance.md)


class ValueSettings(EditorSettings):
    """How v* is optimised. Defaults are those of kmeng01/rome for GPT2-XL unless said otherwise."""

    lr: float = Field(default=0.5, gt=0)
    """Adam's step (`v_lr`). Small models want 0.05 to 0.1: their hidden states are shorter."""
    adam_epsilon: float = Field(default=1e-8, gt=0)
    """Adam's ε. Torch's default moves every coordinate by about `lr`, however small its gradient, so that δ fills
    directions which the fact does not need; an ε of the size of the gradients keeps δ to those it needs."""
    steps: int = Field(default=20, ge=1)
    """Evaluations of the loss (`v_num_grad_steps`); one step fewer is taken."""
    weight_decay: float = Field(default=0.5, ge=0)
    """Weight of ‖δ‖/‖h₀‖² in the loss (`v_weight_decay`). ROME's appendix prints 1.5e-3, its files hold 0.5."""
    clamp_norm_factor: float = Field(default=4.0, gt=0)
    """δ is kept within this many ‖h₀‖."""
    kl_factor: float = Field(default=0.0625, ge=0)
    """Weight of the essence term: KL of the prediction after "{subject} is a" to what it was."""
    kl_position: Literal["subject", "end"] = "subject"
    """Where that prediction is read: at the subject's last token as kmeng01/rome does, or at the prompt's end as the
    paper says (2202.05262, eq. 4)."""
    loss_stop: float = Field(default=0.05, ge=0)
    """Stop once the loss is below this, whatever `stop` says."""
    stop: Literal["loss", "most-probable", "kl"] = "loss"
    """What else ends the optimisation. "loss": nothing, as in ROME and MEMIT. "most-probable": every token of the new
    object is the most probable (ENCORE's MPES, 2502.01636). "kl": it is, and the essence term is at most `kl_stop`;
    while it is and the essence term is not, the object's own term weighs a tenth (PMET's code)."""
    steps_after: int = Field(default=0, ge=0)
    """With "most-probable": steps taken at which it already was (ENCORE's |`prob_cutoff`| - 1: GPT2-XL 3, Llama-2 2,
    Llama-3 1)."""
    stop_contexts: Literal["all", "prefixed"] = "all"
    """Under which contexts the object must be the most probable. ENCORE's code leaves out the bare prompt, where it
    means to leave out the essence prompt."""
    kl_stop: float = Field(default=0.01, ge=0)
    """With "kl": the bound of kl_factor·KL (xpq-tech/PMET)."""

    settled: float = Field(default=0.0, ge=0, lt=1)
    """Stop as well once the loss has settled: two steps in a row, with δ at its bound, have lowered it by less than
    this share of all that it has fallen, or raised it. With "kl", of the loss with the object's own term whole.
    0: never, as published."""

    paraphrases: int = Field(default=0, ge=0)
    """How many of a fact's `paraphrase_prompts` take part in optimising v*, beside the sampled contexts. These are no
    longer measured; one at least is left to measure. 0 in every published method: for those who correct a model, not
    for benchmarks."""

    matrices: Literal["model", "bfloat16"] = "model"
    """Precision in which the matrices of the blocks above the edited layer are read at every step. "bfloat16": of a
    float32 model they are copied for as long as the optimisation lasts; the residual stream, norms, logits and δ stay
    in float32. Models of other precisions are read as they are, and so is every model on a device without instructions
    for such products."""

    def hurried(self) -> "ValueSettings":
        """Return these settings as the fast mode has them.

        The object being the most probable ends the optimisation soon after; a method with a stop of its own keeps it.
        So does a loss that has settled with δ at its bound.
        """
        soon = {"stop": "most-probable", "steps_after": _FAST_STEPS_AFTER} if self.stop == "loss" else {}
        settled = max(self.settled, _FAST_SETTLED)
        return self.model_copy(update={**soon, "settled": settled, "matrices": "bfloat16"})
