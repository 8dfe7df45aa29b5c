import assert from 'node:assert/strict';
import { after } from 'node:test';

import { test } from '../limited.js';
import { connected, open } from '../plain.js';
import { startRelay } from '../relay.js';
import { connect, join, next } from '../sdk.js';

// The protocol's own numbers.
const UNAUTHORIZED = 101;
const METHOD_NOT_FOUND = 104;
const ALREADY_SUBSCRIBED = 105;
const LIMIT_EXCEEDED = 106;
const TOO_MANY_REQUESTS = 111;
const CLOSE_BAD_REQUEST = 3501;
const CLOSE_NO_PONG = 3012;

const relay = await startRelay({ after }, '--rooms-per-session-max', '3', '--session-publish-rate', '5');

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

test('a method that the relay does not have is refused and the connection goes on', async (t) => {
  const { client } = connect(t, relay, 'ann');
  await assert.rejects(client.rpc('anything', {}), { code: METHOD_NOT_FOUND });
  await assert.rejects(client.presence('room'), { code: METHOD_NOT_FOUND });
  await join(client, 'still here');
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
  for (const text of ['{"id":2,', 'hello', '{"id":2,"subscribe":{}}']) {
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
