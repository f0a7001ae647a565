"""A headless Chromium for tests, spoken to through chromedriver in the words of WebDriver.

https://www.w3.org/TR/webdriver2/ has the words; ``goog/cdp/execute`` and ``goog:loggingPrefs`` are
chromedriver's own. No package is needed: it is JSON over HTTP on this machine.
"""

import base64
import json
import os
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from contextlib import contextmanager

import pytest
from jobs import free_port

REQUIRED = "BROWSER_TESTS_MUST_RUN"
"""Environment variable under which a missing browser is a failure."""
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
)


def skip_without_browser():
    missing = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    if not missing:
        return
    said = f"{' and '.join(missing)} not installed: apt-get install chromium chromium-driver"
    if os.environ.get(REQUIRED):
        pytest.fail(said)
    pytest.skip(said)


class Browser:
    """One window."""

    def __init__(self, address):
        self.address = address
        self.session = ""

    def open_window(self):
        options = {"binary": shutil.which("chromium"), "args": list(FLAGS)}
        wanted = {
            "browserName": "chrome",
            "goog:chromeOptions": options,
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        }
        made = self._ask("POST", "session", {"capabilities": {"alwaysMatch": wanted}})
        self.session = f"session/{made['sessionId']}/"

    def show(self, path, *, width, height=900, dark=False):
        """Open a local file in a window of so many CSS pixels."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.devtools("Emulation.setDeviceMetricsOverride", size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.devtools("Emulation.setEmulatedMedia", {"features": [scheme]})
        self._ask("POST", f"{self.session}url", {"url": path.resolve().as_uri()})

    def value(self, script):
        """Return what a line of JavaScript returns."""
        return self._ask("POST", f"{self.session}execute/sync", {"script": f"return {script}", "args": []})

    def devtools(self, command, words):
        return self._ask("POST", f"{self.session}goog/cdp/execute", {"cmd": command, "params": words})

    def console(self):
        """Return what the console said since it was last asked."""
        return [entry["message"] for entry in self._log("browser")]

    def requests(self):
        """Return every address that the page asked for since this was last asked."""
        messages = [json.loads(entry["message"])["message"] for entry in self._log("performance")]
        return [
            message["params"]["request"]["url"]
            for message in messages
            if message["method"] == "Network.requestWillBeSent"
        ]

    def forget(self):
        """Leave out of console and requests what was there before."""
        self.console()
        self.requests()

    def picture(self, path):
        """Keep what the window shows as a PNG."""
        path.write_bytes(base64.b64decode(self._ask("GET", f"{self.session}screenshot")))

    def close(self):
        if self.session:
            self._ask("DELETE", self.session.rstrip("/"))

    def _log(self, kind):
        return self._ask("POST", f"{self.session}se/log", {"type": kind})

    def _ask(self, method, path, words=None):
        content = None if words is None else json.dumps(words).encode()
        request = urllib.request.Request(f"{self.address}/{path}", data=content, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            with error:
                raise AssertionError(error.read().decode()) from None


@contextmanager
def open_browser():
    """Start Chromium and end it with the block."""
    port = free_port()
    driver = subprocess.Popen(
        [str(shutil.which("chromedriver")), f"--port={port}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    browser = Browser(f"http://127.0.0.1:{port}")
    try:
        _wait_for(browser.address)
        browser.open_window()
        yield browser
    finally:
        browser.close()
        driver.terminate()
        driver.wait(timeout=20)


def _wait_for(address):
    for _ in range(100):
        try:
            with urllib.request.urlopen(f"{address}/status", timeout=5):
                return
        except OSError:
            time.sleep(0.1)
    raise AssertionError("chromedriver did not answer")
