"use strict";
(() => {  // names of ours must not take the place of the browser's
// Two small things that need no server: copying a command, and taking the veil off a picture.
document.addEventListener("click", async (event) => {
  const copy = event.target.closest(".copy");
  if (copy) {
    await navigator.clipboard.writeText(copy.dataset.copy);
    copy.firstChild.textContent = "Copied";
    setTimeout(() => { copy.firstChild.textContent = "Copy"; }, 1500);
    return;
  }
  const tile = event.target.closest(".tile");
  if (tile && tile.classList.contains("veiled")) { unveil(tile); return; }
  if (tile) { enlarge(tile); return; }
  if (event.target.id === "close") document.getElementById("large").close();
});
document.addEventListener("change", (event) => {
  if (event.target.id !== "show-all") return;
  for (const tile of document.querySelectorAll(".tile")) {
    if (event.target.checked && tile.classList.contains("veiled")) { tile.dataset.veiled = "1"; unveil(tile); }
    else if (!event.target.checked && tile.dataset.veiled) { tile.classList.add("veiled"); tile.setAttribute("aria-label", tile.getAttribute("aria-label").replace("Open", "Show blurred")); }
  }
});
document.addEventListener("input", (event) => {
  const name = event.target.dataset?.variable;
  if (name) event.target.nextElementSibling.value = `${name}=${event.target.value}`;
});
function unveil(tile) {
  tile.classList.remove("veiled");
  tile.setAttribute("aria-label", tile.getAttribute("aria-label").replace("Show blurred", "Open"));
}
function enlarge(tile) {
  const large = document.getElementById("large");
  const pic = tile.querySelector(".pic").cloneNode(true);
  pic.removeAttribute("style");
  const image = pic.querySelector("img");
  image.src = tile.dataset.large;
  image.alt = tile.dataset.about;
  large.querySelector(".pic").replaceWith(pic);
  large.querySelector("figcaption").textContent = tile.dataset.about;
  large.showModal();
}
})();
