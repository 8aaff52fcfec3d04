// What a user does with OpenAI's own JavaScript client, against running servers: the calls of
// tests/openai_client.py. `crates/triptych/tests/openai_client.rs` starts the servers and this script.

import assert from 'node:assert/strict';
import fs from 'node:fs';
import http from 'node:http';
import path from 'node:path';
import { createRequire } from 'node:module';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { parseArgs } from 'node:util';

const require = createRequire(import.meta.url);
const { default: OpenAI, ...openai } = require(process.env.OPENAI_FOLDER);
const { values: args } = parseArgs({
  options: Object.fromEntries(
    ['url', 'slow-url', 'secured-url', 'key', 'ca'].map((name) => [name, { type: 'string' }]),
  ),
});

const MODEL = 'shapes';
const SAMPLES = path.join(path.dirname(fileURLToPath(import.meta.url)), '../models/shapes/samples');
const TWO = 'From left to right: a red circle, a blue square.';
const FOUR = 'From left to right: a yellow star, a green triangle, an orange circle, a black square.';
const WHAT = 'What is in the picture?';
const PATIENCE_MS = 120_000;
// What a client that left held must be back after this, and a little for the machine.
const LEFT_MS = 2000;

const sample = (name) => path.join(SAMPLES, name);
const hello = [{ role: 'user', content: 'Hello!' }];

const origin = http.createServer((request, response) => {
  const file = sample(request.url.slice(1));
  if (request.url === '/moved') response.writeHead(302, { location: '/two-shapes.png' }).end();
  else if (request.url === '/page') response.end('<html>no picture</html>');
  else if (request.url === '/large') response.end(Buffer.alloc(3 << 20));
  else if (fs.existsSync(file)) response.end(fs.readFileSync(file));
  else response.writeHead(404).end();
});
await new Promise((listening) => origin.listen(0, '127.0.0.1', listening));
const originUrl = `http://127.0.0.1:${origin.address().port}`;

const clientOf = (url, more = {}) =>
  new OpenAI({ baseURL: `${url}/v1`, apiKey: 'unused', maxRetries: 0, timeout: PATIENCE_MS, ...more });
const client = clientOf(args.url);
const slow = clientOf(args['slow-url']);
const secured = (apiKey) => clientOf(args['secured-url'], { apiKey });

const create = (body, options, from = client) =>
  from.chat.completions.create({ model: MODEL, ...body }, options);
const ask = (content, more = {}, options) => create({ messages: [{ role: 'user', content }], ...more }, options);
const text = async (content, more) => (await ask(content, more)).choices[0].message.content;
const picture = (url, more = {}) => ({ type: 'image_url', image_url: { url, ...more } });
const about = (urls, question = WHAT) => [...urls.map((url) => picture(url)), { type: 'text', text: question }];
const dataUrl = (name) => {
  const kind = name.endsWith('.jpg') ? 'jpeg' : 'png';
  return `data:image/${kind};base64,${fs.readFileSync(sample(name)).toString('base64')}`;
};

/** The error of `asking`, which must be of this class and have these fields. */
async function refused(kind, status, asking, code, param) {
  const error = await asking().then(
    () => assert.fail('it was not refused'),
    (error) => error,
  );
  assert.ok(error instanceof kind, `${error.constructor.name}: ${error.message}`);
  assert.equal(error.status, status);
  if (code) assert.equal(error.code, code);
  if (param) assert.equal(error.param, param);
  assert.ok(error.type && error.message && error.requestID, 'every error names its request');
  return error;
}

async function all(stream) {
  const chunks = [];
  for await (const chunk of await stream) chunks.push(chunk);
  return chunks;
}
const pieces = (chunks) => chunks.map((chunk) => chunk.choices[0]?.delta.content ?? '').join('');

/** Requests at work on a server, as its metrics say. */
async function inflight(url) {
  const lines = (await (await fetch(`${url}/metrics`)).text()).split('\n');
  const found = lines.filter((line) => line.startsWith('dynamo_frontend_inflight_requests{'));
  return found.reduce((sum, line) => sum + Number(line.split(' ').at(-1)), 0);
}

async function untilIdle(url) {
  const began = Date.now();
  while ((await inflight(url)) > 0) {
    assert.ok(Date.now() - began < LEFT_MS, 'the request went on without its client');
    await new Promise((woken) => setTimeout(woken, 10));
  }
}

const calls = {
  // Models
  async models_are_listed() {
    const models = (await client.models.list()).data;
    assert.deepEqual(models.map((model) => model.id), [MODEL]);
  },
  async a_model_is_retrieved() {
    assert.equal((await client.models.retrieve(MODEL)).id, MODEL);
  },
  async a_model_that_is_not_there() {
    await refused(openai.NotFoundError, 404, () => client.models.retrieve('absent'), 'model_not_found', 'model');
  },

  // Whole answers
  async a_question_in_words() {
    const { choices, usage, object } = await ask('Hello!', { temperature: 0 });
    assert.equal(object, 'chat.completion');
    assert.ok(choices[0].message.content.startsWith('Hello!'));
    assert.equal(choices[0].finish_reason, 'stop');
    assert.equal(usage.total_tokens, usage.prompt_tokens + usage.completion_tokens);
  },
  async a_picture_by_data_url() {
    assert.equal(await text(about([dataUrl('two-shapes.png')]), { temperature: 0 }), TWO);
  },
  async another_picture_another_answer() {
    assert.equal(await text(about([dataUrl('four-shapes.jpg')]), { temperature: 0 }), FOUR);
  },
  async a_picture_by_path() {
    assert.equal(await text(about([sample('two-shapes.png')]), { temperature: 0 }), TWO);
  },
  async a_picture_by_file_url() {
    assert.equal(await text(about([pathToFileURL(sample('two-shapes.png')).href]), { temperature: 0 }), TWO);
  },
  async a_picture_by_http() {
    assert.equal(await text(about([`${originUrl}/four-shapes.jpg`]), { temperature: 0 }), FOUR);
  },
  async a_picture_by_http_elsewhere() {
    assert.equal(await text(about([`${originUrl}/moved`]), { temperature: 0 }), TWO);
  },
  async several_pictures_from_everywhere() {
    const urls = [dataUrl('two-shapes.png'), `${originUrl}/four-shapes.jpg`];
    const question = 'Which picture has more shapes?';
    assert.equal(await text(about(urls, question), { temperature: 0 }), 'The second.');
    assert.equal(await text(about([...urls].reverse(), question), { temperature: 0 }), 'The first.');
  },
  async a_picture_in_an_earlier_turn() {
    const messages = [
      { role: 'system', content: 'You describe pictures.' },
      { role: 'user', content: about([dataUrl('four-shapes.jpg')]) },
      { role: 'assistant', content: FOUR },
      { role: 'user', content: 'What colour is the triangle?' },
    ];
    assert.ok((await create({ messages })).choices[0].message.content);
  },
  async detail_is_low() {
    const usage = async (detail) => {
      const content = [picture(dataUrl('four-shapes.jpg'), { detail }), { type: 'text', text: WHAT }];
      return (await ask(content, { max_tokens: 4 })).usage.prompt_tokens;
    };
    assert.ok((await usage('low')) < (await usage('high')));
  },
  async several_choices() {
    const { choices } = await ask('Hello!', { n: 3, max_tokens: 8 });
    assert.deepEqual(choices.map((choice) => choice.index), [0, 1, 2]);
  },
  async a_seed_repeats_an_answer() {
    // What comes after the end of its answer is anybody's guess, the model's too.
    const say = (seed) => text('Hello!', { seed, temperature: 2, max_tokens: 32, ignore_eos: true });
    assert.equal(await say(7), await say(7));
    const others = await Promise.all([0, 1, 2, 3, 4, 5].map(say));
    assert.ok(new Set(others).size > 1, 'other seeds, other answers');
  },
  async a_stop_string_ends_it() {
    const { choices } = await ask(about([dataUrl('two-shapes.png')]), { temperature: 0, stop: ['circle'] });
    assert.equal(choices[0].message.content, TWO.split('circle')[0]);
    assert.equal(choices[0].finish_reason, 'stop');
  },
  async max_tokens_end_it() {
    for (const limit of [{ max_tokens: 2 }, { max_completion_tokens: 2 }]) {
      const { choices, usage } = await ask('Hello!', limit);
      assert.equal(choices[0].finish_reason, 'length');
      assert.equal(usage.completion_tokens, 2);
    }
  },
  async logprobs_come_with_tokens() {
    const more = { temperature: 0, max_tokens: 6, logprobs: true, top_logprobs: 3 };
    const { message, logprobs } = (await ask('Hello!', more)).choices[0];
    const bytes = logprobs.content.flatMap((token) => token.bytes);
    assert.equal(Buffer.from(bytes).toString(), message.content);
    assert.ok(logprobs.content.every((token) => token.top_logprobs.length === 3));
  },
  async a_bias_forbids_and_forces() {
    const more = { temperature: 0, max_tokens: 3 };
    assert.notEqual(await text('Hello!', { ...more, logit_bias: { 5: 100 } }), await text('Hello!', more));
  },
  async penalties_are_heard() {
    assert.ok(await text('Hello!', { presence_penalty: 1.5, frequency_penalty: 1.5, top_p: 0.9 }));
  },
  async fields_of_other_engines() {
    const more = { top_k: 1, min_tokens: 9, ignore_eos: true, repetition_penalty: 1.1, cache_salt: 'a' };
    assert.equal((await ask('Hello!', { max_tokens: 9, ...more })).usage.completion_tokens, 9);
  },
  async what_was_asked_before_is_cached() {
    const again = () => ask(about([dataUrl('forty-two.png')], 'What number is written?'), { temperature: 0 });
    assert.equal((await again()).choices[0].message.content, '42');
    assert.ok((await again()).usage.prompt_tokens_details.cached_tokens > 0);
  },
  async neutral_values_are_accepted() {
    const more = {
      tools: [], response_format: { type: 'text' }, store: false, metadata: { a: 'b' }, user: 'me',
      service_tier: 'auto', parallel_tool_calls: true, modalities: ['text'], tool_choice: 'auto',
    };
    assert.ok(await text('Hello!', { max_tokens: 2, ...more }));
  },

  // Streams
  async a_stream_says_the_same() {
    const chunks = await all(ask(about([dataUrl('two-shapes.png')]), { temperature: 0, stream: true }));
    assert.equal(pieces(chunks), TWO);
  },
  async a_stream_ends_with_usage() {
    const more = { stream: true, max_tokens: 5, stream_options: { include_usage: true } };
    const chunks = await all(ask('Hello!', more));
    assert.deepEqual(chunks.at(-1).choices, []);
    assert.equal(chunks.at(-1).usage.completion_tokens, 5);
    assert.equal(chunks.at(-2).choices[0].finish_reason, 'length');
  },
  async a_stream_of_choices() {
    const texts = ['', ''];
    for (const { choices } of await all(ask('Hello!', { stream: true, n: 2, max_tokens: 6 }))) {
      texts[choices[0].index] += choices[0].delta.content ?? '';
    }
    assert.ok(texts.every(Boolean));
  },
  async a_stream_with_logprobs() {
    const chunks = await all(ask('Hello!', { stream: true, max_tokens: 4, logprobs: true, temperature: 0 }));
    assert.equal(chunks.flatMap((chunk) => chunk.choices[0].logprobs?.content ?? []).length, 4);
  },
  async the_clients_own_gathering_of_a_stream() {
    const stream = client.chat.completions.stream({ model: MODEL, messages: hello, temperature: 0 });
    let streamed = '';
    stream.on('content', (piece) => (streamed += piece));
    assert.equal(await stream.finalContent(), streamed);
  },
  async leaving_in_the_middle_ends_the_work() {
    const stream = await create({ messages: hello, stream: true, max_tokens: 500 }, {}, slow);
    let n = 0;
    for await (const chunk of stream) if (chunk.choices && ++n === 3) break;
    await untilIdle(args['slow-url']);
  },

  // Errors
  async an_unknown_field() {
    await refused(openai.BadRequestError, 400, () => ask('Hello!', { colour: 'blue' }), 'unknown_parameter', 'colour');
  },
  async a_value_out_of_bounds() {
    const code = 'decimal_above_max_value';
    await refused(openai.BadRequestError, 400, () => ask('Hello!', { temperature: 3 }), code, 'temperature');
  },
  async tools_are_for_later() {
    const tools = [{ type: 'function', function: { name: 'f', parameters: { type: 'object', properties: {} } } }];
    await refused(openai.BadRequestError, 400, () => ask('Hello!', { tools }), 'unsupported_value', 'tools');
  },
  async structured_answers_are_for_later() {
    const asking = () => ask('Hello!', { response_format: { type: 'json_object' } });
    await refused(openai.BadRequestError, 400, asking, 'unsupported_value', 'response_format');
  },
  async films_are_for_later() {
    const asking = () => ask([{ type: 'video_url', video_url: { url: `${originUrl}/film.mp4` } }]);
    await refused(openai.BadRequestError, 400, asking, undefined, 'messages[0].content[0].video_url');
  },
  async a_prompt_over_the_context() {
    const asking = () => ask('word '.repeat(100_000));
    await refused(openai.BadRequestError, 400, asking, 'context_length_exceeded', 'messages');
  },
  async a_chat_with_a_model_that_is_not_there() {
    const asking = () => create({ model: 'absent', messages: hello });
    await refused(openai.NotFoundError, 404, asking, 'model_not_found', 'model');
  },
  async an_address_inside() {
    const asking = () => ask(about(['http://169.254.169.254/latest/meta-data/']));
    const param = 'messages[0].content[0].image_url';
    const error = await refused(openai.PermissionDeniedError, 403, asking, 'forbidden', param);
    assert.ok(!error.message.includes('169.254'));
  },
  async a_file_outside_the_folder() {
    await refused(openai.PermissionDeniedError, 403, () => ask(about(['/etc/passwd'])), 'forbidden');
  },
  async an_origin_without_the_picture() {
    const asking = () => ask(about([`${originUrl}/absent.png`]));
    const error = await refused(openai.InternalServerError, 502, asking, 'media_origin_failed');
    assert.match(error.message, /404/);
  },
  async an_origin_with_something_else() {
    const asking = () => ask(about([dataUrl('two-shapes.png'), `${originUrl}/page`]));
    const param = 'messages[0].content[1].image_url';
    await refused(openai.APIError, 415, asking, 'unsupported_media_type', param);
  },
  async a_picture_that_is_too_large() {
    await refused(openai.APIError, 413, () => ask(about([`${originUrl}/large`])), 'too_large');
  },
  async a_picture_that_is_broken() {
    const data = fs.readFileSync(sample('two-shapes.png')).subarray(0, 200).toString('base64');
    await refused(openai.BadRequestError, 400, () => ask(about([`data:image/png;base64,${data}`])));
  },
  async a_server_that_is_busy() {
    const stream = await create({ messages: hello, stream: true, max_tokens: 500 }, {}, slow);
    await stream[Symbol.asyncIterator]().next();
    const asking = () => create({ messages: hello, max_tokens: 1 }, {}, slow);
    const error = await refused(openai.RateLimitError, 429, asking, 'overloaded');
    assert.ok(Number(error.headers.get('retry-after')) >= 1);
    stream.controller.abort();
    // The client's own retries wait as long as the server says, and then there is room.
    assert.ok((await create({ messages: hello, max_tokens: 1 }, { maxRetries: 3 }, slow)).choices);
    await untilIdle(args['slow-url']);
  },
  async a_client_without_patience() {
    const asking = create({ messages: hello, max_tokens: 500 }, { timeout: 500 }, slow);
    await assert.rejects(asking, openai.APIConnectionTimeoutError);
    await untilIdle(args['slow-url']);
  },
  async a_wrong_key() {
    const asking = () => secured('sk-wrong').models.list();
    const error = await refused(openai.AuthenticationError, 401, asking, 'invalid_api_key');
    assert.ok(!error.message.includes('sk-wrong'));
  },
  async a_right_key_over_tls() {
    const keyed = secured(args.key);
    assert.equal((await keyed.models.list()).data[0].id, MODEL);
    const messages = [{ role: 'user', content: about([dataUrl('two-shapes.png')]) }];
    assert.equal(pieces(await all(create({ messages, temperature: 0, stream: true }, {}, keyed))), TWO);
  },

  // Ways of calling
  async header_lines_of_an_answer() {
    const options = { headers: { 'x-request-id': 'mine-7' } };
    const asking = create({ messages: hello, max_tokens: 1 }, options);
    const { data, response, request_id } = await asking.withResponse();
    assert.ok(data.choices.length === 1 && request_id === 'mine-7');
    assert.equal(response.headers.get('content-type'), 'application/json');
  },
  async the_lines_of_a_stream() {
    const response = await create({ messages: hello, max_tokens: 2, stream: true }).asResponse();
    assert.equal(response.headers.get('content-type'), 'text/event-stream');
    const lines = (await response.text()).split('\n').filter(Boolean);
    assert.ok(lines.every((line) => line.startsWith('data: ')) && lines.at(-1) === 'data: [DONE]');
  },
  async eight_at_once() {
    const names = Array(4).fill(['two-shapes.png', 'four-shapes.jpg']).flat();
    const say = (name) => text(about([dataUrl(name)]), { temperature: 0 });
    assert.deepEqual(await Promise.all(names.map(say)), Array(4).fill([TWO, FOUR]).flat());
  },
  async a_task_that_is_cancelled() {
    const leaving = new AbortController();
    const asking = create({ messages: hello, max_tokens: 500 }, { signal: leaving.signal }, slow);
    setTimeout(() => leaving.abort(), 200);
    await assert.rejects(asking, openai.APIUserAbortError);
    await untilIdle(args['slow-url']);
  },
};

let nFailed = 0;
for (const [name, make] of Object.entries(calls)) {
  const began = Date.now();
  const outcome = await make().then(
    () => 'ok    ',
    (error) => {
      nFailed += 1;
      console.log(error.stack);
      return 'FAILED';
    },
  );
  console.log(`${outcome} ${name} (${((Date.now() - began) / 1000).toFixed(2)} s)`);
}
const { version } = JSON.parse(fs.readFileSync(path.join(process.env.OPENAI_FOLDER, 'package.json')));
console.log(`${Object.keys(calls).length} calls with openai ${version}, ${nFailed} failed`);
process.exit(nFailed ? 1 : 0);
