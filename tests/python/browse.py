"""Opens a gallery's page in Chromium as a reader would, and prints what was there as one JSON object.

usage: browse.py CHROMIUM PAGE FOLDER [ACTION...]

ACTION is `find:WORDS`, `SELECT:VALUE` of one of the page's selects, `open:N` for the n-th card in sight, `press:KEY`,
`scroll:SHARE` from 0 to 1, `clear`, `close`, `narrow`, `wide`, `dark`, `light`, `visit:FRAGMENT` or `shot:NAME`, which leaves
FOLDER/NAME.png. After each of them the page is told: how many images it counts, the first cards in sight, the image that is open,
how long it took until all that was drawn.
"""

import json
import sys
import time
from pathlib import Path

from playwright.sync_api import sync_playwright

TOLD = """() => {
  const text = (id) => document.getElementById(id).textContent;
  const cards = [...document.querySelectorAll("#grid .card")].map((card) => {
    const { top, left, bottom } = card.getBoundingClientRect();
    const image = card.querySelector("img");
    return { top, left, bottom, title: card.title, text: card.textContent, drawn: image.complete && image.naturalWidth > 0 };
  });
  const seen = cards.filter((card) => card.bottom > 60 && card.top < innerHeight);
  seen.sort((a, b) => a.top - b.top || a.left - b.left);
  const one = document.getElementById("one");
  const full = document.getElementById("full");
  return {
    count: text("count"),
    cards: cards.length,
    first: seen.slice(0, 12).map((card) => card.title),
    last: seen.length ? seen[seen.length - 1].title : null,
    texts: seen.slice(0, 12).map((card) => card.text),
    drawn: seen.every((card) => card.drawn),
    open: one.open ? { known: text("known"), said: text("said"), command: text("command"), width: full.naturalWidth } : null,
    fragment: decodeURIComponent(location.hash),
    marks: [...document.querySelectorAll("script")].length,
    overflow: document.documentElement.scrollWidth - innerWidth,
  };
}"""

# Two frames: in the first the cards are made, before the second they were painted.
FRAMES = "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
DRAWN = """async () => {
  await Promise.all([...document.querySelectorAll("#grid .card img")].map((image) => image.decode().catch(() => {})));
}"""


def act(page, folder, action):
    name, _, value = action.partition(":")
    if name == "find":
        page.fill("#q", value)
    elif name == "clear":
        page.fill("#q", "")
    elif name == "open":
        page.locator("#grid .card").nth(int(value)).click()
    elif name == "close":
        page.click("#close")
    elif name == "press":
        page.keyboard.press(value)
    elif name == "scroll":
        page.evaluate("(share) => scrollTo(0, share * document.documentElement.scrollHeight)", float(value))
    elif name == "visit":
        page.evaluate("(fragment) => { location.hash = fragment; }", value)
    elif name in ("narrow", "wide"):
        page.set_viewport_size({"width": 390 if name == "narrow" else 1280, "height": 800})
    elif name in ("dark", "light"):
        page.emulate_media(color_scheme=name)
    elif name == "shot":
        page.screenshot(path=str(Path(folder) / f"{value}.png"))
    else:
        page.select_option(f"#{name}", value)


def main(chromium, path, folder, actions):
    with sync_playwright() as playwright:
        # The sandbox wants rights that containers do not give; what is opened is our own page.
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        complaints = []
        page.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
        page.on("request", lambda request: request.url.startswith(("file:", "data:")) or complaints.append(f"fetched {request.url}"))
        told = []

        def note(action, started):
            page.evaluate(FRAMES)
            page.evaluate(DRAWN)
            milliseconds = 1000 * (time.perf_counter() - started)
            told.append({"action": action, "milliseconds": round(milliseconds), **page.evaluate(TOLD)})

        started = time.perf_counter()
        page.goto(Path(path).absolute().as_uri())
        note("load", started)
        for action in actions:
            started = time.perf_counter()
            act(page, folder, action)
            note(action, started)
        browser.close()
    print(json.dumps({"complaints": complaints, "told": told}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4:])
