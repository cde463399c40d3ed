#!/usr/bin/env python3
"""Open report pages in headless Chromium and fail on anything a reader would stumble over.

    python .ci/check_report.py FILE.html [...] [--out FOLDER]

Each page is opened light and dark, at desktop and phone width, and once without JavaScript. It
fails on a console message, an exception, a request other than for the file itself or data:, a
picture that did not decode, text with too little contrast, a page wider than the phone, and a
control that raises when used or does not restore what it changed when put back. With --out,
screenshots land in FOLDER. It speaks Chromium's DevTools protocol over a pipe, so nothing but
Chromium and Python's standard library is needed.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--disable-extensions",
    "--disable-sync",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-background-networking",
    "--no-first-run",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
]
DESKTOP, PHONE = (1280, 900), (390, 844)
TALLEST = 6000
"""Screenshots are cut off at this height (CSS pixels)."""

# Facts about the loaded page, gathered inside it.
FACTS = """(() => {
  const images = [...document.images];
  return {
    title: document.title,
    text: document.body.innerText.trim().length,
    broken: images.filter(i => !i.complete || i.naturalWidth === 0)
      .map(i => i.alt || i.src.slice(0, 60)),
    unnamed: images.filter(i => !i.hasAttribute("alt")).length,
    images: images.length,
    wide: document.documentElement.scrollWidth - window.innerWidth,
    headings: document.querySelectorAll("h1").length,
    stable: [...document.querySelectorAll("[data-stable]")].map(n => n.innerText).join(),
  };
})()"""

# Text whose contrast with the nearest painted background is below WCAG AA.
CONTRAST = """(() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = colour => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    return canvas.getImageData(0, 0, 1, 1).data;
  };
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
    .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, k) => sum + v * [0.2126, 0.7152, 0.0722][k], 0);
  const behind = node => {
    for (; node; node = node.parentElement) {
      const colour = rgba(getComputedStyle(node).backgroundColor);
      if (colour[3] === 255) return colour;
    }
    return [255, 255, 255, 255];
  };
  const poor = new Map();
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !node.checkVisibility()) continue;
    if (node.closest("script, style, title, option")) continue;
    const style = getComputedStyle(node);
    const inside = node instanceof SVGElement;
    const ink = rgba(inside ? style.fill : style.color);
    const [a, b] = [light(ink), light(behind(node))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    const size = parseFloat(style.fontSize);
    const needed = size >= 24 || (size >= 18.66 && style.fontWeight >= 700) ? 3 : 4.5;
    if (ratio < needed) {
      poor.set(node.tagName + "." + node.getAttribute("class"),
               ratio.toFixed(2) + ": " + walker.currentNode.data.trim().slice(0, 40));
    }
  }
  return [...poor].map(([where, what]) => where + " " + what);
})()"""

# Use every control once: open what is folded, choose each choice, press each sort button twice.
EXERCISE = """(() => {
  let used = 0;
  document.querySelectorAll("details").forEach(d => { d.open = true; used++; });
  const choices = [...document.querySelectorAll("select")].map(s => [s, s.value]);
  const choose = s => s.dispatchEvent(new Event("change", { bubbles: true }));
  for (const [s] of choices) {
    for (const option of [...s.options]) { s.value = option.value; choose(s); used++; }
  }
  for (const [s, before] of choices) s.value = before;
  choices.forEach(([s]) => choose(s));
  document.querySelectorAll("button").forEach(b => { b.click(); b.click(); used++; });
  return used;
})()"""


class Browser:
    """A headless Chromium, spoken to over its debugging pipe."""

    def __init__(self, program: str) -> None:
        self.profile = tempfile.mkdtemp(prefix="check-report-")
        to_child, self._out = os.pipe()
        self._in, from_child = os.pipe()

        def wire() -> None:
            # The child reads commands from descriptor 3 and writes answers to 4; go through high
            # numbers, since the pipes may already occupy those two.
            low, high = os.dup2(to_child, 103), os.dup2(from_child, 104)
            os.dup2(low, 3)
            os.dup2(high, 4)

        self._process = subprocess.Popen(
            [program, *FLAGS, f"--user-data-dir={self.profile}", "about:blank"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            close_fds=False,
            preexec_fn=wire,
            start_new_session=True,
        )
        os.close(to_child)
        os.close(from_child)
        self._count, self._buffer = 0, b""
        self.events: list[dict[str, Any]] = []

    def call(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        """Send one command and return its result; events met on the way are kept."""
        self._count += 1
        message: dict[str, Any] = {"id": self._count, "method": method, "params": params}
        if session:
            message["sessionId"] = session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read(time.monotonic() + 60)
            if answer.get("id") == self._count:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return answer["result"]
            self.events.append(answer)

    def wait(self, method: str, session: str) -> None:
        """Wait for an event."""
        deadline = time.monotonic() + 60
        while not any(e["method"] == method and e.get("sessionId") == session for e in self.events):
            self.events.append(self._read(deadline))

    def _read(self, deadline: float) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            if not select.select([self._in], [], [], max(0, deadline - time.monotonic()))[0]:
                raise TimeoutError("Chromium did not answer within 60 s.")
            data = os.read(self._in, 1 << 20)
            if not data:
                raise RuntimeError("Chromium ended unexpectedly.")
            self._buffer += data
        message, self._buffer = self._buffer.split(b"\0", 1)
        return json.loads(message)

    def close(self) -> None:
        """End Chromium and remove its profile."""
        try:
            self.call("Browser.close")
            self._process.wait(10)
        except (RuntimeError, TimeoutError, OSError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self.profile, ignore_errors=True)


def view(browser: Browser, page: Path, theme: str, size: tuple[int, int], out: Path | None,
         script: bool = True) -> list[str]:  # fmt: skip
    """Open a page one way and return what is wrong with it."""
    target = browser.call("Target.createTarget", url="about:blank")["targetId"]
    attached = browser.call("Target.attachToTarget", targetId=target, flatten=True)
    tab = attached["sessionId"]
    for domain in ("Page", "Runtime", "Log", "Network"):
        browser.call(f"{domain}.enable", tab)
    width, height = size
    browser.call("Emulation.setDeviceMetricsOverride", tab, width=width, height=height,
                 deviceScaleFactor=1, mobile=width < 600)  # fmt: skip
    feature = {"name": "prefers-color-scheme", "value": theme}
    browser.call("Emulation.setEmulatedMedia", tab, features=[feature])
    browser.call("Emulation.setScriptExecutionDisabled", tab, value=not script)
    browser.events.clear()
    browser.call("Page.navigate", tab, url=page.resolve().as_uri())
    browser.wait("Page.loadEventFired", tab)
    facts = evaluate(browser, tab, FACTS)
    wrong = facts_wrong(facts, size)
    wrong += [f"poor contrast {p}" for p in evaluate(browser, tab, CONTRAST)]
    if out:
        screenshot(browser, tab, width, out)
    if script:
        evaluate(browser, tab, EXERCISE)
        used = evaluate(browser, tab, FACTS)
        later = facts_wrong(used, size)
        if used["stable"] != facts["stable"]:
            later.append("the script draws other than the page was written")
        later += [f"poor contrast {p}" for p in evaluate(browser, tab, CONTRAST)]
        wrong += [f"after use: {w}" for w in later if w not in wrong]
    wrong += events_wrong(browser.events, tab, page)
    browser.call("Target.closeTarget", targetId=target)
    return wrong


def evaluate(browser: Browser, tab: str, expression: str) -> Any:
    """Return the value of an expression inside the page."""
    got = browser.call("Runtime.evaluate", tab, expression=expression, returnByValue=True)
    if "exceptionDetails" in got:
        raise RuntimeError(json.dumps(got["exceptionDetails"])[:500])
    return got["result"].get("value")


def screenshot(browser: Browser, tab: str, width: int, out: Path) -> None:
    """Write the whole page, up to `TALLEST`, as a PNG."""
    tall = evaluate(browser, tab, "document.documentElement.scrollHeight")
    clip = {"x": 0, "y": 0, "width": width, "height": min(tall, TALLEST), "scale": 1}
    shot = browser.call("Page.captureScreenshot", tab, clip=clip, captureBeyondViewport=True)
    out.write_bytes(base64.b64decode(shot["data"]))


def facts_wrong(facts: dict[str, Any], size: tuple[int, int]) -> list[str]:
    """Return what the page's own facts say against it."""
    wrong = [f"picture not decoded: {name}" for name in facts["broken"]]
    if facts["unnamed"]:
        wrong.append(f"{facts['unnamed']} pictures without alt text")
    if facts["wide"] > 0:
        wrong.append(f"{facts['wide']} px wider than a window of {size[0]} px")
    if facts["headings"] != 1:
        wrong.append(f"{facts['headings']} main headings instead of one")
    if not facts["title"] or facts["text"] < 100:
        wrong.append("hardly any text")
    return wrong


def events_wrong(events: list[dict[str, Any]], tab: str, page: Path) -> list[str]:
    """Return console messages, exceptions and requests that should not be."""
    wrong = []
    own = page.resolve().as_uri()
    for event in events:
        if event.get("sessionId") != tab:
            continue
        kind, told = event["method"], event["params"]
        if kind == "Runtime.consoleAPICalled":
            words = " ".join(str(a.get("value", a.get("description"))) for a in told["args"])
            wrong.append(f"console {told['type']}: {words}")
        elif kind == "Runtime.exceptionThrown":
            thrown = told["exceptionDetails"]
            wrong.append(f"exception: {thrown.get('exception', thrown).get('description', thrown)}")
        elif kind == "Log.entryAdded":
            wrong.append(f"browser {told['entry']['level']}: {told['entry']['text']}")
        elif kind == "Network.requestWillBeSent":
            url = told["request"]["url"]
            if url.split("#")[0] != own and not url.startswith("data:"):
                wrong.append(f"request for {url[:200]}")
    return wrong


def check(browser: Browser, page: Path, out: Path | None, stem: str) -> list[str]:
    """Open a page in all ways and return what is wrong with it."""
    wrong = []
    for name, size in (("desktop", DESKTOP), ("phone", PHONE)):
        for theme in ("light", "dark"):
            shot = out / f"{stem}-{name}-{theme}.png" if out else None
            wrong += [f"{name}, {theme}: {w}" for w in view(browser, page, theme, size, shot)]
    bare = view(browser, page, "light", DESKTOP, None, script=False)
    return list(dict.fromkeys(wrong + [f"without JavaScript: {w}" for w in bare]))


def main() -> int:
    """Check the pages named on the command line; exit 1 if any is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pages", type=Path, nargs="+", metavar="FILE.html")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="for screenshots")
    parser.add_argument("--browser", default=None, help="default: chromium or chrome on the PATH")
    told = parser.parse_args()
    names = ("chromium", "chromium-browser", "google-chrome")
    program = told.browser or next((p for n in names if (p := shutil.which(n))), None)
    if not program:
        parser.error("no Chromium found; install it (Debian: apt-get install chromium).")
    if absent := [str(p) for p in told.pages if not p.is_file()]:
        parser.error(f"no such file: {', '.join(absent)}")
    if told.out:
        told.out.mkdir(parents=True, exist_ok=True)
    failed = 0
    browser = Browser(program)
    try:
        for number, page in enumerate(told.pages):
            wrong = check(browser, page, told.out, f"{number}-{page.resolve().parent.name}")
            failed += bool(wrong)
            print(f"{'FAIL' if wrong else 'ok  '} {page}", *wrong, sep="\n       ")
    finally:
        browser.close()
    print(f"{len(told.pages) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
