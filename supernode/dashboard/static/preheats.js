// Preheats: all of them, one of them, and the beginning and the end of one.

import { h } from "./dom.js";
import { count, moment, plural, rate, size } from "./format.js";
import { bar, code, facts, figure, figures, heading, link, nothing, place, section, state, table } from "./parts.js";

/** The images of a preheat or a schedule, in a few words. */
const images = (job) => (job.images.length > 1 ? `${job.images[0]} and ${job.images.length - 1} more` : job.images[0]);

export const preheats = {
  title: () => "Preheats",
  topics: () => ["preheats"],
  draw({ preheats: found }, _, { signedIn }) {
    return [
      heading("Preheats"),
      section("Have nodes pull images before a client asks", signedIn ? form() : stranger("Sign in to start a preheat.")),
      section(
        null,
        !found
          ? null
          : found.preheats.length
            ? table(
                "Preheats, the latest first",
                [
                  { title: "Preheat", cell: (job) => link(place("preheats", job.id), job.id) },
                  { title: "Images", cell: images },
                  { title: "Nodes", cell: (job) => job.nodes },
                  { title: "State", cell: (job) => state(job.state) },
                  { title: "There", cell: (job) => bar(job.bytes.arrived, job.bytes.size, "Bytes that are there") },
                  { title: "By", cell: (job) => job.by },
                  { title: "Begun", cell: (job) => moment(job.created) },
                ],
                found.preheats,
                (job) => job.id,
              )
            : nothing("There has been no preheat yet.", h("span", null, "Begin one here, or with ", code("shoal preheat IMAGE"), ".")),
      ),
      found?.schedules.length ? section("Schedules", schedules(found.schedules)) : null,
    ];
  },
  async submit(form, { ask, say }) {
    const data = new FormData(form);
    const order = {
      images: data.get("images").split(/\s+/).filter(Boolean),
      nodes: data.get("nodes").trim() || "all",
      pin: data.has("pin"),
    };
    const job = await ask("POST", "/v1/preheats", order);
    say(`Preheat ${job.id} has begun.`);
    location.hash = place("preheats", job.id);
  },
};

const schedules = (found) =>
  table(
    "Schedules of the supernode’s configuration",
    [
      { title: "Schedule", cell: (schedule) => schedule.name },
      { title: "When", cell: (schedule) => code(schedule.cron) },
      { title: "Images", cell: images },
      { title: "Next", cell: (schedule) => (schedule.next_run === null ? "no more" : moment(schedule.next_run)) },
      { title: "Last success", cell: (schedule) => moment(schedule.last_success) },
      { title: "Last preheat", cell: (schedule) => schedule.error || (schedule.preheat && link(place("preheats", schedule.preheat), schedule.preheat)) },
    ],
    found,
    (schedule) => schedule.name,
  );

const stranger = (text) => h("p", { class: "controls" }, text, " ", h("button", { type: "button", "data-action": "sign-in" }, "Sign in"));

const form = () =>
  h(
    "form",
    { class: "controls order", "data-form": "preheat", "data-key": "order" },
    h("label", { class: "wide" }, "Images, one a line", h("textarea", { name: "images", rows: 2, required: true, placeholder: "docker.io/library/alpine:3.20", spellcheck: "false", autocapitalize: "none" })),
    h("label", null, "Nodes", h("input", { name: "nodes", value: "all", placeholder: "all, 10, 20%, label=value", maxlength: 1000, autocomplete: "off", autocapitalize: "none" })),
    h("label", { class: "check" }, h("input", { type: "checkbox", name: "pin" }), "Pin them"),
    h("button", { type: "submit", class: "primary" }, "Preheat"),
    h("p", { class: "failure", role: "alert", "data-own": true }),
  );

export const preheat = {
  title: (_, { preheat: found }) => (found?.id ? `Preheat ${found.id}` : "Preheat"),
  topics: ({ name }) => [`preheat:${name}`],
  said: ({ preheat: found }) => (found?.state ? `Preheat ${found.state}.` : ""),
  draw({ preheat: found }, { name }, { signedIn }) {
    if (!found) return [heading(`Preheat ${name}`)];
    if (found.error) return [heading("Preheat"), nothing("There is no such preheat any more.", link("#/preheats", "All preheats"))];
    const { tasks } = found;
    const all = Object.values(tasks).reduce((sum, number) => sum + number, 0);
    const rows = found.runs.flatMap((run) => run.images.map((image) => ({ ...image, run })));
    return [
      h("p", { class: "crumbs" }, link("#/preheats", "Preheats")),
      heading(
        images(found),
        state(found.state),
        found.state === "running" && signedIn && h("button", { type: "button", "data-action": "cancel" }, "Cancel"),
      ),
      figures(
        figure("Done", `${count(tasks.done ?? 0)} of ${count(all)}`, "images on nodes, verified there"),
        figure("Failed", count(tasks.failed ?? 0), tasks.failed ? "each says why below" : "none"),
        figure("There", size(found.bytes.arrived), `of ${size(found.bytes.size)}`, bar(found.bytes.arrived, found.bytes.size, "Bytes that are there")),
        figure("Nodes", count(found.runs_count), `${plural(found.concurrency, "node")} at a time`),
      ),
      section("On each node", [
        table(
          "Images on nodes",
          [
            { title: "Node", cell: ({ run }) => (run.here ? link(place("nodes", run.peer), run.node) : `${run.node} (gone)`) },
            { title: "Image", cell: (row) => row.image },
            { title: "State", cell: (row) => state(row.state) },
            { title: "There", cell: (row) => bar(row.state === "done" ? 1 : row.arrived, row.state === "done" ? 1 : row.size, "Bytes that are there") },
            { title: "Size", number: true, cell: (row) => (row.size ? size(row.size) : "–") },
            { title: "What was said", cell: (row) => row.error || (row.referrers ? `with ${plural(row.referrers, "referrer")}` : "") },
          ],
          rows,
          (row) => `${row.run.peer} ${row.image}`,
        ),
        found.runs_count > found.runs.length && h("p", { class: "remark" }, `${count(found.runs_count - found.runs.length)} more nodes are not shown: those come first that failed or are at work. `, code(`shoal preheats ${name}`), " lists all."),
      ]),
      section(
        "About",
        facts([
          ["Images", found.images.join(", ")],
          ["Nodes", found.nodes],
          ["Pinned", found.pin ? "yes" : "no"],
          ["Referrers", found.referrers ? "come too" : "do not come"],
          ["Rate of each node", found.rate ? rate(found.rate) : "its own limit"],
          ["By", found.by],
          ["Begun", moment(found.created)],
          ["Ended", moment(found.ended)],
        ]),
      ),
    ];
  },
  async cancel({ name }, { ask, say }) {
    await ask("DELETE", `/v1/preheats/${encodeURIComponent(name)}`);
    say("The preheat is being cancelled. What is complete stays.");
  },
};
