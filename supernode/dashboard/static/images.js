// The images that nodes have, and one of them.

import { h } from "./dom.js";
import { count, digest, kind, percent, size } from "./format.js";
import { badge, bar, code, facts, figure, figures, heading, link, nothing, place, section, table } from "./parts.js";

const MOST = 300;
const MARKS = [["none", "nothing of it"], ["some", "pieces of it"], ["all", "all of it"]];

export const images = {
  title: () => "Images",
  topics: () => ["images"],
  draw({ images: found }) {
    if (!found) return [heading("Images")];
    const rows = found.images.slice(0, MOST);
    return [
      heading("Images", h("p", { class: "beside" }, count(found.images.length))),
      section(
        null,
        rows.length
          ? table(
              "Images",
              [
                { title: "Image", cell: (image) => link(place("images", image.digest), image.names[0] ?? digest(image.digest)) },
                { title: "Digest", cell: (image) => code(digest(image.digest)) },
                { title: "Stored", number: true, cell: (image) => size(image.bytes) },
                { title: "Complete on", number: true, cell: (image) => count(image.nodes_complete) },
                { title: "In part on", number: true, cell: (image) => count(image.nodes_partly) },
                { title: "Pinned on", number: true, cell: (image) => count(image.nodes_pinned) },
              ],
              rows,
              (image) => image.digest,
            )
          : nothing("No node has told of an image yet.", "Pull one through a node, or preheat it, and it appears here with the next report."),
        found.images.length > MOST && h("p", { class: "remark" }, `${count(found.images.length - MOST)} more are not shown; `, code("shoal images"), " on a node lists all that it has."),
      ),
    ];
  },
};

export const image = {
  title: (_, { image: found }) => found?.names?.[0] ?? "Image",
  topics: ({ name }) => [`image:${name}`],
  draw({ image: found }, { name }) {
    if (!found) return [heading("Image")];
    if (found.error) return [heading("Image"), nothing("No node says that it has this image now.", link("#/images", "All images"))];
    const bytes = found.parts?.reduce((sum, part) => sum + part.size, 0);
    return [
      h("p", { class: "crumbs" }, link("#/images", "Images")),
      heading(found.names[0] ?? digest(name)),
      figures(
        figure("Complete on", count(found.nodes_complete), `of ${count(found.nodes_count)} nodes that have some of it`),
        figure("Pinned on", count(found.nodes_pinned), found.nodes_pinned === 1 ? "node" : "nodes"),
        found.parts && figure("Size", size(bytes), `in ${count(found.parts.length)} parts`),
      ),
      section("Layers", layers(found)),
      section("Who has what", holders(found)),
      section("About", facts([["Digest", code(name)], ["Names", found.names.join(", ") || "none that nodes know"], ["Type", found.media_type || "not told yet"]])),
    ];
  },
};

const layers = ({ parts, nodes_count: nodes }) =>
  parts === null
    ? nothing("No node has told yet what this image is made of. The next reports tell.")
    : table(
        "What the image is made of",
        [
          { title: "Part", cell: (part) => link(place(isManifest(part) ? "images" : "swarms", part.digest), digest(part.digest)) },
          { title: "Kind", cell: (part) => kind(part.media_type, part.platform) },
          { title: "Size", number: true, cell: (part) => size(part.size) },
          { title: "Nodes that have it", cell: (part) => bar(part.nodes_complete, Math.max(nodes, part.nodes_complete), "Nodes that have it") },
          { title: "Nodes", number: true, cell: (part) => count(part.nodes_complete) + (part.nodes_partly ? ` and ${count(part.nodes_partly)} in part` : "") },
        ],
        parts,
        (part) => part.digest,
      );

const isManifest = (part) => /manifest|index/.test(part.media_type);

const holders = ({ nodes, nodes_count: total, parts }) => {
  const columns = [
    { title: "Node", cell: (node) => link(place("nodes", node.peer), node.name) },
    parts && { title: "Parts", cell: (node) => marks(node.parts) },
    { title: "Stored", number: true, cell: (node) => size(node.bytes) },
    { title: "State", cell: (node) => [node.complete ? badge("complete", "good") : badge("in part", "busy"), node.pinned && " ", node.pinned && badge("pinned", "plain")] },
  ].filter(Boolean);
  return [
    table("Nodes that have some of it", columns, nodes, (node) => node.peer),
    total > nodes.length && h("p", { class: "remark" }, `${count(total - nodes.length)} more nodes are not shown: those that lack something come first.`),
  ];
};

const marks = (digits) => {
  const whole = [...digits].filter((digit) => digit === "2").length;
  return h(
    "span",
    { class: "marks", role: "img", "aria-label": `${whole} of ${digits.length} parts, ${percent(digits.length ? whole / digits.length : null)}` },
    [...digits].slice(0, 64).map((digit, at) => h("span", { class: `mark ${MARKS[digit][0]}`, title: `part ${at + 1}: ${MARKS[digit][1]}` })),
  );
};
