"use strict";
// Brings out families, sorts the table of systems, and opens what paper should show. The page is whole without this script.
const all = (selector, root = document) => [...root.querySelectorAll(selector)];

// ---------------------------------------------------------------- paper
(() => {
  let opened = [];
  addEventListener("beforeprint", () => {
    opened = all("details.matters").filter((d) => !d.open);
    opened.forEach((d) => { d.open = true; });
  });
  addEventListener("afterprint", () => { opened.forEach((d) => { d.open = false; }); opened = []; });
})();

// ---------------------------------------------------------------- families
(() => {
  const chosen = new Set();
  const marked = all("svg [data-family], tr[data-family]");
  const draw = () => marked.forEach((node) => {
    node.classList.toggle("faded", chosen.size > 0 && !chosen.has(node.dataset.family));
  });
  all("#families > span").forEach((span) => {
    const button = document.createElement("button");
    button.type = "button";
    button.title = "bring out this family";
    button.setAttribute("aria-pressed", "false");
    button.append(...span.childNodes);
    button.addEventListener("click", () => {
      const { family } = span.dataset;
      if (chosen.has(family)) chosen.delete(family); else chosen.add(family);
      button.setAttribute("aria-pressed", String(chosen.has(family)));
      draw();
    });
    span.append(button);
  });
})();

// ---------------------------------------------------------------- sorting
all("table.sortable").forEach((table) => {
  const body = table.tBodies[0];
  const given = [...body.rows];
  const collator = new Intl.Collator("en", { numeric: true, sensitivity: "base" });
  const heads = all("thead th[data-sort]", table);
  let column = -1;
  let down = false;
  const value = (row) => row.cells[column].dataset.value;
  const order = (a, b) => {
    const [one, other] = [value(a), value(b)];
    if (one === "" || other === "") return (one === "") - (other === ""); // what is not known stands last
    const by = heads[column].dataset.sort === "text" ? collator.compare(one, other) : Number(one) - Number(other);
    return down ? -by : by;
  };
  heads.forEach((head, place) => {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "sort";
    button.append(...head.childNodes);
    head.append(button);
    head.setAttribute("aria-sort", "none");
    button.addEventListener("click", () => {
      if (column !== place) { column = place; down = false; }
      else if (!down) down = true;
      else column = -1;
      heads.forEach((each, i) => each.setAttribute("aria-sort", i === column ? (down ? "descending" : "ascending") : "none"));
      body.append(...(column < 0 ? given : [...given].sort(order)));
    });
  });
});
