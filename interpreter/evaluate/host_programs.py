"""The programs behind `import … from node` and `from python`: one that describes a module, one that uses what is in it.

Each is the body of a `node { … }` or `py { … }`: it runs where those run, under the same rules, in a process of its own.

A description is `{"k": "function", "new": false, "warn": false, "has": {…}}`, `{"k": "object", "has": {…}}` or
`{"k": "value", "v": …}`. What a body shall do is a step: `{"of": NAME, "path": [...], "from": null | [arguments of a
constructor, …], "do": "describe" | "call" | "construct", "bound": [...], "dir": DIRECTORY}`.
"""

from __future__ import annotations

import json
from typing import Any

PARAMETERS = 12  # of an imported function, at most
MOST_MEMBERS = 1500
DEEPEST = 3


def program(language: str, step: dict[str, Any]) -> str:
    """The body that takes one step. Errors: none; what is wrong with it is said when it runs."""
    step = {**step, "most": MOST_MEMBERS, "deepest": DEEPEST}
    text = NODE if language == "node" else PYTHON
    # Twice: JSON in a literal of the language, of which JSON's strings are a part in both.
    return text.replace("$STEP", json.dumps(json.dumps(step)))


NODE = r"""
const step = JSON.parse($STEP);
// In a sandbox the directory of the script is not there; its project is where commands start.
const from = step.dir && require('fs').existsSync(step.dir) ? step.dir : process.cwd();
const load = require('module').createRequire(from + '/');
let root;
try { root = load(step.of); } catch (error) {
  if (!['ERR_REQUIRE_ESM', 'ERR_REQUIRE_ASYNC_MODULE'].includes(error.code)) throw error;
  root = await import(require('url').pathToFileURL(load.resolve(step.of)).href);
}
const follow = (from, path) => path.reduce(([, x], key) => [x, x[key]], [undefined, from]);
const source = (f) => Function.prototype.toString.call(f);
const isClass = (f) => typeof f === 'function' && f.prototype &&
  (source(f).startsWith('class') || (/^[A-Z]/.test(f.name) && Object.getOwnPropertyNames(f.prototype).length > 1));
const wantsCallback = (f) => /\b(callback|cb)_?\s*\)/.test(source(f).split('{')[0]);
let left = step.most;
const members = (x, depth) => {
  const found = Object.create(null); // `toString` may be a member, and is none of ours
  for (let at = x; at && at !== Object.prototype && at !== Function.prototype; at = Object.getPrototypeOf(at)) {
    for (const name of Object.getOwnPropertyNames(at)) {
      if (/^_|^(constructor|prototype|length|name|arguments|caller)$/.test(name) || name in found || --left < 0) continue;
      let value; try { value = x[name]; } catch { continue; }
      const told = describe(value, depth + 1);
      if (told) found[name] = told;
    }
    if (typeof x === 'function') break;
  }
  return found;
};
const describe = (x, depth) => {
  if (typeof x === 'function') return {
    k: 'function', new: !!isClass(x), warn: wantsCallback(x), has: depth < step.deepest ? members(x, depth) : {},
  };
  if (x !== null && typeof x === 'object' && !Array.isArray(x))
    return depth < step.deepest ? { k: 'object', has: members(x, depth) } : null;
  if (x === undefined || typeof x === 'symbol') return null;
  try { return { k: 'value', v: JSON.parse(JSON.stringify(x)) }; } catch { return null; }
};
const plain = async (x) => {
  x = await x;
  if (x === null || typeof x !== 'object') return x;
  if (Buffer.isBuffer(x)) return x.toString();
  if (typeof x[Symbol.asyncIterator] === 'function') {
    const all = []; for await (const item of x) all.push(Buffer.isBuffer(item) ? item.toString() : item);
    return all.length && all.every((item) => typeof item === 'string') ? all.join('') : all;
  }
  if (typeof x.on === 'function' && typeof x.emit === 'function')
    throw new Error(`Node function '${step.path.at(-1)}' returns an EventEmitter and requires subscriptions`);
  if (x instanceof Map) return Object.fromEntries(x);
  if (typeof x[Symbol.iterator] === 'function' && !Array.isArray(x)) return [...x];
  return x;
};
const given = [...step.bound, ...arguments];
const start = step.from ? new (follow(root, step.from.path)[1])(...step.from.bound) : root;
const [self, it] = follow(start, step.path);
if (step.do === 'describe') return describe(it, 0);
if (step.do === 'construct') return { k: 'object', has: members(new it(...given), 1) };
if (typeof it !== 'function') throw new TypeError(`${step.path.join('.')} is no function`);
try {
  return await plain(it.apply(self, given));
} catch (error) {
  if (error instanceof Error) error.stack = String(error); // where it happened is this wrapper
  throw error;
}
"""

PYTHON = r"""
import importlib, inspect, json, os, sys
step = json.loads($STEP)
# In a sandbox the directory of the script is not there; its project is where commands start.
sys.path.insert(0, step["dir"] if step["dir"] and os.path.isdir(step["dir"]) else os.getcwd())
root = importlib.import_module(step["of"])
left = [step["most"]]
def follow(x, path):
    for name in path:
        x = getattr(x, name)
    return x
def members(x, depth):
    found = {}
    for name in dir(x):
        if name.startswith("_") or left[0] <= 0:
            continue
        left[0] -= 1
        try:
            told = describe(getattr(x, name), depth + 1)
        except Exception:
            continue
        if told:
            found[name] = told
    return found
def describe(x, depth):
    if inspect.ismodule(x) and depth and not x.__name__.startswith(root.__name__ + "."):
        return None
    if callable(x):
        return {"k": "function", "new": inspect.isclass(x), "warn": False, "has": {}}
    try:
        return {"k": "value", "v": json.loads(json.dumps(x))}
    except (TypeError, ValueError):
        return {"k": "object", "has": members(x, depth)} if depth < step["deepest"] and inspect.ismodule(x) or not depth else None
def plain(x):
    if inspect.iscoroutine(x):
        import asyncio
        x = asyncio.run(x)
    if isinstance(x, (bytes, bytearray)):
        return x.decode(errors="replace")
    if isinstance(x, (set, frozenset, tuple)) or inspect.isgenerator(x):
        return list(x)
    return x
given = [*step["bound"], *args]
it = root
if step["from"]:
    it = follow(root, step["from"]["path"])(*step["from"]["bound"])
it = follow(it, step["path"])
if step["do"] == "describe":
    return describe(it, 0)
if step["do"] == "construct":
    return {"k": "object", "has": members(it(*given), 1)}
return plain(it(*given))
"""
