// The stream of pictures that the supernode pushes: opened for what a page shows, closed when it is left or hidden.

const RETRY_SECONDS = 3;
const SILENT_SECONDS = 25; // the supernode says each 10 s that it is alive

/** Follows topics for one page at a time. `on.picture(kind, data)`, `on.state(state, seconds, reason)`, `on.stranger()`. */
export class Stream {
  #on;
  #topics = [];
  #source = null;
  #timer = 0;
  #watch = 0;

  constructor(on) {
    this.#on = on;
    document.addEventListener("visibilitychange", () => (document.hidden ? this.#close() : this.#open()));
  }

  /** Follow these topics, and nothing else any more. */
  follow(topics) {
    this.#close();
    this.#topics = topics;
    this.#open();
  }

  #open() {
    if (!this.#topics.length || document.hidden || this.#source) return;
    clearTimeout(this.#timer);
    const source = new EventSource(address(this.#topics));
    this.#source = source;
    for (const kind of new Set(this.#topics.map((topic) => topic.split(":")[0]))) {
      source.addEventListener(kind, (event) => {
        if (source !== this.#source) return;
        this.#alive();
        this.#on.state("live", 0, "");
        this.#on.picture(kind, JSON.parse(event.data));
      });
    }
    source.addEventListener("open", () => this.#alive());
    source.addEventListener("error", () => source === this.#source && this.#lost());
  }

  #alive() {
    clearTimeout(this.#watch);
    this.#watch = setTimeout(() => this.#lost(), SILENT_SECONDS * 1000);
  }

  #close() {
    clearTimeout(this.#timer);
    clearTimeout(this.#watch);
    this.#source?.close();
    this.#source = null;
  }

  async #lost() {
    this.#close();
    const topics = this.#topics;
    const session = await askSession();
    const reason = session?.may_look ? await refusal(topics) : "The supernode does not answer.";
    if (topics !== this.#topics) return;
    if (session && !session.may_look) this.#on.stranger();
    else this.#wait(RETRY_SECONDS, reason);
  }

  #wait(seconds, reason) {
    this.#on.state("lost", seconds, reason);
    this.#timer = setTimeout(() => (seconds > 1 ? this.#wait(seconds - 1, reason) : this.#open()), 1000);
  }
}

const address = (topics) => `/v1/events?${topics.map((topic) => `topic=${encodeURIComponent(topic)}`).join("&")}`;

/** Why a stream is not to be had, which its events cannot tell. */
const refusal = async (topics) => {
  const asking = new AbortController();
  try {
    const answer = await fetch(address(topics), { cache: "no-store", signal: asking.signal });
    if (!answer.ok) return `The supernode says: ${(await answer.json()).error}.`;
  } catch {
    return "The supernode does not answer.";
  } finally {
    asking.abort();
  }
  return "The connection was lost.";
};

/** What this browser may: `{may_look, signed_in}`, or null where the supernode does not answer. */
export const askSession = async () => {
  try {
    const answer = await fetch("/v1/session", { cache: "no-store", signal: AbortSignal.timeout(5000) });
    return answer.ok ? await answer.json() : null;
  } catch {
    return null;
  }
};
