// The swarms, and one of them: its picture, and the same as a table.

import { h } from "./dom.js";
import { count, digest, percent, rate, size } from "./format.js";
import { badge, bar, code, facts, figure, figures, heading, link, nothing, place, section, table } from "./parts.js";
import { drawing, legend, strip } from "./picture.js";

export const swarms = {
  title: () => "Swarms",
  topics: () => ["swarms"],
  draw({ swarms: found }) {
    if (!found) return [heading("Swarms")];
    const all = found.swarms.length + found.left_out;
    return [
      heading("Swarms", h("p", { class: "beside" }, count(all))),
      section(
        null,
        found.swarms.length
          ? table(
              "Swarms, those first that move",
              [
                { title: "Blob", cell: (swarm) => link(place("swarms", swarm.digest), digest(swarm.digest)) },
                { title: "Of", cell: (swarm) => swarm.repositories[0] ?? "" },
                { title: "Size", number: true, cell: (swarm) => size(swarm.size) },
                { title: "There", cell: (swarm) => bar(swarm.pieces_there, swarm.pieces * swarm.nodes, "Pieces that are there") },
                { title: "Complete on", number: true, cell: (swarm) => `${count(swarm.nodes_complete)} of ${count(swarm.nodes)}` },
                { title: "State", cell: (swarm) => (swarm.nodes_wanting ? badge("moves", "busy") : badge("rests", "plain")) },
              ],
              found.swarms.slice(0, 200),
              (swarm) => `${swarm.digest} ${swarm.size}`,
            )
          : nothing("No node has or wants a blob yet. The first pull through a node makes the first swarm."),
        all > 200 && h("p", { class: "remark" }, `${count(all - 200)} more are not shown: those that move come first.`),
      ),
    ];
  },
};

export const swarm = {
  title: (_, { swarm: found }) => (found?.digest ? `Swarm ${digest(found.digest)}` : "Swarm"),
  topics: ({ name }) => [`swarm:${name}`],
  said: ({ swarm: found }) =>
    !found || found.error ? "" : found.nodes_wanting ? "The swarm moves." : "All nodes of the swarm have what they want.",
  draw({ swarm: found }, { name }) {
    if (!found) return [heading("Swarm")];
    if (found.error) return [heading("Swarm"), nothing("No node has or wants this blob now.", link("#/swarms", "All swarms"))];
    const { transfers, members, pieces } = found;
    const sum = (each) => transfers.filter(each).reduce((total, transfer) => total + transfer.rate, 0);
    const there = members.reduce((total, member) => total + member.pieces_there * member.count, 0);
    return [
      h("p", { class: "crumbs" }, link("#/swarms", "Swarms")),
      heading(digest(name), found.nodes_wanting ? badge("moves", "busy") : badge("rests", "good")),
      figures(
        figure("Complete", percent(there / (pieces * found.nodes)), `${count(found.nodes_complete)} of ${count(found.nodes)} nodes have it all`),
        figure("Between nodes", rate(sum((each) => each.from_peer !== null)), "now"),
        figure("From the origin", rate(sum((each) => each.from_origin !== null)), `${count(found.leases.length)} leases`),
        figure("Size", size(found.size), `${count(pieces)} pieces of ${size(Math.min(found.piece_size, found.size))}`),
      ),
      h("section", { class: "panel picture" }, h("h2", null, "The swarm now"), drawing(found), legend(found)),
      section(found.grouped ? "Zones" : "Nodes", list(found)),
      section("About", facts([["Digest", code(name)], ["Kept at", found.repositories.join(", ") || "nobody who wants it says where"]])),
    ];
  },
};

const list = (found) => {
  const from = (member, isOrigin) =>
    found.transfers
      .filter((each) => each.to === member.peer && (each.from_origin !== null) === isOrigin)
      .reduce((total, each) => total + each.rate, 0);
  const columns = [
    { title: found.grouped ? "Zone" : "Node", cell: (member) => (found.grouped ? `${member.name} (${count(member.count)} nodes)` : link(place("nodes", member.peer), member.name)) },
    { title: "State", cell: (member) => (member.complete ? badge("complete", "good") : member.wants ? badge("fetches", "busy") : badge("in part", "plain")) },
    { title: "There", cell: (member) => bar(member.pieces_there, found.pieces, "Pieces that are there") },
    !found.grouped && { title: "Pieces", cell: (member) => strip(member, found.pieces) },
    { title: "From nodes", number: true, cell: (member) => rate(from(member, false)) },
    { title: "From the origin", number: true, cell: (member) => rate(from(member, true)) },
  ].filter(Boolean);
  const rows = [...found.members].sort((a, b) => a.name.localeCompare(b.name));
  return table(found.grouped ? "Zones of the swarm" : "Nodes of the swarm", columns, rows, (member) => member.peer);
};
