// The lists: a filter over all of them, rows for those in sight alone, the chosen one beside them.

const ROW_HEIGHT = 58; // pixels, as the style has it
const SPARE_ROWS = 6; // beyond what is in sight

const rankerName = (ranker) => (ranker.model ? `${ranker.name} · ${ranker.model}` : ranker.name);

// One task's lists as the filter needs them; `at` is the list's place in its task.
function listsOf(task) {
  return task.ids.map((id, at) => {
    const ranked = task.rankers.filter((ranker) => ranker.values[at] !== null); // some rank the first lists alone
    const values = ranked.map((ranker) => ranker.values[at]);
    const firsts = new Set(ranked.map((ranker) => ranker.orders[at][0]));
    const low = values.length ? Math.min(...values) : 0;
    const high = values.length ? Math.max(...values) : 0;
    return {
      task,
      at,
      low,
      high,
      mean: values.reduce((sum, value) => sum + value, 0) / (values.length || 1),
      firsts: firsts.size,
      problems: task.rankers.filter((ranker) => at in ranker.problems).length,
      text: null, // what a search looks through, once one was made
    };
  });
}

function searched(list) {
  const { task, at } = list;
  list.text ??= [task.ids[at], task.queries[at], ...task.texts[at]].join("\n").toLowerCase();
  return list.text;
}

function better(list, a, b) {
  const value = (name) => list.task.rankers.find((ranker) => rankerName(ranker) === name)?.values[list.at] ?? NaN;
  return value(a) > value(b); // false where one of them did not rank this task
}

const KINDS = {
  all: () => true,
  differ: (list) => list.high - list.low > 1e-9,
  first: (list) => list.firsts > 1,
  beats: (list) => better(list, byId("ranker-a").value, byId("ranker-b").value),
  problems: (list) => list.problems > 0,
};
const ORDERS = {
  given: null,
  spread: (a, b) => b.high - b.low - (a.high - a.low),
  worst: (a, b) => a.mean - b.mean,
};

// --- the rows ---

const state = { all: [], shown: [], chosen: 0 };

function rowOf(list, place) {
  const { task, at } = list;
  const problems = list.problems ? ` ⚠ ${list.problems}` : "";
  const figures = make("span", { className: "range" }, `${number(list.low, 2)}–${number(list.high, 2)}${problems}`);
  const name = make("span", { className: "aside" }, apart(task.task));
  const where = make("span", { className: "where" }, name, " ", apart(task.ids[at]));
  const query = make("span", { className: "start" }, apart(task.queries[at].slice(0, 160)));
  const option = make("div", { id: `row-${place}`, className: "row", role: "option" }, where, figures, query);
  option.setAttribute("aria-selected", place === state.chosen);
  option.setAttribute("aria-posinset", place + 1);
  option.setAttribute("aria-setsize", state.shown.length);
  option.style.top = `${place * ROW_HEIGHT}px`;
  return option;
}

function drawRows() {
  const box = byId("rows");
  const first = Math.max(0, Math.floor(box.scrollTop / ROW_HEIGHT) - SPARE_ROWS);
  const last = Math.min(state.shown.length, Math.ceil((box.scrollTop + box.clientHeight) / ROW_HEIGHT) + SPARE_ROWS);
  const rows = [];
  for (let place = first; place < last; place++) rows.push(rowOf(state.shown[place], place));
  const tall = byId("tall");
  tall.style.height = `${state.shown.length * ROW_HEIGHT}px`;
  tall.replaceChildren(...rows);
  if (state.chosen >= first && state.chosen < last) box.setAttribute("aria-activedescendant", `row-${state.chosen}`);
  else box.removeAttribute("aria-activedescendant");
}

function choose(place) {
  state.chosen = Math.max(0, Math.min(state.shown.length - 1, place));
  const box = byId("rows");
  const top = state.chosen * ROW_HEIGHT;
  if (top < box.scrollTop) box.scrollTop = top;
  else if (top + ROW_HEIGHT > box.scrollTop + box.clientHeight) box.scrollTop = top + ROW_HEIGHT - box.clientHeight;
  drawRows();
  drawList();
}

function filter() {
  const task = byId("by-task").value;
  const kind = byId("by-kind").value;
  const text = byId("by-text").value.trim().toLowerCase();
  for (const label of document.querySelectorAll(".pair")) label.hidden = kind !== "beats";
  state.shown = state.all.filter(
    (list) => (!task || list.task.number === Number(task)) && KINDS[kind](list) && (!text || searched(list).includes(text)),
  );
  const order = ORDERS[byId("by-order").value];
  if (order) state.shown.sort(order);
  const left = state.all.leftOut ? `; ${state.all.leftOut.toLocaleString("en")} more are not in this page` : "";
  byId("count").textContent =
    `${state.shown.length.toLocaleString("en")} of ${state.all.length.toLocaleString("en")} lists${left}`;
  byId("rows").scrollTop = 0;
  choose(0);
}

// --- the chosen list ---

const grade = (label, highest) => (label <= 0 ? "" : label >= highest ? "high" : "some");
const MARKS = { "": "", some: "◐", high: "●" };

function chip(candidate, labels, highest, named) {
  const kind = grade(labels[candidate], highest);
  const node = make("li", { className: `chip ${kind} ${named ? "" : "absent"}` }, `${candidate + 1}${MARKS[kind]}`);
  if (kind) node.append(make("span", { className: "unseen" }, ` label ${labels[candidate]}`));
  node.dataset.candidate = candidate;
  return node;
}

function orderOf(ranker, at, labels, highest, best) {
  const name = make("th", { scope: "row" }, apart(ranker.name));
  if (ranker.values[at] === null) {
    return make("tr", {}, name, make("td", { className: "number" }), make("td", {}, "did not rank this list"));
  }
  const order = ranker.orders[at];
  const absent = labels.map((_, candidate) => candidate).filter((candidate) => !order.includes(candidate));
  const chips = make("ol", { className: "order" }, ...order.map((candidate) => chip(candidate, labels, highest, true)));
  if (absent.length) {
    chips.append(make("li", { className: "gap" }, "not named:"));
    chips.append(...absent.map((candidate) => chip(candidate, labels, highest, false)));
  }
  const value = make("span", { className: ranker.values[at] === best ? "best" : "" }, number(ranker.values[at]));
  const cell = make("td", {}, chips);
  if (at in ranker.problems) {
    cell.append(make("p", { className: "problem" }, "⚠ parse problem: ", apart(ranker.problems[at])));
  }
  return make("tr", {}, name, make("td", { className: "number" }, value), cell);
}

function ordersOf(list, highest) {
  const { task, at } = list;
  const head = ["ranker", task.measure, "order, best first"].map((name) => make("th", { scope: "col" }, apart(name)));
  const bodies = [];
  let model = null;
  for (const ranker of task.rankers) {
    if (ranker.model !== model || !bodies.length) {
      model = ranker.model;
      bodies.push(make("tbody"));
      const heading = make("th", { scope: "rowgroup", colSpan: 3 }, apart(model));
      if (model) bodies.at(-1).append(make("tr", { className: "group" }, heading));
    }
    bodies.at(-1).append(orderOf(ranker, at, task.relevance[at], highest, list.high));
  }
  const marks = "● relevant, ◐ to a lesser degree; dashed: not named in the answer";
  const caption = make("caption", {}, make("span", {}, "Orders ", make("span", { className: "aside" }, marks)));
  const table = make("table", { className: "orders" }, caption, make("thead", {}, make("tr", {}, ...head)), ...bodies);
  return make("div", { className: "scroll" }, table);
}

function candidatesOf(list, highest) {
  const { task, at } = list;
  const items = task.texts[at].map((text, candidate) => {
    const label = task.relevance[at][candidate];
    const kind = grade(label, highest);
    const item = make("li", { className: kind }, apart(text));
    if (kind) item.append(" ", make("span", { className: "label" }, `${MARKS[kind]} label ${label}`));
    item.dataset.candidate = candidate;
    return item;
  });
  return make("ol", { className: "candidates" }, ...items);
}

function drawList() {
  const article = byId("list");
  const list = state.shown[state.chosen];
  article.scrollTop = 0;
  if (!list) {
    article.replaceChildren(make("p", {}, "No list is like this."));
    return;
  }
  const { task, at } = list;
  const highest = Math.max(...task.relevance[at]);
  article.replaceChildren(
    make("h3", {}, make("span", { className: "aside" }, apart(task.task)), " ", apart(task.ids[at])),
    make("p", { className: "aside" }, `list ${(state.chosen + 1).toLocaleString("en")} of ${state.shown.length.toLocaleString("en")}`),
    make("h4", {}, "Query"),
    make("blockquote", { dir: "auto" }, task.queries[at]),
    ordersOf(list, highest),
    make("h4", {}, "Candidates, as they stood in the prompt"),
    candidatesOf(list, highest),
  );
}

function light(event) {
  const candidate = event.target.closest("[data-candidate]")?.dataset.candidate;
  for (const node of byId("list").querySelectorAll("[data-candidate]")) {
    node.classList.toggle("lit", node.dataset.candidate === candidate);
  }
}

// --- keys ---

const STEPS = { ArrowDown: 1, ArrowUp: -1, PageDown: 8, PageUp: -8, Home: -Infinity, End: Infinity };
const LETTERS = { j: 1, k: -1 };

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, select")) return;
  const step = LETTERS[event.key] ?? (event.target === byId("rows") ? STEPS[event.key] : undefined);
  if (event.key === "/") byId("by-text").focus();
  else if (step) choose(state.chosen + step);
  else return;
  event.preventDefault();
}

function options(select, names) {
  select.replaceChildren(...names.map(([value, text]) => make("option", { value }, text)));
}

function listen() {
  let waiting = 0;
  byId("viewer").addEventListener("keydown", onKey);
  byId("viewer").querySelector("form").addEventListener("change", filter);
  byId("viewer").querySelector("form").addEventListener("submit", (event) => event.preventDefault());
  byId("by-text").addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(filter, 120);
  });
  byId("rows").addEventListener("scroll", () => requestAnimationFrame(drawRows));
  byId("rows").addEventListener("click", (event) => {
    const row = event.target.closest(".row");
    if (row) choose(Number(row.id.slice("row-".length)));
  });
  byId("list").addEventListener("mouseover", light);
  new ResizeObserver(drawRows).observe(byId("rows"));
}

async function view() {
  const tasks = await Promise.all([...document.querySelectorAll("script.lists")].map(unpacked));
  for (const [number, task] of tasks.entries()) task.number = number;
  state.all = tasks.flatMap(listsOf);
  state.all.leftOut = tasks.reduce((sum, task) => sum + task.left_out, 0);
  options(byId("by-task"), [["", "all"], ...tasks.map((task) => [String(task.number), task.task])]);
  const names = [...new Set(tasks.flatMap((task) => task.rankers.map(rankerName)))];
  for (const id of ["ranker-a", "ranker-b"]) options(byId(id), names.map((name) => [name, name]));
  byId("ranker-b").selectedIndex = Math.min(1, names.length - 1);
  listen();
  filter();
  byId("viewer").setAttribute("aria-busy", "false");
  document.documentElement.dataset.viewer = "ready";
}

if (byId("viewer")) {
  view().catch((error) => {
    byId("count").textContent = `The lists cannot be shown by this browser: ${error.message}`;
    document.documentElement.dataset.viewer = "failed";
  });
}
