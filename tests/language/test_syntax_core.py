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


def exe_body(text: str) -> object:
    (made,) = body(f"exe @f() = {text}")
    assert isinstance(made, n.Exe)
    return made.body


def test_square_brackets_are_a_list_or_a_block_by_what_they_hold() -> None:
    call = n.Call(function=n.Variable(name="g"))
    block = n.Block(body=(n.ExpressionStatement(value=call),))
    assert exe_body("[ @g() ]") == block
    assert exe_body("[\n  @g()\n]") == block
    assert exe_body("[\n  @g()\n  @g()\n]") == n.Block(body=block.body * 2)
    assert exe_body("[@g(), @g()]") == n.Array(items=(call, call))
    assert exe_body("[\n  @a\n]") == n.Array(items=(n.Variable(name="a"),))
    assert exe_body("[ => 1 ]") == n.Block(body=(n.Return(value=n.Literal(value=1)),))
    assert exe_body("[]") == n.Array()
    assert value("[ @g() ]") == n.Array(items=(call,))
    assert value("[ let @x = 1; => @x ]") == n.Block(
        body=(n.Let(name="x", value=n.Literal(value=1)), n.Return(value=n.Variable(name="x")))
    )


def test_a_heading_may_run_over_lines() -> None:
    one = body("for @x in @xs when @x.ok => show @x")
    assert body("for @x in @xs\n  when @x.ok\n  => show @x") == one
    assert body("var @y = @x\n  | @a\n  | @b") == body("var @y = @x | @a | @b")
    assert body("var @y = @x\n  .trim()\n  .length") == body("var @y = @x.trim().length")
    assert body("when [\n  @a\n    && @b\n    => 1\n]") == body("when [ @a && @b => 1 ]")
    assert body("if @a [ skip ]\nelse [ skip ]") == body("if @a [ skip ] else [ skip ]")


def test_cases_may_stand_on_one_line() -> None:
    assert value("when [ @a => 1  @b => 2  * => 3 ]") == value("when [\n  @a => 1\n  @b => 2\n  * => 3\n]")
    assert value("when [ @a => 1; * => 3 ]") == value("when [ @a => 1  * => 3 ]")


def test_words_are_only_keywords_where_they_mean_something() -> None:
    (made,) = body("var show @for = { show: 1, when: @in, if: { to: 2 } }")
    assert isinstance(made, n.Var)
    assert (made.name, made.labels) == ("for", ("show",))
    assert body("exe @f(to, from, with) = @to") == (
        n.Exe(
            name="f", parameters=tuple(n.Parameter(name=x) for x in ("to", "from", "with")), body=n.Variable(name="to")
        ),
    )


def test_a_batch_belongs_to_the_innermost_loop() -> None:
    (made,) = body("var @t = for @a in @x => for @b in @a => @b => | @sum")
    assert isinstance(made, n.Var)
    outer = made.value
    assert isinstance(outer, n.For)
    assert outer.batch == ()
    assert isinstance(outer.body, n.For)
    assert outer.body.batch == (n.Variable(name="sum"),)


def test_code_ends_at_its_own_brace() -> None:
    for text in (
        'js { return "}" }',
        "js { return `a ${b({})} }` }",
        "js { // don't }\n return 1 }",
        "js { return /[}]/.test(x) }",
        "sh { echo '}' \"}\" # it isn't }\n}",
        "sh {\ncat <<'EOF'\nit's { fine\nEOF\n}",
        "py { x = '''}''' # don't }\n}",
    ):
        made = body(f"exe @f() = {text}\nshow 1")
        assert len(made) == 2, text
        assert isinstance(made[0], n.Exe)
        assert isinstance(made[0].body, n.Code)
        assert made[0].body.text == text[text.index("{") + 1 : -1].rstrip()


def test_angle_brackets_in_text_are_files_only_where_they_look_like_files() -> None:
    assert value('@f("<<", ">>")') == n.Call(
        function=n.Variable(name="f"), arguments=(n.Literal(value="<<"), n.Literal(value=">>"))
    )
    assert value('"<<>><div>a < b</div>"') == n.Literal(value="<<>><div>a < b</div>")
    assert value("`<<a.md>>`") == n.Literal(value="<a.md>")
    assert value("`<a.md>`") == n.Template(quote="`", parts=(n.FileLoad(path=(n.Text(text="a.md"),)),))


def test_a_parameter_may_be_handed_on_without_its_at() -> None:
    for bare in ("@g(a, 1)", "[\n  let @y = @g(a, 1)\n  => @y\n]", "stream @g(a, 1)", "@g(a, 1) | @trim"):
        given, wanted = body(f"exe @f(a) = {bare}"), body(f"exe @f(a) = {bare.replace('(a', '(@a')}")
        assert given == wanted, bare
