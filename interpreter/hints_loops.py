"""What is missing in the head of a loop: its `in`, its arrow, the number of its rounds."""

from __future__ import annotations

from .hints_place import KEYWORDS, VALUE_STARTS, Place, Said, described

ARROWS = "write => before one action, [ … ] around several"
NO_BODY = {
    "WHEN": "invalid when syntax: expected '=>' or '[' after the condition.",
    "IF": "invalid if syntax: expected a condition and a bracketed block.",
    "LOOP": "loop requires a block.",
}


def no_arrow(place: Place, before: str = "") -> str:
    """What is missing where a loop or a condition has nothing to do; `before`: what stands there instead."""
    if place.head in NO_BODY:
        return NO_BODY[place.head]
    what = f"{KEYWORDS[place.head]} expression"
    told = "missing '=>' or '[' in for directive" if place.first == "FOR" else f"missing '=>' in {what}"
    return f"{told} before {before}" if before else told


def head_of_loop(place: Place) -> Said | None:
    """`for @x @xs => …`, `for @x in @xs @f(@x)`, `for parallel 3 @x`, `loop 3 [ … ]`, `loop() [ … ]`, `while() @f`."""
    if place.head == "FOR":
        if place.kind() == "NUMBER" and place.kind(-1) == "PARALLEL":
            number = place.text()
            told = "wrong order for parallel syntax. The number must come BEFORE 'parallel'."
            return Said("syntax", told, f"write {number} parallel, or parallel({number})")
        if "IN" in place.expected and place.kind() != "END" and place.text() not in ("of", "each"):
            kind = "directive" if place.first == "FOR" else "expression"
            return Said("missing-word", f"missing 'in' in for {kind}", f"write in before {described(place)}")
        if "ARROW" in place.expected and place.kind() in VALUE_STARTS and place.kind() != "LBRACE":
            return Said("missing-arrow", no_arrow(place, described(place)), ARROWS)
    if place.head == "LOOP" and place.kind(-1) == "RPAR" and "BLOCK" in place.expected and place.kind() != "END":
        return Said("missing-block", NO_BODY["LOOP"], "write [ … ] around what is repeated")
    if place.kind() == "RPAR" and place.opener() in ("LPAR", "CALL", "ARGS") and place.kind(-2) in ("LOOP", "WHILE"):
        if place.kind(-2) == "LOOP":
            return Said("missing-limit", "loop() requires a limit or endless", "write loop(10) or loop(endless)")
        return Said("missing-limit", "while() requires a maximum iteration count", "write while(10) @function")
    if "WHILE" in place.before() and place.kind(-1) == "RPAR" and place.kind() == "END" and place.head != "LOOP":
        return Said(
            "missing-value",
            "while expects an executable reference after the iteration cap",
            "write while(10) @function",
        )
    if place.kind(-1) == "WHILE" and place.kind() in VALUE_STARTS:
        return Said(
            "missing-limit",
            "missing '(' after while keyword",
            "write while(10) @function; a block is repeated by loop(10) until …",
        )
    return None
