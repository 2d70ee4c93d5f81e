// Numbers, times and names as people read them.

const STEPS = ["B", "kB", "MB", "GB", "TB", "PB"];

/** Bytes, with three digits that count; in the units of `shoal status`. */
export const size = (bytes) => {
  let step = 0;
  let value = bytes;
  while (value >= 999.5 && step < STEPS.length - 1) {
    value /= 1000;
    step += 1;
  }
  const digits = step === 0 || value >= 100 ? 0 : value >= 10 ? 1 : 2;
  return `${value.toFixed(digits)} ${STEPS[step]}`;
};

export const rate = (bytes) => `${size(bytes)}/s`;

/** A part of 1, or a dash where there is none yet. Only what is whole is called 100 %. */
export const percent = (ratio) => {
  if (ratio === null || ratio === undefined) return "–";
  return ratio > 0 && ratio < 0.1 ? `${(ratio * 100).toFixed(1)} %` : `${Math.floor(ratio * 100)} %`;
};

export const count = (number) => number.toLocaleString("en");

export const plural = (number, one, many = `${one}s`) => `${count(number)} ${number === 1 ? one : many}`;

/** Seconds as the two largest units that say something. */
export const age = (seconds) => {
  const units = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
  const at = units.findIndex(([factor]) => seconds >= factor);
  if (at < 0) return "0 s";
  const [factor, name] = units[at];
  const whole = Math.floor(seconds / factor);
  const next = units[at + 1];
  const rest = next ? Math.floor((seconds - whole * factor) / next[0]) : 0;
  return rest ? `${whole} ${name} ${rest} ${next[1]}` : `${whole} ${name}`;
};

/** A moment as an element's text: the date and time of the reader. */
export const moment = (text) =>
  text === null ? "–" : new Date(text).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "medium" });

/** A digest by its first digits. */
export const digest = (text) => {
  const [kind, hex] = text.split(":");
  return hex === undefined ? text : `${kind}:${hex.slice(0, 12)}`;
};

/** What a media type is, in a word. */
export const kind = (mediaType, platform) => {
  if (platform) return platform;
  if (mediaType.includes("config") || mediaType.includes("container.image")) return "configuration";
  if (mediaType.includes("layer") || mediaType.includes("rootfs")) return "layer";
  if (mediaType.includes("manifest") || mediaType.includes("index")) return "manifest";
  return mediaType || "blob";
};
