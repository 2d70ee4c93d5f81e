// All nodes, a page of them at a time.

import { h } from "./dom.js";
import { count, percent, rate, size } from "./format.js";
import { code, heading, link, nothing, place, section, table } from "./parts.js";

const ROWS = 50;
const ORDERS = { name: "name", served: "given to clients", sent: "given to nodes", origin: "fetched from origins", store: "stored", downloads: "downloads" };

/** What the address says of order, page and search. */
const wanted = (query) => ({
  order: query.get("order") in ORDERS ? query.get("order") : "name",
  first: Math.max(0, Number.parseInt(query.get("first") ?? "0", 10) || 0),
  text: (query.get("find") ?? "").slice(0, 100),
});

const address = ({ order, first, text }) => {
  const query = new URLSearchParams();
  if (order !== "name") query.set("order", order);
  if (first) query.set("first", first);
  if (text) query.set("find", text);
  return query.size ? `#/nodes?${query}` : "#/nodes";
};

export const nodes = {
  title: () => "Nodes",
  topics({ query }) {
    const { order, first, text } = wanted(query);
    return [`nodes:${order}:${first}:${text}`];
  },
  draw({ nodes: found }, { query }) {
    const asked = wanted(query);
    return [
      heading("Nodes", found && h("p", { class: "beside" }, asked.text ? `${count(found.found)} of ${count(found.connected)}` : count(found.connected))),
      h(
        "form",
        { class: "controls", role: "search", "data-form": "find", "data-key": "find" },
        h("label", null, "Find", h("input", { type: "search", name: "find", value: asked.text, placeholder: "name, label, zone, address", maxlength: 100, autocomplete: "off" })),
        h(
          "label",
          null,
          "Order by",
          h("select", { name: "order" }, Object.entries(ORDERS).map(([order, name]) => h("option", { value: order, selected: order === asked.order }, name))),
        ),
        h("button", { type: "submit" }, "Show"),
      ),
      found && section(null, list(found, asked)),
    ];
  },
  submit(form) {
    const data = new FormData(form);
    location.hash = address({ order: data.get("order"), first: 0, text: data.get("find").trim() });
  },
};

const list = (found, asked) => {
  if (!found.connected) {
    return nothing("No node has joined yet.", h("span", null, "Start one with ", code("shoal peer --supernode http://THIS-HOST:5090"), "."));
  }
  if (!found.found) return nothing("No node has this in its name, labels, zone, address or version.");
  const total = (row, name) => (row.report ? size(row.report.totals[name]) : "–");
  return [
    table(
      "Nodes",
      [
        { title: "Node", cell: (row) => link(place("nodes", row.peer), row.name) },
        { title: "Zone", cell: (row) => row.zone },
        { title: "To clients now", number: true, cell: (row) => (row.report ? rate(row.report.rates.served) : "–") },
        { title: "To clients", number: true, cell: (row) => total(row, "served") },
        { title: "From nodes", number: true, cell: (row) => total(row, "peers_in") },
        { title: "From origins", number: true, cell: (row) => total(row, "origin_in") },
        { title: "Hits", number: true, cell: (row) => percent(row.report?.hit_ratio) },
        { title: "Stored", number: true, cell: (row) => (row.report ? size(row.report.store.bytes) : "–") },
        { title: "Downloads", number: true, cell: (row) => (row.report ? count(row.report.downloads) : "–") },
      ],
      found.nodes,
      (row) => row.peer,
    ),
    found.found > ROWS && pager(found, asked),
  ];
};

const pager = (found, asked) => {
  const last = Math.min(found.first + found.nodes.length, found.found);
  const go = (first, text) =>
    first === null ? h("span", { class: "off" }, text) : link(address({ ...asked, first }), text);
  return h(
    "nav",
    { class: "pager", "aria-label": "Pages of nodes" },
    go(found.first > 0 ? Math.max(0, found.first - ROWS) : null, "Before"),
    h("span", null, `${count(found.first + 1)}–${count(last)} of ${count(found.found)}`),
    go(last < found.found ? found.first + ROWS : null, "Next"),
  );
};
