"use strict";
// Draw the figures from the data on this page in the width of the window; zoom and select.
(() => {
  const page = JSON.parse(document.getElementById("page-data").textContent);
  const zoomed = Object.entries(page.figures).filter(([, one]) => one.range).map(([name]) => name);
  const whole = zoomed.length ? page.figures[zoomed[0]].range : [0, 0];
  const state = { range: whole, quantity: "gross" };
  const drawn = new Map();
  const rows = new Map();
  let round = 0;

  function rowsOf(name) {
    if (!rows.has(name)) rows.set(name, unpack(page.figures[name].columns));
    return rows.get(name);
  }

  function shown(name) {
    const all = rowsOf(name);
    if (!page.figures[name].range) return all.filter((row) => !("quantity" in row) || row.quantity === state.quantity);
    const [from, to] = state.range;
    // One reading to either side of the time that is shown, so that lines fill it.
    return all.filter((row, i) => {
      if (row.mark === "name") return true;
      if (row.mark === "span") return row.t_s <= to && row.stop_s >= from;
      const within = (other) => other && other.part === row.part && other.t_s >= from && other.t_s <= to;
      return within(row) || within(all[i + 1]) || within(all[i - 1]);
    });
  }

  async function draw(name) {
    const figure = page.figures[name];
    const view = document.querySelector(`#figure-${name} .view`);
    const spec = JSON.parse(JSON.stringify(figure.specification), (_, part) => Array.isArray(part) && part[0] === "{range}" ? state.range : part);
    drawn.get(name)?.finalize();
    const sized = { ...spec, width: view.clientWidth, background: null, datasets: { table: shown(name) } };
    drawn.set(name, await drawChart(view, sized, page.config));
  }

  async function drawAll(names) {
    const mine = ++round;
    document.documentElement.dataset.drawn = "no";
    for (const name of names) {
      if (mine !== round) return;
      await draw(name);
    }
    if (mine === round) document.documentElement.dataset.drawn = "yes";
  }

  const seconds = (value) => `${Number(value.toPrecision(4)).toLocaleString("en")} s`;

  function zoom(from, to) {
    const length = Math.min(Math.max(to - from, (whole[1] - whole[0]) / 1000), whole[1] - whole[0]);
    const start = Math.min(Math.max(from, whole[0]), whole[1] - length);
    state.range = [start, start + length];
    document.querySelector(".zoom output").textContent = `${seconds(start)} to ${seconds(start + length)}`;
    drawAll(round && document.documentElement.dataset.drawn === "yes" ? zoomed : Object.keys(page.figures));
  }

  const steps = {
    in: (from, length) => [from + length / 4, from + 3 * length / 4],
    out: (from, length) => [from - length / 2, from + 3 * length / 2],
    earlier: (from, length) => [from - length / 2, from + length / 2],
    later: (from, length) => [from + length / 2, from + 3 * length / 2],
    whole: () => whole,
  };

  // Drag with the mouse to zoom; touches scroll the page.
  function listenToDrags(name) {
    const element = document.querySelector(`#figure-${name} .view`);
    let start;
    let brush;
    const at = (event) => {
      const view = drawn.get(name).view;
      const left = element.getBoundingClientRect().left + view.origin()[0];
      return { left: view.origin()[0], width: view.width(), x: Math.min(Math.max(event.clientX - left, 0), view.width()) };
    };
    element.addEventListener("pointerdown", (event) => {
      if (event.pointerType !== "mouse" || event.button !== 0 || !drawn.has(name)) return;
      event.preventDefault();
      element.setPointerCapture(event.pointerId);
      start = at(event).x;
      brush = Object.assign(document.createElement("div"), { className: "brush" });
      element.append(brush);
    });
    element.addEventListener("pointermove", (event) => {
      if (!brush) return;
      const { left, x } = at(event);
      brush.style.cssText = `left:${left + Math.min(start, x)}px;width:${Math.abs(x - start)}px;top:0;bottom:0`;
    });
    const end = (event) => {
      if (!brush) return;
      const { width, x } = at(event);
      brush.remove();
      brush = undefined;
      if (event.type !== "pointerup" || Math.abs(x - start) < 5) return;
      const [from, to] = state.range;
      const time = (pixel) => from + pixel / width * (to - from);
      zoom(time(Math.min(start, x)), time(Math.max(start, x)));
    };
    element.addEventListener("pointerup", end);
    element.addEventListener("pointercancel", end);
    element.addEventListener("dblclick", () => zoom(...whole));
  }

  async function download(panel, kind) {
    const name = panel.id.slice("figure-".length);
    if (kind === "csv") return saveCsv(name, Object.keys(page.figures[name].columns), shown(name));
    if (drawn.has(name)) await saveImage(name, drawn.get(name).view, kind);
  }

  function listen() {
    for (const button of document.querySelectorAll("[data-zoom]")) {
      button.addEventListener("click", () => {
        const [from, to] = state.range;
        zoom(...steps[button.dataset.zoom](from, to - from));
      });
    }
    zoomed.forEach(listenToDrags);
    for (const input of document.querySelectorAll("[name=quantity]")) {
      input.addEventListener("change", () => {
        state.quantity = input.value;
        drawAll(["icicle"]);
      });
    }
    for (const figure of document.querySelectorAll("figure")) {
      for (const button of figure.querySelectorAll("[data-download]")) {
        button.addEventListener("click", async () => {
          for (const panel of figure.querySelectorAll(".panel")) await download(panel, button.dataset.download);
        });
      }
    }
    redrawOnResize(() => drawAll(Object.keys(page.figures)));
  }

  document.documentElement.classList.add("scripted");
  listen();
  drawAll(Object.keys(page.figures));
})();
