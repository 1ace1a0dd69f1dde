"use strict";
const form = document.querySelector("form");
const [button, status, ranking] = ["rank", "status", "ranking"].map((id) => document.getElementById(id));
let asking = null;

function cell(row, name, content) {
  const made = row.insertCell();
  made.className = name;
  made.append(content); // a string is appended as text
}

function show(results) {
  const body = ranking.tBodies[0];
  body.replaceChildren();
  results.forEach((result, place) => {
    const row = body.insertRow();
    cell(row, "number", String(place + 1));
    const text = document.createElement("bdi");
    text.textContent = result.document.text;
    cell(row, "", text);
    cell(row, "number", result.relevance_score.toFixed(3));
    const share = document.createElement("meter");
    share.value = result.relevance_score;
    share.setAttribute("aria-hidden", "true");
    cell(row, "", share);
  });
  ranking.hidden = false;
}

function say(text, bad) {
  status.textContent = text;
  status.className = bad ? "bad" : "muted";
}

async function rank() {
  const value = (name) => form.elements[name]?.value ?? "";
  const query = value("query").trim();
  const documents = value("documents").split("\n").map((line) => line.trim()).filter(Boolean);
  if (!query) return say("Write what the documents are to be ranked for.", true);
  if (!documents.length) return say("Write at least one document, one a line.", true);
  asking?.abort();
  const own = asking = new AbortController();
  button.setAttribute("aria-disabled", "true");
  say(`Ranking ${documents.length} documents …`);
  try {
    const headers = { "content-type": "application/json" };
    if (value("key")) headers.authorization = `Bearer ${value("key")}`;
    const body = JSON.stringify({ model: value("model") || null, query, documents, return_documents: true });
    const start = performance.now();
    const response = await fetch("v1/rerank", { method: "POST", headers, body, signal: own.signal });
    const answer = await response.json();
    if (!response.ok) throw new Error(answer.message);
    show(answer.results);
    const notes = answer.meta.warnings ? ` ${answer.meta.warnings.join("; ")}.` : "";
    say(`${documents.length} documents ranked by ${answer.model} in ${Math.round(performance.now() - start)} ms.${notes}`);
  } catch (error) {
    if (error.name !== "AbortError") say(`Not ranked: ${error.message}`, true);
  } finally {
    if (asking === own) button.removeAttribute("aria-disabled");
  }
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  rank();
});
form.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    rank();
  }
});
