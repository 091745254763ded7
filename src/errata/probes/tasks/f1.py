"""Weighted F1, the first paper's figure of its downstream tasks."""

import numpy as np
from jaxtyping import Float, Int

__all__ = ["weighted_f1"]


def weighted_f1(
    truth: Int[np.ndarray, "*sample item"], given: Int[np.ndarray, "*sample item"]
) -> Float[np.ndarray, "*sample"]:
    """Return the mean of the classes' F1 = 2TP/(2TP + FP + FN), weighted by how often each is the truth.

    As scikit-learn's `f1_score(average="weighted", zero_division=0)`; an invalid answer is a class that is never true.

    Args:
        truth: the classes, 0 or above.
        given: the answers' classes, −1 for an invalid one.
    """
    total = np.zeros(truth.shape[:-1])
    for label in np.unique(truth):
        true, said = truth == label, given == label
        support = true.sum(-1)
        counted = support + said.sum(-1)
        total += 2 * support * (true & said).sum(-1) / np.where(counted, counted, 1)
    return np.asarray(total / truth.shape[-1])
