// Makes /opt/mlld/serve the program of an installed npm package, by the rule of npx. Arguments: package spec, link.
"use strict";
const fs = require("fs");
const path = require("path");

const [spec, link] = process.argv.slice(2);
const name = spec.replace(/(?<=.)@.*$/, "");
const home = path.join("/usr/local/lib/node_modules", name);
const manifest = JSON.parse(fs.readFileSync(path.join(home, "package.json"), "utf8"));
const short = name.replace(/^@[^/]+\//, "");
const bins = typeof manifest.bin === "string" ? { [short]: manifest.bin } : manifest.bin || {};
const names = Object.keys(bins);
const chosen = names.length === 1 ? names[0] : names.includes(short) ? short : new Set(Object.values(bins)).size === 1 ? names[0] : null;
if (chosen === null) {
  const has = names.length ? `several programs (${names.join(", ")}), none of them called ${short}` : "no program";
  console.error(`mlld: the npm package ${name} brings ${has}: name the server by \`command\` instead`);
  process.exit(3);
}
const target = path.join(home, bins[chosen]);
fs.chmodSync(target, 0o755);
fs.symlinkSync(target, link);
