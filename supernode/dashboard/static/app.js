// The page: which part of it is shown, what is followed for it, who looks, and light or dark.

import { h, update } from "./dom.js";
import { image, images } from "./images.js";
import { node } from "./node.js";
import { nodes } from "./nodes.js";
import { overview } from "./overview.js";
import { heading, link, nothing } from "./parts.js";
import { preheat, preheats } from "./preheats.js";
import { signIn } from "./signin.js";
import { askSession, Stream } from "./stream.js";
import { swarm, swarms } from "./swarms.js";

const PAGES = { "": overview, nodes, images, swarms, preheats };
const PAGES_OF_ONE = { nodes: node, images: image, swarms: swarm, preheats: preheat };
const MISSING = { title: () => "Not found", topics: () => [], draw: () => [heading("Not found"), nothing("There is no such page.", link("#/", "Overview"))] };

const main = document.getElementById("main");
const trouble = document.getElementById("trouble");
const session = document.getElementById("session");

let route = null;
let pictures = {};
let said = "";
const who = { signedIn: false };

// --- what is shown ---------------------------------------------------------------------------------------------------

const parse = () => {
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split("?");
  const [page, ...rest] = path.split("/");
  let name = rest.join("/");
  try {
    name = decodeURIComponent(name);
  } catch {
    return { page, name, query: new URLSearchParams(), shows: MISSING };
  }
  const shows = (name ? PAGES_OF_ONE : PAGES)[page] ?? MISSING;
  return { page, name, query: new URLSearchParams(query), shows };
};

const go = () => {
  if (location.hash === "#main") {
    main.focus();
    history.replaceState(null, "", route?.address ?? "#/");
    return;
  }
  const before = route;
  route = { ...parse(), address: location.hash || "#/" };
  pictures = {};
  said = "";
  for (const each of document.querySelectorAll("nav a[data-page]")) {
    const isCurrent = each.dataset.page === (route.page || "overview");
    if (isCurrent) each.setAttribute("aria-current", "page");
    else each.removeAttribute("aria-current");
  }
  main.replaceChildren();
  draw();
  stream.follow(route.shows.topics(route));
  if (before) {
    main.querySelector("h1")?.focus({ preventScroll: true });
    scrollTo(0, 0);
  }
};

const draw = () => {
  const { shows } = route;
  document.title = `${shows.title(route, pictures)} · Shoal`;
  const made = h("main", null, ...shows.draw(pictures, route, who));
  if (shows.topics(route).length && !Object.keys(pictures).length) made.append(h("p", { class: "waiting" }, "Asking the supernode…"));
  update(main, made);
  const word = shows.said?.(pictures) ?? "";
  if (word && said && word !== said) say(word);
  said = word;
};

const lamp = (state, text) => {
  document.getElementById("connection").dataset.state = state;
  document.getElementById("connection-text").textContent = text;
};

const say = (text) => {
  document.getElementById("said").textContent = text;
};

// --- what is pushed --------------------------------------------------------------------------------------------------

const stream = new Stream({
  picture(kind, data) {
    pictures[kind] = data;
    route.shows.picture?.(kind, data);
    draw();
  },
  state(state, seconds, reason) {
    lamp(state, state === "live" ? "live" : "offline");
    trouble.hidden = state === "live";
    main.classList.toggle("stale", state !== "live");
    if (state === "live") return;
    const countdown = h("span", { "aria-hidden": "true" }, ` Trying again in ${seconds} s.`); // not to be read out each second
    update(trouble, h("div", null, h("span", null, reason), countdown));
  },
  async stranger() {
    await learn();
    showSignIn();
  },
});

// --- who looks -------------------------------------------------------------------------------------------------------

const showSignIn = () => {
  stream.follow([]);
  trouble.hidden = true;
  lamp("waiting", "signing in");
  route = { ...parse(), address: location.hash || "#/", shows: signIn };
  pictures = {};
  main.replaceChildren();
  draw();
  main.querySelector("input")?.focus();
};

const learn = async () => {
  const told = await askSession();
  if (told) who.signedIn = told.signed_in;
  session.hidden = !told;
  session.textContent = who.signedIn ? "Sign out" : "Sign in";
  return told;
};

const tell = async (method, path, headers, order) => {
  const answer = await fetch(path, { method, headers, body: order && JSON.stringify(order) }).catch(() => null);
  if (answer === null) throw new Error("The supernode does not answer.");
  const told = await answer.json().catch(() => ({}));
  if (!answer.ok) throw Object.assign(new Error(told.error ?? `The supernode answered ${answer.status}.`), { status: answer.status });
  return told;
};

const acts = {
  say,
  async ask(method, path, order) {
    try {
      return await tell(method, path, { "Content-Type": "application/json" }, order);
    } catch (error) {
      if (error.status === 401) await learn();
      throw error;
    }
  },
  async signIn(token) {
    try {
      await tell("POST", "/v1/session", { Authorization: `Bearer ${token}` });
    } catch (error) {
      throw error.status === 401 ? new Error("This is not the operator’s token.") : error;
    }
    await learn();
    go();
  },
};

session.addEventListener("click", async () => {
  if (!who.signedIn) {
    showSignIn();
    return;
  }
  await fetch("/v1/session", { method: "DELETE" }).catch(() => null);
  const told = await learn();
  if (told && !told.may_look) showSignIn();
  else draw();
});

// --- what people do --------------------------------------------------------------------------------------------------

main.addEventListener("submit", async (event) => {
  event.preventDefault();
  const form = event.target;
  const failure = form.querySelector(".failure");
  if (failure) failure.textContent = "";
  try {
    await route.shows.submit(form, acts);
  } catch (error) {
    if (failure) failure.textContent = error.message;
  }
});

main.addEventListener("click", async (event) => {
  const action = event.target.closest("[data-action]")?.dataset.action;
  if (action === "sign-in") showSignIn();
  else if (action) await route.shows[action](route, acts).catch((error) => say(error.message));
});

main.addEventListener("change", (event) => {
  if (event.target.name === "order" && event.target.form?.dataset.form === "find") event.target.form.requestSubmit();
});

// --- light and dark --------------------------------------------------------------------------------------------------

const theme = document.getElementById("theme");
const dark = matchMedia("(prefers-color-scheme: dark)");

const paint = () => {
  const chosen = localStorage.getItem("theme");
  const isDark = chosen ? chosen === "dark" : dark.matches;
  document.documentElement.dataset.theme = isDark ? "dark" : "light";
  theme.textContent = isDark ? "Light" : "Dark";
  theme.setAttribute("aria-label", isDark ? "Light colours" : "Dark colours");
};

theme.addEventListener("click", () => {
  localStorage.setItem("theme", document.documentElement.dataset.theme === "dark" ? "light" : "dark");
  paint();
});
dark.addEventListener("change", paint);

paint();
addEventListener("hashchange", go);
const told = await learn();
if (told && !told.may_look) showSignIn();
else go();
