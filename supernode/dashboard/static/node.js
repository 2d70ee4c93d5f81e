// One node.

import { h } from "./dom.js";
import { age, count, digest, moment, percent, rate, size } from "./format.js";
import { History } from "./history.js";
import { badge, bar, facts, figure, figures, heading, link, nothing, place, section, table } from "./parts.js";

let history = new History();
let shown = "";

export const node = {
  title: (_, { node: found }) => found?.name ?? "Node",
  topics: ({ name }) => [`node:${name}`],
  picture(_, data) {
    if (data.peer !== shown) {
      history = new History();
      shown = data.peer;
    }
    if (data.report) history.add(data.report.rates);
  },
  draw({ node: found }) {
    if (!found) return [heading("Node")];
    if (found.error) return [heading("Node"), nothing("This node is not connected now.", link("#/nodes", "All nodes"))];
    const { report } = found;
    return [
      h("p", { class: "crumbs" }, link("#/nodes", "Nodes")),
      heading(found.name, report && h("p", { class: "beside" }, `runs for ${age(report.uptime_seconds)}`)),
      report ? report_(report) : nothing("This node has not reported yet, or runs a version that does not."),
      section("On its way", downloads(found.downloading)),
      section("Images", images(found.images)),
      section(
        "About",
        facts([
          ["Address", `${found.host}:${found.port}`],
          ["Zone", found.zone || "none"],
          ["Labels", Object.keys(found.labels).length ? h("span", { class: "chips" }, Object.entries(found.labels).map(([key, value]) => h("span", { class: "chip" }, `${key}=${value}`))) : "none"],
          ["Version", found.version || "unknown"],
          ["Joined", moment(found.joined)],
          ["Swarms", count(found.swarms)],
          report && ["Neighbours", count(report.neighbours)],
          report && ["Disk free", size(report.store.free_bytes)],
          ["Identity", h("code", null, found.peer)],
        ]),
      ),
    ];
  },
};

const report_ = ({ rates, totals, saved_bytes: saved, hit_ratio: ratio, store }) => [
  figures(
    figure("Saved from origins", size(saved), `of ${size(totals.served)} that its clients were given`),
    figure("Hit ratio", percent(ratio), `${count(totals.requests)} requests of clients`),
    figure("Store", size(store.bytes), `of ${size(store.limit_bytes)}, ${size(store.pinned_bytes)} pinned`, bar(store.bytes, store.limit_bytes, "Store in use")),
  ),
  figures(
    figure("To clients", rate(rates.served), `${size(totals.served)} in all`, history.line("served", "To clients")),
    figure("From nodes", rate(rates.peers_in), `${size(totals.peers_in)} in all`, history.line("peers_in", "From nodes")),
    figure("To nodes", rate(rates.peers_out), `${size(totals.peers_out)} in all`, history.line("peers_out", "To nodes")),
    figure("From origins", rate(rates.origin_in), `${size(totals.origin_in)} in all`, history.line("origin_in", "From origins")),
  ),
];

const downloads = (found) =>
  found.length
    ? table(
        "Blobs on their way to this node",
        [
          { title: "Blob", cell: (blob) => link(place("swarms", blob.digest), digest(blob.digest)) },
          { title: "Size", number: true, cell: (blob) => size(blob.size) },
          { title: "There", cell: (blob) => bar(blob.pieces_there, blob.pieces, "Pieces that are there") },
          { title: "Pieces", number: true, cell: (blob) => `${count(blob.pieces_there)} of ${count(blob.pieces)}` },
        ],
        found,
        (blob) => blob.digest,
      )
    : nothing("Nothing is on its way to this node.");

const images = (found) =>
  found.length
    ? table(
        "Images of this node",
        [
          { title: "Image", cell: (image) => link(place("images", image.digest), image.names[0] ?? digest(image.digest)) },
          { title: "Stored", number: true, cell: (image) => size(image.bytes) },
          { title: "State", cell: (image) => [image.complete ? badge("complete", "good") : badge("in part", "busy"), image.pinned && " ", image.pinned && badge("pinned", "plain")] },
        ],
        found,
        (image) => image.digest,
      )
    : nothing("This node has told of no images yet. Those that it has appear here with its next report.");
