"use strict";
const NAMES = { SA_ED: "Short axis, end-diastole", SA_ES: "Short axis, end-systole", LA_ED: "Long axis, end-diastole", LA_ES: "Long axis, end-systole" };
const WORDS = { failed: "Failed", ood: "Out of distribution", look: "Look at it", trusted: "Trusted" };
const rows = JSON.parse(document.getElementById("rows").textContent);
const page = JSON.parse(document.getElementById("page").textContent);
const [body, count, more, text, stack, structure, clear] = ["body", "count", "more", "text", "stack", "structure", "clear"].map((id) => document.getElementById(id));
const buttons = [...document.querySelectorAll("button[data-verdict]")];
const headers = [...document.querySelectorAll("button[data-sort]")];
const AT_ONCE = 60;
let verdict = "", sorted = "", upward = true, shown = [], drawn = 0;

function make(name, attributes, ...children) {
  const svg = ["svg", "g", "path", "image", "use"].includes(name);
  const element = svg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) element.setAttribute(key, value);
  element.append(...children.filter((child) => child !== null));
  return element;
}

function picture(row) {
  if (!row.picture) return make("div", { class: "nothing" }, "no mask");
  const outlines = Object.entries(row.paths).map(([name, d]) => make("path", { class: name, d }));
  return make("svg", { viewBox: "0 0 72 72", role: "img", "aria-label": `Slice ${row.slice} of ${row.study}` },
    make("image", { width: 72, height: 72, href: row.picture }), make("g", { transform: "scale(.5)" }, ...outlines));
}

function icon(name) {
  return make("svg", { class: `icon ${name}`, viewBox: "0 0 24 24", "aria-hidden": "true" }, make("use", { href: `#icon-${name}` }));
}

function number(row, measure, digits, limit, above) {
  const value = row.numbers ? row.numbers[structure.value][page.measures.indexOf(measure)] : null;
  if (value === null) return make("td", {}, "–");
  const broken = limit !== undefined && (above ? value > limit : value < limit);
  const cell = make("td", {}, make("span", broken ? { class: "break", title: `beyond the fence at ${limit.toFixed(digits)}` } : {}, value.toFixed(digits)));
  if (measure === "predicted_dice") {
    const bound = row.numbers[structure.value][page.measures.indexOf("lower_bound_90")];
    if (bound !== null) cell.append(make("small", {}, `at least ${bound.toFixed(2)}`));
  }
  return cell;
}

function fence(row, key) {
  const tables = page.fences[row.stack] || {};
  const table = page.used === "cohort" && tables.cohort ? tables.cohort : (tables.references || [])[row.fences];
  return table ? table[structure.value][key] : undefined;
}

function draw(row) {
  const address = `${encodeURIComponent(row.study)}/report.html${row.stack ? "#" + row.stack : ""}`;
  const link = (child) => (row.verdict === "failed" ? child : make("a", { href: address }, child));
  const reasons = row.reasons.length ? make("ul", {}, ...row.reasons.map((reason) => make("li", {}, reason))) : null;
  const where = row.stack ? make("small", {}, NAMES[row.stack] || row.stack, make("br"), `slice ${row.slice} of ${row.slices} shown`) : null;
  const [reference, cohort] = row.outside || ["", ""];
  const apart = cohort && reference && cohort !== reference;
  return make("tr", { "data-verdict": row.verdict, "data-study": row.study },
    make("td", { class: "picture" }, link(picture(row))),
    make("th", { class: "words" }, link(document.createTextNode(row.study)), where),
    make("td", { class: "words why" }, make("span", { class: `state ${row.verdict}` }, icon(row.verdict), ` ${WORDS[row.verdict]}`), reasons,
      ...row.checks.map((check) => make("small", {}, `Study: ${check}`)),
      apart ? make("small", {}, `Outside the reference fences: ${reference}; outside the cohort's: ${cohort}.`) : null),
    number(row, "predicted_dice", 2), number(row, "pDC", 2, fence(row, "th_low"), false),
    number(row, "pHD_mm", 1, fence(row, "th_up"), true), number(row, "agreement", 2), number(row, "volume_ml", 0));
}

function drawMore() {
  const part = document.createDocumentFragment();
  for (const row of shown.slice(drawn, drawn + AT_ONCE)) part.append(draw(row));
  drawn = Math.min(drawn + AT_ONCE, shown.length);
  body.append(part);
  more.hidden = drawn === shown.length;
  more.textContent = `Show more (${(shown.length - drawn).toLocaleString("en")} left)`;
}

function key(row) {
  if (sorted === "study") return row.study;
  const value = row.numbers ? row.numbers[structure.value][page.measures.indexOf(sorted)] : null;
  return value === null ? (upward ? Infinity : -Infinity) : value;
}

function update() {
  const wanted = text.value.trim().toLowerCase().split(/\s+/).filter(Boolean);
  const rest = rows.filter((row) => {
    if (stack.value && row.stack !== stack.value) return false;
    row.said = row.said || `${row.study} ${row.stack} ${row.stack.replace("_", " ")} ${row.reasons.join(" ")} ${row.checks.join(" ")}`.toLowerCase();
    return wanted.every((word) => row.said.includes(word));
  });
  for (const button of buttons) {
    button.querySelector("b").textContent = rest.filter((row) => row.verdict === button.dataset.verdict).length.toLocaleString("en");
    button.setAttribute("aria-pressed", button.dataset.verdict === verdict);
  }
  shown = verdict ? rest.filter((row) => row.verdict === verdict) : rest;
  if (sorted) {
    const order = (a, b) => (key(a) < key(b) ? -1 : key(a) > key(b) ? 1 : 0) * (upward ? 1 : -1);
    shown = [...shown].sort(order);
  }
  for (const header of headers) {
    const own = header.dataset.sort === sorted;
    header.parentElement.setAttribute("aria-sort", own ? (upward ? "ascending" : "descending") : "none");
  }
  body.replaceChildren();
  drawn = 0;
  drawMore();
  clear.hidden = !(verdict || wanted.length || stack.value || sorted);
  count.textContent = shown.length === rows.length ? `All ${rows.length.toLocaleString("en")} rows${sorted ? "" : ", worst first"}`
    : `${shown.length.toLocaleString("en")} of ${rows.length.toLocaleString("en")} rows`;
}

for (const button of buttons) button.addEventListener("click", () => { verdict = verdict === button.dataset.verdict ? "" : button.dataset.verdict; update(); });
for (const header of headers) header.addEventListener("click", () => { upward = header.dataset.sort === sorted ? !upward : header.dataset.sort !== "pHD_mm"; sorted = header.dataset.sort; update(); });
clear.addEventListener("click", () => { verdict = sorted = text.value = stack.value = ""; update(); });
text.addEventListener("input", update);
stack.addEventListener("change", update);
structure.addEventListener("change", update);
more.addEventListener("click", drawMore);
new IntersectionObserver((seen) => { if (seen[0].isIntersecting && !more.hidden) drawMore(); }, { rootMargin: "600px" }).observe(more);
update();
document.documentElement.dataset.ready = "yes";
