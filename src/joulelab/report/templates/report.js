"use strict";
// Draw the charts from the data on this page, and redraw them when the reader selects.
(() => {
  const page = JSON.parse(document.getElementById("page-data").textContent);
  const state = { group: page.groups[0].group, quantity: page.quantity, phase: "all", hidden: new Set() };
  const drawn = new Map();
  const annotations = new Set(page.annotations);
  let round = 0;

  const tables = new Map();
  function rowsOf(name) {
    if (!tables.has(name)) tables.set(name, unpack(page.charts[name].columns));
    return tables.get(name);
  }

  // A chart without any net energy of this group shows gross energy, as its files do.
  function quantityOf(name, group) {
    const isKnown = state.quantity !== "net" || shown(name, { ...group, quantity: "net" }, new Set()).length > 0;
    return isKnown ? state.quantity : "gross";
  }

  function selected(name) {
    const levels = { ...page.groups.find((one) => one.group === state.group) };
    levels.quantity = quantityOf(name, levels);
    if (state.phase !== "all") levels.phase = state.phase;
    for (const select of document.querySelectorAll(`#figure-${name} select`)) {
      levels[select.dataset.column] = select.value;
    }
    return levels;
  }

  function shown(name, levels, hidden = state.hidden) {
    const rows = rowsOf(name).filter((row) =>
      !hidden.has(row.model) &&
      Object.entries(levels).every(([column, level]) => !(column in row) || row[column] === level ||
        (column === "phase" && row[column] === null)));
    return rows.every((row) => annotations.has(row.mark)) ? [] : rows;
  }

  // Return the sentence for a single mark; empty if there are more.
  function sentence({ name, text, part, parts }, rows) {
    const known = rows.filter((row) => row[text] !== null);
    if (new Set(known.map((row) => row[name])).size !== 1) return "";
    return `${known[0][name]}: ${known.map((row) => [parts[row[part]], row[text]].filter(Boolean).join(" ")).join(", ")}.`;
  }

  function specification(name, levels, rows, width) {
    const chart = page.charts[name];
    const names = { quantity: page.quantities[levels.quantity], unit: levels.unit };
    for (const selector of [...chart.selectors, chart.panels].filter(Boolean)) {
      names[selector.column] = selector.levels[levels[selector.column]];
    }
    // A name may contain another in braces: two passes fill them all.
    const filled = (text) => text.replace(/\{(\w+)\}/g, (whole, column) => names[column] ?? whole);
    // The ends of axes are columns, constant in each view.
    const ends = Object.fromEntries(page.ends.map((column) => [`{${column}}`, rows.find((row) => row[column] != null)?.[column]]));
    const spec = JSON.parse(JSON.stringify(chart.specification), (_, part) =>
      typeof part === "string" ? ends[part] ?? filled(filled(part)) : part);
    // Vega-Lite fits the width only for a height in pixels.
    const height = spec.height.step ? spec.height.step * new Set(rows.map((row) => row.model)).size : spec.height;
    return { ...spec, width, height, background: null, datasets: { table: rows } };
  }

  // List the points without room for a name in a plot of this width, three in a line.
  function unnamed(rows, width) {
    const at = page.label_widths.filter((least) => width >= least).length;
    const names = rows.filter((row) => row.label && row.label[at] === null).map((row) => row.model);
    if (!names.length) return null;
    const lines = Array.from({ length: Math.ceil(names.length / 3) }, (_, i) => names.slice(3 * i, 3 * i + 3).join(", "));
    return { text: [`Not named in the plot: ${lines[0]}`, ...lines.slice(1)] };
  }

  async function drawPanel(name, panel) {
    const view = panel.querySelector(".view");
    const levels = selected(name);
    const column = panel.dataset.column;
    panel.hidden = column === "phase" && state.phase !== "all" && state.phase !== panel.dataset.level;
    if (panel.hidden) return [];
    if (column) levels[column] = panel.dataset.level;
    const rows = shown(name, levels);
    drawn.get(view)?.finalize();
    drawn.delete(view);
    const single = page.charts[name].single;
    const text = single && sentence(single, rows);
    if (rows.length === 0 || text) {
      const why = text ? text
        : shown(name, levels, new Set()).length > 0 ? "Nothing to show: every model with data is hidden."
        : levels.quantity === "net" && shown(name, { ...levels, quantity: "gross" }).length > 0
          ? "Nothing to show: net energy is unknown or not above zero here."
          : "Nothing to show: this was not measured for this selection.";
      view.replaceChildren(Object.assign(document.createElement("p"), { className: text ? "" : "quiet", textContent: why }));
      return [];
    }
    const spec = specification(name, levels, rows, view.clientWidth);
    let result = await drawChart(view, spec, page.config);
    const title = unnamed(rows, result.view.width());
    if (title) {
      result.finalize();
      result = await drawChart(view, { ...spec, title }, page.config);
    }
    drawn.set(view, result);
    return rows;
  }

  // Show the sentences of a caption that are about the rows that are drawn.
  function explain(name, rows) {
    const figure = document.getElementById(`figure-${name}`);
    page.charts[name].remarks.map(Object.entries).forEach((where, i) => {
      const isAbout = where.length === 0 || rows.some((row) => where.some(([column, value]) => value === true ? row[column] : row[column] === value));
      figure.querySelector(`[data-remark="${i}"]`).hidden = rows.length === 0 || !isAbout;
    });
    figure.querySelector("[data-gross]").hidden = selected(name).quantity === state.quantity;
    for (const button of figure.querySelectorAll("[data-download=svg], [data-download=png]")) button.hidden = rows.length === 0;
  }

  async function draw(names) {
    const mine = ++round;
    document.documentElement.dataset.drawn = "no";
    for (const name of names) {
      const rows = [];
      for (const panel of document.querySelectorAll(`#figure-${name} .panel`)) {
        if (mine !== round) return;
        rows.push(...await drawPanel(name, panel));
      }
      explain(name, rows);
      const details = document.querySelector(`#figure-${name} .data`);
      if (details.open) fillTable(name, details);
    }
    document.documentElement.dataset.drawn = "yes";
  }
  const drawAll = () => draw(Object.keys(page.charts));

  // Show the rows of tables and the findings that match the selection.
  function filter() {
    for (const part of document.querySelectorAll("[data-groups], [data-phase], [data-quantity]")) {
      part.hidden = ("groups" in part.dataset && !part.dataset.groups.split(" ").includes(String(state.group))) ||
        state.hidden.has(part.dataset.model) ||
        ("quantity" in part.dataset && part.dataset.quantity !== state.quantity) ||
        (state.phase !== "all" && "phase" in part.dataset && part.dataset.phase !== state.phase);
    }
    const table = document.querySelector("table.results");
    if (!table) return;
    for (const body of table.tBodies) {
      body.hidden = ![...body.querySelectorAll("tr[data-groups]")].some((row) => !row.hidden);
    }
    sortable.hideEmpty(table);
    // Where the table is sorted by the other energy, it goes on with the same column of this one.
    const headings = [...table.tHead.rows[0].cells];
    const hidden = headings.find((heading) => heading.hidden && heading.hasAttribute("aria-sort"));
    if (hidden) {
      const sames = headings.filter((heading) => heading.dataset.column === hidden.dataset.column);
      const same = sames.find((heading) => !heading.hidden);
      if (same) sortable.sort(table, same.cellIndex, hidden.getAttribute("aria-sort") === "descending");
    }
  }

  function visibleRows(name) {
    const levels = selected(name);
    for (const select of document.querySelectorAll(`#figure-${name} select`)) delete levels[select.dataset.column];
    return shown(name, levels);
  }

  const hidden = new Set(page.hidden);
  function columnsOf(name) {
    return Object.keys(page.charts[name].columns).filter((column) => !hidden.has(column));
  }

  function fillTable(name, details) {
    const columns = columnsOf(name);
    const rows = visibleRows(name);
    const most = 500;
    const row = (values, tag) => {
      const line = document.createElement("tr");
      for (const value of values) {
        const cell = document.createElement(tag);
        if (tag === "th") cell.scope = "col";
        cell.textContent = value === null || value === undefined ? "–"
          : typeof value === "number" ? Number(value.toPrecision(4)).toLocaleString("en", { maximumSignificantDigits: 4 }) : value;
        line.append(cell);
      }
      return line;
    };
    const table = document.createElement("table");
    const caption = table.createCaption();
    caption.textContent = rows.length > most ? `The first ${most} of ${rows.length} rows; the download has all.` : `${rows.length} rows`;
    table.createTHead().append(row(columns, "th"));
    table.createTBody().append(...rows.slice(0, most).map((one) => row(columns.map((column) => one[column]), "td")));
    details.querySelector(".scroll").replaceChildren(table);
  }

  async function download(name, kind) {
    if (kind === "csv") return saveCsv(name, columnsOf(name), visibleRows(name));
    for (const panel of document.querySelectorAll(`#figure-${name} .panel:not([hidden])`)) {
      const view = drawn.get(panel.querySelector(".view"))?.view;
      if (view) await saveImage(panel.dataset.level ? `${name}-${panel.dataset.level}` : name, view, kind);
    }
  }

  function listen() {
    const controls = document.querySelector(".controls");
    controls.addEventListener("change", (event) => {
      const field = event.target;
      if (field.name === "model") {
        if (field.checked) state.hidden.delete(field.value); else state.hidden.add(field.value);
      } else {
        state[field.name] = field.name === "group" ? Number(field.value) : field.value;
      }
      count();
      filter();
      drawAll();
    });
    controls.addEventListener("submit", (event) => event.preventDefault());
    controls.addEventListener("click", (event) => {
      const all = event.target.dataset?.all;
      if (!all) return;
      const boxes = [...controls.querySelectorAll("[name=model]")];
      for (const box of boxes) box.checked = all === "yes";
      state.hidden = new Set(all === "yes" ? [] : boxes.map((box) => box.value));
      count();
      filter();
      drawAll();
    });
    for (const figure of document.querySelectorAll("figure[id]")) {
      const name = figure.id.slice("figure-".length);
      for (const select of figure.querySelectorAll("select")) select.addEventListener("change", () => redraw(name));
      for (const button of figure.querySelectorAll("[data-download]")) {
        button.addEventListener("click", () => download(name, button.dataset.download));
      }
      const details = figure.querySelector(".data");
      details.addEventListener("toggle", () => details.open && fillTable(name, details));
    }
    redrawOnResize(drawAll);
    // A link into the page opens its target.
    window.addEventListener("hashchange", () => document.querySelector(location.hash || "body")?.closest("details")?.setAttribute("open", ""));
  }

  // Redraw one chart, unless all are being drawn.
  function redraw(name) {
    if (document.documentElement.dataset.drawn === "yes") draw([name]); else drawAll();
  }

  function count() {
    const boxes = document.querySelectorAll(".controls [name=model]");
    document.querySelector(".controls .count").textContent = `${boxes.length - state.hidden.size} of ${boxes.length}`;
  }

  document.documentElement.classList.add("scripted");
  if (window.innerWidth < 640) document.querySelector(".controls > details")?.removeAttribute("open");
  count();
  filter();
  listen();
  drawAll();
})();
