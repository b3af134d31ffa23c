// What the page's other files have in common: elements, numbers, files, and questions to the service.

const UNREADABLE = "This can't be read: it is empty or a folder, or has been changed or removed since it was chosen.";

export const at = (id) => document.getElementById(id);
let key = null; // only as long as the page is open

/** Ask with this key from now on; throws an Error with a sentence when it can't be one. */
export function useKey(given) {
  if (!/^[\x21-\x7e]+$/.test(given)) throw new Error("That is no key: keys are of plain letters, digits and signs.");
  key = given;
}

export function percent(p) {
  if (p > 0 && p < 0.0005) return "< 0.1 %";
  return p < 1 && p >= 0.9995 ? "> 99.9 %" : `${(100 * p).toFixed(1)} %`;
}

export function element(name, text = "", properties = {}) {
  return Object.assign(document.createElement(name), { textContent: text }, properties);
}

export function figure(content, caption = null) {
  const whole = element("figure");
  whole.append(content, ...(caption === null ? [] : [element("figcaption", caption)]));
  return whole;
}

/** Why `file` can't be sent, if so; `fetch` would fail as if nobody answered. */
export async function unreadable(file) {
  const { byteLength } = await file.slice(0, 1).arrayBuffer().catch(() => ({ byteLength: 0 }));
  return byteLength ? null : UNREADABLE;
}

/** What `fetch` gives; throws an Error with a sentence when nobody answers. */
export async function reach(path, options) {
  try {
    return await fetch(path, options);
  } catch {
    throw new Error("The service can't be reached; is it still running?");
  }
}

/** The JSON answer of the service; throws an Error with its sentence when it refuses. */
export async function ask(path, options = {}) {
  const headers = { ...options.headers, ...(key && { Authorization: `Bearer ${key}` }) };
  const response = await reach(path, { ...options, headers });
  const answer = await response.json().catch(() => null);
  if (response.ok && answer) return answer;
  if (response.status === 401) at("key-form").hidden = false;
  const error = new Error(answer?.detail ?? `The service answered ${response.status}; try again.`);
  throw Object.assign(error, { status: response.status });
}
