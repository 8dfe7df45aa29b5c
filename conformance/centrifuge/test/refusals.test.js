import assert from 'node:assert/strict';
import { once } from 'node:events';
import { after } from 'node:test';

import { Centrifuge as ProtobufCentrifuge } from 'centrifuge/build/protobuf';
import WebSocket from 'ws';

import { test } from '../limited.js';
import { connected, open } from '../plain.js';
import { startRelay } from '../relay.js';
import { connect, join, next } from '../sdk.js';

// The protocol's own numbers.
const UNAUTHORIZED = 101;
const ALREADY_SUBSCRIBED = 105;
const LIMIT_EXCEEDED = 106;
const BAD_REQUEST = 107;
const NOT_AVAILABLE = 108;
const TOO_MANY_REQUESTS = 111;
const UNRECOVERABLE_POSITION = 112;
const CLOSE_BAD_REQUEST = 3501;
const CLOSE_NO_PONG = 3012;
const CLOSE_INAPPROPRIATE_PROTOCOL = 3506;
const CLOSE_NOT_AVAILABLE = 3508;

const relay = await startRelay({ after }, '--rooms-per-session-max', '3', '--session-publish-rate', '5', '--publish-burst', '10', '--body-bytes-max', '8192');

test('a room name too long is refused, in subscribe and in publish', async (t) => {
  const { client } = connect(t, relay, 'ann');
  const subscription = client.newSubscription('x'.repeat(300));
  const refused = next(subscription, 'unsubscribed');
  subscription.subscribe();
  assert.equal((await refused).code, LIMIT_EXCEEDED);
  await assert.rejects(client.publish('x'.repeat(300), 'hello'), { code: LIMIT_EXCEEDED });
});

test('a body too large is refused and the connection goes on', async (t) => {
  const { client, network } = connect(t, relay, 'ann');
  const { subscription, inbox } = await join(client, 'bodies');
  await assert.rejects(subscription.publish('x'.repeat(10_000)), { code: LIMIT_EXCEEDED });
  await subscription.publish('small');
  await inbox.holds(1);
  assert.deepEqual([inbox.bodies, network.sockets.length], [['small'], 1]);
});

test('one room too many is refused', async (t) => {
  const { client } = connect(t, relay, 'ann');
  for (const room of ['one', 'two', 'three']) await join(client, room);
  const fourth = client.newSubscription('four');
  const refused = next(fourth, 'unsubscribed');
  fourth.subscribe();
  assert.equal((await refused).code, LIMIT_EXCEEDED);
});

test('publishing too fast is refused, and what was acked is what came', async (t) => {
  const { subscription, inbox } = await join(connect(t, relay, 'ann').client, 'fast');
  const outcomes = await Promise.allSettled(Array.from({ length: 30 }, (_, i) => subscription.publish(i)));
  const acked = outcomes.flatMap(({ status }, i) => (status === 'fulfilled' ? [i] : []));
  const codes = new Set(outcomes.filter(({ status }) => status === 'rejected').map(({ reason }) => reason.code));
  assert.deepEqual([...codes], [TOO_MANY_REQUESTS]);
  await inbox.holds(acked.length);
  assert.deepEqual(inbox.bodies, acked);
});

test('what is off is not available and the connection goes on', async (t) => {
  const { client, network } = connect(t, relay, 'ann');
  await assert.rejects(client.rpc('anything', {}), { code: NOT_AVAILABLE });
  await assert.rejects(client.presence('room'), { code: NOT_AVAILABLE });
  await assert.rejects(client.presenceStats('room'), { code: NOT_AVAILABLE });
  await join(client, 'still here');
  assert.equal(network.sockets.length, 1);
});

test('a message that nobody takes ends the connection for good', async (t) => {
  const { client } = connect(t, relay, 'ann');
  await client.ready();
  const ended = next(client, 'disconnected');
  await client.send({ to: 'nobody' });
  assert.equal((await ended).code, CLOSE_NOT_AVAILABLE);
});

test('a position of another epoch, or before the first, is refused in history', async (t) => {
  const { client } = connect(t, relay, 'ann');
  const { epoch } = await client.history('positions', { limit: 0 });
  const history = (since, reverse) => client.history('positions', { limit: 1, since, reverse });
  await assert.rejects(history({ offset: 0, epoch: 'another' }, false), { code: UNRECOVERABLE_POSITION });
  await assert.rejects(history({ offset: 0, epoch }, true), { code: BAD_REQUEST });
  assert.deepEqual((await history({ offset: 0, epoch }, false)).publications, []);
});

test('a command whose fields are wrong is refused by its id and the connection goes on', async (t) => {
  const plain = await connected(t, relay, 'ann');
  for (const command of [{ publish: { channel: 'room' } }, { subscribe: {} }, { history: { channel: 'room', limit: 2.5 } }, { ping: {}, history: { channel: 'room' } }]) {
    assert.equal((await plain.ask(command)).error.code, BAD_REQUEST, JSON.stringify(command));
  }
  assert.ok((await plain.ask({ subscribe: { channel: 'room' } })).subscribe);
});

test('a subscription without a position is told that nothing was recovered', async (t) => {
  const plain = await connected(t, relay, 'ann');
  await plain.ask({ publish: { channel: 'no position', data: 'before' } });
  const { subscribe } = await plain.ask({ subscribe: { channel: 'no position', recover: true } });
  assert.deepEqual([subscribe.was_recovering, subscribe.recovered, subscribe.offset], [true, false, 1]);
});

test('leaving what was not joined is no error', async (t) => {
  const plain = await connected(t, relay, 'ann');
  assert.ok((await plain.ask({ unsubscribe: { channel: 'never joined' } })).unsubscribe);
});

test('a client that speaks Protobuf is told to stay away', async (t) => {
  for (const [query, protocols] of [['', ['centrifuge-protobuf']], ['?format=protobuf', []], ['?cf_protocol=protobuf', []]]) {
    const socket = new WebSocket(relay.url + query, protocols);
    t.after(() => socket.terminate());
    const [code, reason] = await once(socket, 'close');
    assert.deepEqual([code, String(reason)], [CLOSE_INAPPROPRIATE_PROTOCOL, 'Protobuf is not served here, only JSON']);
  }
  const client = new ProtobufCentrifuge(relay.url, { websocket: WebSocket });
  t.after(() => client.disconnect());
  const ended = next(client, 'disconnected');
  client.connect();
  assert.equal((await ended).code, CLOSE_INAPPROPRIATE_PROTOCOL);
});

test('JSON that ends the parsers of others is refused and named', async (t) => {
  const plain = await connected(t, relay, 'ann');
  let id = 100;
  for (const [data, why] of [['['.repeat(4000) + ']'.repeat(4000), /nests deeper/], ['9'.repeat(8000), /larger than a double/], ['"\\ud800"', /surrogate/], ['{"\\udc00":1}', /surrogate/]]) {
    plain.send(`{"id":${++id},"publish":{"channel":"poison","data":${data}}}`);
    const { error } = await plain.take((line) => line.id === id);
    assert.equal(error.code, BAD_REQUEST, data.slice(0, 20));
    assert.match(error.message, why);
  }
});

test('subscribing twice is refused', async (t) => {
  const plain = await connected(t, relay, 'ann');
  assert.ok((await plain.ask({ subscribe: { channel: 'twice' } })).subscribe);
  assert.equal((await plain.ask({ subscribe: { channel: 'twice' } })).error.code, ALREADY_SUBSCRIBED);
});

test('a command before connect is refused', async (t) => {
  const plain = await open(t, relay);
  assert.equal((await plain.ask({ publish: { channel: 'room', data: 'too early' } })).error.code, UNAUTHORIZED);
});

test('what is not a command in JSON closes the connection', async (t) => {
  for (const text of ['{"id":2,', 'hello', '{"subscribe":{"channel":"room"}}', '[2,null,null,null,null,null,{}]']) {
    const plain = await connected(t, relay, 'ann');
    plain.send(text);
    assert.equal(await plain.closed, CLOSE_BAD_REQUEST, text);
  }
});

test('a client that never answers a ping is closed', async (t) => {
  const impatient = await startRelay(t, '--ping-interval-ms', '1000', '--idle-timeout-ms', '2000');
  const plain = await connected(t, impatient, 'ann');
  await plain.take((line) => Object.keys(line).length === 0);
  assert.equal(await plain.closed, CLOSE_NO_PONG);
});
