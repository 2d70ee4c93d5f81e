// The picture of a swarm: the origin in the middle, nodes around it as rings of pieces, transfers as moving edges.

import { h, s } from "./dom.js";
import { count, percent, rate } from "./format.js";
import { place } from "./parts.js";

const SIZE = 640;
const MIDDLE = SIZE / 2;
const MOST_SEGMENTS = 48;
const NAMED = 32; // with more dots their names would cover each other

/** For each of some segments, the part of its pieces that is there. */
const segments = (member, pieces) => {
  const number = Math.min(pieces, MOST_SEGMENTS);
  if (member.complete) return Array(number).fill(1);
  if (!member.have) {
    // of a zone it is known how many there are, not which
    return Array.from({ length: number }, (_, at) => Math.min(1, Math.max(0, (member.pieces_there * number) / pieces - at)));
  }
  const bits = atob(member.have);
  const counts = Array(number).fill(0);
  const sizes = Array(number).fill(0);
  for (let piece = 0; piece < pieces; piece += 1) {
    const at = Math.floor((piece * number) / pieces);
    sizes[at] += 1;
    counts[at] += (bits.charCodeAt(piece >> 3) >> (piece & 7)) & 1;
  }
  return counts.map((there, at) => there / sizes[at]);
};

const point = (angle, radius, [x, y]) => [x + radius * Math.cos(angle), y + radius * Math.sin(angle)];
const xy = ([x, y]) => `${x.toFixed(1)} ${y.toFixed(1)}`;

/** The places of all members, on one circle or, with many, on two. */
const layout = (members) => {
  const rings = members.length > 48 ? 2 : 1;
  return new Map(
    members.map((member, at) => {
      const angle = (2 * Math.PI * at) / members.length - Math.PI / 2;
      const radius = rings === 1 ? 225 : at % 2 ? 265 : 195;
      return [member.peer, { angle, at: point(angle, radius, [MIDDLE, MIDDLE]) }];
    }),
  );
};

const radiusOf = (members, member, grouped) => {
  const most = members.length <= 8 ? 34 : members.length <= 24 ? 24 : members.length <= 48 ? 15 : 11;
  if (!grouped) return most;
  const largest = Math.max(...members.map((each) => each.count));
  return Math.max(12, most * Math.sqrt(member.count / largest));
};

const ring = (parts, radius, at) => {
  const step = (2 * Math.PI) / parts.length;
  const gap = parts.length > 1 ? Math.min(step * 0.18, 1.5 / radius) : 0;
  return parts.map((part, place) => {
    if (part === 0) return null;
    const start = place * step - Math.PI / 2;
    const end = parts.length > 1 ? start + step - gap : start + step - 0.001;
    const large = end - start > Math.PI ? 1 : 0;
    const d = `M${xy(point(start, radius, at))}A${radius} ${radius} 0 ${large} 1 ${xy(point(end, radius, at))}`;
    return s("path", { class: "piece", d, opacity: part === 1 ? null : (0.25 + 0.6 * part).toFixed(2) });
  });
};

const dot = (member, found, { angle, at }) => {
  const radius = radiusOf(found.members, member, found.grouped);
  const parts = segments(member, found.pieces);
  const share = found.pieces ? member.pieces_there / found.pieces : 0;
  const state = member.complete ? "complete" : member.wants ? "fetching" : "resting";
  const label = found.grouped
    ? `${member.name}: ${count(member.count)} nodes, ${percent(share)} on average`
    : `${member.name}: ${member.complete ? "complete" : `${count(member.pieces_there)} of ${count(found.pieces)} pieces`}`;
  const inner = [
    s("title", null, label),
    s("circle", { class: "body", cx: at[0].toFixed(1), cy: at[1].toFixed(1), r: radius }),
    s("circle", { class: "track", cx: at[0].toFixed(1), cy: at[1].toFixed(1), r: radius - 4, "stroke-width": radius > 14 ? 6 : 4 }),
    s("g", { "stroke-width": radius > 14 ? 6 : 4 }, ring(parts, radius - 4, at)),
    radius > 20 && s("text", { class: "share", x: at[0].toFixed(1), y: (at[1] + 4).toFixed(1) }, member.complete ? "✓" : percent(share).replace(" ", "")),
    found.members.length <= NAMED && name(member, angle, at, radius, found.grouped),
  ];
  const about = { class: `dot ${state}`, "data-key": member.peer || "-", "data-share": share.toFixed(3), "aria-label": label };
  return found.grouped ? s("g", { ...about, role: "img" }, inner) : s("a", { ...about, href: place("nodes", member.peer) }, inner);
};

const name = (member, angle, at, radius, grouped) => {
  const below = Math.sin(angle) > -0.3;
  const y = below ? at[1] + radius + 15 : at[1] - radius - 7;
  const text = short(member.name, 18) + (grouped ? `, ${count(member.count)} nodes` : "");
  return s("text", { class: "name", x: at[0].toFixed(1), y: y.toFixed(1) }, text);
};

const short = (text, most) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);

/** An edge that bends towards the middle, and ends where the dots begin. */
const edge = (transfer, found, places, fastest) => {
  const target = places.get(transfer.to);
  const source = transfer.from_peer === null ? null : places.get(transfer.from_peer);
  if (!target || (transfer.from_peer !== null && !source) || source === target) return null;
  const width = (1.2 + 3.6 * Math.sqrt(transfer.rate / fastest)).toFixed(1);
  const begin = source ? source.at : [MIDDLE, MIDDLE];
  const [dx, dy] = [target.at[0] - begin[0], target.at[1] - begin[1]];
  const length = Math.hypot(dx, dy) || 1;
  const halfway = [(begin[0] + target.at[0]) / 2, (begin[1] + target.at[1]) / 2];
  // between nodes it bends, so that both directions are seen, and around the origin where that would be crossed
  const isAcross = Math.hypot(halfway[0] - MIDDLE, halfway[1] - MIDDLE) < 90;
  const aside = source ? (isAcross ? 130 : 14) : 0;
  const inwards = source && !isAcross ? 0.3 : 0;
  const control = [
    halfway[0] + (MIDDLE - halfway[0]) * inwards - (dy / length) * aside,
    halfway[1] + (MIDDLE - halfway[1]) * inwards + (dx / length) * aside,
  ];
  const end = target.at;
  const speed = Math.max(0.5, 2.5 - 2 * Math.sqrt(transfer.rate / fastest));
  return s(
    "path",
    {
      class: `edge ${source ? "from-node" : "from-origin"} speed-${Math.round(speed * 2)}`,
      "data-key": `${transfer.from_peer ?? transfer.from_origin} ${transfer.to}`,
      d: `M${xy(begin)}Q${xy(control)} ${xy(end)}`,
      "stroke-width": width,
    },
    s("title", null, rate(transfer.rate)),
  );
};

/** The picture. What it says is in the table below it as well. */
export const drawing = (found) => {
  const members = [...found.members].sort((a, b) => a.zone.localeCompare(b.zone) || a.name.localeCompare(b.name) || a.peer.localeCompare(b.peer));
  const sorted = { ...found, members };
  const places = layout(members);
  const fastest = Math.max(1, ...found.transfers.map((transfer) => transfer.rate));
  const registry = found.transfers.find((each) => each.from_origin !== null)?.from_origin ?? found.repositories[0]?.split("/")[0];
  const active = found.transfers.some((each) => each.from_origin !== null);
  return s(
    "svg",
    {
      class: "swarm",
      viewBox: `0 0 ${SIZE} ${SIZE}`,
      role: "group",
      "aria-label": `${count(found.nodes)} nodes around the origin, ${count(found.nodes_complete)} complete, ${count(found.transfers.length)} transfers. The table below says the same.`,
    },
    s("g", { class: "edges", "aria-hidden": "true" }, found.transfers.map((transfer) => edge(transfer, sorted, places, fastest))),
    s(
      "g",
      { class: active ? "origin active" : "origin", role: "img", "aria-label": `origin ${registry ?? ""}` },
      s("circle", { cx: MIDDLE, cy: MIDDLE, r: 44 }),
      s("text", { x: MIDDLE, y: MIDDLE + (registry ? -2 : 5) }, "origin"),
      registry && s("text", { class: "registry", x: MIDDLE, y: MIDDLE + 14 }, short(registry, 14)),
    ),
    s("g", { class: "dots" }, members.map((member) => dot(member, sorted, places.get(member.peer)))),
  );
};

export const legend = (found) =>
  h(
    "ul",
    { class: "legend" },
    h("li", { class: "l-piece" }, found.grouped ? "a ring is a zone, filled by what its nodes have on average" : "a ring is a node, filled by the pieces that it has"),
    h("li", { class: "l-node" }, "from another node"),
    h("li", { class: "l-origin" }, "from the origin"),
  );

/** The pieces of one member, from the first to the last. */
export const strip = (member, pieces) => {
  const parts = segments(member, pieces);
  return s(
    "svg",
    { class: "strip", viewBox: `0 0 ${parts.length} 1`, preserveAspectRatio: "none", "aria-hidden": "true" },
    parts.map((part, at) => part > 0 && s("rect", { x: at, y: 0, width: 0.92, height: 1, opacity: part === 1 ? null : (0.25 + 0.6 * part).toFixed(2) })),
  );
};
