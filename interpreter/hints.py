"""The nearest name: what was probably meant by a name that nobody knows."""

from __future__ import annotations

from collections.abc import Iterable


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that was probably meant: at most a third of its letters differ (moved, missing, wrong), or only its case."""
    best, least = None, len(name) // 3 + 1
    for candidate in known:
        if abs(len(candidate) - len(name)) < least:
            distance = _distance(name, candidate, least)
            if distance < least:
                best, least = candidate, distance
    return best


def did_you_mean(name: str, known: Iterable[str], mark: str = "") -> str | None:
    found = nearest(name, known)
    return f"did you mean {mark}{found}?" if found else None


def _distance(a: str, b: str, limit: int) -> int:
    """Edits between two words, swapped neighbours counting one; capital letters count nothing. `limit` if there are as many."""
    a, b = a.lower().replace("-", "_"), b.lower().replace("-", "_")
    two_back: list[int] = []
    back = list(range(len(b) + 1))
    for i, left in enumerate(a):
        row = [i + 1]
        for j, right in enumerate(b):
            row.append(min(back[j + 1] + 1, row[j] + 1, back[j] + (left != right)))
            if i and j and left == b[j - 1] and a[i - 1] == right:
                row[-1] = min(row[-1], two_back[j - 1] + 1)
        if min(row) >= limit:
            return limit
        two_back, back = back, row
    return back[-1]
