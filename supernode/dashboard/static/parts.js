// Pieces that pages are made of.

import { h } from "./dom.js";
import { percent } from "./format.js";

/** A heading with what stands beside it. */
export const heading = (title, ...beside) => h("div", { class: "heading" }, h("h1", { tabindex: "-1" }, title), ...beside);

export const section = (title, ...children) =>
  h("section", { class: "panel" }, title && h("h2", null, title), ...children);

/** One figure with its name, and a remark. */
export const figure = (name, value, remark, extra) =>
  h(
    "div",
    { class: "figure" },
    h("dt", null, name),
    h("dd", null, h("strong", null, value), remark && h("span", { class: "remark" }, remark), extra),
  );

export const figures = (...children) => h("dl", { class: "figures" }, ...children);

/** Names and values in two columns. */
export const facts = (entries) =>
  h(
    "dl",
    { class: "facts" },
    entries.filter(Boolean).map(([name, value]) => h("div", null, h("dt", null, name), h("dd", null, value))),
  );

/**
 * A table. A column is `{title, number, cell(row)}`, the first one names the row; `key(row)` stays the same for a row.
 * Small screens get each row as a card.
 */
export const table = (caption, columns, rows, key) =>
  h(
    "div",
    { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    h(
      "table",
      null,
      h("caption", { class: "unseen" }, caption),
      h("thead", null, h("tr", null, columns.map((column) => h("th", { scope: "col", class: column.number && "number" }, column.title)))),
      h(
        "tbody",
        null,
        rows.map((row) =>
          h(
            "tr",
            { "data-key": key(row) },
            columns.map((column, place) =>
              h(
                place ? "td" : "th",
                { scope: place ? null : "row", class: column.number && "number", "data-title": column.title },
                column.cell(row),
              ),
            ),
          ),
        ),
      ),
    ),
  );

/** What is said where there is nothing to show, and what to do about it. */
export const nothing = (...children) => h("div", { class: "nothing" }, ...children.map((child) => h("p", null, child)));

export const code = (text) => h("code", null, text);

/** How much of a whole is there. */
export const bar = (part, whole, label) => {
  const ratio = whole > 0 ? Math.min(1, part / whole) : 0;
  return h(
    "span",
    { class: "bar" },
    h("progress", { max: 1000, value: Math.round(ratio * 1000), "aria-label": label }),
    h("span", { class: "bar-text" }, percent(ratio)),
  );
};

/** A state in a word, with a colour that says the same. */
export const badge = (word, tone) => h("span", { class: `badge ${tone}` }, word);

const TONES = { done: "good", failed: "bad", cancelled: "plain", cancelling: "plain", running: "busy", asked: "busy", waiting: "plain" };
export const state = (word) => badge(word, TONES[word] ?? "plain");

export const link = (address, text, more) => h("a", { href: address, ...more }, text);

/** The address of a page about something. */
export const place = (page, name) => `#/${page}/${encodeURIComponent(name)}`;
