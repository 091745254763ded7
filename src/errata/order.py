"""The order of a journal's lines, as those who write it and those who only read it must find it."""

from collections.abc import Mapping

__all__ = ["misplaced"]


def misplaced(record: Mapping[str, object], edits: int, step: int) -> str:
    """Return in words why a line cannot follow those before it; empty when it can.

    Edits are numbered 1, 2, 3, ...; all edits of a batch have the number of its last one as their step; a batch is
    taken back when it is whole. A line that was lost or doubled breaks this.

    Args:
        record: the line: an edit's, with `edit` and `step`, or one that takes batches back, with `undo`.
        edits: how many edits' lines are before it.
        step: of the last of them; 0 where there is none.
    """
    inside = edits < step  # the batch before is not whole yet
    if "undo" in record:
        return f"it takes edits back in the middle of the batch that ends at {step}" if inside else ""
    if record["edit"] != edits + 1:
        return f"it is of edit {record['edit']} where edit {edits + 1} must follow"
    last = record["step"]
    if not isinstance(last, int) or (last != step if inside else last <= edits):
        return f"its batch ends at {last}, the one before at {step}"
    return ""
