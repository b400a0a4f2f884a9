// What a script finds in its engine before its own code: console, timers, and the way in and out for values.
// `answering` and `mark` stand before it (interpreter/code_javascript.py).
(() => {
  "use strict";
  const compiled = new Map(), running = new Map(), timers = new Map();
  let ids = 0;

  const text = (x) => {
    if (typeof x === "string") return x;
    if (x instanceof Error) return `${x.name}: ${x.message}`;
    if (x === undefined || typeof x === "function" || typeof x === "symbol") return String(x);
    try { return JSON.stringify(x, null, 2); } catch { return String(x); }
  };
  // Structures also answer to `.text`, `.data` and `String(x)`, as what flows through a pipeline does.
  const methods = ["trim", "split", "replace", "replaceAll", "match", "toUpperCase", "toLowerCase", "startsWith", "endsWith", "includes", "indexOf", "substring"];
  const dress = (x, said) => {
    const written = (...layout) => said ?? JSON.stringify(x, ...layout);
    if (x === null || typeof x !== "object") return x;
    const add = (name, get) => { if (!(name in x)) Object.defineProperty(x, name, { get, set(v) { Object.defineProperty(x, name, { value: v, writable: true, enumerable: true, configurable: true }); }, enumerable: false, configurable: true }); };
    add("text", () => written());
    add("data", () => x);
    mark(x);
    // Where neither the data nor an array has a method of that name, the text has: `input.trim()`, `input.split(",")`.
    for (const name of methods) {
      if (!(name in x)) Object.defineProperty(x, name, { value: (...a) => written(null, 2)[name](...a), enumerable: false, configurable: true, writable: true });
    }
    Object.defineProperty(x, "toString", { value: () => written(), enumerable: false, configurable: true, writable: true });
    return x;
  };
  const compile = (key, body, names, ambient, functions) => {
    const found = compiled.get(key);
    if (found) return found;
    const helpers = functions.map(([name, parameters, source]) => {
      const declared = (body) => `${/\bawait\b/.test(source) ? "async " : ""}function ${name}(${parameters.join(", ")}) {\n${body}\n}`;
      const whole = declared(answering(source));
      // One of them with a fault must not break bodies that never call it.
      try { new Function(whole); return whole; } catch (fault) {
        return declared(`throw new SyntaxError(${JSON.stringify(`${name}: ${fault.message}`)});`);
      }
    }).join("\n");
    const source = `${helpers}\nreturn async function (${names.join(", ")}) {\n${answering(body)}\n};`;
    const made = new Function("console", ...ambient, source);
    if (compiled.size > 500) compiled.clear();
    compiled.set(key, made);
    return made;
  };
  globalThis.__start = (key, body, names, ambient, functions, values, around, texts) => {
    const id = ++ids, run = { done: false, printed: [], warned: [] };
    running.set(id, run);
    const log = (...x) => { run.printed.push(x.map(text).join(" ")); };
    const warn = (...x) => { run.warned.push(x.map(text).join(" ")); };
    const console = { log, info: log, debug: log, table: log, error: warn, warn, trace: warn };
    const finish = (value, error) => {
      run.done = true;
      if (error !== undefined) {
        run.error = error instanceof Error ? { message: error.message, name: error.name, stack: String(error.stack || "") } : { message: text(error), name: "Error", stack: "" };
        return;
      }
      if (value === undefined) return;
      if (typeof value === "number" && !Number.isFinite(value)) { run.value = String(value); return; }
      try { run.value = JSON.stringify(value, (k, v) => typeof v === "bigint" ? Number(v) : v instanceof Map ? Object.fromEntries(v) : v instanceof Set ? [...v] : v); }
      catch (problem) { run.error = { message: `the returned value is no JSON: ${problem.message}`, name: problem.name, stack: "" }; }
    };
    try {
      const made = compile(key, body, JSON.parse(names), JSON.parse(ambient), JSON.parse(functions));
      const inside = made(console, ...JSON.parse(around).map((x) => dress(x)));
      const said = JSON.parse(texts);
      inside(...JSON.parse(values).map((x, i) => dress(x, said[i]))).then((v) => finish(v), (e) => finish(undefined, e === undefined ? "undefined" : e));
    } catch (error) { finish(undefined, error); }
    return id;
  };
  globalThis.__poll = (id) => {
    const run = running.get(id);
    if (!run.done) return "";
    running.delete(id);
    return JSON.stringify(run);
  };
  globalThis.__drop = (id) => { running.delete(id); };
  globalThis.__next = () => Math.min(...[...timers.values()].map((t) => t.at));
  globalThis.__fire = (now) => {
    for (const [id, t] of [...timers].sort((a, b) => a[1].at - b[1].at || a[0] - b[0])) {
      if (t.at > now) break;
      if (t.every === undefined) timers.delete(id); else t.at = now + Math.max(1, t.every);
      t.call();
    }
  };
  globalThis.__now = 0;
  const later = (f, ms, args, every) => {
    const wait = Math.max(0, Number(ms) || 0);
    timers.set(++ids, { at: globalThis.__now + wait, every: every ? wait : undefined, call: () => f(...args) });
    return ids;
  };
  globalThis.setTimeout = (f, ms, ...args) => later(f, ms, args, false);
  globalThis.setInterval = (f, ms, ...args) => later(f, ms, args, true);
  globalThis.setImmediate = (f, ...args) => later(f, 0, args, false);
  globalThis.clearTimeout = globalThis.clearInterval = globalThis.clearImmediate = (id) => { timers.delete(id); };
  globalThis.queueMicrotask = (f) => { Promise.resolve().then(f); };
  globalThis.structuredClone = (x) => JSON.parse(JSON.stringify(x));
})();
