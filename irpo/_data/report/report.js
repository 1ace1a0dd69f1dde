"use strict";
// The page's own script: tables that sort, a figure's tests in a dialog. All text goes in as text, never as markup.

const byId = (id) => document.getElementById(id);

function make(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in node) node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

function apart(text) {
  return make("bdi", { dir: "auto" }, String(text));
}

// A measure as the tables print it.
function number(value, decimals = 3) {
  if (value === null || value === undefined) return "–";
  const text = value.toFixed(decimals);
  return Number(text) === 0 ? text.replace("-", "") : text;
}

function signed(difference) {
  const text = number(difference);
  return Number(text) > 0 ? `+${text}` : text;
}

function chance(p) {
  return p < 0.001 ? "< 0.001" : number(p);
}

// Where the browser's own way is not there yet, ours: letter by letter, and slower.
function bytesOf(text) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
  const letters = atob(text);
  const bytes = new Uint8Array(letters.length);
  for (let at = 0; at < letters.length; at++) bytes[at] = letters.charCodeAt(at);
  return bytes;
}

// What a block of base64 holds: compressed JSON.
async function unpacked(block) {
  const stream = new Blob([bytesOf(block.textContent)]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).json();
}

// --- sorting: down, up, as it was; rows stay in their group ---

const NEXT = { none: "descending", descending: "ascending", ascending: "none" };

function sortValue(row, column) {
  const text = row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
  return text !== "" && Number.isFinite(Number(text)) ? Number(text) : text;
}

// Numbers before words, nothing last whichever way.
function compare(a, b, sign) {
  if (a === "" || b === "") return (a === "") - (b === "");
  if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1;
  return sign * (typeof a === "number" ? a - b : a.localeCompare(b));
}

function sortBy(header) {
  const table = header.closest("table");
  const headers = [...table.tHead.querySelectorAll("th[aria-sort]")];
  const direction = NEXT[header.getAttribute("aria-sort")];
  for (const other of headers) other.setAttribute("aria-sort", other === header ? direction : "none");
  const column = headers.indexOf(header);
  const sign = direction === "ascending" ? 1 : -1;
  for (const body of table.tBodies) {
    const rows = [...body.rows].filter((row) => !row.classList.contains("group"));
    for (const [place, row] of rows.entries()) row.dataset.place ??= place;
    rows.sort((a, b) => {
      const order = direction === "none" ? 0 : compare(sortValue(a, column), sortValue(b, column), sign);
      return order || a.dataset.place - b.dataset.place;
    });
    body.append(...rows);
  }
  const told = direction === "none" ? "as given" : `by ${header.textContent.trim()}, ${direction}, within each group`;
  byId("told").textContent = `Sorted ${told}`;
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("button.sort");
  if (button) sortBy(button.closest("th"));
});

byId("colours").addEventListener("change", (event) => {
  const { value } = event.target;
  document.documentElement.style.colorScheme = value === "system" ? "" : value;
});

// --- a figure's interval, tests and cells ---

const tables = unpacked(byId("cells"));

function row(head, ...cells) {
  return make("tr", {}, make("th", { scope: "row" }, head), ...cells.map((cell) => make("td", {}, cell)));
}

function testsOf(cell) {
  if (!cell.tests.length) return [];
  const head = ["against", "difference", "95 % interval", "p", "corrected p", "effect (d)"];
  const rows = cell.tests.map((test) =>
    row(
      apart(test.against),
      signed(test.difference),
      `${signed(test.low)} to ${signed(test.high)}`,
      chance(test.p),
      chance(test.q),
      number(test.effect, 2),
    ),
  );
  const names = make("tr", {}, ...head.map((name) => make("th", { scope: "col" }, name)));
  const table = make("table", { className: "plain" }, make("thead", {}, names), make("tbody", {}, ...rows));
  return [make("h4", {}, "Tests, paired by group"), make("div", { className: "scroll" }, table)];
}

function aboutCell(cell) {
  const facts = [
    ["value", number(cell.value, 4)],
    ["95 % interval", cell.low === null ? null : `${number(cell.low, 4)} to ${number(cell.high, 4)}`],
    ["seeds", String(cell.seeds)],
    ["deviation between seeds", cell.deviation === null ? null : number(cell.deviation, 4)],
    ["the paper printed", cell.printed === null ? null : number(cell.printed)],
  ].filter(([, fact]) => fact !== null);
  return make("dl", { className: "facts" }, ...facts.flatMap(([name, fact]) => [make("dt", {}, name), make("dd", {}, fact)]));
}

async function showCell(link) {
  const [t, r, c] = link.dataset.at.split(",").map(Number);
  const table = (await tables)[t];
  const { name, group, strength } = table.rows[r];
  const { task, measure } = table.columns[c];
  const cell = table.rows[r].cells[c];
  const dialog = byId("detail");
  const close = make("button", { type: "button", className: "close", onclick: () => dialog.close() }, "Close");
  const title = make("h3", { id: "detail-title" }, apart(name), strength === "1" ? "" : ` at strength ${strength}`);
  const where = make("p", {}, group ? apart(group) : "", group ? " on " : "On ", apart(task), ", ", apart(measure));
  const count = cell.keys.length === 1 ? "The cell it comes from" : `The ${cell.keys.length} cells it is the mean of`;
  const from = make("a", { href: link.hash, onclick: () => dialog.close() }, cell.keys.length ? count : "Where it comes from");
  const keys = make("p", {}, from, cell.keys.length ? ": " : "", make("code", {}, cell.keys.join(" ")));
  dialog.replaceChildren(close, title, where, aboutCell(cell), ...testsOf(cell), keys);
  dialog.showModal();
}

document.addEventListener("click", (event) => {
  const link = event.target.closest("a.value");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  showCell(link);
});
byId("detail").addEventListener("click", (event) => {
  if (event.target === event.currentTarget) event.currentTarget.close(); // the backdrop
});
