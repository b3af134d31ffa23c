// An answer → its card: the picture, what the network sees of it, its label and a bar for each class; or why it has none.

import { explain } from "./explain.js";
import { element, figure, percent } from "./parts.js";
import { tellingIn } from "./status.js";

const SHOWN = 10; // classes of a picture

/** The card of `file`: `error` says why it has no `prediction`, `input` is what the model takes, where that is known. */
export function card({ file, error, prediction, model, coverage }, input) {
  const article = element("article"), text = element("div");
  article.append(text);
  if (error) {
    text.append(element("h2", file.name), element("p", error, { className: "error" }));
    return article;
  }
  const pictures = element("div", "", { className: "pictures" });
  article.prepend(pictures);
  pictures.append(...figures(file, input), ...explaining(file, model, article));
  const set = prediction.prediction_set;
  text.append(element("h2", `${prediction.label}, ${percent(prediction.probability)}`));
  text.append(element("p", `${file.name}, by ${model.name}, version ${model.version}`, { className: "note" }));
  if (set) text.append(element("p", told(set, coverage)));
  text.append(bars(Object.entries(prediction.probabilities), set ?? []));
  return article;
}

/** The card of the `files` that a failed request has left without an answer: `title`, why, their names, a button. */
export function leftCard(title, why, files, again) {
  const article = element("article"), text = element("div");
  const button = element("button", "Try again", { type: "button" });
  button.addEventListener("click", again);
  text.append(element("h2", title), element("p", why, { className: "error" }), button);
  if (files.length > 1) {
    const names = element("details");
    names.append(element("summary", "Their names"), element("p", files.map(({ name }) => name).join(", "), { className: "note" }));
    text.append(names);
  }
  article.append(text);
  return article;
}

function told(set, { asked, measured, images, split }) {
  const sentence = `Possible at ${100 * asked} %: ${set.join(", ")}.`;
  if (measured == null) return sentence;
  const seen = `${images.toLocaleString("en")} ${split} images`;
  return `${sentence} Of ${seen}, the true class was in such a set for ${percent(measured)}.`;
}

function bars(probabilities, set) {
  const table = element("table");
  for (const [label, probability] of probabilities.sort((a, b) => b[1] - a[1]).slice(0, SHOWN)) {
    const row = table.insertRow();
    row.className = set.includes(label) ? "in-set" : "";
    const head = element("th", "", { scope: "row" });
    head.append(element("span", label));
    row.append(head);
    row.insertCell().append(element("meter", "", { value: probability, ariaHidden: "true" })); // the number is beside it
    row.insertCell().textContent = percent(probability);
  }
  return table;
}

/** The picture in a figure, and a canvas, in another, with about what is left of it for the network. */
function figures(picture, input) {
  const image = element("img", "", { alt: "", src: URL.createObjectURL(picture) });
  const all = [figure(image), ...(input ? [seenOf(image, input)] : [])];
  image.addEventListener("error", () => { // a format that only the service knows
    for (const each of all) each.hidden = true;
  });
  for (const end of ["load", "error"]) image.addEventListener(end, () => URL.revokeObjectURL(image.src)); // drawn by now
  return all;
}

function seenOf(image, { height, width, resize_policy: policy }) {
  const seen = element("canvas", "", { width, height });
  image.addEventListener("load", () => {
    const across = image.naturalWidth, down = image.naturalHeight;
    const scale = policy === "squash" ? 0 : Math.min(across / width, down / height);
    const [w, h] = scale ? [scale * width, scale * height] : [across, down];
    const context = seen.getContext("2d");
    context.imageSmoothingQuality = "high";
    context.fillStyle = "white"; // what the service sees behind a picture that is transparent
    context.fillRect(0, 0, width, height);
    context.drawImage(image, (across - w) / 2, (down - h) / 2, w, h, 0, 0, width, height);
  });
  return figure(seen, `about what the network sees of it: ${width} × ${height} pixels`);
}

/** The button for an explanation, and the line below it that says what came of it, apart from what others are told. */
function explaining(picture, model, article) {
  const button = element("button", "How does it come to that?", { type: "button" });
  const line = element("p", "", { className: "told", ariaLive: "polite" }), telling = tellingIn(line);
  const work = async () => {
    button.ariaDisabled = "true"; // not `disabled`: that would take the focus away
    try {
      const [occlusion, stages] = await explain(picture, model);
      const focused = document.activeElement === button;
      button.replaceWith(occlusion);
      if (focused) occlusion.focus(); // or the keyboard would be back at the page's start
      if (stages) article.append(stages);
    } finally {
      button.ariaDisabled = null;
    }
  };
  button.addEventListener("click", () => button.ariaDisabled || telling("Hiding one part after the other …", work));
  return [button, line];
}
