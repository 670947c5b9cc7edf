"use strict";
// The settings' table shows the rows that hold every word sought, and of those the marked ones where asked.
const find = document.getElementById("find"), marked = document.getElementById("marked");
function filter() {
  const words = find.value.toLowerCase().split(/\s+/).filter(Boolean);
  const rows = [...document.querySelectorAll(".settings tbody tr")];
  for (const row of rows) {
    const text = row.textContent.toLowerCase();
    row.hidden = !words.every(word => text.includes(word)) || (marked.checked && !row.classList.contains("differs"));
  }
  const shown = rows.filter(row => !row.hidden).length;
  document.getElementById("count").textContent = shown < rows.length ? `${shown} of ${rows.length}` : "";
}
if (find) {
  find.addEventListener("input", filter);
  marked.addEventListener("change", filter);
  find.form.addEventListener("submit", event => event.preventDefault());
  filter();
}
