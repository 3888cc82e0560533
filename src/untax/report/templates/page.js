"use strict";
// The browser of examples. Texts are only ever set as textContent: nothing from the data becomes markup.
(() => {
  const holder = document.getElementById("data");
  const data = JSON.parse(holder.textContent);
  const tools = document.getElementById("tools");
  addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((d) => { d.open = true; }));
  if (!tools || !data.rows) return;

  const PAGE = 20;
  const CHANGES = ["none", "same", "better", "worse"];
  const byId = (id) => document.getElementById(id);
  const state = { system: "all", metric: "all", change: "all", find: "", page: 0, unveil: false };
  let found = [];

  const make = (tag, className, text) => {
    const node = document.createElement(tag);
    if (className) node.className = className;
    if (text !== undefined) node.textContent = text;
    return node;
  };
  const option = (select, value, text) => {
    const node = make("option", "", text);
    node.value = value;
    select.append(node);
  };

  option(byId("f-system"), "all", "all systems");
  data.systems.forEach(([base, tuned], i) => option(byId("f-system"), String(i), `${tuned} against ${base}`));
  option(byId("f-metric"), "all", "all metrics");
  const used = new Set(data.rows.flatMap((row) => row[7].map((score) => score[0])));
  data.metrics.forEach((metric, i) => { if (used.has(i)) option(byId("f-metric"), String(i), metric.name); });

  const matches = (row) => {
    if (state.system !== "all" && row[0] !== Number(state.system)) return false;
    const scores = state.metric === "all" ? row[7] : row[7].filter((s) => s[0] === Number(state.metric));
    if (!scores.length) return false;
    if (state.change === "flipped" && !scores.some((s) => s[4])) return false;
    if (state.change === "worse" && !scores.some((s) => s[3] === 3)) return false;
    if (state.change === "better" && !scores.some((s) => s[3] === 2)) return false;
    if (state.change === "same" && scores.some((s) => s[3] > 1)) return false;
    if (!state.find) return true;
    return data.texts[row[2]].toLowerCase().includes(state.find) || data.texts[row[3]].toLowerCase().includes(state.find);
  };

  const said = (score, metric) => {
    if (score === null) return "none";
    if (metric.points) return score === 0 || score === 1 ? String(score) : `${(100 * score).toFixed(1)} %`;
    return String(score);
  };

  const textNode = (text, veiled) => {
    if (!text.trim()) return make("p", "text empty", text ? "only white space" : "empty");
    const clear = () => { const p = make("p", "text", text); p.tabIndex = -1; return p; };
    if (!veiled || state.unveil) return clear();
    const veil = make("button", "veil");
    veil.type = "button";
    const bars = make("span", "bars", text.slice(0, 300).replace(/\S/gu, "m"));
    bars.setAttribute("aria-hidden", "true");
    veil.append(bars, make("span", "ask", "may offend, select to read"));
    veil.addEventListener("click", () => { const p = clear(); veil.replaceWith(p); p.focus(); });
    return veil;
  };

  const block = (title, text, veiled, className) => {
    const box = make("div", className);
    box.append(make("h4", "", title), textNode(text, veiled));
    return box;
  };

  const card = (row) => {
    const [system, seed, item, prompt, before, after, veil, scores] = row;
    const [base, tuned] = data.systems[system];
    const box = make("article", "example");
    box.tabIndex = -1;
    const meta = make("div", "meta");
    meta.append(make("span", "", data.texts[item]), make("span", "", seed === null ? tuned : `${tuned}, seed ${seed}`));
    const texts = make("div", "texts");
    texts.append(block("Prompt", data.texts[prompt], veil & 1, "prompt"));
    texts.append(block(base, data.texts[before], veil & 2, "before"));
    texts.append(block(tuned, data.texts[after], veil & 4, "after"));
    const list = make("div", "scores");
    for (const [m, one, other, change] of scores) {
      const metric = data.metrics[m];
      const word = CHANGES[change];
      const mark = { better: "▲ ", worse: "▼ ", same: "", none: "" }[word];
      const from = said(one, metric), to = said(other, metric);
      const text = from === to ? `${metric.name} ${to}` : `${mark}${metric.name} ${from} → ${to}`;
      const label = make("span", `score ${word}`, text);
      label.title = word === "none" ? "watched, not judged" : word;
      list.append(label);
    }
    box.append(meta, texts, list);
    return box;
  };

  const draw = () => {
    const pages = Math.max(1, Math.ceil(found.length / PAGE));
    state.page = Math.min(Math.max(0, state.page), pages - 1);
    const start = state.page * PAGE;
    const shown = found.slice(start, start + PAGE);
    byId("list").replaceChildren(...shown.map((index) => card(data.rows[index])));
    byId("count").textContent = found.length
      ? `${found.length.toLocaleString("en")} examples; showing ${start + 1} to ${start + shown.length}`
      : "No example fits these filters.";
    byId("page").textContent = `page ${state.page + 1} of ${pages}`;
    byId("prev").disabled = state.page === 0;
    byId("next").disabled = state.page >= pages - 1;
  };
  const filter = () => {
    found = [];
    data.rows.forEach((row, index) => { if (matches(row)) found.push(index); });
    state.page = 0;
    draw();
  };
  const turn = (by) => {
    const before = state.page;
    state.page += by;
    draw();
    if (state.page !== before) byId("count").scrollIntoView({ block: "start" });
  };
  const unveil = (on) => { state.unveil = on; byId("f-unveil").checked = on; draw(); };

  byId("f-system").addEventListener("change", (e) => { state.system = e.target.value; filter(); });
  byId("f-metric").addEventListener("change", (e) => { state.metric = e.target.value; filter(); });
  document.querySelectorAll("input[name=change]").forEach((radio) => {
    radio.addEventListener("change", (e) => { state.change = e.target.value; filter(); });
  });
  byId("f-text").addEventListener("input", (e) => { state.find = e.target.value.trim().toLowerCase(); filter(); });
  byId("f-unveil").addEventListener("change", (e) => unveil(e.target.checked));
  byId("prev").addEventListener("click", () => turn(-1));
  byId("next").addEventListener("click", () => turn(1));

  document.addEventListener("keydown", (e) => {
    if (e.ctrlKey || e.metaKey || e.altKey) return;
    if (e.target.matches("select, textarea, input:not([type=radio]):not([type=checkbox])")) return;
    if (e.key === "n") turn(1);
    else if (e.key === "p") turn(-1);
    else if (e.key === "r") unveil(!state.unveil);
    else if (e.key === "j" || e.key === "k") {
      const cards = [...document.querySelectorAll(".example")];
      const here = cards.indexOf(document.activeElement.closest(".example"));
      const next = cards[Math.min(Math.max(0, here + (e.key === "j" ? 1 : -1)), cards.length - 1)];
      if (next) { next.focus(); next.scrollIntoView({ block: "nearest" }); }
    }
  });

  tools.hidden = false;
  byId("pager").hidden = false;
  filter();
})();
