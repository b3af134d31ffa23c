// What goes on, told in one sentence that screen readers speak; what was begun last has the last word.

import { at } from "./parts.js";

let latest = 0; // which call of `telling` may still tell

/** Do `work`, saying meanwhile what goes on and afterwards what came of it, unless something later has been begun. */
export async function telling(text, work) {
  const mine = (latest += 1);
  tell(text);
  try {
    const end = await work();
    if (mine === latest) tell(end ?? "");
  } catch (error) {
    if (mine === latest) tell(error.message, true);
  }
}

function tell(text, isError = false) {
  at("status").textContent = text;
  at("status").classList.toggle("error", isError);
}
