"""The core of the language parses into the nodes that were meant."""

from __future__ import annotations

from interpreter import nodes as n
from interpreter.parser import parse_or_raise
from interpreter.source import Mode, Source


def body(text: str, mode: Mode = "strict") -> tuple[object, ...]:
    return parse_or_raise(Source(text=text), mode).body


def value(text: str) -> object:
    (statement,) = body(f"var @v = {text}")
    assert isinstance(statement, n.Var)
    return statement.value


def test_labels_and_interpolation() -> None:
    (made,) = body('var secret, pii @x = "hi @a.b!"')
    template = n.Template(
        quote='"',
        parts=(n.Text(text="hi "), n.Field(target=n.Variable(name="a"), name="b"), n.Text(text="!")),
    )
    assert made == n.Var(name="x", labels=("secret", "pii"), value=template)


def test_operators_bind_as_in_arithmetic() -> None:
    assert value("1 + 2 * 3 == 7 && !@x") == n.Binary(
        operator="&&",
        left=n.Binary(
            operator="==",
            left=n.Binary(
                operator="+",
                left=n.Literal(value=1),
                right=n.Binary(operator="*", left=n.Literal(value=2), right=n.Literal(value=3)),
            ),
            right=n.Literal(value=7),
        ),
        right=n.Unary(operator="!", operand=n.Variable(name="x")),
    )


def test_a_document_keeps_its_prose_in_place() -> None:
    made = body("# Title\n/show `a`\ntext @x stays\n", "document")
    assert made == (n.Text(text="# Title\n"), n.Show(value=n.Literal(value="a")), n.Text(text="text @x stays\n"))


def test_options_behind_a_block_are_those_of_the_function() -> None:
    (made,) = body('exe @f() = [ => 1 ] with { description: "d" }')
    assert isinstance(made, n.Exe)
    assert made.options == n.Object(entries=(n.Entry(key="description", value=n.Literal(value="d")),))
