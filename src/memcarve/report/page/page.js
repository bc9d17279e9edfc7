"use strict";
const report = JSON.parse(document.getElementById("document").textContent);
const main = document.getElementById("report");
for (const process of report.processes) {
  const heading = document.createElement("h2");
  heading.textContent = `${process.pid ?? ""} ${process.name ?? ""}`;
  const table = document.createElement("table");
  process.segments.start.slice(0, 1000).forEach((start, at) => {
    const row = table.insertRow();
    row.insertCell().textContent = start;
    row.insertCell().textContent = process.segments.size[at];
  });
  main.append(heading, table);
}
