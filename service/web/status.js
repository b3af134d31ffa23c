// What goes on, told in one sentence that screen readers speak; in each line what was begun last has the last word.

import { at } from "./parts.js";

/**
 * What tells in `line`, an element: does `work`, saying `text` meanwhile and afterwards what came of it, unless
 * something later has been begun.
 */
export function tellingIn(line) {
  let latest = 0; // which call may still tell
  const tell = (text, isError = false) => {
    line.textContent = text;
    line.classList.toggle("error", isError);
  };
  return async (text, work) => {
    const mine = (latest += 1);
    tell(text);
    try {
      const end = await work();
      if (mine === latest) tell(end ?? "");
    } catch (error) {
      if (mine === latest) tell(error.message, true);
    }
  };
}

export const telling = tellingIn(at("status"));
