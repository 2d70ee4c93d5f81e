// The cluster at a glance.

import { h } from "./dom.js";
import { age, count, digest, percent, plural, rate, size } from "./format.js";
import { History } from "./history.js";
import { bar, code, figure, figures, heading, link, nothing, place, section, state, table } from "./parts.js";

const MOST_SWARMS = 6;
const MOST_PREHEATS = 4;
const history = new History();

export const overview = {
  title: () => "Overview",
  topics: () => ["cluster", "swarms", "preheats"],
  picture(kind, data) {
    if (kind === "cluster") history.add(data.rates);
  },
  draw({ cluster, swarms, preheats }) {
    if (!cluster) return [heading("Overview")];
    const { rates, totals, nodes, store } = cluster;
    return [
      heading("Overview", h("p", { class: "beside" }, `since the supernode began ${age(cluster.uptime_seconds)} ago`)),
      figures(
        figure("Saved from origins", size(cluster.saved_bytes), `of ${size(totals.served)} that clients were given`),
        figure("Hit ratio", percent(cluster.hit_ratio), "of those bytes did not leave an origin"),
        figure("Nodes", count(nodes.connected), versions(nodes)),
        figure("On the way", plural(cluster.downloads, "download"), `${plural(cluster.swarms.active, "swarm")} moving, ${plural(cluster.leases, "lease")}`),
      ),
      figures(
        figure("To clients", rate(rates.served), `${size(totals.served)} in all`, history.line("served", "To clients")),
        figure("Between nodes", rate(rates.peers_in), `${size(totals.peers_in)} in all`, history.line("peers_in", "Between nodes")),
        figure("From origins", rate(rates.origin_in), `${size(totals.origin_in)} in all`, history.line("origin_in", "From origins")),
        figure("In stores", size(store.bytes), `${size(store.pinned_bytes)} pinned, ${size(store.limit_bytes)} allowed`),
      ),
      section("Swarms that move", moving(swarms, nodes)),
      section("Origins", origins(cluster.origins)),
      preheats?.preheats.length ? section("Preheats", jobs(preheats.preheats)) : null,
    ];
  },
};

const versions = ({ versions, connected, reporting }) => {
  const known = Object.entries(versions).map(([version, number]) => (connected === number ? `all run ${version}` : `${number} run ${version}`));
  const silent = connected - reporting;
  return [...known, silent ? `${silent} not heard of yet` : null].filter(Boolean).join(", ");
};

const moving = (swarms, nodes) => {
  const found = (swarms?.swarms ?? []).filter((swarm) => swarm.nodes_wanting).slice(0, MOST_SWARMS);
  if (!nodes.connected) {
    return nothing("No node has joined yet.", h("span", null, "Start one with ", code("shoal peer --supernode http://THIS-HOST:5090"), "."));
  }
  if (!found.length) return nothing("Nothing moves now. Swarms appear here while nodes pull.");
  return table(
    "Swarms that move",
    [
      { title: "Blob", cell: (swarm) => link(place("swarms", swarm.digest), digest(swarm.digest)) },
      { title: "Of", cell: (swarm) => swarm.repositories[0] ?? "" },
      { title: "Size", number: true, cell: (swarm) => size(swarm.size) },
      { title: "There", cell: (swarm) => bar(swarm.pieces_there, swarm.pieces * swarm.nodes, "Pieces that are there") },
      { title: "Complete on", number: true, cell: (swarm) => `${count(swarm.nodes_complete)} of ${count(swarm.nodes)}` },
    ],
    found,
    (swarm) => swarm.digest,
  );
};

const origins = (found) => {
  if (!found.length) return nothing("No origin has been asked yet. The first pull through a node shows it here.");
  return table(
    "Origins",
    [
      { title: "Registry", cell: (origin) => origin.registry },
      { title: "Now", number: true, cell: (origin) => rate(origin.rate) },
      { title: "In all", number: true, cell: (origin) => size(origin.bytes) },
      { title: "Slots in use", number: true, cell: (origin) => `${origin.slots_used} of ${origin.slots}` },
      { title: "Requests left", number: true, cell: left },
      { title: "State", cell: (origin) => (origin.quiet_seconds ? `left alone for ${age(origin.quiet_seconds)}` : "answers") },
    ],
    found,
    (origin) => origin.registry,
  );
};

const left = (origin) =>
  origin.remaining === null ? "no limit told" : origin.limit === null ? count(origin.remaining) : `${count(origin.remaining)} of ${count(origin.limit)}`;

const jobs = (found) =>
  table(
    "The latest preheats",
    [
      { title: "Preheat", cell: (job) => link(place("preheats", job.id), job.id) },
      { title: "Images", cell: (job) => (job.images.length > 1 ? `${job.images[0]} and ${job.images.length - 1} more` : job.images[0]) },
      { title: "State", cell: (job) => state(job.state) },
      { title: "There", cell: (job) => bar(job.bytes.arrived, job.bytes.size, "Bytes that are there") },
    ],
    found.slice(0, MOST_PREHEATS),
    (job) => job.id,
  );
