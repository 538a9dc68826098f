"""Opens the pages of `diffuscope explore` in a headless Chromium, without a network, and uses them as a person does.

    python3 explore_browser.py CHROMIUM TASKS.json [SHOTS]

TASKS.json lists the pages with what is done on each; the answers are printed as one JSON object. SHOTS is a folder for
screenshots. Needs nothing beside Python: Chromium is spoken to through a pipe. The checks of axe-core are made where a
task names its file.
"""

import base64
import json
import os
import subprocess
import sys
import tempfile
import time


class Browser:
    """A headless Chromium, and its protocol through file descriptors 3 and 4."""

    def __init__(self, chromium):
        to_child, self.write_end = os.pipe()
        self.read_end, from_child = os.pipe()
        self.profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)

        def descriptors():
            # Either may already be one of the two numbers: first out of the way, then into place.
            a, b = os.dup(to_child), os.dup(from_child)
            high = [os.dup2(fd, 100 + i) for i, fd in enumerate((a, b))]
            os.dup2(high[0], 3)
            os.dup2(high[1], 4)

        flags = [
            "--headless=new", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu", "--no-first-run",
            "--disable-dev-shm-usage", "--force-color-profile=srgb", f"--user-data-dir={self.profile.name}",
        ]
        self.process = subprocess.Popen(
            [chromium, *flags], preexec_fn=descriptors, close_fds=False,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )
        os.close(to_child)
        os.close(from_child)
        self.buffer, self.events, self.last = b"", [], 0

    def receive(self):
        while b"\0" not in self.buffer:
            piece = os.read(self.read_end, 1 << 20)
            if not piece:
                raise RuntimeError("Chromium ended")
            self.buffer += piece
        message, self.buffer = self.buffer.split(b"\0", 1)
        return json.loads(message)

    def call(self, method, session=None, **params):
        self.last += 1
        message = {"id": self.last, "method": method, "params": params}
        if session:
            message["sessionId"] = session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self.write_end, data):]
        while True:
            answer = self.receive()
            if answer.get("id") != self.last:
                self.events.append(answer)
            elif "error" in answer:
                raise RuntimeError(f"{method}: {answer['error']['message']}")
            else:
                return answer["result"]

    def close(self):
        try:
            self.call("Browser.close")
            self.process.wait(20)
        except (RuntimeError, OSError, subprocess.TimeoutExpired):
            self.process.kill()


class Tab:
    def __init__(self, browser, width=1280, height=900, scheme="light", scripts=True, forced=False):
        self.browser = browser
        target = browser.call("Target.createTarget", url="about:blank")["targetId"]
        self.target = target
        self.session = browser.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.call("Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=0, uploadThroughput=0)
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        if forced:
            features.append({"name": "forced-colors", "value": "active"})
        self.call("Emulation.setEmulatedMedia", features=features)
        self.call("Emulation.setFocusEmulationEnabled", enabled=True)
        if not scripts:
            self.call("Emulation.setScriptExecutionDisabled", value=True)

    def call(self, method, **params):
        return self.browser.call(method, self.session, **params)

    def run(self, code):
        got = self.call("Runtime.evaluate", expression=f"(async () => {{ {code} }})()", awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in got:
            raise RuntimeError(f"{code}: {got['exceptionDetails'].get('exception', {}).get('description')}")
        return got["result"].get("value")

    def open(self, url):
        self.call("Page.navigate", url=url)
        self.until("document.readyState === 'complete'")

    def until(self, condition, seconds=20):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self.run(f"return Boolean({condition})"):
                return
            time.sleep(0.03)
        raise RuntimeError(f"never came true: {condition}")

    def painted(self):
        self.until("document.querySelector('canvas.picture[data-shown]')")

    def key(self, key, code=None, number=0, text=""):
        known = {
            "Tab": 9, "Enter": 13, " ": 32, "End": 35, "Home": 36,
            "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40,
        }
        text = {"Enter": "\r", " ": " "}.get(key, text)
        common = dict(key=key, code=code or ("Space" if key == " " else key), windowsVirtualKeyCode=known.get(key, number))
        self.call("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", text=text, **common)
        self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    def shot(self, path):
        height = self.call("Page.getLayoutMetrics")["cssContentSize"]["height"]
        width = self.call("Page.getLayoutMetrics")["cssContentSize"]["width"]
        clip = dict(x=0, y=0, width=width, height=height, scale=1)
        data = self.call("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)["data"]
        with open(path, "wb") as file:
            file.write(base64.b64decode(data))

    def complaints(self):
        """Errors of the page, and requests that would have left it."""
        own = [e for e in self.browser.events if e.get("sessionId") == self.session]
        said = []
        for event in own:
            method, params = event["method"], event["params"]
            if method == "Runtime.exceptionThrown":
                said.append(params["exceptionDetails"]["exception"].get("description", "exception"))
            if method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
                said.append(str(params["args"]))
            if method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
                said.append(params["entry"]["text"])
            if method == "Network.requestWillBeSent":
                url = params["request"]["url"]
                if not url.startswith(("file:", "data:", "blob:", "about:")):
                    said.append(f"asked for {url}")
        return said

    def close(self):
        self.browser.call("Target.closeTarget", targetId=self.target)


SHOWN = "document.querySelector('canvas.picture').dataset.shown"
FOCUS = """
const e = document.activeElement;
return e === document.body ? "" : e.id || (e.name ? `${e.name}` : e.className || e.tagName);
"""


def badges(browser, task):
    """The residual of every page."""
    residuals, tab = {}, Tab(browser)
    for page in task["pages"]:
        tab.open(page)
        tab.painted()
        residuals[page] = [float(tab.run("return document.getElementById('badge').dataset.residual")), tab.complaints()]
        browser.events.clear()
    tab.close()
    return residuals


def pixels(browser, task):
    """What the canvas holds at every fragment, in base64, with its size."""
    tab = Tab(browser)
    tab.open(task["page"])
    tab.painted()
    got = []
    for fragment, shown in task["at"]:
        tab.run(f"location.hash = {json.dumps(fragment)}")
        tab.until(f"{SHOWN} === {json.dumps(shown)}")
        got.append(tab.run("""
            const shown = document.querySelector('canvas.picture');
            const c = new OffscreenCanvas(shown.width, shown.height).getContext('2d', { willReadFrequently: true });
            c.drawImage(shown, 0, 0);
            const d = c.getImageData(0, 0, shown.width, shown.height).data;
            let text = '';
            for (const v of d) text += String.fromCharCode(v);
            return [shown.width, shown.height, btoa(text)];
        """))
    complaints = tab.complaints()
    tab.close()
    return {"pixels": got, "complaints": complaints}


def keyboard(browser, task):
    """Reaches every control by Tab alone and uses it by keys alone."""
    tab = Tab(browser)
    tab.open(task["page"])
    tab.painted()
    state = lambda: tab.run("return Object.fromEntries(new URLSearchParams(location.hash.slice(1)))")
    reached = []
    for _ in range(80):
        tab.key("Tab")
        name = tab.run(FOCUS)
        visible = tab.run("""
            const e = document.activeElement, l = e.closest('label') ?? e, s = getComputedStyle(l);
            return e === document.body || (s.outlineStyle !== 'none' && parseFloat(s.outlineWidth) >= 2);
        """)
        if name and not visible:
            reached.append(f"{name} without a visible focus")
        if not name:
            break
        reached.append(name)

    def to(name):
        tab.run("document.activeElement.blur(); document.documentElement.tabIndex = -1; document.documentElement.focus(); document.documentElement.removeAttribute('tabindex')")
        for _ in range(80):
            tab.key("Tab")
            if tab.run(FOCUS) == name:
                return
        raise RuntimeError(f"Tab does not reach {name}")

    def press(name, *keys):
        to(name)
        for key in keys:
            tab.key(key)
        time.sleep(0.7)
        return state()

    used = {}
    used["step"] = press("step", "Home", "ArrowRight", "ArrowRight")["step"]
    used["end"] = press("step", "End")["step"]
    used["w"] = press("w", "ArrowRight").get("w")
    used["own"] = press("own", "Enter").get("w")
    used["runs"] = press("runs", "ArrowRight")["run"]
    used["as"] = press("as", "ArrowRight")["as"]
    used["show"] = press("show", "ArrowRight")["show"]
    for name in ("seeds", "side"):
        if name in reached:
            used[name] = press(name, "ArrowRight")[{"seeds": "seed"}.get(name, name)]
    if "chip" in reached:
        used["token"] = press("chip", "Enter").get("token")
    # Keys of the page itself, with nothing in focus.
    tab.run("document.activeElement.blur()")
    tab.key("Home")
    tab.key("ArrowRight")
    time.sleep(0.7)
    used["page"] = state()["step"]
    tab.run("document.activeElement.blur()")
    tab.key(" ")
    tab.until("document.getElementById('play').textContent === 'Pause'")
    tab.until("Number(document.getElementById('step').value) >= 4")
    tab.key(" ")
    tab.until("document.getElementById('play').textContent === 'Play'")
    time.sleep(0.7)
    used["played"] = state()["step"]
    said = tab.run("return document.getElementById('status').textContent")
    complaints = tab.complaints()
    tab.close()
    return {"reached": reached, "used": used, "status": said, "complaints": complaints}


def fragment(browser, task):
    """Another window with the same address shows the same."""
    looks = """
        return [document.querySelector('canvas.picture').dataset.shown,
          document.querySelector('canvas.picture').getAttribute('aria-label'),
          ...[...document.querySelectorAll('input:checked')].map((e) => `${e.name} ${e.value}`),
          document.getElementById('step').value, document.getElementById('w').value,
          ...[...document.querySelectorAll('.chip')].map((e) => e.getAttribute('aria-pressed'))];
    """
    seen = []
    url = f"{task['page']}#{task['fragment']}"
    for _ in range(2):
        tab = Tab(browser)
        tab.open(url)
        tab.painted()
        time.sleep(0.8)
        seen.append(tab.run(looks))
        url = tab.run("return location.href")
        complaints = tab.complaints()
        tab.close()
    return {"seen": seen, "url": url, "complaints": complaints}


def pointer(browser, task):
    """Drags the point along its line on the plane."""
    tab = Tab(browser)
    tab.open(task["page"])
    tab.painted()
    tab.run("document.getElementById('plane').scrollIntoView({ block: 'center' })")
    at = tab.run("""
        const b = document.querySelector('.knob').getBoundingClientRect(), u = document.querySelector('rect.dot').getBoundingClientRect();
        return [b.x + b.width / 2, b.y + b.height / 2, u.x + u.width / 2, u.y + u.height / 2];
    """)
    before = float(tab.run("return document.getElementById('w').value"))
    mouse = lambda kind, x, y: tab.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1, clickCount=1)
    mouse("mousePressed", at[0], at[1])
    mouse("mouseMoved", (at[0] + at[2]) / 2, (at[1] + at[3]) / 2)
    mouse("mouseReleased", (at[0] + at[2]) / 2, (at[1] + at[3]) / 2)
    time.sleep(0.3)
    after = float(tab.run("return document.getElementById('w').value"))
    complaints = tab.complaints()
    tab.close()
    return {"before": before, "after": after, "moved": before - after, "complaints": complaints}


def texts(browser, task):
    """What the page says of prompts that are not harmless."""
    tab = Tab(browser)
    tab.open(task["page"])
    tab.painted()
    got = tab.run("""
        return { prompts: [...document.querySelectorAll('.stage h2 bdi')].map((e) => e.textContent),
          title: document.title, hacked: window.hacked ?? null,
          foreign: document.querySelectorAll('main script, main iframe, [onerror], [onload]').length };
    """)
    got["complaints"] = tab.complaints()
    tab.close()
    return got


def plain(browser, task):
    """Without scripts: the still picture, and nothing of the rest."""
    tab = Tab(browser, scripts=False)
    tab.call("Page.navigate", url=task["page"])
    time.sleep(1.5)
    tab.call("DOM.enable")
    root = tab.call("DOM.getDocument")["root"]["nodeId"]
    box = lambda what: tab.call("DOM.getBoxModel", nodeId=tab.call("DOM.querySelector", nodeId=root, selector=what)["nodeId"])
    width = box("#still img")["model"]["width"]
    try:
        hidden = box("#app")["model"]["width"] == 0
    except RuntimeError:
        hidden = True
    tab.close()
    return {"still": width, "hidden": hidden}


def axe(browser, task):
    """The violations that axe-core finds, in light and dark, wide and narrow."""
    with open(task["axe"]) as file:
        code = file.read()
    found, passes = [], 0
    for scheme in ("light", "dark"):
        for width in (1280, 320):
            tab = Tab(browser, width=width, scheme=scheme)
            tab.call("Page.setBypassCSP", enabled=True)
            tab.open(task["page"])
            tab.painted()
            tab.call("Runtime.evaluate", expression=code)
            tags = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
            got = tab.run(f"return axe.run(document, {{ runOnly: {json.dumps(tags)} }})")
            passes += len(got["passes"])
            for violation in got["violations"]:
                nodes = [node["target"] for node in violation["nodes"]]
                found.append(f"{scheme} {width}: {violation['id']}: {violation['help']}: {nodes}")
            tab.close()
    return {"violations": found, "passes": passes}


def layout(browser, task, shots=None):
    """Nothing is wider than the window, every target is large enough; screenshots."""
    wrong = []
    for width in (320, 768, 1280, 1920):
        for scheme in ("light", "dark"):
            tab = Tab(browser, width=width, scheme=scheme)
            tab.open(task["page"])
            tab.painted()
            time.sleep(0.6)
            over = tab.run("return document.documentElement.scrollWidth - innerWidth")
            if over > 0:
                wrong.append(f"{width}: {over} pixels wider than the window")
            small = tab.run("""
                const targets = [...document.querySelectorAll('button, input, fieldset label')];
                const seen = targets.map((e) => [e, e.getBoundingClientRect()]).filter(([, b]) => b.width);
                return seen.filter(([, b]) => b.width < 24 || b.height < 24).map(([e]) => e.outerHTML.slice(0, 80));
            """)
            wrong += [f"{width}: a target below 24 pixels: {html}" for html in small]
            if shots and width in (320, 1280):
                tab.shot(os.path.join(shots, f"{task.get('name', 'page')}-{width}-{scheme}.png"))
            tab.close()
    return wrong


def cell(browser, task, shots=None):
    """The HTML of a cell in a page that runs it, and in one that takes frames and scripts out, as a notebook does."""
    with open(task["cell"], encoding="utf-8") as file:
        html = file.read()
    tab = Tab(browser)
    tab.open("about:blank")
    tab.run(f"document.body.innerHTML = {json.dumps(html)}")
    tab.until("document.querySelector('iframe')?.contentDocument?.querySelector('canvas.picture[data-shown]')")
    tab.until("document.querySelector('iframe').offsetHeight > 900")
    trusted = tab.run("""
        const [image, frame] = [document.querySelector('img'), document.querySelector('iframe')];
        return { image: image.offsetWidth, inside: frame.contentDocument.documentElement.scrollHeight, frame: frame.offsetHeight,
          badge: frame.contentDocument.getElementById('badge').className };
    """)
    trusted["complaints"] = tab.complaints()
    if shots:
        tab.shot(os.path.join(shots, "cell.png"))
    tab.run(f"document.body.innerHTML = {json.dumps(html)}; document.querySelectorAll('iframe, script').forEach((e) => e.remove())")
    tab.until("document.querySelector('img').complete")
    untrusted = tab.run("const i = document.querySelector('img'); return { image: i.offsetWidth, first: document.body.firstElementChild === i, alt: i.alt }")
    tab.close()
    return {"trusted": trusted, "untrusted": untrusted}


def times(browser, task):
    """How long a page takes to open, and how late an input is answered while it plays."""
    tab = Tab(browser)
    tab.call("Page.navigate", url=task["page"])
    tab.until("performance.getEntriesByName('first-picture').length || document.querySelector('canvas.picture[data-shown]')")
    opened = tab.run("""
        const n = performance.getEntriesByType('navigation')[0];
        const m = performance.getEntriesByName('shown')[0];
        return { shown: m ? m.startTime : performance.now(), parsed: n.domInteractive };
    """)
    late = tab.run("""
        document.getElementById('step').value = 1;
        document.getElementById('step').dispatchEvent(new Event('input'));
        document.getElementById('play').click();
        const w = document.getElementById('w'), late = [], lost = [];
        const long = [];
        new PerformanceObserver((l) => l.getEntries().forEach((e) => long.push(e.duration))).observe({ type: 'longtask' });
        for (let i = 0; i < 120; i++) {
          const value = (i % 100) / 10, from = performance.now();
          w.value = value;
          w.dispatchEvent(new Event('input'));
          await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
          late.push(performance.now() - from);
          if (Math.abs(parseFloat(document.getElementById('w-said').textContent) - value) > 0.051) lost.push(value);
          await new Promise((done) => setTimeout(done, 25));
        }
        const step = Number(document.getElementById('step').value);
        late.sort((a, b) => a - b);
        return { median: late[60], worst: late[119], lost: lost.length, long: long.length, longest: Math.max(0, ...long), step };
    """)
    tab.close()
    return {**opened, **late}


def main():
    chromium, tasks = sys.argv[1], sys.argv[2]
    shots = sys.argv[3] if len(sys.argv) > 3 else None
    with open(tasks) as file:
        tasks = json.load(file)
    browser = Browser(chromium)
    answers = {}
    try:
        for name, task in tasks.items():
            kind = globals()[task["do"]]
            answers[name] = kind(browser, task, shots) if task["do"] in ("layout", "cell") else kind(browser, task)
    finally:
        browser.close()
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    main()
