// A picture with one part after the other hidden → what the network's answer rests on.

import { ask, canvasFigure, element, percent } from "./parts.js";

const HIDDEN = 0.25; // of width and height: the square that is hidden to see what it is worth
const PLACES = 7; // of that square, across and down

/**
 * A figure of how much the probability of `label` rests on each part of a canvas: a grey square is laid over it here
 * and there, and the odds that this costs are painted red (M. Zeiler and R. Fergus, "Visualizing and understanding
 * convolutional networks", 2014).
 */
export async function occlusion(seen, label, model) {
  const { width, height } = seen;
  const [w, h] = [Math.ceil(width * HIDDEN), Math.ceil(height * HIDDEN)];
  const corners = [];
  for (let i = 0; i < PLACES * PLACES; i += 1) {
    const [column, row] = [i % PLACES, Math.floor(i / PLACES)];
    corners.push([Math.round((column * (width - w)) / (PLACES - 1)), Math.round((row * (height - h)) / (PLACES - 1))]);
  }
  const body = new FormData();
  body.append("images", await hiding(seen, 0, 0, 0, 0), "whole.png");
  for (const [x, y] of corners) body.append("images", await hiding(seen, x, y, w, h), "part.png");
  const query = new URLSearchParams({ model });
  const { predictions } = await ask(`v1/predict?${query}`, { method: "POST", body });
  const [whole, ...left] = predictions.map(({ probabilities }) => probabilities[label]);

  const costs = new Float64Array(width * height), times = new Float64Array(width * height);
  corners.forEach(([x, y], place) => {
    const cost = Math.max(0, odds(whole) - odds(left[place]));
    for (let row = y; row < y + h; row += 1) {
      for (let at = row * width + x; at < row * width + x + w; at += 1) {
        costs[at] += cost;
        times[at] += 1;
      }
    }
  });
  const mean = costs.map((cost, at) => cost / Math.max(1, times[at]));
  const most = Math.max(...mean, 1e-9);
  const canvas = canvasFigure(width, height, `red: what “${label}” rests on; at worst, with a part of it hidden, ${percent(Math.min(...left))} are left`);
  const pixels = seen.getContext("2d").getImageData(0, 0, width, height);
  mean.forEach((cost, at) => {
    [230, 40, 20].forEach((red, channel) => {
      pixels.data[4 * at + channel] += (0.85 * cost / most) * (red - pixels.data[4 * at + channel]);
    });
  });
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  return canvas.parentElement;
}

const odds = (p) => Math.log(Math.max(p, 1e-7) / Math.max(1 - p, 1e-7));

/** A PNG of the canvas with a grey rectangle over it. */
function hiding(seen, x, y, w, h) {
  const canvas = element("canvas", "", { width: seen.width, height: seen.height });
  const context = canvas.getContext("2d");
  context.drawImage(seen, 0, 0);
  context.fillStyle = "#808080";
  context.fillRect(x, y, w, h);
  return new Promise((resolve) => { canvas.toBlob(resolve, "image/png"); });
}
