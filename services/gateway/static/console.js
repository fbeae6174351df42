// Renews the figures of the page from one event stream; the page itself is complete without it.

const link = document.getElementById("link");

/** Find `a.0.b` in a nested document. */
function at(document, path) {
  return path.split(".").reduce((value, name) => (value == null ? value : value[name]), document);
}

/** Say how the connection is. */
function showLink(state, text) {
  link.dataset.state = state;
  link.textContent = text;
}

/** Put the new figures where the page has a place for them. */
function show(figures) {
  for (const node of document.querySelectorAll("[data-f]")) {
    const value = String(at(figures, node.dataset.f) ?? "");
    if (node.textContent !== value) node.textContent = value;
  }
  for (const line of document.querySelectorAll("[data-p]")) {
    line.setAttribute("points", at(figures, line.dataset.p) ?? "");
  }
  for (const service of figures.services) {
    const card = document.getElementById(`service-${service.name}`);
    if (card) card.dataset.status = service.status;
  }
}

const source = new EventSource("/console/events");
source.addEventListener("figures", (event) => {
  show(JSON.parse(event.data));
  showLink("live", "Live");
});
source.addEventListener("error", () => {
  const gone = source.readyState === EventSource.CLOSED;
  showLink("lost", gone ? "Signed out: reload the page" : "Connection lost, trying again");
});
window.addEventListener("pagehide", () => source.close());
