"""What to say about a token that cannot stand where it is: whose habit it was, or else what could have stood there.

A habit is a function of the place; the first that recognises its case gives the message. The words and marks of
other languages that they look up are in `hints_habits`.
"""

from __future__ import annotations

from collections.abc import Callable

from . import hints_habits as habits
from .errors import Diagnostic
from .hints import nearest
from .hints_directive import block_wanted, unexpected
from .hints_directive import missing_value as after_which_nothing
from .hints_loops import ARROWS, NO_BODY, head_of_loop, no_arrow
from .hints_place import KEYWORDS, VALUE, VALUE_STARTS, Place, Said, described, missing_value, wanted
from .lexer_words import LANGUAGES, STATEMENT_WORDS, Token
from .source import Source

Habit = Callable[[Place], Said | None]


def explain(source: Source, tokens: list[Token], index: int, expected: frozenset[str]) -> Diagnostic:
    """The fault of a token that cannot stand where it is."""
    place = Place(source=source, tokens=tokens, index=index, expected=expected)
    kind, _, start, end = place.token
    if kind in ("END", "RBRACK", "RBRACE") and place.kind(-1) in ("ASSIGN", "AUGMENT"):
        return missing_value(place.span(-1), place.head)
    if kind == "END" and index:
        start = end = tokens[index - 1][3]
    for habit in _HABITS:
        if said := habit(place):
            span = place.span(-said.back) if said.back else source.span(start, max(end, start))
            return Diagnostic(code=said.code, message=said.message, span=span, hint=said.hint)
    span = source.span(start, max(end, start))
    return Diagnostic(
        code="syntax", message=unexpected(place.head, described(place)), span=span, expected=wanted(expected)
    )


# ── Habits ───────────────────────────────────────────────────────────────────────────────────────

_BLOCK_HEADS = frozenset({"IF", "FOR", "WHEN", "LOOP", "BOX", "WHILE", "ELSE"})
_DECLARATIONS = frozenset({"VAR", "LET", "EXE", "POLICY", "AUTH", "GUARD", "HOOK", "FILE", "FILES"})
_NO_FUNCTIONS = "mlld has no anonymous functions"
_NAME_IT = "name it: exe @name(x) = …, or loop: for @x in @xs => …"


def _statement_word(place: Place) -> Said | None:
    """A statement that begins with a word which is none."""
    if place.first != "WORD":
        instead = None if place.index else habits.of_statement(place.text(), place.line)
        return Said("habit", f"{place.text()} is not a statement of mlld", instead) if instead else None
    first, after = place.tokens[0], place.tokens[1] if len(place.tokens) > 1 else ("END", None, 0, 0)
    word = str(first[1])
    if after[0] == "ASSIGN":
        return Said("missing-at", f"{word} has no @, and no word that declares it", f"write var @{word} = …")
    if after[0] == "AUGMENT":
        return Said("missing-at", f"{word} has no @", f"write @{word} += …")
    if instead := habits.of_statement(word, place.line):
        return Said("habit", f"{word} is not a statement of mlld", instead)
    if near := nearest(word, STATEMENT_WORDS):
        return Said("unknown-statement", f"{word} is not a statement", f"did you mean {near}?")
    if after[0] in ("LPAR", "CALL") and after[2] == first[3]:
        return Said("missing-at", f"{word} has no @", f"write @{word}(…)")
    return Said("prose", habits.NOT_ALLOWED, habits.PROSE_HINT)


def _equals(place: Place) -> Said | None:
    if place.kind() == "ASSIGN" and place.kind(-1) in ("EQ", "ASSIGN") and place.touches():
        mark = place.text(-1) if place.kind(-1) == "EQ" else "=="
        return Said("comparison", f"{mark}= is written {mark}", f"write {mark} to compare", back=1)
    if place.kind() == "ASSIGN" and place.first in ("WHEN", "IF", "FOR", "SHOW", "LOOP"):
        return Said("assignment", "= assigns, it does not compare", "write == to compare")
    if place.kind() == "EQ" and place.text() == "==" and "ASSIGN" in place.expected:
        return Said("comparison", "== compares, it does not assign", "write = to assign")
    if place.kind() == "AUGMENT" and place.first in ("VAR", "POLICY", "EXE"):
        name = place.text(-1)
        return Said("assignment", "+= adds to a name that is there already", f"write = here, or {name} += … alone")
    return None


def _marks(place: Place) -> Said | None:
    """Operators of other languages, which the lexer took for two of ours."""
    two = place.text(-1) + place.text() if place.touches() else ""
    if two in ("++", "--") and place.kind(-2) == "AT":
        return Said("habit", f"there is no {two}", f"write {place.text(-2)} {two[0]}= 1", back=1)
    if two == "->" and "ARROW" in _expected_before(place, 1):
        return Said("habit", "-> is written =>", "write =>", back=1)
    if two in ("->", "|>", "<>"):
        instead = {"->": "@x.name for a field", "|>": "| @stage", "<>": "!="}[two]
        return Said("habit", f"there is no {two}", f"write {instead}", back=1)
    if place.kind(-1) == "ANY" and place.text(-2) == "*":
        return Said("habit", "there is no **", "multiply by * as often as needed", back=2)
    return None


def _expected_before(place: Place, back: int) -> frozenset[str]:
    """Marks that could have stood some tokens before, as far as the statement's head says."""
    before = place.before()[: place.index - back]
    return frozenset({"ARROW"}) if {"FOR", "WHEN", "CASES", "IF"} & set(before) else frozenset()


def _missing_at(place: Place) -> Said | None:
    before = place.at(place.index - 1)
    if place.kind() == "ASSIGN" and before[0] == "WORD":
        inside = place.opener()
        if inside == "LBRACE":
            return Said("habit", "an object holds key: value pairs", f"write {before[1]}: …")
        if inside in ("CALL", "LPAR"):
            return Said("named-argument", "arguments are told apart by their order", "write the value alone")
    if place.kind() in ("ASSIGN", "LPAR") and before[0] in ("LABEL", "WORD"):
        told = {"VAR": "missing '@' before variable name in var directive",
                "EXE": "invalid exe syntax. Variable names must start with '@'"}.get(place.head)  # fmt: skip
        return Said(
            "missing-at", f"{told}: {before[1]}" if told else f"{before[1]} has no @", f"write @{before[1]}", back=1
        )
    if place.kind(-1) == "PIPE" and place.kind() == "WORD":
        return Said("missing-at", "pipeline filters require the @ prefix.", f"write | @{place.word}")
    if place.kind() in ("WORD", "LABEL") and "AT" in place.expected and not place.expected >= VALUE:
        known = [KEYWORDS[token] for token in place.expected if token in KEYWORDS]
        if place.kind(-1) == "FROM" or place.word.startswith("."):
            return Said("missing-quotes", f"{place.word} is no module", f'write "{place.word}" for a file')
        if place.first == "FOR" and place.word == "each":
            return Said("habit", "for each is written for", "write for @x in @xs")
        if place.kind(-1) == "FOR":
            kind = "for" if place.first == "FOR" else "for expression"
            return Said("missing-at", f"invalid {kind} syntax. A name needs @: {place.word}", f"write @{place.word}")
        if place.kind(-1) == "AS" and place.first == "IMPORT":
            return Said(
                "missing-at", f"import aliases must include '@'. Use 'as @{place.word}'", f"write as @{place.word}"
            )
        if not nearest(place.word, known):
            return Said("missing-at", f"{place.word} has no @", f"write @{place.word}")
    return None


def _connective(place: Place) -> Said | None:
    """`@a and @b`, `if @x then [ … ]`, `for @x in @xs: …`: a word or mark between a value and what follows."""
    word = place.text() if place.kind() in ("WORD", "IF", "COLON", "SHOW", "LABEL") else ""
    if word in habits.CONNECTIVES and "PIPE" in place.expected:
        mark = habits.CONNECTIVES[word]
        return Said("habit", f"{word} is written {mark}", f"write {mark}")
    if word == "then":
        return Said(
            "habit", "then is not written", "write if @condition [ … ], or @condition ? this : that for a value"
        )
    if word in ("elif", "elsif", "elseif") and "ELSE" in place.expected:
        return Said("habit", f"{word} is written else if", "write else if")
    if "WHERE" in place.expected and word in ("if", "where"):
        return Said("habit", f"{word} in a for is written when", "write for @x in @xs when @condition => …")
    if "ARROW" in place.expected and place.expected & {"BLOCK", "CASES"} and word in (":", "do", "show"):
        return Said("missing-arrow", no_arrow(place, word), ARROWS)
    if word == ":" and {"CASES", "WHEN"} & set(place.before()) and "PIPE" in place.expected:
        return Said("habit", "a case is written with =>", "write condition => action")
    if word == "if" and "PIPE" in place.expected:
        return Said("habit", "if comes before what it chooses", "write @condition ? this : that")
    if word == "into" and "TO" in place.expected:
        return Said("habit", "into is written to", "write to")
    return None


def _before_value(place: Place) -> Said | None:
    """`not @x`, `await @f()`: a word was taken for the value before this one."""
    word = place.text(-1)
    if place.kind(-1) == "WORD" and word in habits.BEFORE_VALUE and place.kind() in VALUE_STARTS:
        message, hint = habits.BEFORE_VALUE[word]
        return Said("habit", message, hint.format(next=place.text()), back=1)
    if place.kind(-1) == "WORD" and word == "case" and "CASES" in place.before():
        return Said("habit", "a case has no word before it", "write condition => action", back=1)
    if place.kind() == "LBRACE" and place.kind(-1) == "WORD":
        if word == "prose":
            return Said("prose-config", "prose blocks require a config reference", "write prose:@config { … }", back=1)
        if near := nearest(word, [*LANGUAGES, "cmd"]):
            return Said("unknown-language", f"{word} is no language", f"did you mean {near}?", back=1)
        if place.first in ("EXE", "RUN", "VAR", "LET"):
            return Said(
                "unknown-language", f"{word} is no language", "write sh, js, node, py or cmd before { … }", back=1
            )
    return None


def _touching_texts(place: Place) -> Said | None:
    """`"he said "hi""`, `f"{x}"`, three quotes, `1_000`."""
    before = place.kind(-1)
    if not place.touches():
        return None
    if place.kind() == "STRING" and before == "STRING":
        return Said("habit", "texts over several lines stand in backticks", "write `…`", back=1)
    if place.kind() in ("STRING", "T_OPEN") and before == "WORD":
        return Said("habit", f"there is no {place.text(-1)} before a text", 'every "…" and `…` fills in @name', back=1)
    if before in ("STRING", "T_CLOSE") and place.kind() in ("WORD", "AT", "NUMBER"):
        return Said(
            "unescaped-quote", "a quote inside the text ended it", 'write \\" for the quote, or `…` around the text'
        )
    if before == "NUMBER" and place.kind() == "WORD":
        number = place.text(-1) + place.text()
        return Said("number", f"{number} is not a number", "write numbers with digits and one point: 1000, 0.5", back=1)
    return None


def _near_keyword(place: Place) -> Said | None:
    """`import { @a } form "x"`, `guard @g befor secret`."""
    if place.kind() not in ("WORD", "LABEL"):
        return None
    known = [KEYWORDS[token] for token in place.expected if token in KEYWORDS]
    known += ["before", "after", "always"] if "TIMING" in place.expected else []
    if place.word == "of" and "IN" in place.expected:
        return Said("habit", "for … of is written for … in", "write in")
    if near := nearest(place.word, known):
        return Said("unknown-word", f"unexpected {place.word}", f"did you mean {near}?")
    return None


def _braces(place: Place) -> Said | None:
    if place.kind() == "LBRACE" and place.expected & {"BLOCK", "CASES"} and place.first in _BLOCK_HEADS:
        return Said("habit", "a block is written in square brackets", "write [ … ]")
    if place.kind(-1) == "LBRACE" and place.kind() in ("ARROW", "LET", "VAR", "IF", "FOR", "WHEN", "RUN"):
        return Said("habit", "a block is written in square brackets", "write [ … ]", back=1)
    bare = "use cmd { … } for commands or data { … } for objects."
    if place.kind(-2) == "LBRACE" and place.kind(-1) in ("WORD", "STRING") and place.kind() in VALUE_STARTS | {"WORD"}:
        if place.kind() in ("NUMBER", "TRUE", "FALSE", "NULL", "LBRACK"):
            return Said("missing-colon", f"a colon is missing behind {place.text(-1)}", "write key: value")
        if place.first in ("EXE", "VAR", "LET", "SHOW"):
            return Said("bare-braces", bare, "write cmd { … }, or key: value for an object")
    if place.kind(-1) == "PIPE" and place.kind() == "LBRACE":
        return Said("bare-braces", bare, "write | cmd { … }")
    key = place.kind(-2) == "COMMA" and place.kind(-1) in ("WORD", "STRING") and place.opener() == "LBRACE"
    if key and place.kind() in VALUE_STARTS:
        return Said("missing-colon", f"a colon is missing behind {place.text(-1)}", "write key: value")
    return None


def _arrow_function(place: Place) -> Said | None:
    if place.kind() == "ARROW" and "IN" in place.expected:
        kind = "directive" if place.first == "FOR" else "expression"
        return Said("missing-word", f"missing 'in' in for {kind}", f"write for {place.text(-1)} in @list => …")
    if place.kind() == "ARROW" and place.expected & {"RPAR", "COMMA"} and place.kind(-1) in ("WORD", "RPAR", "AT"):
        return Said("habit", _NO_FUNCTIONS, _NAME_IT)
    if place.kind() == "ARROW" and place.kind(-1) == "WORD" and place.first in ("VAR", "LET", "EXE"):
        return Said("habit", _NO_FUNCTIONS, _NAME_IT)
    if place.kind() == "COMMA" and place.opener() == "LPAR" and "ASSIGN" in place.before():
        return Said("habit", "parentheses hold one value", "write [a, b] for a list; a function is exe @name(a, b) = …")
    if place.kind() == "ARROW" and place.first == "EXE" and "ASSIGN" not in place.before():
        return Said("habit", "a function is defined with =", "write exe @name(a) = …")
    return None


def _cases_or_statements(place: Place) -> Said | None:
    """`when @x [ let @y = 1  => @y ]`: the brackets hold cases, and were meant as a block."""
    before = place.before()
    if place.kind() == "ARROW" and "CASES" in before:
        case = before[len(before) - before[::-1].index("CASES") :]
        if case[:1] in (["LET"], ["VAR"]):
            hint = "write when @condition => [ … ] for a block"
            return Said("syntax", "a statement where a case begins is ambiguous", hint)
    return None


def _missing_when(place: Place) -> Said | None:
    """`guard @g before secret = [ * => allow ]`, `if [ show 1 ]`."""
    if place.first == "GUARD" and place.kind() == "ARROW" and place.opener() == "LBRACK":
        return Said("missing-when", "the cases of a guard belong to a when", "write = when [ … ]")
    if place.first == "GUARD" and place.kind() == "ASSIGN" and "TIMING" in place.expected:
        return Said("missing-filter", "the guard does not say what it looks at", "write guard @name before LABEL = …")
    heads = ("IF", "UNTIL", "WHILE")
    opened = [i for i, kind in enumerate(place.before()) if kind == "LBRACK"]
    if opened and place.tokens[opened[-1] - 1][0] in heads and place.opener() == "LBRACK":
        word = KEYWORDS[place.tokens[opened[-1] - 1][0]]
        return Said("missing-condition", f"{word} has no condition", f"write {word} @condition [ … ]")
    return None


def _missing_value(place: Place) -> Said | None:
    """A statement that ends where its value should be."""
    if place.kind() != "END" or not place.index:
        return None
    before = place.text(-1).split("\n")[0]
    bare = place.index == 1 and place.first in ("IMPORT", "FILE", "FILES")
    if bare or place.kind(-1) in ("TO", "FROM") or place.expected >= VALUE:
        return Said("missing-value", after_which_nothing(place.head, before), "write the value on the same line")
    if place.expected & {"BLOCK", "CASES"} and place.first in ("IF", "FOR", "WHEN", "LOOP", "BOX"):
        word = KEYWORDS[place.first]
        told = f"there is nothing for the {word} to do"
        if place.first in NO_BODY:
            told = NO_BODY[place.first]
        elif place.first == "FOR":
            told = f"{no_arrow(place)}: {told}"
        elif place.first == "BOX":
            told = f"{word} requires a block: {told}"
        return Said("missing-block", told, "write => and an action, or [ … ]")
    return None


def _missing_block(place: Place) -> Said | None:
    if place.head == "BOX" and "BLOCK" in place.expected and place.kind() != "END":
        spelled = next(place.text(-back) for back in range(1, place.index + 1) if place.kind(-back) == "BOX")
        return Said(
            "missing-block", f"{block_wanted(spelled)}, before {described(place)}", f"write {spelled} @config [ … ]"
        )
    if place.first == "NEEDS" and "LBRACE" in place.expected and place.index == 1:
        listed = ", ".join(place.line.split("needs", 1)[-1].replace(",", " ").split())
        told = "multiple capabilities in needs require braces" if "," in listed else "what needs lists stands in braces"
        return Said("missing-braces", told, f"write needs {{ {listed} }}")
    if place.kind(-1) == "ELSE" and "BLOCK" in place.expected:
        return Said("missing-block", "what else does stands in brackets", "write else [ … ]")
    if place.first == "LOOP" and "BLOCK" in place.expected and place.kind(-1) == "LOOP":
        limit = "endless" if nearest(place.text(), ("endless", "forever", "always")) else place.text()
        told = "missing '(' after loop keyword" if place.kind() == "NUMBER" else "loop requires a block"
        return Said("habit", f"{told}: the limit of a loop stands in parentheses", f"write loop({limit}) [ … ]")
    if place.first == "FOR" and place.kind(-1) == "NUMBER" and "PARALLEL" in place.expected:
        return Said("habit", "a number before for's name is no limit", f"write for parallel({place.text(-1)}) @x in …")
    if place.first == "WHILE" and place.kind() == "AT":
        return Said("habit", "a block is repeated by loop", "write loop(100) until @done [ … ]")
    if place.kind() == "IN" and place.first == "FOREACH":
        return Said("habit", "foreach calls a function for each element", "write for @x in @xs => …")
    if place.first == "FOR" and place.kind() in ("LET", "VAR") and place.kind(-1) == "LPAR":
        return Said("habit", "a for goes over the elements of a list", "write for @x in @xs [ … ], or loop(10) [ … ]")
    if place.text() == "for" and place.opener() in ("LBRACK", "BLOCK"):
        return Said("habit", "a loop that makes a list has no brackets", "write for @x in @xs => @x")
    return None


def _ternary(place: Place) -> Said | None:
    if place.kind() == "PIPE" and "COLON" in place.expected and "TERN" in place.before():
        hint = "name the result first: var @piped = @value | @stage"
        return Said("syntax", "pipe inside ternary branches is not supported yet.", hint)
    if place.kind() == "END" and "COLON" in place.expected and "TERN" in place.before():
        return Said("missing-colon", "the other branch is missing", "write @condition ? this : that")
    return None


def _block_in_list(place: Place) -> Said | None:
    """`@f([let @x = 1 => @x])`, `[@a, let @b = 1]`: a block where only a list can be."""
    if place.kind() in ("LET", "VAR") and "RBRACK" in place.expected:
        what = "an argument" if "CALL" in place.before()[-2:] else "an element of a list"
        message = f"{place.text()} begins a block, and a block cannot be {what}"
        return Said("block-in-list", message, "give the block a name first, with var or let, and write that name")
    return None


def _two_values(place: Place) -> Said | None:
    """`show @a @b`, `@f 1`, `@f(a: 1)`."""
    value = place.kind() in VALUE_STARTS | {"WORD"}
    if place.first in ("SHOW", "LOG") and (value or place.kind() == "COMMA") and "END" in place.expected:
        word = KEYWORDS[place.first]
        return Said("two-values", f"{word} accepts only a single argument", f"join them in a template: {word} `@a @b`")
    if place.index == 1 and place.first == "AT" and value:
        return Said("missing-parentheses", "arguments stand in parentheses", f"write {place.text(-1)}(…)")
    if place.kind() == "COLON" and place.opener() == "CALL":
        hint = "write the value alone, or { key: value } for an object"
        return Said("named-argument", "arguments are told apart by their order", hint)
    return None


def _declaration(place: Place) -> Said | None:
    """What stands where only `=` can: a type, a second name, a field, or the value itself."""
    if place.first not in _DECLARATIONS or place.kind(-1) in ("EQ", "ASSIGN"):
        return None
    if place.index == 1 and place.kind() in ("LBRACK", "LBRACE") and place.first in ("VAR", "LET"):
        return Said("habit", "one name is declared at a time", "write var @a = @list[0] and var @b = @list[1]")
    if "ASSIGN" not in place.expected or place.expected >= VALUE or place.expected & {"RPAR", "PIPE"}:
        return None
    if place.kind() in ("PARAMS", "LPAR", "CALL") and place.first == "VAR":
        return Said("var-function", "cannot define executables with var", f"write exe {place.text(-1)}(…) = …")
    if place.kind() == "DOT" and place.first == "EXE" and place.index == 2:
        told = (
            "executables cannot be defined with nested field syntax. Each executable must be defined at the top level"
            " with its own name."
        )
        return Said(
            "nested-function",
            told,
            f"write exe @{place.word}(…), and hold it in an object: {{ {place.word}: @{place.word} }}",
        )
    match place.kind():
        case "COLON":
            return Said("habit", "names have no types", f"write {place.text(-1)} = …")
        case "DOT" | "LBRACK" | "INDEX" if place.touches() and place.first in ("VAR", "LET"):
            hint = f"make a new one: var @changed = {{ ...{place.text(-1)}, key: value }}"
            return Said("habit", "a part of a value cannot be assigned", hint)
        case "AT":
            return Said("habit", "one name is declared at a time", f"write {place.text()} on a line of its own")
        case "WORD" | "LABEL" if place.kind(-1) == "AT":
            return Said("bad-name", "a name has no spaces", f"write {place.text(-1)}_{place.text()}")
        case "COMMA":
            return None
        case "END" if place.index < 2 or place.head not in ("VAR", "EXE", "FILE", "FILES"):
            return None
    no_equals = {
        "VAR": f"invalid var syntax. Expected '=' after variable name '{place.text(-1)}'",
        "EXE": "invalid exe syntax. Expected '=' after parameters",
        "FILE": 'missing "=" in file directive',
        "FILES": 'missing "=" in files directive',
    }
    message = f"{no_equals.get(place.head, '= is missing')}, before {described(place)}"
    return Said("missing-equals", message, f"write {KEYWORDS[place.head or place.first]} … = …")


def _imports(place: Place) -> Said | None:
    if place.first == "IMPORT":
        if place.kind() == "FROM" and place.kind(-1) == "AT":
            return Said(
                "habit", "imported names stand in braces", f"write import {{ {place.text(-1)} }} from …", back=1
            )
        if place.text() == "*":
            told = "wildcard imports require an alias: everything is imported under a name"
            return Said("habit", told, 'write import "file.mld" as @name')
        if place.kind(-1) == "RBRACE" and "FROM" in place.expected and not nearest(place.text(), ["from"]):
            origin = "" if place.kind() == "END" else f" {place.text()}"
            return Said("missing-word", "missing 'from' keyword in import directive", f"write from{origin}")
    if place.first == "EXPORT" and place.index == 1:
        name = place.text() if place.kind() == "AT" else "@name"
        told = "missing export list in export directive" if place.kind() == "END" else "invalid export syntax"
        return Said(
            "habit", f"{told}: names stand in braces", f"write export {{ {name} }}, for what is declared elsewhere"
        )
    if (
        place.first in ("OUTPUT", "APPEND")
        and "TO" in place.expected
        and (place.kind() in ("STRING", "AT", "END") or place.text() in ("stdout", "stderr"))
    ):
        word = KEYWORDS[place.first]
        told = (
            "syntax error in output: missing 'to' keyword"
            if word == "output"
            else f'missing "to" keyword in {word} directive'
        )
        if place.kind() == "END" and word == "output" and place.index == 1:
            told = "missing content in output directive"
        return Said("missing-word", told, f'write {word} @value to "file"')
    return None


def _comma(place: Place) -> Said | None:
    if place.kind() in ("KEY", "KEYOPT") and "COMMA" in place.expected:
        return Said("missing-comma", f"a comma is missing before {place.word}", "separate entries with commas")
    if place.kind() == "COMMA" and "END" in place.expected and place.opener() == "BLOCK":
        return Said(
            "extra-comma", "comma separators are not allowed in block statements", "write one statement per line, or ;"
        )
    if place.kind() == "COMMA" and "END" in place.expected and place.first in ("VAR", "LET", "EXE"):
        return Said("extra-comma", "a comma separates nothing here", "write [1, 2] for a list, 1.5 for a number")
    if place.kind() == "COMMA" and place.kind(-1) in ("COMMA", "CALL", "LBRACK", "LBRACE"):
        return Said("extra-comma", "there is nothing before this comma", "remove it, or write null")
    separated = "COMMA" in place.expected and place.opener() in ("PARAMS", "LBRACK", "CALL", "LBRACE")
    if separated and place.kind() in VALUE_STARTS | {"WORD"}:
        return Said("missing-comma", f"a comma is missing before {described(place)}", "separate them with commas")
    return None


_HABITS: tuple[Habit, ...] = (
    _statement_word,
    _equals,
    _marks,
    _missing_when,
    _arrow_function,
    _braces,
    _touching_texts,
    _before_value,
    _connective,
    _imports,
    _missing_block,
    head_of_loop,
    _cases_or_statements,
    _ternary,
    _missing_value,
    _block_in_list,
    _two_values,
    _missing_at,
    _near_keyword,
    _declaration,
    _comma,
)
