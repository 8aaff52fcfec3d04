#!/usr/bin/env python3
"""What a user does with OpenAI's own Python client, against running servers; each call checks its result.

`crates/triptych/tests/openai_client.rs` starts the servers and this script; tests/openai_client.mjs
makes the same calls with the JavaScript client.
"""

import argparse
import asyncio
import base64
import http.server
import pathlib
import ssl
import sys
import threading
import time
import urllib.request

import openai
from openai import AsyncOpenAI, OpenAI

MODEL = "shapes"
SAMPLES = pathlib.Path(__file__).resolve().parent.parent / "models/shapes/samples"
TWO = "From left to right: a red circle, a blue square."
FOUR = "From left to right: a yellow star, a green triangle, an orange circle, a black square."
WHAT = "What is in the picture?"
# Longest wait for anything, on a machine that builds beside it.
PATIENCE_S = 120
# What a client that left held must be back after this, and a little for the machine.
LEFT_S = 2

CALLS = []


def call(function):
    """Adds a call to the list; its name is what is printed."""
    CALLS.append(function)
    return function


class Site:
    """The servers, the clients, and an origin of pictures of our own."""

    def __init__(self, args):
        self.args = args
        self.client = OpenAI(base_url=f"{args.url}/v1", api_key="unused", max_retries=0, timeout=PATIENCE_S)
        self.slow = self.client.with_options(base_url=f"{args.slow_url}/v1")
        self.origin = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Origin)
        threading.Thread(target=self.origin.serve_forever, daemon=True).start()
        self.origin_url = f"http://127.0.0.1:{self.origin.server_port}"

    def secured(self, key):
        context = ssl.create_default_context(cafile=self.args.ca)
        return OpenAI(
            base_url=f"{self.args.secured_url}/v1", api_key=key, max_retries=0, timeout=PATIENCE_S,
            http_client=openai.DefaultHttpxClient(verify=context),
        )

    def ask(self, content, **more):
        messages = more.pop("messages", None) or [{"role": "user", "content": content}]
        return self.client.chat.completions.create(model=MODEL, messages=messages, **more)

    def text(self, content, **more):
        return self.ask(content, **more).choices[0].message.content

    def inflight(self, url):
        """Requests at work on a server, as its metrics say."""
        with urllib.request.urlopen(f"{url}/metrics", timeout=PATIENCE_S) as response:
            lines = response.read().decode().splitlines()
        found = [line for line in lines if line.startswith("dynamo_frontend_inflight_requests{")]
        return sum(int(float(line.rsplit(" ", 1)[1])) for line in found)

    def wait_until_idle(self, url):
        began = time.monotonic()
        while self.inflight(url) > 0:
            assert time.monotonic() - began < LEFT_S, "the request went on without its client"
            time.sleep(0.01)


class Origin(http.server.BaseHTTPRequestHandler):
    """Serves the sample pictures, and answers that are none."""

    def do_GET(self):
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("location", "/two-shapes.png")
            self.end_headers()
        elif self.path == "/page":
            self.answer(b"<html>no picture</html>")
        elif self.path == "/large":
            self.answer(bytes(3 << 20))
        elif (SAMPLES / self.path[1:]).is_file():
            self.answer((SAMPLES / self.path[1:]).read_bytes())
        else:
            self.send_error(404)

    def answer(self, body):
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        try:
            self.wfile.write(body)
        except (BrokenPipeError, ConnectionResetError):
            pass  # Whoever refuses what is too large need not read it.

    def log_message(self, *_):
        pass


def picture(url, **more):
    return {"type": "image_url", "image_url": {"url": url, **more}}


def data_url(name):
    return f"data:image/{name.rsplit('.')[-1].replace('jpg', 'jpeg')};base64," + base64.b64encode((SAMPLES / name).read_bytes()).decode()


def about(*urls, question=WHAT):
    return [*(picture(url) for url in urls), {"type": "text", "text": question}]


def refused(kind, status, ask, code=None, param=None):
    """The error that `ask` raises, which must be of this class and have these fields."""
    try:
        ask()
    except openai.APIStatusError as error:
        assert isinstance(error, kind), f"{type(error).__name__}: {error}"
        assert error.status_code == status, error
        assert code is None or error.code == code, (error.code, code)
        assert param is None or error.param == param, (error.param, param)
        assert error.body["message"] and error.body["type"], error.body
        assert error.request_id, "every error names its request"
        return error
    raise AssertionError("it was not refused")


# Models


@call
def models_are_listed(site):
    models = list(site.client.models.list())
    assert [model.id for model in models] == [MODEL], models
    assert models[0].object == "model" and models[0].created > 1_600_000_000


@call
def a_model_is_retrieved(site):
    assert site.client.models.retrieve(MODEL).id == MODEL


@call
def a_model_that_is_not_there(site):
    refused(openai.NotFoundError, 404, lambda: site.client.models.retrieve("absent"), "model_not_found", "model")


# Whole answers


@call
def a_question_in_words(site):
    answer = site.ask("Hello!", temperature=0)
    choice = answer.choices[0]
    assert answer.object == "chat.completion" and answer.model == MODEL and answer.id.startswith("chatcmpl-")
    assert choice.message.role == "assistant" and choice.message.content.startswith("Hello!"), choice
    assert choice.finish_reason == "stop"
    usage = answer.usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens > usage.prompt_tokens > 0


@call
def a_picture_by_data_url(site):
    assert site.text(about(data_url("two-shapes.png")), temperature=0) == TWO


@call
def another_picture_another_answer(site):
    assert site.text(about(data_url("four-shapes.jpg")), temperature=0) == FOUR


@call
def a_picture_by_path(site):
    assert site.text(about(str(SAMPLES / "two-shapes.png")), temperature=0) == TWO


@call
def a_picture_by_file_url(site):
    assert site.text(about((SAMPLES / "two-shapes.png").as_uri()), temperature=0) == TWO


@call
def a_picture_by_http(site):
    assert site.text(about(f"{site.origin_url}/four-shapes.jpg"), temperature=0) == FOUR


@call
def a_picture_by_http_elsewhere(site):
    assert site.text(about(f"{site.origin_url}/moved"), temperature=0) == TWO


@call
def several_pictures_from_everywhere(site):
    urls = [data_url("two-shapes.png"), f"{site.origin_url}/four-shapes.jpg"]
    question = "Which picture has more shapes?"
    assert site.text(about(*urls, question=question), temperature=0) == "The second."
    assert site.text(about(*reversed(urls), question=question), temperature=0) == "The first."


@call
def a_picture_in_an_earlier_turn(site):
    messages = [
        {"role": "system", "content": "You describe pictures."},
        {"role": "user", "content": about(data_url("four-shapes.jpg"))},
        {"role": "assistant", "content": FOUR},
        {"role": "user", "content": "What colour is the triangle?"},
    ]
    assert site.text(None, messages=messages, temperature=0)


@call
def detail_is_low(site):
    low = site.ask([picture(data_url("four-shapes.jpg"), detail="low"), {"type": "text", "text": WHAT}], max_tokens=4)
    high = site.ask([picture(data_url("four-shapes.jpg"), detail="high"), {"type": "text", "text": WHAT}], max_tokens=4)
    assert low.usage.prompt_tokens < high.usage.prompt_tokens, (low.usage, high.usage)


@call
def several_choices(site):
    choices = site.ask("Hello!", n=3, max_tokens=8).choices
    assert [choice.index for choice in choices] == [0, 1, 2] and all(choice.message.content for choice in choices)


@call
def a_seed_repeats_an_answer(site):
    # What comes after the end of its answer is anybody's guess, the model's too.
    ask = lambda seed: site.text("Hello!", seed=seed, temperature=2, max_tokens=32, extra_body={"ignore_eos": True})
    assert ask(7) == ask(7)
    assert len({ask(seed) for seed in range(6)}) > 1, "other seeds, other answers"


@call
def a_stop_string_ends_it(site):
    whole = site.text(about(data_url("two-shapes.png")), temperature=0)
    choice = site.ask(about(data_url("two-shapes.png")), temperature=0, stop=["circle"]).choices[0]
    assert choice.message.content == whole.split("circle")[0] and choice.finish_reason == "stop", choice


@call
def max_tokens_end_it(site):
    for limit in ({"max_tokens": 2}, {"max_completion_tokens": 2}):
        answer = site.ask("Hello!", **limit)
        assert answer.choices[0].finish_reason == "length" and answer.usage.completion_tokens == 2, answer


@call
def logprobs_come_with_tokens(site):
    choice = site.ask("Hello!", temperature=0, max_tokens=6, logprobs=True, top_logprobs=3).choices[0]
    tokens = choice.logprobs.content
    assert b"".join(bytes(token.bytes) for token in tokens).decode() == choice.message.content
    for token in tokens:
        assert len(token.top_logprobs) == 3 and token.logprob <= 0
        assert token.top_logprobs[0].token == token.token, "the likeliest was taken"


@call
def a_bias_forbids_and_forces(site):
    forced = site.ask("Hello!", temperature=0, max_tokens=3, logit_bias={"5": 100}).choices[0]
    assert forced.message.content != site.text("Hello!", temperature=0, max_tokens=3)


@call
def penalties_are_heard(site):
    answer = site.ask("Hello!", presence_penalty=1.5, frequency_penalty=1.5, top_p=0.9, temperature=0.7)
    assert answer.choices[0].message.content


@call
def fields_of_other_engines(site):
    more = {"top_k": 1, "min_tokens": 9, "ignore_eos": True, "repetition_penalty": 1.1, "cache_salt": "a"}
    answer = site.ask("Hello!", max_tokens=9, extra_body=more)
    assert answer.usage.completion_tokens == 9 and answer.choices[0].finish_reason == "length"


@call
def what_was_asked_before_is_cached(site):
    ask = lambda: site.ask(about(data_url("forty-two.png"), question="What number is written?"), temperature=0)
    assert ask().choices[0].message.content == "42"
    usage = ask().usage
    assert 0 < usage.prompt_tokens_details.cached_tokens < usage.prompt_tokens, usage


@call
def neutral_values_are_accepted(site):
    answer = site.ask(
        "Hello!", tools=[], response_format={"type": "text"}, store=False, metadata={"a": "b"}, user="me",
        service_tier="auto", parallel_tool_calls=True, modalities=["text"], tool_choice="auto", max_tokens=2,
    )
    assert answer.choices[0].message.content


# Streams


def pieces(stream):
    return "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)


@call
def a_stream_says_the_same(site):
    stream = site.ask(about(data_url("two-shapes.png")), temperature=0, stream=True)
    assert pieces(stream) == TWO


@call
def a_stream_ends_with_usage(site):
    chunks = list(site.ask("Hello!", stream=True, max_tokens=5, stream_options={"include_usage": True}))
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == 5, chunks[-1]
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert chunks[-2].choices[0].finish_reason == "length"


@call
def a_stream_of_choices(site):
    texts = {0: "", 1: ""}
    for chunk in site.ask("Hello!", stream=True, n=2, max_tokens=6):
        texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert all(texts.values()), texts


@call
def a_stream_with_logprobs(site):
    chunks = list(site.ask("Hello!", stream=True, max_tokens=4, logprobs=True, temperature=0))
    tokens = [token for chunk in chunks if chunk.choices[0].logprobs for token in chunk.choices[0].logprobs.content]
    assert len(tokens) == 4, tokens


@call
def the_clients_own_gathering_of_a_stream(site):
    messages = [{"role": "user", "content": "Hello!"}]
    with site.client.chat.completions.stream(model=MODEL, messages=messages, temperature=0) as stream:
        kinds = {event.type for event in stream}
        whole = stream.get_final_completion()
    assert "content.delta" in kinds and whole.choices[0].message.content.startswith("Hello!")


@call
def leaving_in_the_middle_ends_the_work(site):
    messages = [{"role": "user", "content": "Hello!"}]
    stream = site.slow.chat.completions.create(model=MODEL, messages=messages, stream=True, max_tokens=500)
    for _, chunk in zip(range(3), stream):
        assert chunk.choices
    assert site.inflight(site.args.slow_url) == 1
    stream.close()
    site.wait_until_idle(site.args.slow_url)


# Errors


@call
def an_unknown_field(site):
    ask = lambda: site.ask("Hello!", extra_body={"colour": "blue"})
    refused(openai.BadRequestError, 400, ask, "unknown_parameter", "colour")


@call
def a_value_out_of_bounds(site):
    refused(openai.BadRequestError, 400, lambda: site.ask("Hello!", temperature=3), "decimal_above_max_value", "temperature")


@call
def tools_are_for_later(site):
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
    refused(openai.BadRequestError, 400, lambda: site.ask("Hello!", tools=[tool]), "unsupported_value", "tools")


@call
def structured_answers_are_for_later(site):
    ask = lambda: site.ask("Hello!", response_format={"type": "json_object"})
    refused(openai.BadRequestError, 400, ask, "unsupported_value", "response_format")


@call
def films_are_for_later(site):
    ask = lambda: site.ask([{"type": "video_url", "video_url": {"url": f"{site.origin_url}/film.mp4"}}])
    refused(openai.BadRequestError, 400, ask, param="messages[0].content[0].video_url")


@call
def a_prompt_over_the_context(site):
    ask = lambda: site.ask("word " * 100_000)
    refused(openai.BadRequestError, 400, ask, "context_length_exceeded", "messages")


@call
def a_chat_with_a_model_that_is_not_there(site):
    messages = [{"role": "user", "content": "Hello!"}]
    ask = lambda: site.client.chat.completions.create(model="absent", messages=messages)
    refused(openai.NotFoundError, 404, ask, "model_not_found", "model")


@call
def an_address_inside(site):
    ask = lambda: site.ask(about("http://169.254.169.254/latest/meta-data/"))
    error = refused(openai.PermissionDeniedError, 403, ask, "forbidden", "messages[0].content[0].image_url")
    assert "169.254" not in error.message, error.message


@call
def a_file_outside_the_folder(site):
    refused(openai.PermissionDeniedError, 403, lambda: site.ask(about("/etc/passwd")), "forbidden")


@call
def an_origin_without_the_picture(site):
    ask = lambda: site.ask(about(f"{site.origin_url}/absent.png"))
    error = refused(openai.InternalServerError, 502, ask, "media_origin_failed", "messages[0].content[0].image_url")
    assert "404" in error.message, error.message


@call
def an_origin_with_something_else(site):
    ask = lambda: site.ask(about(data_url("two-shapes.png"), f"{site.origin_url}/page"))
    refused(openai.APIStatusError, 415, ask, "unsupported_media_type", "messages[0].content[1].image_url")


@call
def a_picture_that_is_too_large(site):
    refused(openai.APIStatusError, 413, lambda: site.ask(about(f"{site.origin_url}/large")), "too_large")


@call
def a_picture_that_is_broken(site):
    data = base64.b64encode((SAMPLES / "two-shapes.png").read_bytes()[:200]).decode()
    refused(openai.BadRequestError, 400, lambda: site.ask(about(f"data:image/png;base64,{data}")))


@call
def a_server_that_is_busy(site):
    messages = [{"role": "user", "content": "Hello!"}]
    ask = lambda client, **more: client.chat.completions.create(model=MODEL, messages=messages, **more)
    with ask(site.slow, stream=True, max_tokens=500) as stream:
        next(iter(stream))
        error = refused(openai.RateLimitError, 429, lambda: ask(site.slow, max_tokens=1), "overloaded")
        assert int(error.response.headers["retry-after"]) >= 1
    # The client's own retries wait as long as the server says, and then there is room.
    assert ask(site.slow.with_options(max_retries=3), max_tokens=1).choices
    site.wait_until_idle(site.args.slow_url)


@call
def a_client_without_patience(site):
    messages = [{"role": "user", "content": "Hello!"}]
    try:
        site.slow.with_options(timeout=0.5).chat.completions.create(model=MODEL, messages=messages, max_tokens=500)
    except openai.APITimeoutError:
        site.wait_until_idle(site.args.slow_url)
        return
    raise AssertionError("500 slow tokens came in half a second")


@call
def a_wrong_key(site):
    error = refused(openai.AuthenticationError, 401, lambda: site.secured("sk-wrong").models.list(), "invalid_api_key")
    assert "sk-wrong" not in error.message, error.message


@call
def a_right_key_over_tls(site):
    client = site.secured(site.args.key)
    assert [model.id for model in client.models.list()] == [MODEL]
    messages = [{"role": "user", "content": about(data_url("two-shapes.png"))}]
    stream = client.chat.completions.create(model=MODEL, messages=messages, temperature=0, stream=True)
    assert pieces(stream) == TWO


# Ways of calling


@call
def header_lines_of_an_answer(site):
    messages = [{"role": "user", "content": "Hello!"}]
    raw = site.client.chat.completions.with_raw_response.create(
        model=MODEL, messages=messages, max_tokens=1, extra_headers={"x-request-id": "mine-7"}
    )
    assert raw.status_code == 200 and raw.headers["x-request-id"] == "mine-7" == raw.request_id
    assert raw.headers["content-type"] == "application/json" and raw.parse().choices
    assert site.ask("Hello!", max_tokens=1)._request_id, "one of the server's own"


@call
def the_lines_of_a_stream(site):
    messages = [{"role": "user", "content": "Hello!"}]
    streaming = site.client.chat.completions.with_streaming_response
    with streaming.create(model=MODEL, messages=messages, max_tokens=2, stream=True) as response:
        assert response.headers["content-type"] == "text/event-stream"
        lines = [line for line in response.iter_lines() if line]
    assert all(line.startswith("data: ") for line in lines) and lines[-1] == "data: [DONE]", lines


@call
def eight_at_once(site):
    names = ["two-shapes.png", "four-shapes.jpg"] * 4

    async def ask_all():
        async with AsyncOpenAI(base_url=f"{site.args.url}/v1", api_key="unused", timeout=PATIENCE_S) as client:
            ask = lambda name: client.chat.completions.create(
                model=MODEL, messages=[{"role": "user", "content": about(data_url(name))}], temperature=0
            )
            return await asyncio.gather(*(ask(name) for name in names))

    answers = [answer.choices[0].message.content for answer in asyncio.run(ask_all())]
    assert answers == [TWO, FOUR] * 4, answers


@call
def a_task_that_is_cancelled(site):
    messages = [{"role": "user", "content": "Hello!"}]

    async def leave():
        async with AsyncOpenAI(base_url=f"{site.args.slow_url}/v1", api_key="unused", max_retries=0) as client:
            stream = await client.chat.completions.create(model=MODEL, messages=messages, stream=True, max_tokens=500)
            await anext(aiter(stream))
            rest = asyncio.ensure_future(anext(aiter(stream)))
            rest.cancel()
            await stream.close()

    asyncio.run(leave())
    site.wait_until_idle(site.args.slow_url)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", required=True, help="a server of the demo model")
    parser.add_argument("--slow-url", required=True, help="one that takes a single request and is slow")
    parser.add_argument("--secured-url", required=True, help="one that wants a key, over TLS")
    parser.add_argument("--key", required=True)
    parser.add_argument("--ca", required=True, help="PEM of who signed its certificate")
    site = Site(parser.parse_args())
    n_failed = 0
    for function in CALLS:
        began = time.monotonic()
        try:
            function(site)
            outcome = "ok    "
        except Exception as error:
            n_failed += 1
            outcome = "FAILED"
            print(f"{type(error).__name__}: {error}", flush=True)
        print(f"{outcome} {function.__name__} ({time.monotonic() - began:.2f} s)", flush=True)
    print(f"{len(CALLS)} calls with openai {openai.__version__}, {n_failed} failed")
    sys.exit(1 if n_failed else 0)


if __name__ == "__main__":
    main()
