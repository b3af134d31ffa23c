// The service's models → the choice among them, and what is known of the chosen one's active version.

import { ask, at, element, percent } from "./parts.js";

const CLASSES = 20; // whose names are told

export let version = null; // the chosen model's active one; null when it can't be had
let known = Promise.resolve(); // settles once all that has been asked about models is answered

/** Offer the models that answer; throws an Error with a sentence when there are none, or they can't be had. */
export const listModels = () => inTurn(list);

/** Know the active version again, which may be another by now, and the models if they could not be had before. */
export const refresh = () => inTurn(() => (at("model").value ? show() : list()));

/** One after the other, so that no answer comes after a later one. */
function inTurn(work) {
  known = known.catch(() => {}).then(work);
  return known;
}

async function list() {
  const { models } = await ask("v1/models");
  const served = models.filter((model) => model.active_version !== null);
  at("model").replaceChildren(
    ...served.map((model) => element("option", model.name, { value: model.name, selected: model.default })),
  );
  if (at("key-form").contains(document.activeElement)) at("files").focus(); // what comes next, instead of nothing
  at("key-form").hidden = true;
  await show();
}

async function show() {
  const name = at("model").value;
  if (name !== version?.metadata.name) remember(null); // nor are the facts of another model shown meanwhile
  try {
    remember(await activeVersion(name));
  } catch (error) {
    remember(null); // not what it was before
    throw error;
  }
}

async function activeVersion(name) {
  if (!name) throw new Error("No model of this service has an active version; whoever runs it can activate one.");
  const path = `v1/models/${encodeURIComponent(name)}`;
  const { active_version: active } = await ask(path);
  if (active === null) throw new Error(`The model ${name} has no active version any more; choose another.`);
  return ask(`${path}/versions/${encodeURIComponent(active)}`);
}

function remember(found) {
  version = found;
  at("facts").textContent = found ? facts(found) : "";
}

function facts({ version: number, precision, provider, metadata: { labels, evaluations } }) {
  const measured = evaluations.find((each) => each.split === "test" && each.precision === precision);
  return [
    `Version ${number}, ${precision} on ${provider.replace("ExecutionProvider", "")}.`,
    `${labels.length.toLocaleString("en")} classes: ${labels.slice(0, CLASSES).join(", ")}${labels.length > CLASSES ? ", …" : ""}; any other picture gets one of them, too.`,
    measured && `Correct on ${percent(measured.accuracy)} of ${measured.images.toLocaleString("en")} test images.`,
  ].filter(Boolean).join(" ");
}
