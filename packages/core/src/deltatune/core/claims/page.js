"use strict";
// The page is complete without this: it adds filters, sorting, and an address that leads back to the same selection.
(() => {
  const filter = document.getElementById("filter");
  const form = filter.querySelector("form");
  const body = document.querySelector("#overview tbody");
  const list = document.getElementById("claims");
  const said = filter.querySelector("[role=status]");
  const heads = [...document.querySelectorAll("#overview th[data-key]")];
  const rows = [...body.rows];
  const article = (row) => document.getElementById(row.dataset.article);
  let sorted = { key: "", down: false };

  const read = () => {
    const chosen = new FormData(form);
    return { verdicts: chosen.getAll("verdict"), paper: chosen.get("paper"), words: chosen.get("words").toLowerCase().split(/\s+/) };
  };

  const show = () => {
    const { verdicts, paper, words } = read();
    let count = 0;
    for (const row of rows) {
      const text = article(row).textContent.toLowerCase();
      const fits = verdicts.includes(row.dataset.verdict) && (!paper || paper === row.dataset.paper) && words.every((w) => text.includes(w));
      row.hidden = article(row).hidden = !fits;
      count += fits;
    }
    said.textContent = `${count} of ${rows.length} shown`;
  };

  const order = (key, down) => {
    sorted = { key, down };
    const numeric = heads.find((head) => head.dataset.key === key).dataset.numeric !== undefined;
    const value = (row) => (numeric ? Number(row.dataset[key] || "-Infinity") : row.dataset[key]);
    const compare = numeric ? (a, b) => value(a) - value(b) || 0 : (a, b) => value(a).localeCompare(value(b), "en", { numeric: true });
    const next = [...rows].sort((a, b) => (down ? -compare(a, b) : compare(a, b)));
    body.append(...next);
    list.append(...next.map(article));
    for (const head of heads) {
      head.setAttribute("aria-sort", head.dataset.key !== key ? "none" : down ? "descending" : "ascending");
    }
  };

  // A plain fragment names a claim; one with "=" is a selection.
  const remember = () => {
    const { verdicts, paper, words } = read();
    const state = new URLSearchParams({ verdict: verdicts.join(","), paper, words: words.join(" ") });
    if (sorted.key) state.set("sort", (sorted.down ? "-" : "") + sorted.key);
    history.replaceState(null, "", `#${state}`);
  };

  const recall = () => {
    if (!location.hash.includes("=")) return;
    const state = new URLSearchParams(location.hash.slice(1));
    if (state.has("verdict")) {
      const chosen = state.get("verdict").split(",");
      for (const box of form.querySelectorAll("[name=verdict]")) box.checked = chosen.includes(box.value);
    }
    if (state.has("paper")) form.elements.paper.value = state.get("paper");
    if (state.has("words")) form.elements.words.value = state.get("words");
    const key = (state.get("sort") || "").replace(/^-/, "");
    if (heads.some((head) => head.dataset.key === key)) order(key, state.get("sort").startsWith("-"));
  };

  for (const head of heads) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    button.addEventListener("click", () => {
      order(head.dataset.key, sorted.key === head.dataset.key && !sorted.down);
      remember();
    });
    head.replaceChildren(button);
    head.setAttribute("aria-sort", "none");
  }
  form.addEventListener("input", () => { show(); remember(); });
  form.addEventListener("submit", (event) => event.preventDefault());
  window.addEventListener("hashchange", () => { recall(); show(); });
  filter.hidden = false;
  recall();
  show();
})();
