// Pictures → POST v1/predict → a card each. Addresses are relative, so that the page works behind any prefix too.

import { card } from "./cards.js";
import { ask, at, element, percent, reach, useKey } from "./parts.js";
import { telling } from "./status.js";

const AT_ONCE = 64; // pictures in one request, and
const BYTES_AT_ONCE = 32 << 20; // their bytes: below what the service takes unless told otherwise
const COVERAGE = 0.95; // of the prediction sets, where the model has thresholds for it
const OF_A_PICTURE = [413, 422]; // refusals that one picture among several may have brought upon all of them
const NO_PICTURE = "That is no picture; choose a JPEG, PNG or the like.";
const UNREADABLE = "This can't be read: it is empty or a folder, or has been changed or removed since it was chosen.";
const CLASSES = 20; // whose names are told
const NAMED = 5; // labels in the sentence on how many have which

let version = null; // what is known of the chosen model's active version
let known = Promise.resolve(); // settles once `version` is that of the chosen model, or can't be had
let given = []; // the files whose cards are shown, or will be
let latest = 0; // which call of `classify` may still show cards

async function listModels() {
  const { models } = await ask("v1/models");
  const served = models.filter((model) => model.active_version !== null);
  at("model").replaceChildren(
    ...served.map((model) => element("option", model.name, { value: model.name, selected: model.default })),
  );
  if (at("key-form").contains(document.activeElement)) at("files").focus(); // what comes next, instead of nothing
  at("key-form").hidden = true;
  await showModel();
}

async function showModel() {
  const name = at("model").value, path = `v1/models/${encodeURIComponent(name)}`;
  version = null; // not the one before, should this fail
  at("facts").textContent = "";
  if (!name) throw new Error("No model of this service has an active version; whoever runs it can activate one.");
  const { active_version: active } = await ask(path);
  if (active === null) throw new Error(`The model ${name} has no active version any more; choose another.`);
  const found = await ask(`${path}/versions/${encodeURIComponent(active)}`);
  if (name !== at("model").value) return; // another has been chosen meanwhile
  version = found;
  const measured = version.metadata.evaluations.find((e) => e.split === "test" && e.precision === version.precision);
  const { labels } = version.metadata;
  at("facts").textContent = [
    `Version ${version.version}, ${version.precision} on ${version.provider.replace("ExecutionProvider", "")}.`,
    `${labels.length.toLocaleString("en")} classes: ${labels.slice(0, CLASSES).join(", ")}${labels.length > CLASSES ? ", …" : ""}; any other picture gets one of them, too.`,
    measured && `Correct on ${percent(measured.accuracy)} of ${measured.images.toLocaleString("en")} test images.`,
  ].filter(Boolean).join(" ");
}

async function classify(files) {
  const all = [...files], pictures = all.filter(isPicture).length;
  if (!pictures) return telling("", () => Promise.reject(new Error(NO_PICTURE))); // what is shown stays
  const mine = (latest += 1);
  given = all;
  at("results").replaceChildren();
  await telling(`Classifying ${pictures === 1 ? "a picture" : `${pictures} pictures`} …`, async () => {
    await known.catch(() => {}); // why, has been told
    const began = performance.now(), answers = [];
    for (const some of portions(all)) {
      const more = await answersTo(some);
      if (mine !== latest) return;
      at("results").append(...more.map((answer) => card(answer, version?.metadata.input)));
      answers.push(...more);
    }
    return `${summary(answers)}. Answered in ${Math.round(performance.now() - began)} ms, the way there and back included.`;
  });
}

const isPicture = (file) => file.type.startsWith("image/") || file.type === "";

/** The files in as many requests as it takes. */
function* portions(files) {
  let some = [], bytes = 0;
  for (const file of files) {
    if (some.length && (some.length === AT_ONCE || bytes + file.size > BYTES_AT_ONCE)) {
      yield some;
      [some, bytes] = [[], 0];
    }
    some.push(file);
    bytes += file.size;
  }
  yield some;
}

/** An answer for each file, in their order. */
async function answersTo(files) {
  const reasons = await Promise.all(files.map(reasonNotToSend));
  const answers = await predict(files.filter((_, place) => !reasons[place]));
  return files.map((file, place) => (reasons[place] ? { file, error: reasons[place] } : answers.shift()));
}

async function reasonNotToSend(file) {
  if (!isPicture(file)) return NO_PICTURE;
  const { byteLength } = await file.slice(0, 1).arrayBuffer().catch(() => ({ byteLength: 0 }));
  return byteLength ? null : UNREADABLE; // with it `fetch` would fail for all of them
}

async function predict(pictures) {
  if (!pictures.length) return [];
  const body = new FormData();
  for (const picture of pictures) body.append("images", picture, picture.name);
  const chosen = at("model").value; // none as long as none are known: then the default one answers
  const query = new URLSearchParams(chosen && { model: chosen });
  const thresholds = Object.keys(version?.metadata.calibration.thresholds[version.precision] ?? {});
  if (thresholds.some((coverage) => Number(coverage) === COVERAGE)) query.set("coverage", COVERAGE);
  try {
    const { predictions, ...rest } = await ask(`v1/predict?${query}`, { method: "POST", body });
    return predictions.map((prediction, place) => (
      { file: pictures[place], prediction, error: prediction.error?.detail, ...rest }
    ));
  } catch (error) {
    if (!OF_A_PICTURE.includes(error.status)) throw error;
    if (pictures.length === 1) return [{ file: pictures[0], error: error.message }]; // it is said beside the picture
    const answers = [];
    for (const picture of pictures) answers.push(...await predict([picture])); // to know which
    return answers;
  }
}

/** How many have which label, or the only one with its probability. */
function summary(answers) {
  const labels = new Map(), good = answers.filter(({ error }) => !error), refused = answers.length - good.length;
  for (const { prediction: { label } } of good) labels.set(label, (labels.get(label) ?? 0) + 1);
  const counts = [...labels].sort((a, b) => b[1] - a[1]).map(([label, count]) => `${count} × ${label}`);
  const [parts, more] = [counts.slice(0, NAMED), counts.length - NAMED];
  if (good.length === 1) parts[0] = `${good[0].prediction.label}, ${percent(good[0].prediction.probability)}`;
  return [...parts, more > 0 && `${more} more labels`, refused && `${refused} refused`].filter(Boolean).join("; ");
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
at("model").addEventListener("change", () => {
  telling("", () => (known = showModel()));
  if (given.length) classify(given); // or answers of one model would stand below the facts of another
});
at("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  telling("Asking for the models …", () => {
    useKey(at("key").value.trim());
    return (known = listModels());
  });
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
