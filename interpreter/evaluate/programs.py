"""The texts that are handed to a shell, to Node and to Python: command lines with quoted values, code with its arguments."""

from __future__ import annotations

import json
import re
import shlex
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from interpreter import nodes as n
from interpreter import values_text as vt
from interpreter.code_javascript import PRELUDE
from interpreter.errors import EvaluationError
from interpreter.labels import NONE, Labels, joined
from interpreter.ports import ScriptFunction
from interpreter.source import Span
from interpreter.values import Undefined, Value, strip, truthy, type_name

from . import metadata
from .core import Env, evaluate
from .functions import Function
from .lookup import Missing
from .scope import Scope
from .templates import part_value

# A program says what its body returned after this mark, behind everything that it printed.
MARK = "\x1emlld:"
IDENTIFIER = re.compile(r"[A-Za-z_$][\w$]*")


class CommandLine:
    """Builds a POSIX command line: literal text as written, values quoted for the place where they stand.

    The quoting state is followed through the literal text, so that `"Hello @name"` and `@name` both end up as one word that says
    exactly what the value says.
    """

    __slots__ = ("escaped", "labels", "pieces", "quote", "words")

    def __init__(self) -> None:
        self.pieces: list[str] = []
        self.labels: list[Labels] = []
        self.quote: str | None = None
        self.escaped = False  # is there a word of JSON with a backslash, which the `echo` of some shells would decode?

    def literal(self, text: str, span: Span) -> None:
        at = 0
        while at < len(text):
            char = text[at]
            if self.quote == "'":
                if char == "'":
                    self.quote = None
            elif char == "\\":
                at += 1
            elif self.quote == '"':
                if char == '"':
                    self.quote = None
            elif char in "'\"":
                self.quote = char
            else:
                refuse_operator(text, at, span)
            at += 1
        self.pieces.append(text)

    def value(self, value: Value) -> None:
        if value.labels is not NONE:
            self.labels.append(value.labels)
        if flat_list(value):
            if self.quote is None:
                self.pieces.append(" ".join(shlex.quote(vt.text(item)) for item in value.items()))
                return
            text = " ".join(vt.text(item) for item in value.items())
        else:
            text = vt.to_json(value) if isinstance(value.data, list | dict) else vt.text(value)
        text = text.replace("\0", "")
        if self.quote is None:
            self.escaped = self.escaped or ("\\" in text and text[:1] in ("{", "["))
            self.pieces.append(shlex.quote(text))
        elif self.quote == '"':
            self.pieces.append(re.sub(r'([\\$`"])', r"\\\1", text))
        else:
            self.pieces.append(text.replace("'", "'\\''"))

    def text(self) -> str:
        return "".join(self.pieces)


def flat_list(value: Value) -> bool:
    """A list that a command takes as words."""
    return isinstance(value.data, list) and not any(isinstance(strip(item), list | dict) for item in value.data)


def refuse_operator(text: str, at: int, span: Span) -> None:
    """`cmd` knows pipes and nothing else of the shell: an operator is more often an injection or a slip than meant."""
    for operator in ("&&", "||", ";", ">>", ">", "<", "&"):
        if text.startswith(operator, at):
            if operator in (">", "<", ">>") and (
                at and text[at - 1] in "0123456789&" and text[at + 1 : at + 2] in ("&", "/")
            ):
                return  # 2>&1, 2>/dev/null
            if operator == "&" and (at and text[at - 1] == ">"):
                return
            raise EvaluationError(
                f"Shell operator `{operator}` is not allowed in cmd {{…}}: it runs one command, or a pipe of them",
                span=span, code="shell-operator", hint=f"use `sh {{ … {operator} … }}`, or quote the character",
            )  # fmt: skip


async def command_line(node: n.Command, env: Env) -> tuple[str, Labels, bool]:
    """The text of a command, its labels, and whether it hands JSON with escapes to an `echo`."""
    line = CommandLine()
    await _parts(node.parts, env, line)
    echoes = line.escaped and any(isinstance(part, n.Text) and "echo" in part.text for part in node.parts)
    return textwrap.dedent(line.text()).strip(), joined(line.labels), echoes


async def _parts(parts: Sequence[n.Node], env: Env, line: CommandLine) -> None:
    for part, behind in zip(parts, (*parts[1:], None), strict=True):
        if isinstance(part, n.Text):
            line.literal(part.text, part.span)
        elif isinstance(behind, n.Text) and behind.text.startswith("(") and is_function(part, env):
            line.literal(part.span.text, part.span)  # commands do not call: `@f(1)` is text, and so it stays whole
        elif isinstance(part, n.Conditional):
            await _conditional(part, env, line)
        else:
            value = await part_value(part, env)
            if not isinstance(value.data, Undefined):
                line.value(value)


def is_function(part: n.Node, env: Env) -> bool:
    found = env.scope.peek(part.name) if isinstance(part, n.Variable) else None
    return found is not None and isinstance(found.data, Function)


async def _conditional(part: n.Conditional, env: Env, line: CommandLine) -> None:
    try:
        value = await evaluate(part.value, env)
    except Missing:
        return
    if not truthy(value):
        return
    if isinstance(part.then, n.Template):
        # What is written in the fragment is command text; what is interpolated in it is a value.
        if value.labels is not NONE:
            line.labels.append(value.labels)
        await _parts(part.then.parts, env, line)
    elif part.then is not None:
        line.literal(vt.text(await evaluate(part.then, env)), part.span)
    else:
        line.value(value)


# ── Code ────────────────────────────────────────────────────────────────────────────────────────────


def identifiers(text: str) -> frozenset[str]:
    return frozenset(IDENTIFIER.findall(text))


def around(text: str, env: Env, without: Mapping[str, Any]) -> dict[str, Value]:
    """Values of the scope that the code names without having them as parameters."""
    wanted = identifiers(text)
    found: dict[str, Value] = {}
    scope: Scope | None = env.scope
    while scope is not None:
        for name in scope.names.keys() & wanted:
            if name not in found and name not in without:
                found[name] = scope.settled(name, scope.names[name])
        scope = scope.parent
    return found


def shell_variable(value: Value) -> str:
    """Text as it is; of a list that the script made each element on a line; what was read or answered is its JSON."""
    if value.data is None or isinstance(value.data, Undefined):
        return ""
    if isinstance(value.data, list) and not vt.is_answer(value):
        text = "\n".join(map(shell_variable, value.items()))
    else:
        text = vt.text(value)
    return text.replace("\0", "")


def argument(value: Value) -> Any:
    """What JavaScript gets for a value: its data; for `@file.keep` an object of its data, its text and its metadata, of
    several files one for each.
    """
    if value.meta is None or not value.meta.get("keep"):
        return vt.to_plain(value)
    if "each" in value.meta and isinstance(value.data, list):
        return [argument(item) for item in value.items()]
    kind = "text" if isinstance(value.data, str) else type_name(value)
    about = metadata.about(value)
    return {"type": kind, "text": vt.text(value), "data": vt.to_plain(value), "mx": about}


def texts(values: Mapping[str, Value]) -> dict[str, str]:
    """The texts of those values that are structures and were read from text: what they say where they are used as text."""
    return {
        name: str(value.meta["text"])
        for name, value in values.items()
        if value.meta is not None
        and "text" in value.meta
        and "keep" not in value.meta
        and isinstance(value.data, list | dict)
    }


def shell_program(text: str, values: Mapping[str, Value]) -> tuple[str, dict[str, str]]:
    """The script and the variables for it; long ones are assigned in the text, where length does not matter."""
    environment: dict[str, str] = {}
    head: list[str] = []
    for name, value in values.items():
        if not name.isidentifier():
            continue
        content = shell_variable(value)
        if len(content) > 60_000:
            head.append(f"{name}={shlex.quote(content)}")
        else:
            environment[name] = content
    body = textwrap.dedent(text).strip("\n")
    return ("\n".join([*head, body]) if head else body), environment


def python_program(text: str, values: Mapping[str, Value], functions: Sequence[ScriptFunction]) -> str:
    """Python that runs the body as a function of its arguments, so that `return` works and line numbers stay right."""
    plain = {name: vt.to_plain(value) for name, value in values.items() if name.isidentifier()}
    helpers = [[f.name, list(f.parameters), dedent(f.body)] for f in functions]
    return PYTHON.format(
        body=ascii(dedent(text)), names=ascii(list(plain)), values=ascii(json.dumps(list(plain.values()))),
        helpers=ascii(helpers), mark=ascii(MARK),
    )  # fmt: skip


def dedent(text: str) -> str:
    first, newline, rest = text.partition("\n")
    if not newline:
        return text.strip()
    return f"{first.strip()}\n{textwrap.dedent(rest)}" if first.strip() else textwrap.dedent(rest).rstrip()


PYTHON = """\
import ast as _a, json as _j, sys as _s, types as _t
def _make(name, names, text, space):
    tree = _a.parse("def " + name + "(" + ", ".join(names) + "): pass")
    body = _a.parse(text, "<py>").body
    if len(body) == 1 and isinstance(body[0], _a.Expr) and name != "_body":
        body = [_a.Return(body[0].value)]
    for stmt in [s for top in body for s in _a.walk(top)]:
        # A function of the script as a statement of its own: what it prints is printed, not taken.
        call = stmt.value if isinstance(stmt, _a.Expr) else None
        if isinstance(call, _a.Call) and isinstance(call.func, _a.Name) and call.func.id in _printed:
            stmt.value = _a.Call(_a.Name("_said", _a.Load()), [_a.Constant(call.func.id), call], [])
    tree.body[0].body = body or tree.body[0].body
    _a.fix_missing_locations(tree)
    exec(compile(tree, "<py>", "exec"), space)
    return space[name]
_printed = {{}}
def _said(name, result):
    if _printed[name]: print(_printed[name])
class _Marks:
    # What `mlld` asks about; texts and numbers carry no marks: the name of a parameter says that one is meant.
    __mlld_is_variable__, __mlld_subtype__ = True, None
    def __init__(self, *a):
        super().__init__(*a)
        self.__mlld_metadata__ = {{"mx": {{"type": self.__mlld_type__}}}}
class MlldArray(_Marks, list):
    __mlld_type__ = "array"
class MlldObject(_Marks, dict):
    __mlld_type__ = "object"
    def __getattr__(self, name):
        if name.startswith("__"): raise AttributeError(name)
        return self.get(name)
def _mark(x):
    return MlldArray(x) if isinstance(x, list) else MlldObject(x) if isinstance(x, dict) else x
def _kind(x, name=None):
    return getattr(x, "__mlld_type__", None) or (name and ("simple-text" if isinstance(x, str) else "primitive"))
_space = {{"_said": _said, "__name__": "__main__", "mlld": _t.SimpleNamespace(
  is_variable=lambda x, name=None: hasattr(x, "__mlld_type__") or name in _names,
  get_type=_kind, get_subtype=lambda x, name=None: getattr(x, "__mlld_subtype__", None),
  get_metadata=lambda x, name=None: getattr(x, "__mlld_metadata__", {{"mx": {{"type": _kind(x, name)}}}} if name else {{}}))}}
for _n, _p, _b in {helpers}:
    _f = _make(_n, _p, _b, _space)
    def _wrap(f, name):
        import contextlib, io
        def call(*a, **k):
            out = io.StringIO()
            with contextlib.redirect_stdout(out):
                r = f(*a, **k)
            text = _printed[name] = out.getvalue().rstrip("\\n")
            if r is not None:
                if text: print(text)
                return r
            try: return _j.loads(text) if text else None
            except ValueError: return text
        return call
    _space[_n], _printed[_n] = _wrap(_f, _n), ""
_names, _values, _text = {names}, _j.loads({values}), {body}
try:
    _r = _make("_body", _names, _text, _space)(*map(_mark, _values))
except Exception as _error:
    # The lines of the body are told, and none of this program around it.
    import linecache as _l, traceback as _b
    _l.cache["<py>"] = (len(_text), None, _text.splitlines(True), "<py>")
    _told = _b.TracebackException.from_exception(_error)
    _told.stack = _b.StackSummary.from_list([f for f in _b.extract_tb(_error.__traceback__) if f.filename == "<py>"])
    _s.exit("".join(_told.format()).rstrip())
if _r is not None:
    _s.stdout.write({mark} + _j.dumps(_r, default=str))
"""


def node_program(
    text: str, values: Mapping[str, Value], ambient: Mapping[str, Any], functions: Sequence[ScriptFunction]
) -> str:
    """JavaScript for Node that runs the body as an async function of its arguments."""
    plain = {name: argument(value) for name, value in values.items()}
    given = list(values.values())
    while given and isinstance(given[-1].data, Undefined):  # what was not given is undefined, which JSON cannot say
        given.pop()
    helpers = [[f.name, list(f.parameters), f.body] for f in functions]
    return NODE.replace("$PRELUDE", PRELUDE).replace("$INPUT", json.dumps(json.dumps(
        {"body": text, "names": list(plain), "values": list(plain.values())[: len(given)],
         "texts": texts(values), "ambient": list(ambient),
         "around": list(ambient.values()), "helpers": helpers, "mark": MARK}
    )))  # fmt: skip


NODE = r"""
const { createRequire } = require('module');
const input = JSON.parse($INPUT);
const AsyncFunction = (async () => {}).constructor;
$PRELUDEconst helpers = input.helpers.map(([name, names, body]) => {
  const declared = (text) => `${/\bawait\b/.test(body) ? 'async ' : ''}function ${name}(${names.join(', ')}) {\n${text}\n}`;
  const whole = declared(answering(body));
  // One of them with a fault must not break bodies that never call it.
  try { new Function(whole); return whole; } catch (fault) {
    return declared(`throw new SyntaxError(${JSON.stringify(`${name}: ${fault.message}`)});`);
  }
}).join('\n');
const source = `${helpers}\nreturn async function (${input.names.join(', ')}) {\n${answering(input.body)}\n};`;
// A structure that is used as text says what it was read from.
const dress = (x, i) => {
  if (x !== null && typeof x === 'object') {
    mark(x);
    const said = input.texts[input.names[i]];
    Object.defineProperty(x, 'toString', { value: () => said ?? JSON.stringify(x), configurable: true, writable: true });
  }
  return x;
};
// What is printed is often read: structures are JSON, as in `js`.
const said = (x) => {
  if (x === null || typeof x !== 'object' || x instanceof Error) return x;
  try { return JSON.stringify(x, null, 2); } catch { return x; }
};
const log = console.log;
console.log = console.info = console.debug = (...x) => log(...x.map(said));
const here = createRequire(process.cwd() + '/');
(async () => {
  try {
    const make = new Function('require', '__dirname', ...input.ambient, source);
    const value = await make(here, process.cwd(), ...input.around)(...input.values.map(dress));
    // What the body left running, such as a timer, ends with it: it could only print behind its own answer.
    process.stdout.write(value === undefined ? '' : input.mark + JSON.stringify(value), () => process.exit());
  } catch (error) {
    // Where in this program around the body it was called is nothing that a script can mend.
    const told = String((error && error.stack) || error).split('\n').filter((line) => !/^ +at .*(\[eval\]|node:)/.test(line));
    process.stderr.write(told.join('\n') + '\n', () => process.exit(1));
  }
})();
"""


def split_result(stdout: str) -> tuple[str, Any, bool]:
    """What a program printed, what its body returned, and whether it returned anything."""
    printed, mark, returned = stdout.rpartition(MARK)
    if not mark:
        return stdout, None, False
    try:
        return printed, json.loads(returned), True
    except ValueError:
        return printed, returned, True
