"use strict";
(() => {
  const key = (row, column) => {
    const cell = row.cells[column], number = cell.dataset.sort;
    return number === undefined ? cell.textContent.trim() : number === "" ? NaN : Number(number);
  };
  const compare = (a, b) =>
    typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });
  const missing = (value) => Number.isNaN(value) || value === "–";

  const sort = (button) => {
    const head = button.closest("th"), table = head.closest("table"), body = table.tBodies[0];
    const column = Number(head.dataset.column), down = head.getAttribute("aria-sort") === "ascending";
    table.querySelectorAll("th[aria-sort]").forEach((other) => other.setAttribute("aria-sort", "none"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const rows = [...body.rows].map((row) => [key(row, column), row]);
    rows.sort(([a], [b]) => missing(a) - missing(b) || (missing(a) ? 0 : (down ? -1 : 1) * compare(a, b)));
    body.append(...rows.map(([, row]) => row));
    table.closest(".table").querySelector("[aria-live]")?.replaceChildren(
      `sorted by ${button.textContent.trim()}, ${down ? "largest" : "smallest"} first`);
  };
  document.querySelectorAll("th button").forEach((button) => button.addEventListener("click", () => sort(button)));

  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  const own = (video) => {
    const bar = document.createElement("div"), button = document.createElement("button"), slider = document.createElement("input");
    const name = video.getAttribute("aria-label"), show = () => { button.textContent = video.paused ? "Play" : "Pause"; };
    const move = () => { if (video.duration) slider.value = video.currentTime / video.duration; };
    bar.className = "player";
    button.type = "button";
    button.setAttribute("aria-label", `Play or pause ${name}`);
    Object.assign(slider, { type: "range", min: 0, max: 1, step: "any", value: 0 });
    slider.setAttribute("aria-label", `Position in ${name}`);
    button.addEventListener("click", () => {
      video.dataset.byHand = "1";
      if (video.paused) video.play().catch(() => {}); else video.pause();
    });
    slider.addEventListener("input", () => {
      video.dataset.byHand = "1";
      video.pause();
      video.currentTime = slider.value * (video.duration || 0);
    });
    ["play", "pause"].forEach((event) => video.addEventListener(event, show));
    ["timeupdate", "seeked"].forEach((event) => video.addEventListener(event, move));
    video.controls = false;
    bar.append(button, slider);
    video.previousElementSibling.append(bar);
    show();
  };
  const videos = document.querySelectorAll("video");
  videos.forEach(own);
  if (!still && "IntersectionObserver" in window) {
    const watch = new IntersectionObserver((entries) => entries.forEach(({ target, isIntersecting }) => {
      if (target.dataset.byHand) return;
      if (isIntersecting) target.play().catch(() => {}); else target.pause();
    }), { threshold: 0.5 });
    videos.forEach((video) => watch.observe(video));
  }

  const seconds = Number(document.body.dataset.refresh || 0), box = document.querySelector("#follow");
  if (seconds && box) setInterval(() => { if (box.checked) location.reload(); }, 1000 * seconds);
  let closed = [];
  addEventListener("beforeprint", () => {
    closed = [...document.querySelectorAll("details:not([open], .screen)")];
    closed.forEach((details) => { details.open = true; });
  });
  addEventListener("afterprint", () => closed.forEach((details) => { details.open = false; }));
})();
