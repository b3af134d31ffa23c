// A picture → what its answer rests on, and what every stage of the network makes of it: POST v1/explain.

import { ask, element, figure, percent, unreadable } from "./parts.js";

/** Two elements for the picture that `model` answered: a figure of what that rests on, and the stages (null if none). */
export async function explain(picture, model) {
  const reason = await unreadable(picture);
  if (reason) throw new Error(reason);
  const query = new URLSearchParams({ model: model.name, version: model.version });
  const options = { method: "POST", body: picture, headers: { "Content-Type": "application/octet-stream" } };
  const { prediction, occlusion, stages } = await ask(`v1/explain?${query}`, options);
  const least = Math.min(...occlusion.probabilities.flat());
  const caption = `the redder, the more “${prediction.label}” depends on it; with the most important part hidden it keeps ${percent(least)}`;
  const rests = Object.assign(figure(shown(occlusion.image), caption), { tabIndex: -1 }); // it can be given the focus
  return [rests, stages.length ? walk(stages) : null];
}

/** The stages, to be walked through in their order. */
function walk(stages) {
  const strip = element("div", "", { className: "stages", role: "group", ariaLabel: "The stages, in their order" });
  strip.tabIndex = 0; // it scrolls, and the keyboard must reach it
  for (const { name, kind, shape, image } of stages) {
    const [channels, height, width] = shape;
    strip.append(figure(shown(image), `${name}, ${kind}: ${channels} × ${height} × ${width}`));
  }
  const details = element("details", "", { open: true });
  const legend =
    "A convolution looks for patterns, one for each of its channels; a ReLU lets only what it found pass; pooling keeps less " +
    "of where that was. Each tile is a channel: orange is positive, blue negative, black zero.";
  details.append(element("summary", `What the network makes of it, in ${stages.length} stages`), element("p", legend, { className: "note" }), strip);
  return details;
}

const shown = (src) => element("img", "", { alt: "", src, className: "pixels" });
