"use strict";
// Headings sort their table. Without this script nothing is missing but that.
for (const table of document.querySelectorAll("table")) {
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    head.querySelector("button").addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const number = head.classList.contains("number");
      const key = (row) => row.cells[column].dataset.sort;
      const order = (a, b) => (number ? a - b : a.localeCompare(b));
      // What has no value stays last, whichever way is up.
      const rows = [...body.rows].sort((a, b) => {
        const [left, right] = [key(a), key(b)];
        if (left === "" || right === "") return (left === "") - (right === "");
        return up ? order(left, right) : order(right, left);
      });
      body.append(...rows);
    });
  });
}
