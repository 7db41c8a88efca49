'use strict';

// Orders the rows by a column: upwards, then downwards. What was not measured stays last.
function sortBy(table, column) {
  const headings = [...table.tHead.rows[0].cells];
  const downwards = headings[column].getAttribute('aria-sort') === 'ascending';
  const words = headings[column].classList.contains('words');
  const keyed = [...table.tBodies[0].rows].map((row) => {
    const cell = row.cells[column];
    const key = words ? cell.dataset.text : parseFloat(cell.dataset.value);
    return { row, key, missing: words ? key === '' : Number.isNaN(key) };
  });
  const compare = words ? (a, b) => a.localeCompare(b, 'en', { numeric: true }) : (a, b) => a - b;
  keyed.sort((a, b) => {
    if (a.missing || b.missing) return a.missing - b.missing;
    return downwards ? compare(b.key, a.key) : compare(a.key, b.key);
  });
  table.tBodies[0].append(...keyed.map((entry) => entry.row));
  for (const heading of headings) heading.setAttribute('aria-sort', 'none');
  headings[column].setAttribute('aria-sort', downwards ? 'descending' : 'ascending');
}

for (const table of document.querySelectorAll('table')) {
  [...table.tHead.rows[0].cells].forEach((heading, column) => {
    heading.querySelector('button').addEventListener('click', () => sortBy(table, column));
  });
}
