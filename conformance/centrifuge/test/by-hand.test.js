import assert from 'node:assert/strict';
import { after } from 'node:test';

import { test } from '../limited.js';
import { connected, open } from '../plain.js';
import { startRelay } from '../relay.js';
import { connect, join } from '../sdk.js';

const relay = await startRelay({ after });

test('chatting by hand works with plain lines of JSON', async (t) => {
  const ann = await open(t, relay);
  ann.send('{"id":1,"connect":{"data":{"user":"ann"}}}\n{"id":2,"subscribe":{"channel":"tea"}}');
  const { connect: hello } = await ann.take(({ id }) => id === 1);
  assert.ok(hello.client && hello.ping > 0 && hello.pong === true, JSON.stringify(hello));
  const { subscribe: joined } = await ann.take(({ id }) => id === 2);
  assert.ok(joined.epoch && joined.recoverable === true, JSON.stringify(joined));

  const bob = await join(connect(t, relay, 'bob').client, 'tea');
  ann.send('{"id":3,"publish":{"channel":"tea","data":{"text":"milk first?"}}}');
  await bob.inbox.holds(1);
  assert.deepEqual(bob.inbox.bodies, [{ text: 'milk first?' }]);
  await bob.subscription.publish('never');
  const own = await ann.publication('tea');
  const pub = await ann.publication('tea');
  assert.deepEqual([own.offset, pub.offset, pub.data, pub.info.user], [1, 2, 'never', 'bob']);
});

test('a publish repeated with its key is one message with one offset and id', async (t) => {
  const ann = await connected(t, relay, 'ann');
  const bob = await connected(t, relay, 'bob');
  const { subscribe: position } = await bob.ask({ subscribe: { channel: 'keys' } });
  const publish = (who, key) => who.ask({ publish: { channel: 'keys', data: `by ${key}`, key } });

  const first = await publish(ann, 'k1');
  assert.equal(first.publish.offset, 1);
  assert.match(first.publish.id, /^[0-9]+$/);
  const repeat = await publish(ann, 'k1');
  assert.deepEqual(repeat.publish, first.publish);
  const ofBob = await publish(bob, 'k1');
  assert.equal(ofBob.publish.offset, 2, 'keys are each user\'s own');
  assert.equal((await publish(ann, 'k2')).publish.offset, 3);

  const pubs = [await bob.publication('keys'), await bob.publication('keys'), await bob.publication('keys')];
  assert.deepEqual(pubs.map(({ offset, data, info }) => [offset, data, info.user]), [[1, 'by k1', 'ann'], [2, 'by k1', 'bob'], [3, 'by k2', 'ann']]);
  assert.equal(pubs[0].id, first.publish.id);
  const { history } = await bob.ask({ history: { channel: 'keys', limit: 10, since: { offset: 0, epoch: position.epoch } } });
  assert.equal(history.publications.length, 3);
});

test('two publishes with one key at the same moment are one message', async (t) => {
  const [desk, phone] = [await connected(t, relay, 'ann'), await connected(t, relay, 'ann')];
  const publish = (who) => who.ask({ publish: { channel: 'both at once', data: 'once', key: 'k' } });
  const [one, two] = await Promise.all([publish(desk), publish(phone)]);
  assert.deepEqual(one.publish, two.publish);
  const { history } = await desk.ask({ history: { channel: 'both at once', limit: 10 } });
  assert.equal(history.publications.length, 1);
});

test('a key is remembered over kill -9', async (t) => {
  const mortal = await startRelay(t);
  const publish = async () => (await connected(t, mortal, 'ann')).ask({ publish: { channel: 'keys', data: 'once', key: 'k' } });
  const first = await publish();
  await mortal.stop('SIGKILL');
  await mortal.start();
  assert.deepEqual((await publish()).publish, first.publish);
});

test('recent brings the last messages before what follows', async (t) => {
  const ann = await connected(t, relay, 'ann');
  for (let i = 1; i <= 5; i++) await ann.ask({ publish: { channel: 'recent', data: i } });
  const bob = await connected(t, relay, 'bob');
  const { subscribe } = await bob.ask({ subscribe: { channel: 'recent', recent: 3 } });
  assert.equal(subscribe.offset, 2);
  await ann.ask({ publish: { channel: 'recent', data: 6 } });
  const offsets = [];
  for (let i = 0; i < 4; i++) offsets.push((await bob.publication('recent')).offset);
  assert.deepEqual(offsets, [3, 4, 5, 6]);
});
