import assert from 'node:assert/strict';

import { test } from '../limited.js';
import { connected } from '../plain.js';
import { startRelay } from '../relay.js';
import { connect, join, next, publishMany, texts } from '../sdk.js';

const fastPublisher = ['--user-publish-rate', '1000', '--session-publish-rate', '1000'];
const numbers = (from, to) => Array.from({ length: to - from + 1 }, (_, i) => from + i);

/** Two members of a room with one message each, the second one's network at hand. */
async function annAndBob(t, relay, room) {
  const ann = await join(connect(t, relay, 'ann').client, room);
  const { client, network } = connect(t, relay, 'bob');
  const bob = await join(client, room);
  await ann.subscription.publish('before');
  await Promise.all([ann.inbox.holds(1), bob.inbox.holds(1)]);
  return { ann, bob: { ...bob, network } };
}

test('a client that lost its connection recovers everything it missed, in order, once', async (t) => {
  const relay = await startRelay(t, ...fastPublisher);
  const { ann, bob } = await annAndBob(t, relay, 'lossy');

  bob.network.cut();
  await publishMany(ann.subscription, 'missed', 100);
  assert.deepEqual(bob.inbox.bodies, ['before']);
  bob.network.restore();
  await bob.inbox.holds(101);
  await ann.subscription.publish('after');
  await bob.inbox.holds(102);

  assert.deepEqual(bob.inbox.bodies, ['before', ...texts('missed', 100), 'after']);
  assert.deepEqual(bob.inbox.offsets, numbers(1, 102));
  assert.deepEqual([bob.joins[1].wasRecovering, bob.joins[1].recovered], [true, true]);
});

test('a connection that breaks while others talk loses and repeats nothing', async (t) => {
  const relay = await startRelay(t, ...fastPublisher);
  const { ann, bob } = await annAndBob(t, relay, 'torn');

  const talking = publishMany(ann.subscription, 'torn', 100);
  for (const seen of [20, 50, 80]) {
    await bob.inbox.holds(seen);
    const back = next(bob.subscription, 'subscribed');
    bob.network.tear();
    assert.equal((await back).recovered, true);
  }
  await talking;
  await bob.inbox.holds(101);

  assert.deepEqual(bob.inbox.bodies, ['before', ...texts('torn', 100)]);
  assert.deepEqual(bob.inbox.offsets, numbers(1, 101));
  assert.equal(bob.network.sockets.length, 4);
});

test('after kill -9 and a restart clients recover under the same epoch and every ack is kept', async (t) => {
  const relay = await startRelay(t, ...fastPublisher);
  const { ann, bob } = await annAndBob(t, relay, 'crash');
  await publishMany(ann.subscription, 'acked', 50);

  assert.equal(await relay.stop('SIGKILL'), null);
  const back = Promise.all([next(ann.subscription, 'subscribed'), next(bob.subscription, 'subscribed')]);
  await relay.start();
  for (const { recovered } of await back) assert.equal(recovered, true);
  await ann.subscription.publish('after the crash');
  await bob.inbox.holds(52);

  assert.deepEqual(bob.inbox.bodies, ['before', ...texts('acked', 50), 'after the crash']);
  assert.deepEqual(bob.inbox.offsets, numbers(1, 52));
  const [first, second] = bob.joins.map(({ streamPosition }) => streamPosition.epoch);
  assert.ok(first);
  assert.equal(second, first);
});

test('on SIGTERM the relay closes with 1001, ends well, and clients come back to the next one', async (t) => {
  const relay = await startRelay(t, ...fastPublisher);
  const { ann, bob } = await annAndBob(t, relay, 'restart');
  await publishMany(ann.subscription, 'said', 10);

  const plain = await connected(t, relay, 'cat');
  assert.equal(await relay.stop('SIGTERM'), 0);
  assert.equal(await plain.closed, 1001);
  const back = Promise.all([next(ann.subscription, 'subscribed'), next(bob.subscription, 'subscribed')]);
  await relay.start();
  for (const { recovered } of await back) assert.equal(recovered, true);
  await bob.subscription.publish('back again');
  await ann.inbox.holds(12);

  for (const { inbox } of [ann, bob]) {
    await inbox.holds(12);
    assert.deepEqual(inbox.bodies, ['before', ...texts('said', 10), 'back again']);
  }
});

test('a position is recovered from when it is the room\'s, and refused aloud when it is not', async (t) => {
  const relay = await startRelay(t, ...fastPublisher, '--recovery-messages-max', '30');
  const joinSince = async (user, since) => {
    const { client } = connect(t, relay, user);
    const member = await join(client, 'positions', { since });
    return { ...member, client, context: member.joins[0] };
  };
  // The frames that a core keeps for its members bring everybody on it back, however far behind: so nobody may be one.
  const leave = async ({ client, subscription }) => {
    subscription.unsubscribe();
    await client.history('positions', { limit: 1 });
  };
  const ann = await joinSince('ann');
  const { epoch } = ann.context.streamPosition;
  await leave(ann);
  const say = { publish: (text) => ann.client.publish('positions', text) };
  await publishMany(say, 'line', 40);

  const near = await joinSince('near', { offset: 30, epoch });
  await near.inbox.holds(10);
  assert.deepEqual([near.context.wasRecovering, near.context.recovered], [true, true]);
  assert.deepEqual(near.inbox.offsets, numbers(31, 40));
  await leave(near);

  let head = 40;
  for (const [user, since] of [['far', { offset: 5, epoch }], ['foreign', { offset: 39, epoch: 'another' }]]) {
    const refused = await joinSince(user, since);
    assert.deepEqual([refused.context.wasRecovering, refused.context.recovered], [true, false], user);
    assert.deepEqual(refused.context.streamPosition, { offset: head, epoch }, user);
    await say.publish(`for ${user}`);
    head += 1;
    await refused.inbox.holds(1);
    assert.deepEqual(refused.inbox.bodies, [`for ${user}`]);
  }
});

test('a reader that stood still is told of the gap and recovers what it was not sent', async (t) => {
  const relay = await startRelay(t, ...fastPublisher, '--feed-bytes-max', '65536', '--send-buffer-bytes', '4096');
  const { ann, bob } = await annAndBob(t, relay, 'still');
  const told = [];
  bob.subscription.on('subscribing', ({ code }) => told.push(code));

  bob.network.socket.pause();
  // 1.6 MB: far more than sockets and feed hold, less than a recovery may bring.
  await publishMany(ann.subscription, 'x'.repeat(8000), 200);
  bob.network.socket.resume();
  await bob.inbox.holds(201);

  assert.deepEqual(bob.inbox.offsets, numbers(1, 201));
  assert.ok(told.length > 0 && told.every((code) => code === 2500), `resubscribed because of ${told}`);
  assert.equal(bob.joins.at(-1).recovered, true);
  assert.equal(bob.network.sockets.length, 1);
});
