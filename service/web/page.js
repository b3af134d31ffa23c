// Pictures → POST v1/predict → a card each. Addresses are relative, so that the page works behind any prefix too.

import { card, leftCard } from "./cards.js";
import { listModels, refresh, version } from "./models.js";
import { ask, at, percent, reach, unreadable, useKey } from "./parts.js";
import { telling } from "./status.js";

const AT_ONCE = 64; // pictures in one request, and
const BYTES_AT_ONCE = 32 << 20; // their bytes: below what the service takes unless told otherwise
const COVERAGE = 0.95; // of the prediction sets, where the model has thresholds for it
const OF_A_PICTURE = [413, 422]; // refusals that one picture among several may have brought upon all of them
const NO_PICTURE = "That is no picture; choose a JPEG, PNG or the like.";
const NAMED = 5; // labels in the sentence on how many have which

let shown = null; // whose cards are shown: files, the answers to the first of them, and a card for those that are left

async function classify(files) {
  const all = [...files];
  if (!all.some(isPicture)) return telling("", () => Promise.reject(new Error(NO_PICTURE))); // what is shown stays
  shown = { files: all, answers: [], ms: 0, left: null };
  at("results").replaceChildren();
  await goOn(shown);
}

/** A card for each file of `run` that has no answer yet or, from the request on that fails, one for all of them. */
async function goOn(run) {
  const files = run.files.slice(run.answers.length), pictures = files.filter(isPicture).length;
  await telling(`Classifying ${pictures === 1 ? "a picture" : `${pictures} pictures`} …`, async () => {
    try {
      await refresh().catch(unlessKeyless);
      let began = performance.now();
      for await (const answers of answersTo(files)) {
        if (run !== shown) return;
        at("results").append(...answers.map((answer) => card(answer, version?.metadata.input)));
        run.answers.push(...answers);
        run.ms += performance.now() - began;
        began = performance.now();
      }
      return `${summary(run.answers)}. Answered in ${Math.round(run.ms)} ms, the way there and back included.`;
    } catch (error) {
      if (run === shown) throw leave(run, error.message); // else it is of no interest any more
    }
  });
}

/** It goes without knowing the version; but without the key that is asked for, pictures would be sent for nothing. */
function unlessKeyless(error) {
  if (error.status === 401) throw error;
}

/** Show what `run` leaves without an answer, and why; returns the same in one sentence, an Error. */
function leave(run, why) {
  const { files, answers: { length: answered } } = run, left = files.length - answered;
  const what = `${left} of ${files.length} pictures ${left === 1 ? "was" : "were"} not classified`;
  const alone = files.length === 1;
  run.left = leftCard(alone ? files[0].name : what, why, files.slice(answered), () => again(run));
  at("results").append(run.left);
  return new Error(alone ? why : `${what}: ${why}`);
}

function again(run) {
  if (run.left.contains(document.activeElement)) at("results").focus({ preventScroll: true }); // not the page's start
  run.left.remove();
  run.left = null;
  goOn(run);
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

/** The answers in the files' order, some at a time; throws an Error when a request fails through no fault of a picture. */
async function* answersTo(files) {
  for (const some of portions(files)) {
    const reasons = await Promise.all(some.map(reasonNotToSend));
    try {
      const answers = await predict(some.filter((_, place) => !reasons[place]));
      yield some.map((file, place) => (reasons[place] ? { file, error: reasons[place] } : answers.shift()));
    } catch (error) {
      if (!OF_A_PICTURE.includes(error.status)) throw error;
      if (some.length === 1) yield [{ file: some[0], error: error.message }]; // it is said beside the picture
      else for (const file of some) yield* answersTo([file]); // to know which
    }
  }
}

/** With one that can't be read, `fetch` would fail for all of them. */
const reasonNotToSend = async (file) => (isPicture(file) ? unreadable(file) : NO_PICTURE);

async function predict(pictures) {
  if (!pictures.length) return [];
  const body = new FormData();
  for (const picture of pictures) body.append("images", picture, picture.name);
  const query = asked(), post = (which) => ask(`v1/predict?${which}`, { method: "POST", body });
  const { predictions, ...rest } = await post(query).catch(async (error) => {
    if (error.status !== 400 || !query.has("coverage")) throw error;
    await refresh().catch(() => {}); // another version may be active by now, one without such sets
    return post(asked());
  });
  const { model } = rest;
  if (model.version !== version?.version || model.digest !== version.digest) await refresh().catch(() => {});
  return predictions.map((prediction, place) => (
    { file: pictures[place], prediction, error: prediction.error?.detail, ...rest }
  ));
}

/** What is asked of the service: the chosen model, and prediction sets where it has them. */
function asked() {
  const chosen = at("model").value; // none as long as none are known: then the default one answers
  const query = new URLSearchParams(chosen && { model: chosen });
  const thresholds = Object.keys(version?.metadata.calibration.thresholds[version.precision] ?? {});
  if (thresholds.some((coverage) => Number(coverage) === COVERAGE)) query.set("coverage", COVERAGE);
  return query;
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
  if (shown) classify(shown.files); // or answers of one model would stand below the facts of another
  else telling("", refresh);
});
at("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  telling("Asking for the models …", async () => {
    useKey(at("key").value.trim());
    await listModels();
    if (shown?.left) again(shown); // what came before the key; tells on its own
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
telling("Asking for the models …", listModels);
