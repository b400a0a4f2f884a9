"""JavaScript that every engine of `js { … }` and `node { … }` reads first.

`answering(body)` gives the body with a `return` in front of its last statement, if that is an expression and the body
has no `return` of its own. A body of one statement that ends with `;` is a command, and answers nothing. Only the
engine's parser knows where statements begin, so it is asked: a tail counts if it stands as an expression in parentheses
and what is before it stands as a body. Functions inside may have `return`s; a class's static block, where `return` is a
syntax error, tells those from the body's own.

`mark(x)` makes an argument answer to `__mlld_type` and the like, which `mlld` asks about: `mlld.isVariable(x)`,
`mlld.getType(x)`. Texts and numbers carry no marks: a second argument, the name of a parameter, says that one is meant.
"""

from __future__ import annotations

PRELUDE = r"""
const answering = (() => {
  const Body = (async () => {}).constructor;
  const stands = (text) => { try { new Body(text); return true; } catch { return false; } };
  const returns = (body) => /\breturn\b/.test(body) && !stands(`class Fence { static {\n${body}\n} }`);
  const bare = (tail) => tail.replace(/(?:\s|\/\/[^\n]*(?=\n|$))+$/, "").replace(/;$/, "");
  const follows = (head) => head.replace(/\/\/[^\n]*|\/\*[^]*?\*\//g, "").trim() !== "" && stands(head);
  const isExpression = (tail) => tail.trim() !== "" && stands(`return (\n${tail}\n)`);
  return (body) => {
    if (returns(body)) return body;
    if (isExpression(body)) return `return (\n${body}\n)`;
    const starts = [...body.matchAll(/[;\n]/g)].map((m) => m.index + 1);
    let found = null;
    for (const start of starts.reverse()) {
      const tail = bare(body.slice(start));
      if (isExpression(tail) && follows(body.slice(0, start))) found = `${body.slice(0, start)}return (\n${tail}\n)`;
      else if (found !== null) break;
    }
    return found ?? body;
  };
})();
const mark = (x) => {
  const type = Array.isArray(x) ? "array" : "object";
  const about = { type, is_variable: true, metadata: { mx: { type } } };
  for (const [name, value] of Object.entries(about)) {
    if (!(`__mlld_${name}` in x)) Object.defineProperty(x, `__mlld_${name}`, { value, enumerable: false, configurable: true });
  }
};
const mlld = Object.freeze({
  TYPE: "__mlld_type", SUBTYPE: "__mlld_subtype", METADATA: "__mlld_metadata", VARIABLE: "__mlld_variable",
  isVariable: (x, name) => (x !== null && typeof x === "object" ? x.__mlld_is_variable === true : name !== undefined),
  getType: (x, name) => (x !== null && typeof x === "object" ? x.__mlld_type
    : name === undefined ? undefined : typeof x === "string" ? "simple-text" : "primitive"),
  getMetadata: (x) => (x !== null && typeof x === "object" ? x.__mlld_metadata : undefined),
});
const mlld_now = () => new Date().toISOString();
"""
