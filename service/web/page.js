// Pictures → POST v1/predict → a card each. Addresses are relative, so that the page works behind any prefix too.

import { explain } from "./explain.js";
import { ask, at, element, figure, percent, reach, useKey } from "./parts.js";

const AT_ONCE = 64; // pictures in one request, and
const BYTES_AT_ONCE = 32 << 20; // their bytes: below what the service takes unless told otherwise
const SHOWN = 10; // classes of a picture
const COVERAGE = 0.95; // of the prediction sets, where the model has thresholds for it

let version = null; // what is known of the chosen model's active version
let known = Promise.resolve(); // settles once `version` is that of the chosen model, or can't be had
let latest = 0; // which call of `telling` may still tell

/** Do `work`, saying meanwhile what goes on and afterwards what came of it, unless something later has been begun. */
async function telling(text, work) {
  const mine = (latest += 1), current = () => mine === latest;
  tell(text);
  try {
    const end = await work(current);
    if (current()) tell(end ?? "");
  } catch (error) {
    if (current()) tell(error.message, true);
  }
}

function tell(text, isError = false) {
  at("status").textContent = text;
  at("status").classList.toggle("error", isError);
}

async function listModels() {
  const { models } = await ask("v1/models");
  const served = models.filter((model) => model.active_version !== null);
  at("model").replaceChildren(
    ...served.map((model) => element("option", model.name, { value: model.name, selected: model.default })),
  );
  at("key-form").hidden = true;
  await showModel();
}

async function showModel() {
  const name = at("model").value;
  version = null; // not the one before, should this fail
  at("facts").textContent = "";
  const model = await ask(`v1/models/${encodeURIComponent(name)}`);
  const path = `v1/models/${encodeURIComponent(name)}/versions/${encodeURIComponent(model.active_version)}`;
  version = await ask(path);
  const measured = version.metadata.evaluations.find((e) => e.split === "test" && e.precision === version.precision);
  at("facts").textContent = [
    `Version ${version.version}, ${version.precision} on ${version.provider.replace("ExecutionProvider", "")}.`,
    `${version.metadata.labels.length} classes: ${version.metadata.labels.join(", ")}.`,
    measured && `Right about ${percent(measured.accuracy)} of ${measured.images.toLocaleString("en")} test images.`,
  ].filter(Boolean).join(" ");
}

async function classify(files) {
  const pictures = [...files].filter((file) => file.type.startsWith("image/") || file.type === "");
  const what = pictures.length === 1 ? "a picture" : `${pictures.length} pictures`;
  at("results").replaceChildren();
  await telling(`Classifying ${what} …`, async (current) => {
    if (!pictures.length) throw new Error("That is no picture; choose a JPEG, PNG or the like.");
    await known.catch(() => {}); // why, has been told
    const began = performance.now();
    for (const some of portions(pictures)) {
      const cards = await classifySome(some);
      if (!current()) return;
      at("results").append(...cards);
    }
    return `Answered in ${Math.round(performance.now() - began)} ms, the way there and back included.`;
  });
}

/** The pictures in as many requests as it takes. */
function* portions(pictures) {
  let some = [], bytes = 0;
  for (const picture of pictures) {
    if (some.length && (some.length === AT_ONCE || bytes + picture.size > BYTES_AT_ONCE)) {
      yield some;
      [some, bytes] = [[], 0];
    }
    some.push(picture);
    bytes += picture.size;
  }
  yield some;
}

async function classifySome(pictures) {
  const body = new FormData();
  for (const picture of pictures) body.append("images", picture, picture.name);
  const chosen = at("model").value; // none as long as none are known: then the default one answers
  const query = new URLSearchParams(chosen && { model: chosen });
  const thresholds = Object.keys(version?.metadata.calibration.thresholds[version.precision] ?? {});
  if (thresholds.some((coverage) => Number(coverage) === COVERAGE)) query.set("coverage", COVERAGE);
  try {
    const { model, predictions, coverage } = await ask(`v1/predict?${query}`, { method: "POST", body });
    return predictions.map((prediction, place) => card(pictures[place], prediction, model, coverage));
  } catch (error) {
    if (pictures.length > 1 || error.status !== 422) throw error;
    return [card(pictures[0], { error: { detail: error.message } })]; // it is the picture, so that is said beside it
  }
}

function card(picture, prediction, model, coverage) {
  const article = element("article");
  const pictures = element("div", "", { className: "pictures" });
  const text = element("div");
  article.append(pictures, text);
  if (prediction.error) {
    text.append(element("h2", picture.name), element("p", prediction.error.detail, { className: "error" }));
    return article;
  }
  pictures.append(...figures(picture), explainButton(picture, model, article));
  const set = prediction.prediction_set;
  text.append(element("h2", `${prediction.label}, ${percent(prediction.probability)}`));
  text.append(element("p", picture.name, { className: "note" }));
  if (set) text.append(element("p", told(set, coverage)));
  text.append(bars(Object.entries(prediction.probabilities), set ?? []));
  return article;
}

function told(set, { asked, measured, images, split }) {
  const sentence = `Set for ${100 * asked} %: ${set.join(", ")}.`;
  if (measured == null) return sentence;
  return `${sentence} Such sets held the true class of ${percent(measured)} of ${images.toLocaleString("en")} ${split} images.`;
}

function bars(probabilities, set) {
  const table = element("table");
  for (const [label, probability] of probabilities.sort((a, b) => b[1] - a[1]).slice(0, SHOWN)) {
    const row = table.insertRow();
    row.className = set.includes(label) ? "in-set" : "";
    row.append(element("th", label, { scope: "row" }));
    row.insertCell().append(element("meter", "", { value: probability, ariaLabel: `probability of ${label}` }));
    row.insertCell().textContent = percent(probability);
  }
  return table;
}

/** The picture in a figure, and a canvas, in another, with about what is left of it for the network. */
function figures(picture) {
  const image = element("img", "", { alt: "", src: URL.createObjectURL(picture) });
  const shown = figure(image);
  if (!version) return [shown];
  const { height, width, resize_policy: policy } = version.metadata.input;
  const seen = element("canvas", "", { width, height });
  const both = [shown, figure(seen, `about what the network sees of it: ${width} × ${height} pixels`)];
  image.addEventListener("load", () => {
    const across = image.naturalWidth, down = image.naturalHeight;
    const scale = policy === "squash" ? 0 : Math.min(across / width, down / height);
    const [w, h] = scale ? [scale * width, scale * height] : [across, down];
    const context = seen.getContext("2d");
    context.imageSmoothingQuality = "high";
    context.drawImage(image, (across - w) / 2, (down - h) / 2, w, h, 0, 0, width, height);
    URL.revokeObjectURL(image.src);
  });
  image.addEventListener("error", () => { // a format that only the service knows
    for (const each of both) each.hidden = true;
  });
  return both;
}

function explainButton(picture, model, article) {
  const button = element("button", "How does it come to that?", { type: "button" });
  button.addEventListener("click", () => telling("Hiding one part after the other …", async () => {
    button.disabled = true;
    try {
      const [occlusion, stages] = await explain(picture, model);
      button.replaceWith(occlusion);
      if (stages) article.append(stages);
    } finally {
      button.disabled = false;
    }
  }));
  return button;
}

async function example() {
  await telling("", async () => {
    const picture = await (await reach("web/example.png")).blob();
    classify([new File([picture], "example.png", { type: "image/png" })]); // tells on its own
  });
}

at("files").addEventListener("change", (event) => {
  classify([...event.target.files]);
  event.target.value = ""; // or the same file could not be chosen again
});
at("example").addEventListener("click", example);
at("model").addEventListener("change", () => telling("", () => (known = showModel())));
at("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  useKey(at("key").value.trim());
  telling("Asking for the models …", () => (known = listModels()));
});
document.addEventListener("paste", (event) => {
  if (event.clipboardData.files.length) classify(event.clipboardData.files);
});
for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    at("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop") classify(event.dataTransfer.files);
  });
}
telling("Asking for the models …", () => (known = listModels()));
