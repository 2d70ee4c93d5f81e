// Rates of the last minutes, as long as the page is open, and their drawing.

import { h, s } from "./dom.js";
import { rate } from "./format.js";

const MOST = 120;
const LEAST = 30; // so many values fill the width
const WIDTH = 240;
const HEIGHT = 48;

/** The last values of some figures, at the times when they came. */
export class History {
  #values = new Map();

  add(figures) {
    for (const [name, value] of Object.entries(figures)) {
      const values = this.#values.get(name) ?? [];
      values.push(value);
      if (values.length > MOST) values.shift();
      this.#values.set(name, values);
    }
  }

  /** A line of one figure, with a text for those who do not see it. */
  line(name, label) {
    const values = this.#values.get(name) ?? [];
    const top = Math.max(1, ...values);
    const step = WIDTH / (Math.max(LEAST, values.length) - 1);
    const start = WIDTH - (values.length - 1) * step;
    const points = values.map((value, place) => [
      (start + place * step).toFixed(1),
      (HEIGHT - 2 - (value / top) * (HEIGHT - 6)).toFixed(1),
    ]);
    const path = points.map(([x, y], place) => `${place ? "L" : "M"}${x} ${y}`).join("");
    const last = values.at(-1) ?? 0;
    const text = `${label}: now ${rate(last)}, at most ${rate(values.length ? Math.max(...values) : 0)} since this page was opened`;
    return h(
      "div",
      { class: "spark" },
      s(
        "svg",
        { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": text },
        s("path", { class: "base", d: `M0 ${HEIGHT - 1.5}H${WIDTH}` }),
        points.length > 1 && s("path", { class: "area", d: `${path}V${HEIGHT - 2}H${points[0][0]}Z` }),
        points.length > 1 && s("path", { class: "line", d: path }),
      ),
    );
  }
}
