"""The served side: an OpenAI-compatible server over one kept connection, standard library only."""

import base64
import http.client
import json
import time
import urllib.parse

TIMEOUT_S = 300
# Servers close connections on which nothing comes for a while; from this age on take another.
IDLE_S_MAX = 2


class Server:
    def __init__(self, url):
        parts = urllib.parse.urlsplit(url)
        self.connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=TIMEOUT_S)
        self.last_used = time.perf_counter()
        self.model = self._get("/v1/models")["data"][0]["id"]

    def answer(self, pictures, text, n_tokens_max):
        """The greedy answer, not streamed."""
        self._connect()
        reply = self._post(body(self.model, pictures, text, max_tokens=n_tokens_max))
        return json.loads(reply.read())["choices"][0]["message"]["content"]

    def stream(self, pictures, text, n_tokens, **more):
        """(seconds to the first text, seconds to the last, usage) of a streamed answer."""
        request = body(self.model, pictures, text, max_tokens=n_tokens, stream=True, **more)
        request["stream_options"] = {"include_usage": True}
        self._connect()
        start, times, usage = time.perf_counter(), [], None
        for event in events(self._post(request)):
            if any(choice["delta"].get("content") for choice in event["choices"]):
                times.append(time.perf_counter() - start)
            usage = event.get("usage") or usage
        if not times:
            raise SystemExit("the server streamed no text")
        return times[0], times[-1], usage

    def _connect(self):
        """A connection that the server has not closed, before anything is timed."""
        if time.perf_counter() - self.last_used > IDLE_S_MAX:
            self.connection.close()
            self.connection.connect()

    def _get(self, path):
        self.connection.request("GET", path)
        return json.loads(self.connection.getresponse().read())

    def _post(self, content):
        headers = {"Content-Type": "application/json"}
        self.connection.request("POST", "/v1/chat/completions", json.dumps(content), headers)
        reply = self.connection.getresponse()
        if reply.status != 200:
            raise SystemExit(f"the server answered {reply.status}: {reply.read().decode()}")
        self.last_used = time.perf_counter()
        return reply


def body(model, pictures, text, **more):
    """A greedy request: the pictures, then the text, in one user turn."""
    parts = [{"type": "image_url", "image_url": {"url": data_url(data)}} for data in pictures]
    parts.append({"type": "text", "text": text})
    messages = [{"role": "user", "content": parts if pictures else text}]
    return {"model": model, "messages": messages, "temperature": 0, **more}


def data_url(data):
    kind = "png" if data.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def events(reply):
    """The JSON events of a server-sent stream, up to [DONE], the connection left reusable."""
    for line in reply:
        if not line.startswith(b"data:"):
            continue
        data = line[5:].strip()
        if data == b"[DONE]":
            break
        event = json.loads(data)
        if "error" in event:
            raise SystemExit(f"the server failed while streaming: {data.decode()}")
        yield event
    reply.read()
