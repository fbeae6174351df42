// Fills in what happened behind an answer as it arrives: hops first, then the proven audit record.

const TRIES = 20;
const PAUSE_MS = 700;

const place = document.getElementById("story");
const address = new URL(place.dataset.source, location.href);
address.searchParams.set("fragment", "1");

/** Fetch the story until it is complete, or until nothing more can be expected. */
async function follow(triesLeft) {
  const answer = await fetch(address, { headers: { accept: "text/html" } });
  if (!answer.ok) return;
  const text = await answer.text();
  const story = new DOMParser().parseFromString(text, "text/html").querySelector(".story");
  if (!story) return;
  place.replaceChildren(document.adoptNode(story));
  if (story.dataset.done !== "true" && triesLeft > 0) {
    setTimeout(() => follow(triesLeft - 1), PAUSE_MS);
  }
}

follow(TRIES);
