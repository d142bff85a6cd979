"use strict";
// Sort tables of the class "sortable" by a click on a heading; a second click reverses.
const sortable = (() => {
  const UNKNOWN = ["", "–"];

  // A cell is sorted by its data-order, else by the number that it begins with, else, as a date, by its text.
  function orderOf(cell) {
    if (!cell) return null;
    if (cell.dataset.order !== undefined) return cell.dataset.order === "" ? null : Number(cell.dataset.order);
    const text = cell.textContent.trim();
    if (UNKNOWN.includes(text)) return null;
    const number = /^[+-]?[\d,]*\.?\d+(?![\d.,:-])/.exec(text);
    return number ? Number(number[0].replaceAll(",", "")) : text;
  }

  function compare(one, other) {
    if (typeof one === "number" && typeof other === "number") return one - other;
    return String(one).localeCompare(String(other), "en", { numeric: true });
  }

  // Rows of each body are sorted among themselves, below its title; unknown values stay last.
  function sort(table, index, descending) {
    for (const body of table.tBodies) {
      const rows = [...body.rows].filter((row) => !row.querySelector("th[scope=rowgroup]"));
      const keyed = rows.map((row) => [orderOf(row.cells[index]), row]);
      keyed.sort(([one], [other]) => one === null || other === null
        ? (one === null) - (other === null)
        : (descending ? -1 : 1) * compare(one, other));
      body.append(...keyed.map(([, row]) => row));
    }
    const headings = table.tHead.rows[0].cells;
    for (const heading of headings) heading.removeAttribute("aria-sort");
    headings[index].setAttribute("aria-sort", descending ? "descending" : "ascending");
  }

  function click(table, heading) {
    const descending = heading.getAttribute("aria-sort") === "ascending";
    sort(table, heading.cellIndex, descending);
  }

  // Hide columns in which no visible row has a value.
  function hideEmpty(table) {
    const rows = [...table.tBodies].flatMap((body) => [...body.rows])
      .filter((row) => !row.hidden && !row.querySelector("th[scope=rowgroup]"));
    for (const heading of table.tHead.rows[0].cells) {
      const cells = [...table.querySelectorAll("tbody tr")].map((row) => row.cells[heading.cellIndex]);
      const empty = rows.length > 0 && rows.every((row) => UNKNOWN.includes(row.cells[heading.cellIndex].textContent.trim()));
      for (const cell of [heading, ...cells]) cell?.toggleAttribute("data-empty", empty);
    }
  }

  for (const table of document.querySelectorAll("table.sortable")) {
    for (const heading of table.tHead.rows[0].cells) {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...heading.childNodes);
      heading.append(button);
      button.addEventListener("click", () => click(table, heading));
    }
  }
  return { sort, hideEmpty };
})();
