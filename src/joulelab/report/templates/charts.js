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
  const result = await vegaEmbed(view, specification, {
    mode: "vega-lite", renderer: "svg", actions: false, ast: true, hover: false, logLevel: 1,
    config: { ...config, font }, tooltip: { theme: "page" },
  });
  // The view has one description.
  view.querySelector("svg").setAttribute("aria-hidden", "true");
  return result;
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
