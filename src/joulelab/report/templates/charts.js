"use strict";
// What the scripts of pages with charts share.

// Rows of columns that are plain values, or levels and the number of each row's level.
function unpack(columns) {
  const lists = Object.entries(columns).map(([column, packed]) => [
    column, Array.isArray(packed) ? packed : packed.codes.map((code) => code === null ? null : packed.levels[code]),
  ]);
  const count = lists.length ? lists[0][1].length : 0;
  return Array.from({ length: count }, (_, i) => Object.fromEntries(lists.map(([column, values]) => [column, values[i]])));
}

async function drawChart(view, specification, config) {
  const font = getComputedStyle(document.body).fontFamily;
  // Long names leave room for a plot on narrow screens.
  const axis = { ...config.axis, labelLimit: Math.min(config.axis.labelLimit, view.clientWidth / 3) };
  const result = await vegaEmbed(view, specification, {
    mode: "vega-lite", renderer: "svg", actions: false, ast: true, hover: false, logLevel: 1,
    config: { ...config, axis, font }, tooltip: { theme: "page" },
  });
  // The view has one description.
  view.querySelector("svg").setAttribute("aria-hidden", "true");
  return result;
}

function save(name, address) {
  const link = Object.assign(document.createElement("a"), { href: address, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  if (address.startsWith("blob:")) setTimeout(() => URL.revokeObjectURL(address), 10000);
}

function saveCsv(name, columns, rows) {
  const cell = (value) => value === null || value === undefined ? ""
    : /[",\r\n]/.test(value) ? `"${String(value).replaceAll('"', '""')}"` : String(value);
  const lines = [columns, ...rows.map((row) => columns.map((column) => row[column]))];
  const text = lines.map((line) => line.map(cell).join(",") + "\n").join("");
  save(`${name}.csv`, URL.createObjectURL(new Blob([text], { type: "text/csv" })));
}

// Save a drawing as SVG or PNG, on white.
async function saveImage(name, view, kind) {
  view.background("#ffffff");
  save(`${name}.${kind}`, await view.toImageURL(kind, 3));
  view.background(null);
  await view.runAsync();
}

// Draw again some time after the last change of the window's width.
function redrawOnResize(redraw) {
  let width = window.innerWidth;
  let waiting;
  window.addEventListener("resize", () => {
    if (window.innerWidth === width) return;
    width = window.innerWidth;
    clearTimeout(waiting);
    waiting = setTimeout(redraw, 150);
  });
}
