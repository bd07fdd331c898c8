"""A headless Firefox, driven by WebDriver BiDi, the W3C's protocol: Firefox speaks it itself, without geckodriver."""

import itertools
import json
import re
import subprocess

import websocket


class Firefox:
    """A browser with one page, started from the program at `path` with an empty `profile`, a folder."""

    def __init__(self, path, profile):
        line = [path, "--headless", "--remote-debugging-port", "0", "--no-remote", "--profile", profile]
        self._process = subprocess.Popen(line, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        address = next(found[0] for found in map(re.compile(r"ws://\S+").search, self._process.stderr) if found)
        self._socket = websocket.create_connection(f"{address}/session", suppress_origin=True, timeout=300)
        self._numbers, self.errors = itertools.count(), []
        self._call("session.new", capabilities={})
        self._call("session.subscribe", events=["log.entryAdded"])
        self._context = self._call("browsingContext.getTree")["contexts"][0]["context"]

    def _call(self, method, **params):
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": params}))
        while (answer := json.loads(self._socket.recv())).get("id") != number:
            if answer.get("method") == "log.entryAdded" and answer["params"]["level"] in ("warn", "error"):
                self.errors.append(answer["params"]["text"])
        if answer["type"] == "error":
            raise RuntimeError(answer["message"])
        return answer["result"]

    def open(self, address):
        """Go to an address and wait for it to load."""
        self._call("browsingContext.navigate", context=self._context, url=address, wait="complete")

    def run(self, script):
        """What the body of an async function returns, if JSON has it."""
        code = f"(async () => JSON.stringify(await (async () => {{{script}}})()) ?? 'null')()"
        target = {"context": self._context}
        done = self._call("script.evaluate", expression=code, target=target, awaitPromise=True)
        if done["type"] == "exception":
            raise RuntimeError(done["exceptionDetails"]["text"])
        return json.loads(done["result"]["value"])

    def quit(self):
        """End the browser."""
        self._socket.close()
        self._process.terminate()
        self._process.wait()
        self._process.stderr.close()
