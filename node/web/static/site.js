"use strict";

// Light or dark: the system's choice until somebody presses the button.
document.getElementById("theme").addEventListener("click", () => {
  const root = document.documentElement;
  const system = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
  const next = (root.dataset.theme || system) === "dark" ? "light" : "dark";
  root.dataset.theme = next;
  localStorage.setItem("theme", next);
});

// Questions that htmx has put into the dialog.
const dialog = document.getElementById("dialog");
document.body.addEventListener("htmx:afterSwap", (event) => {
  if (event.detail.target === dialog && !dialog.open) dialog.showModal();
});
dialog.addEventListener("click", (event) => {
  if (event.target === dialog || event.target.closest("[data-close]")) {
    event.preventDefault();
    dialog.close();
  }
});

const viewer = document.getElementById("viewer");
if (viewer) showSlices(viewer);

function showSlices(root) {
  const { base, version } = root.dataset;
  const slices = Number(root.dataset.slices);
  const positions = root.dataset.positions.split(" ").map(Number);
  const slider = root.querySelector("#slice");
  const ct = root.querySelector(".ct");
  const place = root.querySelector(".place");
  const layers = [...root.querySelectorAll(".layer")].map((image) => ({
    image,
    name: image.dataset.layer,
    shown: new Set(image.dataset.shown.split(" ").filter(Boolean).map(Number)),
    toggle: root.querySelector(`[data-toggle="${image.dataset.layer}"]`),
  }));
  const address = (layer, z) => `${base}/${layer}/${z}?v=${version}`;
  const waiting = new Map();

  function fetchSoon(z) {
    if (z < 0 || z >= slices || waiting.has(z)) return;
    const image = new Image();
    image.src = address("ct", z);
    waiting.set(z, image);
    if (waiting.size > 60) waiting.delete(waiting.keys().next().value);
  }

  function show() {
    const z = Number(slider.value) - 1;
    ct.src = address("ct", z);
    for (const layer of layers) {
      const visible = layer.toggle.checked && layer.shown.has(z);
      layer.image.hidden = !visible;
      if (visible) layer.image.src = address(layer.name, z);
    }
    place.textContent = `${z + 1} / ${slices}   z ${positions[z].toFixed(1)} mm`;
    slider.setAttribute("aria-valuetext", `slice ${z + 1} of ${slices}`);
    for (const key of root.querySelectorAll(".key"))
      key.setAttribute("aria-pressed", String(Number(key.dataset.slice) === z + 1));
    for (let step = 1; step <= 4; step += 1) {
      fetchSoon(z + step);
      fetchSoon(z - step);
    }
  }

  function go(number) {
    slider.value = String(number);
    show();
  }

  slider.addEventListener("input", show);
  for (const layer of layers) layer.toggle.addEventListener("change", show);
  for (const button of document.querySelectorAll("[data-slice]"))
    button.addEventListener("click", () => {
      go(Number(button.dataset.slice));
      if (!root.contains(button)) root.scrollIntoView({ behavior: "smooth", block: "start" });
    });
  root.querySelector(".frame").addEventListener(
    "wheel",
    (event) => {
      event.preventDefault();
      go(Number(slider.value) + Math.sign(event.deltaY));
    },
    { passive: false },
  );
  show();
}
